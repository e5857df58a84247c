"""The controller of one breaker: the lock and the clock around state machine and counters.

Every call is admitted and settled here, and every number that anybody reads comes out of here. The
protected function, the listeners and the classification run outside the lock.

Nothing can wedge it: see `reentrant`. A finaliser or signal handler that interrupted this thread's
own locked part gets its answer from the present values. An exception out of a handler costs at most
the count of the interrupted call, which then stays in flight until the next generation begins.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import inf
from typing import Any, cast

from breakerscope.core.admission import Admissions
from breakerscope.core.checks import SLOW_PATH
from breakerscope.core.classification import Classifier
from breakerscope.core.counters import Exemplar
from breakerscope.core.events import FALLBACK_OUTCOMES, CallSettled, Outcome, State
from breakerscope.core.manual_control import ControlledStateMachine
from breakerscope.core.permits import (
    OUTSIDE,
    UNWATCHED,
    AnyPermit,
)
from breakerscope.core.persistence import dump, load
from breakerscope.core.reading import Reading
from breakerscope.core.subscribers import Subscribers

SUCCESS = Outcome.SUCCESS

Rejection = tuple[State, float | None]


class Controller(Admissions):
    """See the top of the file. Thread-safe: every method may be called from any thread or task, a
    finaliser or a signal handler. Methods named `_locked` expect the lock.
    """

    __slots__ = ("asks_for_wait", "classifier")

    classifier: Classifier
    """What is a failure, and how long it opens the circuit for."""
    asks_for_wait: bool
    """Whether the code chooses how long the circuit opens for."""

    # -- a call ends ------------------------------------------------------------------------------

    def succeed(self, permit: AnyPermit, duration: float) -> None:
        """A success that somebody may want to hear of, or that was slow."""
        if duration >= self.machine.slow_from or permit.watched is SLOW_PATH:
            self.settle(permit, duration, SUCCESS)
            return
        # Only inline listeners hear of it: no lock is needed to keep an order.
        duration = max(duration, 0.0)
        counts_calls = self.machine.counts_calls
        permit.entries.append(duration if counts_calls else (self._clock(), duration))
        event: CallSettled | None = None
        for guard, subscriber in self._publisher.subscribers.successes:
            if guard is None or guard():
                if event is None:
                    late = permit is not self.machine.permit
                    event = self._publisher.settled(permit.state, SUCCESS, duration, late=late)
                subscriber.call(event)

    def settle(
        self,
        permit: AnyPermit,
        duration: float,
        outcome: Outcome,
        error: str | BaseException | None = None,
        hint: float = 0.0,
    ) -> None:
        """One call settled, after `duration` seconds inside the function.

        `error` is what went wrong. `hint`: the dependency asks for so many seconds of rest.
        """
        if permit is UNWATCHED:
            return
        duration = max(duration, 0.0)  # the clock may have gone back during the call
        wanted = self._publisher.wanted(outcome)
        bus = self._bus
        exemplar = bus.exemplar(duration, self._wall) if bus.traced() else None
        wait = self._chosen_wait(outcome, duration, error)
        self._run(
            self._settle_locked, permit, duration, outcome, error, hint, wait, wanted, exemplar
        )
        if bus.waiting:
            bus.deliver_waiting()

    def _chosen_wait(
        self, outcome: Outcome, duration: float, error: str | BaseException | None
    ) -> float | None:
        """What the code says how long the circuit is to open for, if this call opens it."""
        if not self.asks_for_wait:
            return None
        failed = outcome is Outcome.FAILURE
        if not failed and (outcome is not SUCCESS or duration < self.machine.slow_from):
            return None
        opening = self.machine.next_opening(self._clock())
        return self.classifier.wait(opening, error if failed else None, self._bus.count_error)

    def abandon(
        self, permit: AnyPermit, duration: float, outcome: Outcome, error: BaseException
    ) -> None:
        """A call ended in a finaliser, or in a generator that is being closed, perhaps by one.

        In the middle of a garbage collection the thread may hold a lock of a listener. So inline
        listeners hear of it later, in the context of this call.
        """
        if permit is UNWATCHED:
            return
        duration = max(duration, 0.0)
        wanted = self._publisher.wanted(outcome)
        later = [s for s in wanted if s.inline] if self._bus.collecting() else []
        now = [s for s in wanted if s not in later]
        self._run(
            self._settle_locked, permit, duration, outcome, error, 0.0, None, now, None, later
        )

    def _settle_locked(
        self,
        permit: AnyPermit,
        duration: float,
        outcome: Outcome,
        error: str | BaseException | None,
        hint: float,
        wait: float | None,
        wanted: list[Any],
        exemplar: Exemplar | None,
        later: list[Any] | tuple[()] = (),
    ) -> None:
        machine = self.machine
        slow = duration >= machine.slow_from
        late = machine.settle(permit, outcome, now=machine.now, slow=slow, hint=hint, wait=wait)
        shared = permit.shared
        self._counters.add(outcome, duration, shared.journal, slow=slow, exemplar=exemplar)
        if wanted or later:
            late = late and permit.generation != OUTSIDE
            event = self._publisher.settled(
                permit.state, outcome, duration, error, slow=slow, late=late
            )
            self._publisher.publish_locked(wanted, event, self._deliveries)
            if later:
                self._bus.deliver_later([(subscriber, event) for subscriber in later])
        if shared is self._permit:
            # The first success after a reading came here for its exemplar; that is done.
            shared.watched = self._success_check_locked()
            shared.watched_failures = self._publisher.subscribers.failure_guard
        self._allow_failures_locked()

    def command(self, act: Callable[[ControlledStateMachine, float], None]) -> None:
        """Give the machine a manual command."""
        self._run(self._command_locked, act)

    def _command_locked(self, act: Callable[[ControlledStateMachine, float], None]) -> None:
        act(self.machine, self.machine.now)
        self._allow_failures_locked()

    def adopt(self, state: Mapping[str, Any]) -> None:
        """Take over a state that `dump` gave."""
        self.command(lambda machine, now: load(machine, state, now))

    # -- reading ----------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """The state after all that has happened. An open breaker stays open until a call asks."""
        if not self._is_inside:
            self.catch_up()
        return self.machine.state

    @property
    def would_admit(self) -> bool:
        """Whether a call that asks now would be admitted."""
        if not self._is_inside:
            self.catch_up()
        return not self._bus.active or self.policy.shadow or self.machine.would_admit()

    def read(self) -> Reading:
        """Everything at this moment."""
        if self._is_inside:
            return self._read_locked()
        return cast("Reading", self._run(self._read_locked))

    def _read_locked(self) -> Reading:
        counters, machine = self._counters, self.machine
        # The next success takes the slow path, and leaves a fresh exemplar.
        self._permit.watched = SLOW_PATH
        in_flight = [journal.in_flight for held, journal in self._retired if held() is not None]
        return Reading(
            breaker=self.name,
            policy=self.policy,
            buckets=counters.buckets,
            state=machine.state,
            entered_at=self._entered_at,
            figures=machine.figures(),
            open_wait=machine.wait or self.policy.open_for,
            durations=counters.durations(),
            rejected=counters.rejected,
            slow=counters.slow,
            in_flight=self._permit.journal.in_flight + sum(in_flight),
            would_reject=counters.would_reject,
            fallbacks={**dict.fromkeys(FALLBACK_OUTCOMES, 0), **counters.fallbacks},
            transitions=dict(counters.transitions),
            state_seconds=counters.state_seconds(machine.now),
            probe_successes=machine.probe_successes,
        )

    def dump(self) -> dict[str, Any]:
        """The state of the machine as plain data."""
        if self._is_inside:
            return dump(self.machine, -inf)
        return cast("dict[str, Any]", self._run(dump, self.machine, -inf))

    # -- listeners --------------------------------------------------------------------------------

    def fallback_used(self, outcome: Outcome, error: str) -> None:
        """A fallback is about to be called."""
        if self._bus.active:
            self._run(self._fallback_locked, outcome, error)

    def _fallback_locked(self, outcome: Outcome, error: str) -> None:
        self._counters.add_fallback(outcome)
        self._publisher.fallback_locked(outcome, error, self._deliveries)

    def set_subscribers(self, subscribers: Subscribers) -> None:
        """Another set of listeners, for calls in flight too."""
        self._run(self._set_subscribers_locked, subscribers)

    def _set_subscribers_locked(self, subscribers: Subscribers) -> None:
        self._end_rejections_locked()
        self._publisher.set_subscribers_locked(subscribers)
        for permit in (self._permit, *self._retired_permits()):
            if permit.watched is not SLOW_PATH:
                permit.watched = self._success_check_locked()
            if permit.watched_failures is not SLOW_PATH:
                permit.watched_failures = subscribers.failure_guard

    def start_over_after_fork(self) -> None:
        """A forked child: the state stays, counters begin at 0, the parent's calls are late."""
        self.machine.new_generation()
        self._start_over()
        if self.machine.due_in is not None:
            self.catch_up()
