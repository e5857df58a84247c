"""How a call asks a breaker: it is admitted, rejected, or let through unwatched."""

from __future__ import annotations

from functools import partial
from typing import cast

from breakerscope.core.bookkeeping import Bookkeeping
from breakerscope.core.errors import CircuitBreakerOpenError, raise_rejection
from breakerscope.core.events import State
from breakerscope.core.journal import batch_size
from breakerscope.core.permits import (
    OUTSIDE,
    UNWATCHED,
    AnyPermit,
    Permit,
    enter_probe,
    surrounding_probes,
)
from breakerscope.core.rejections import RejectionTokens, reject_or_admit

Rejection = tuple[State, float | None]


class Admissions(Bookkeeping):
    """See the top of the file. Methods named `_locked` expect the lock."""

    __slots__ = ()

    # -- a call asks ------------------------------------------------------------------------------

    def admit(self) -> AnyPermit:
        """Admit a call where no token did. Raises CircuitBreakerOpenError if it is rejected."""
        if not self._bus.active:
            return UNWATCHED
        machine = self.machine
        inside = surrounding_probes() if machine.state is State.HALF_OPEN else ()
        watched = bool(self._publisher.subscribers.rejection_guard())
        if self._is_inside:
            permit, rejection = self._admit_reentrant(watched)
        else:
            permit, rejection = self._run(self._admit_locked, inside, watched)
        if self._bus.waiting:
            self._bus.deliver_waiting()
        if permit is None:
            state, retry_after = cast("Rejection", rejection)
            raise_rejection(CircuitBreakerOpenError(self.name, state, retry_after))
        if permit.is_probe and not self._bus.collecting():
            # CPython 3.11 can crash if a collection sets a context variable while one is being set.
            enter_probe(permit)
        return permit

    def _admit_locked(
        self, inside: list[Permit], watched: object
    ) -> tuple[AnyPermit | None, Rejection | None]:
        machine = self.machine
        now = machine.now
        permit, retry_after = machine.admit(now, inside)
        self._notice_transition_locked()
        self._calls += 1
        if permit is not None:
            permit.shared.journal.single += 1
            self._lay_out_permits_locked(permit)
            return permit, None
        state = machine.state
        self._reject_locked(state, retry_after, now, watched=bool(watched))
        if self.policy.shadow:
            self._permit.journal.single += 1
            return Permit(OUTSIDE, state, self._permit), None
        return None, (state, retry_after)

    def _lay_out_permits_locked(self, permit: AnyPermit) -> None:
        if (
            permit is self._permit
            and not len(self._permit.tokens)
            and self.machine.admits_all
            and self._bus.active
            and self._allow_failures_locked()
        ):
            n = batch_size(self._calls)
            self._permit.tokens.lay_out([permit] * n)
            self._calls += n

    def _admit_reentrant(self, watched: object) -> tuple[AnyPermit | None, Rejection | None]:
        """In the middle of this thread's own locked part: by the state that is published."""
        permit = self.machine.permit
        if permit.state in (State.CLOSED, State.DISABLED):
            permit.journal.single += 1
            return permit, None
        rejected = partial(
            self._reject_locked, permit.state, None, self.machine.now, watched=bool(watched)
        )
        self._deferred.append(rejected)
        if self.policy.shadow:
            permit.journal.single += 1
            return Permit(OUTSIDE, permit.state, permit), None
        return None, (permit.state, None)

    def withdraw(self, permit: AnyPermit) -> None:
        """The call that was admitted so will not be made now: as if it had never asked."""
        if permit is not UNWATCHED:
            self._run(self._withdraw_locked, permit)

    @staticmethod
    def _withdraw_locked(permit: AnyPermit) -> None:
        permit.shared.journal.single -= 1

    # -- a call is rejected -----------------------------------------------------------------------

    def _reject_locked(
        self, state: State, retry_after: float | None, now: float, *, watched: object
    ) -> None:
        counters, enforced = self._counters, not self.policy.shadow
        # fmt: off
        counters.rejected, counters.would_reject = counters.rejected + enforced, counters.would_reject + (not enforced)  # noqa: E501
        # fmt: on
        self._publisher.rejected_locked(
            state,
            retry_after,
            now,
            counters.rejected + counters.would_reject,
            enforced=enforced,
            watched=bool(watched),
            deliveries=self._deliveries,
        )
        if enforced and self._bus.active and state in (State.OPEN, State.FORCED_OPEN):
            self._lay_out_rejections_locked(retry_after, now)

    def _lay_out_rejections_locked(self, retry_after: float | None, now: float) -> None:
        self._end_rejections_locked()
        quiet_until, permit = self._publisher.quiet_until_locked(), self._permit
        ends = None if retry_after is None else now + retry_after
        until = quiet_until if ends is None else min(ends, quiet_until)
        if until > now:
            watched = self._publisher.subscribers.rejection_guard
            tokens = RejectionTokens(permit, ends=ends, until=until, watched=watched, now=now)
            take = reject_or_admit(tokens, self.name, self._clock, self.admit)
            self._rejections, permit.take = tokens, take

    def ask_again(self) -> None:
        """Every call has to ask from now on: somebody has said whether breakers are active."""
        self._run(self._ask_again_locked)

    def _ask_again_locked(self) -> None:
        self._end_rejections_locked()
        self._permit.retire()
