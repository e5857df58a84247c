"""What operators do to a state machine: force it open, disable it, reset it, isolate it, change its
rules, or give it the state of another one.

Isolation is stronger than any other command. A command given during an isolation says what the
state will be when the last holder has left.
"""

from __future__ import annotations

from math import inf
from weakref import ref

from breakerscope.core.events import Cause, State
from breakerscope.core.permits import SharedPermit
from breakerscope.core.policy import Policy
from breakerscope.core.state_machine import StateMachine
from breakerscope.core.transitions import CLOSED, DISABLED, FORCED_OPEN, HALF_OPEN, OPEN
from breakerscope.core.windows import window_of


def _resumable(state: State) -> State:
    """What an isolation gives back: the probes of a half-open breaker are gone by then."""
    return OPEN if state is HALF_OPEN else state


class ControlledStateMachine(StateMachine):
    """See the top of the file. Not thread-safe: its owner holds a lock around each method."""

    __slots__ = ()

    def force_open(self, now: float, reason: str | None = None) -> None:
        """Reject everything until another command."""
        self._command(FORCED_OPEN, Cause.FORCE_OPEN, now, reason)

    def disable(self, now: float, reason: str | None = None) -> None:
        """Admit everything until another command; calls are observed, rules are not judged."""
        self._command(DISABLED, Cause.DISABLE, now, reason)

    def reset(self, now: float, reason: str | None = None) -> None:
        """Close, and forget the window, the back-off and the calls in flight."""
        if not self._command(CLOSED, Cause.RESET, now, reason):
            self.new_generation()
        self.window.clear()
        self.consecutive_failures = 0
        self._base_wait = self.policy.open_for
        self.wait = 0.0
        self._openings = 0
        self._not_before = -inf
        self._ramp_until = -inf

    def update(self, policy: Policy, now: float, reason: str | None = None) -> None:
        """Go on with these rules. The window is kept where its marks mean the same. The wait of an
        open circuit goes on, as far as the new rules allow one so long.
        """
        now, old = self.advance(now), self.policy
        window = self.window
        if (policy.window, policy.slow_call) != (old.window, old.slow_call):
            window = window_of(policy)
            window.advance(now)
        base = self._base_wait if policy.open_for == old.open_for else policy.open_for
        open_until = min(self._open_until, now + policy.longest_wait)
        ramp_until = min(self._ramp_until, now + policy.ramp_up)
        counts_calls, slow_from = isinstance(policy.window, int), policy.slow_from
        generation = self.generation + 1
        permit = SharedPermit(generation, self.state)
        # fmt: off
        self.policy, self.update_reason, self.window, self.counts_calls, self.slow_from, self._base_wait, self._open_until, self._ramp_until, self.generation, self.permit, self._leases = policy, reason, window, counts_calls, slow_from, base, open_until, ramp_until, generation, permit, ()  # noqa: E501
        # fmt: on

    def isolate(self, holder: object, now: float, reason: str | None = None) -> None:
        """Reject everything until every holder has left, or is gone."""
        self.advance(now)
        isolations = (*self._isolations, ref(holder))
        if not self._isolations:
            self._resume = _resumable(self.state)
        if self.state is FORCED_OPEN:
            self._isolations = isolations
        else:
            self._enter(FORCED_OPEN, Cause.FORCE_OPEN, reason=reason, isolations=isolations)

    def end_isolation(self, holder: object, now: float, reason: str | None = None) -> None:
        """This holder has left."""
        self.advance(now)
        if self._isolations:
            isolations = tuple(i for i in self._isolations if i() not in (None, holder))
            if isolations or self._resume is FORCED_OPEN:
                self._isolations = isolations
            else:
                self._enter(self._resume, Cause.RELEASE, reason=reason, isolations=())

    def end_lost_isolations(self) -> None:
        """An interrupt can take a holder away before it has left."""
        if self._isolations and None in [isolation() for isolation in self._isolations]:
            self.end_isolation(None, self.now)

    def adopt(self, state: State, open_for: float | None, now: float) -> None:
        """Take over this state from elsewhere."""
        self.advance(now)
        if self._isolations:
            self._resume = _resumable(state)
        elif state is not self.state:
            self._enter(state, Cause.ADOPT, open_for=open_for)

    def _command(self, target: State, cause: Cause, now: float, reason: str | None) -> bool:
        """Says whether the state has changed."""
        self.advance(now)
        if self._isolations:
            self._resume = target
        elif self.state is not target:
            self._enter(target, cause, reason=reason)
            return True
        return False
