"""The controller of one breaker: the lock and the clock around state machine and counters.

Every call is admitted and settled here, and every number that anybody reads comes out of here. The
protected function, the listeners and the classification run outside the lock.

The fast path takes no lock. A call takes a token of the shared permit, a plain success leaves its
duration in the permit's journal, and so does a failure that cannot open the circuit, if it gets a
failure token. Whoever holds the lock next drains the journal into state machine and counters before
anything is read or changed, so every reading is exact.

Nothing can wedge it: see `reentrant`. A finaliser or signal handler that interrupted this thread's
own locked part gets its answer from the present values. An exception out of a handler costs at most
the count of the interrupted call, which then stays in flight until the next generation begins.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from math import inf
from typing import Any, cast
from weakref import ref

from breakerscope.core.clock import Clock
from breakerscope.core.counters import Counters, Exemplar
from breakerscope.core.errors import CircuitBreakerOpenError, raise_rejection
from breakerscope.core.events import FALLBACK_OUTCOMES, CallSettled, Outcome, State
from breakerscope.core.permits import (
    SLOW_PATH,
    AnyPermit,
    Check,
    Journal,
    Permit,
    RejectionTokens,
    SharedPermit,
    batch_size,
    enter_probe,
    surrounding_probes,
)
from breakerscope.core.persistence import dump, load
from breakerscope.core.policy import Policy
from breakerscope.core.publisher import Publisher
from breakerscope.core.reading import Reading
from breakerscope.core.reentrant import Reentrant
from breakerscope.core.state_machine import OUTSIDE, StateMachine
from breakerscope.core.subscribers import Bus, Subscribers

SUCCESS = Outcome.SUCCESS

Rejection = tuple[State, float | None]


SOONEST = 0.001
"""In how many seconds a timer calls at the soonest: its clock may not be that of the breaker."""


def _nothing() -> None:
    """Only the catching up is wanted."""


class Controller(Reentrant):
    """See the top of the file. Thread-safe: every method may be called from any thread or task, a
    finaliser or a signal handler. Methods named `_locked` expect the lock.
    """

    __slots__ = (
        "__weakref__",
        "_bus",
        "_calls",
        "_clock",
        "_counters",
        "_entered_at",
        "_known_policy",
        "_noticed",
        "_permit",
        "_publisher",
        "_rejections",
        "_retired",
        "_wakes_at",
        "_wall",
        "buckets",
        "machine",
        "name",
        "wrapped_for",
    )

    def __init__(
        self,
        name: str,
        policy: Policy,
        *,
        buckets: tuple[float, ...],
        clock: Clock,
        random: Callable[[], float],
        bus: Bus,
    ) -> None:
        self.name = name
        self.buckets = buckets
        self._clock = clock.monotonic
        self._wall = clock.wall
        self._bus = bus
        self.machine = StateMachine(policy, now=clock.monotonic(), random=random)
        self.wrapped_for = self.machine.slow_from, self.machine.counts_calls
        """For what the wrappers of this breaker were built."""
        self._publisher = Publisher(name, clock.wall)
        self._entered_at = clock.wall()
        self._start_over()
        bus.attach(self)

    def _start_over(self) -> None:
        super()._start_over()
        self._counters = Counters(
            self.buckets,
            state=self.machine.state,
            now=self.machine.advance(self._clock()),
            clock_may_go_back=self._clock is not time.monotonic,
        )
        self._calls = 0
        self._permit = self.machine.permit
        self._noticed = self.machine.transition
        self._known_policy = self.machine.policy
        self._retired: tuple[tuple[ref[SharedPermit], Journal], ...] = ()
        self._rejections: RejectionTokens | None = None
        self._wakes_at = inf
        self._publisher.start_over()

    @property
    def policy(self) -> Policy:
        """The rules in force."""
        return self.machine.policy

    # -- a call asks ------------------------------------------------------------------------------

    def admit(self) -> AnyPermit:
        """Admit a call where no token did. Raises CircuitBreakerOpenError if it is rejected."""
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
        self._run(self._withdraw_locked, permit)

    @staticmethod
    def _withdraw_locked(permit: AnyPermit) -> None:
        permit.shared.journal.single -= 1

    # -- what calls may do without the lock --------------------------------------------------------

    def _allow_failures_locked(self) -> bool:
        """Let failures settle without the lock as far as they cannot change the state. False where
        more of them are on their way to the journal: the next call that asks will find them.
        """
        self._notice_transition_locked()
        machine, permit = self.machine, self._permit
        room = machine.failures_until_trip() if self._wrappers_fit else 0
        if permit.allow_failures(room, batch_size(self._calls)):
            return True
        permit.tokens.withdraw()
        permit.watched = permit.watched_failures = SLOW_PATH
        return False

    def _success_check_locked(self) -> Check:
        """A queue gets its events in order, so under the lock."""
        subscribers = self._publisher.subscribers
        if subscribers.queues_successes or not self._wrappers_fit:
            return SLOW_PATH
        return subscribers.success_guard

    @property
    def _wrappers_fit(self) -> bool:
        """False if an update has made other calls slow, or the window another one: what was built
        before settles under the lock from then on.
        """
        return self.wrapped_for == (self.machine.slow_from, self.machine.counts_calls)

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
        if enforced and state in (State.OPEN, State.FORCED_OPEN):
            self._lay_out_rejections_locked(state, retry_after, now)

    def _lay_out_rejections_locked(
        self, state: State, retry_after: float | None, now: float
    ) -> None:
        """They hold until the wait is over, or until somebody is due to hear of a rejection."""
        self._end_rejections_locked()
        quiet_until = self._publisher.quiet_until_locked()
        ends = None if retry_after is None else now + retry_after
        until = quiet_until if ends is None else min(ends, quiet_until)
        if until <= now:
            return
        guard = self._publisher.subscribers.rejection_guard
        tokens = RejectionTokens(state, ends, until, guard, now)
        self._rejections = tokens
        self._permit.take = self._reject_or_admit(tokens)

    def _reject_or_admit(self, tokens: RejectionTokens) -> Callable[[], AnyPermit]:
        """What an open breaker does without the lock: raises CircuitBreakerOpenError."""
        name, clock, admit, take = self.name, self._clock, self.admit, tokens.take
        state, ends, until, watched = tokens.state, tokens.ends, tokens.until, tokens.watched

        def reject_or_admit() -> AnyPermit:
            now = clock()
            if now < tokens.latest:  # noqa: PLR1730 - max() takes a tenth of a rejected call
                now = tokens.latest
            tokens.latest = now
            if now < until and not watched():
                try:
                    take()
                except IndexError:
                    # They are used up, or the state has changed just now.
                    pass
                else:
                    retry_after = None if ends is None else ends - now
                    raise CircuitBreakerOpenError(name, state, retry_after)
            return admit()

        return reject_or_admit

    def _count_rejections_locked(self) -> None:
        tokens = self._rejections
        if tokens is not None and (taken := tokens.taken) != tokens.counted:
            # fmt: off
            self._counters.rejected, tokens.counted = self._counters.rejected + taken - tokens.counted, taken  # noqa: E501
            # fmt: on

    def _end_rejections_locked(self) -> None:
        if self._rejections is not None:
            self._rejections.withdraw()
            self._count_rejections_locked()
            self._rejections = None
            self._permit.take = self._permit.tokens.take

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
        duration = max(duration, 0.0)  # the clock may have gone back during the call
        wanted = self._publisher.wanted(outcome)
        bus = self._bus
        exemplar = bus.exemplar(duration, self._wall) if bus.traced() else None
        self._run(self._settle_locked, permit, duration, outcome, error, hint, wanted, exemplar)
        if bus.waiting:
            bus.deliver_waiting()

    def abandon(
        self, permit: AnyPermit, duration: float, outcome: Outcome, error: BaseException
    ) -> None:
        """A call ended in a finaliser, or in a generator that is being closed, perhaps by one.

        In the middle of a garbage collection the thread may hold a lock of a listener. So inline
        listeners hear of it later, in the context of this call.
        """
        duration = max(duration, 0.0)
        wanted = self._publisher.wanted(outcome)
        later = [s for s in wanted if s.inline] if self._bus.collecting() else []
        now = [s for s in wanted if s not in later]
        self._run(self._settle_locked, permit, duration, outcome, error, 0.0, now, None, later)

    def _settle_locked(
        self,
        permit: AnyPermit,
        duration: float,
        outcome: Outcome,
        error: str | BaseException | None,
        hint: float,
        wanted: list[Any],
        exemplar: Exemplar | None,
        later: list[Any] | tuple[()] = (),
    ) -> None:
        machine = self.machine
        slow = duration >= machine.slow_from
        late = machine.settle(permit, outcome, now=machine.now, slow=slow, hint=hint)
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

    # -- the journal ------------------------------------------------------------------------------

    def _catch_up_locked(self) -> None:
        """Take in what happened without the lock, and what an interrupt kept from being done."""
        machine, counters = self.machine, self._counters
        self._notice_transition_locked()
        if self._rejections is not None:
            self._count_rejections_locked()
        if counters.unjudged:
            self._judge_locked()
        if self._permit.journal.entries:
            timed = not machine.counts_calls
            counters.drain(self._permit.journal, machine.runs_of, timed=timed)
            self._judge_locked()
        now = machine.advance(self._clock())
        if self._rejections is not None:
            self._rejections.latest = max(self._rejections.latest, now)
            machine.advance(self._rejections.latest)
        machine.end_lost_isolations()
        self._notice_transition_locked()
        machine.end_wait()
        self._notice_transition_locked()
        if self._retired:
            self._drain_retired_locked()
        while self._deferred:
            self._deferred.popleft()()
            self._notice_transition_locked()

    def _complete_locked(self) -> None:
        self._notice_transition_locked()
        due_in = self.machine.due_in
        if due_in is not None and (due := self.machine.now + due_in) < self._wakes_at:
            self._bus.call_later(max(due_in, SOONEST), self._wake)
            self._wakes_at = due

    def _wake(self) -> None:
        """Look whether the wait is over."""
        self._wakes_at = inf
        self._run(_nothing)

    def _judge_locked(self) -> None:
        """What was drained goes into the window, run by run; each is forgotten when it is there."""
        machine, runs = self.machine, self._counters.unjudged
        while runs:
            n, failed, at = runs[0]
            machine.settle_batch(n, failed=failed, at=at)
            del runs[0]
            if failed:
                machine.judge()
                self._allow_failures_locked()

    def _drain_retired_locked(self) -> None:
        kept: list[tuple[ref[SharedPermit], Journal]] = []
        for held, journal in self._retired:
            # Who is in flight holds the permit. When it has gone, nobody is.
            gone = held() is None
            if journal.entries:
                # An update may have changed what the window counts.
                self._counters.drain(journal, timed=True)
            if journal.in_flight and not gone:
                kept.append((held, journal))
        self._retired = tuple(kept)

    # -- the state changes ------------------------------------------------------------------------

    def _notice_transition_locked(self) -> None:
        """Tell the world of a change of state that the machine has made, and go on with its new
        permit.
        """
        machine, old = self.machine, self._permit
        if old is not machine.permit:
            self._end_rejections_locked()
            old.retire()
            retired = (*self._retired, (ref(old), old.journal))
            self._retired, self._permit = retired, machine.permit
        if self._known_policy is not machine.policy:
            changes = "; ".join(self._known_policy.differences(machine.policy, between="->"))
            self._known_policy = machine.policy
            self._publisher.policy_changed_locked(changes, machine.update_reason, self._deliveries)
        transition = machine.transition
        if transition is None or transition is self._noticed:
            return
        counters, at = self._counters, self._wall()
        counters.add_transition(transition.old, transition.new, transition.cause, machine.now)
        self._noticed, self._entered_at = transition, at
        rejected = counters.rejected + counters.would_reject
        self._publisher.changed_locked(transition, at, rejected, self._deliveries)

    def command(self, act: Callable[[StateMachine, float], None]) -> None:
        """Give the machine a manual command."""
        self._run(self._command_locked, act)

    def _command_locked(self, act: Callable[[StateMachine, float], None]) -> None:
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
            self._run(_nothing)
        return self.machine.state

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
        retired = [permit for held, _ in self._retired if (permit := held()) is not None]
        for permit in (self._permit, *retired):
            if permit.watched is not SLOW_PATH:
                permit.watched = self._success_check_locked()
            if permit.watched_failures is not SLOW_PATH:
                permit.watched_failures = subscribers.failure_guard

    def start_over_after_fork(self) -> None:
        """A forked child: the state stays, counters begin at 0, the parent's calls are late."""
        self.machine.new_generation()
        self._start_over()
        if self.machine.due_in is not None:
            self._run(_nothing)
