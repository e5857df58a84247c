"""The gate of one breaker: the lock, the clock and the journal around the pure machine.

Every call enters and leaves through here, and every number that anybody reads comes out of here.
The protected function, the listeners and the classification run outside the lock.

The short way takes no lock. While the machine has headroom (its rule 6), the gate lays out passes,
and a call takes one: a single atomic `list.pop`. When the call succeeds and was not slow, its
duration goes into the journal of the pass: a single atomic `list.append`. A failure does the same
if it can take a slip; there are no more slips than failures that change nothing. Whoever holds the
lock next folds the journal into the machine and the ledger before it reads or changes anything, so
that every reading is exact. A call that finds no pass goes the long way, and so does whatever
somebody wants to hear of. A pass belongs to one generation of the machine, so late results sort
themselves out.

While the breaker is open, the gate lays out slips in the same manner: a refused call takes one, and
the slips that are gone are the calls that were refused.

In flight = passes out - calls settled. A reading takes the passes back, so the next call after it
goes the long way and leaves a fresh exemplar.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextvars import copy_context
from dataclasses import dataclass
from itertools import count, groupby
from math import inf
from typing import TYPE_CHECKING, Any, cast

from breakerscope.classify import error_name
from breakerscope.events import (
    FALLBACK_OUTCOMES,
    CallRejected,
    CallRejectedDraft,
    CallSettled,
    CallSettledDraft,
    Event,
    FallbackUsed,
    Outcome,
    State,
    StateChanged,
)
from breakerscope.hub import Guard, Hub, Routes, Subscription, collecting
from breakerscope.ledger import NOTHING, Exemplar, Ledger
from breakerscope.machine import OUTSIDE, Machine, Permit, Transition
from breakerscope.passes import (
    LONG_WAY,
    Entry,
    Pass,
    Refusal,
    SharedPass,
    batch_size,
    take_all,
)
from breakerscope.policy import Policy
from breakerscope.reading import Reading


@dataclass(frozen=True, slots=True)
class Clock:
    """Where time comes from: `monotonic` decides, `wall` stamps events. Both return seconds."""

    monotonic: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time


SYSTEM_CLOCK = Clock()


class CircuitBreakerOpenError(Exception):
    """The breaker refused the call; the protected function did not run.

    `breaker` is the name, `state` the state that refused. `retry_after` is the time in seconds
    until the breaker may admit a call again, None if no time is known (forced open).
    """

    if TYPE_CHECKING:
        # At run time there is none: `Exception` keeps the arguments at a third of the cost.
        def __init__(self, breaker: str, state: State, retry_after: float | None) -> None: ...

    @property
    def breaker(self) -> str:
        """The name of the breaker."""
        return self.args[0]  # type: ignore[no-any-return]

    @property
    def state(self) -> State:
        """The state that refused."""
        return self.args[1]  # type: ignore[no-any-return]

    @property
    def retry_after(self) -> float | None:
        """Seconds until asking is worth it, or None."""
        return self.args[2]  # type: ignore[no-any-return]

    def __str__(self) -> str:
        if len(self.args) != 3:  # made by somebody else, with a text of his own
            return super().__str__()
        wait = "" if self.retry_after is None else f"; retry in {self.retry_after:.3g} s"
        return f"circuit breaker {self.breaker!r} is {self.state}{wait}"


SUCCESS = Outcome.SUCCESS


def _is_failure(entry: Entry) -> bool:
    return isinstance(entry, tuple)


class Gate:
    """See the top of the file. Thread-safe: every method may be called from any thread or task."""

    __slots__ = (
        "__weakref__",
        "_abandoned",
        "_clock",
        "_entered_at",
        "_exemplar_due",
        "_given",
        "_hub",
        "_in_flight",
        "_ledger",
        "_lock",
        "_machine",
        "_outbox",
        "_pass",
        "_quiet_until",
        "_refusal",
        "_retired",
        "_routes",
        "_seqs",
        "_successes",
        "_wall",
        "buckets",
        "name",
        "passes",
        "policy",
        "slow_from",
    )

    def __init__(
        self,
        name: str,
        policy: Policy,
        *,
        buckets: tuple[float, ...],
        clock: Clock,
        random: Callable[[], float],
        hub: Hub,
    ) -> None:
        self.name = name
        self.policy = policy
        self.buckets = buckets
        self.slow_from = inf if policy.slow_call is None else policy.slow_call
        self.passes: list[Pass] = []
        self._clock = clock
        self._wall = clock.wall
        self._hub = hub
        self._machine = Machine(policy, now=clock.monotonic(), random=random)
        self._routes = Routes(())
        self._successes = self._routes.successes
        self._seqs = count(1)
        self._entered_at = clock.wall()
        self._start_over()
        hub.attach(self)

    def _start_over(self) -> None:
        self._lock = threading.Lock()
        now = self._machine.advance(self._clock.monotonic())
        self._ledger = Ledger(
            self.buckets,
            state=self._machine.state,
            now=now,
            clock_may_go_back=self._clock.monotonic is not time.monotonic,
        )
        self._given = self._in_flight = 0
        self._exemplar_due = True
        self.passes.clear()
        self._pass = SharedPass(self._machine.permit)
        self._retired: tuple[SharedPass, ...] = ()
        self._refusal: Refusal | None = None
        self._abandoned: list[tuple[Pass, float, Outcome, CallSettled | None]] = []
        self._outbox: tuple[tuple[Subscription, Event | None], ...] = ()
        self._quiet_until: Mapping[Subscription, float] = NOTHING

    def _release(self) -> None:
        """Release the lock, then deliver what happened under it."""
        outbox = self._outbox
        if not outbox:
            self._lock.release()
            return
        self._outbox = ()
        self._lock.release()
        for subscription, event in outbox:
            if event is None:
                subscription.ensure_worker()
            else:
                subscription.deliver_inline(event)

    # -- a call asks ------------------------------------------------------------------------------

    def enter(self) -> Pass:
        """The way in without a pass. Raises CircuitBreakerOpenError if the call is refused."""
        refusal = self._refusal
        if refusal is not None:
            now = self._clock.monotonic()
            if now < refusal.latest:  # noqa: PLR1730 - max() takes a tenth of a refused call
                now = refusal.latest
            refusal.latest = now
            if now < refusal.until and not refusal.watch():
                try:
                    refusal.take()
                except IndexError:
                    # The slips are used up, or the state has changed just now: the long way.
                    pass
                else:
                    ends = refusal.ends
                    retry_after = None if ends is None else ends - now
                    raise CircuitBreakerOpenError(self.name, refusal.state, retry_after) from None
        return self._enter_long()

    def _enter_long(self) -> Pass:
        watched = self._routes.rejection_guard()
        self._lock.acquire()
        try:
            now = self._catch_up_locked()
            permit, retry_after, transition = self._machine.admit(now)
            if transition is not None:
                self._changed_locked(transition, now)
            if permit is not None:
                return self._give_locked(permit)
            state = self._machine.state
            self._reject_locked(state, retry_after, now, watched=bool(watched))
            if self.policy.shadow:
                self._in_flight += 1
                return Pass(Permit(OUTSIDE, state))
        finally:
            self._release()
        raise CircuitBreakerOpenError(self.name, state, retry_after) from None

    def _give_locked(self, permit: Permit) -> Pass:
        self._in_flight += 1
        self._given += 1
        shared = self._pass
        if permit is not shared.permit or self.passes or not self._fit_locked():
            return Pass(permit)
        shared.watch = self._success_guard()
        shared.watch_failures = self._routes.failure_guard
        n = batch_size(self._given)
        self.passes.extend([shared] * n)
        shared.in_flight += n
        self._in_flight += n
        self._given += n
        if self._exemplar_due:
            self._exemplar_due = False
            return Pass(permit)
        shared.in_flight += 1
        return shared

    def _success_guard(self) -> Guard:
        """A queue gets its events in order, so under the lock."""
        return LONG_WAY if self._routes.queues_successes else self._routes.success_guard

    def _fit_locked(self) -> bool:
        """Let calls go the short way as far as they cannot change the state, and no further."""
        shared, machine = self._pass, self._machine
        if shared.lay_slips(machine.headroom(), batch_size(self._given)):
            shared.fence = machine.fence()
            return True
        self._take_passes_back_locked()
        shared.watch = shared.watch_failures = LONG_WAY
        return False

    def give_back(self, given: SharedPass) -> None:
        """The call that took this pass will not be made now: as if it had never asked."""
        with self._lock:
            given.in_flight -= 1
            self._in_flight -= 1

    def _take_passes_back_locked(self) -> None:
        n = take_all(self.passes)
        self._pass.in_flight -= n
        self._in_flight -= n

    # -- a call is refused ------------------------------------------------------------------------

    def _reject_locked(
        self, state: State, retry_after: float | None, now: float, *, watched: bool
    ) -> None:
        ledger, enforced = self._ledger, not self.policy.shadow
        ledger.rejected += enforced
        ledger.would_reject += not enforced
        due = [s for s in self._routes.rejected if self._is_due_locked(s, now, watched=watched)]
        if due:
            event = CallRejectedDraft()
            event.breaker = self.name
            event.seq = next(self._seqs)
            event.at = self._wall()
            event.state = state
            event.retry_after = retry_after
            event.rejected = ledger.rejected + ledger.would_reject
            event.enforced = enforced
            event.__class__ = CallRejected
            self._publish_locked(due, event)
        if enforced and state in (State.OPEN, State.FORCED_OPEN):
            self._lay_out_slips_locked(state, retry_after, now)

    def _is_due_locked(self, subscription: Subscription, now: float, *, watched: bool) -> bool:
        if CallRejected in subscription.guards and not watched:
            return False
        if subscription.every:
            if now < self._quiet_until.get(subscription, -inf):
                return False
            until = now + subscription.every
            self._quiet_until = {**self._quiet_until, subscription: until}
        return True

    def _lay_out_slips_locked(self, state: State, retry_after: float | None, now: float) -> None:
        """Slips hold until the wait is over, or until somebody is due to hear of a rejection."""
        self._take_slips_back_locked()
        heard = self._routes.rejected
        if any(not s.every and CallRejected not in s.guards for s in heard):
            return
        ends = inf if retry_after is None else now + retry_after
        due = [self._quiet_until.get(s, -inf) for s in heard if s.every]
        self._refusal = Refusal(
            state,
            None if retry_after is None else ends,
            min([ends, *due]),
            self._routes.rejection_guard,
            now,
        )

    def _take_slips_back_locked(self) -> None:
        if self._refusal is not None:
            self._ledger.rejected += self._refusal.end()
            self._refusal = None

    # -- a call ends ------------------------------------------------------------------------------

    def succeed(self, given: Pass, duration: float, _result: object = None) -> None:
        """A success that somebody wants to hear of, or that has to be judged."""
        if duration >= self.slow_from or (
            given.fence < inf and self._clock.monotonic() >= given.fence
        ):
            self.leave(given, duration, SUCCESS)
        else:
            self.tell(given, duration)

    def tell(self, given: Pass, duration: float, _result: object = None) -> None:
        """As `succeed`, for a success that is neither slow nor behind the fence."""
        if given.watch is LONG_WAY:
            self.leave(given, duration, SUCCESS)
            return
        if duration < 0.0:  # noqa: PLR1730 - max() costs more
            # The clock went back during the call.
            duration = 0.0
        given.journal.append(duration)
        event = None
        for guard, subscription in self._successes:
            if guard is None or guard():
                if event is None:
                    event = CallSettledDraft()
                    event.breaker = self.name
                    event.seq = next(self._seqs)
                    event.at = self._wall()
                    event.state = given.state
                    event.outcome = SUCCESS
                    event.duration = duration
                    event.error = None
                    event.slow = False
                    event.late = given is not self._pass
                    event.__class__ = CallSettled
                subscription.call(event)

    def leave(
        self,
        given: Pass,
        duration: float,
        outcome: Outcome,
        error: str | BaseException | None = None,
        hint: float = 0.0,
    ) -> None:
        """The long way out: one call settled, after `duration` seconds inside the function.

        `error` is what went wrong. `hint`: the dependency asks for so many seconds of rest.
        """
        if duration < 0:
            # The clock went back during the call.
            duration = 0.0
        wanted = [s for guard, s in self._routes.settled[outcome] if guard is None or guard()]
        hub = self._hub
        exemplar = hub.exemplar(duration, self._wall) if hub.traced() else None
        self._lock.acquire()
        try:
            now = self._catch_up_locked()
            self._settle_locked(given, duration, outcome, error, hint, now, wanted, exemplar)
        finally:
            self._release()

    def abandon(self, given: Pass, duration: float, outcome: Outcome, error: BaseException) -> None:
        """A call ended while an object was being finalised.

        Finalisers run wherever the interpreter pleases, also in a thread that holds this very lock.
        So this never waits: if the lock is taken, its next holder settles the call. In the middle
        of a garbage collection the thread may hold a lock of a listener, so that is not called.
        """
        duration = max(duration, 0.0)
        wanted = [s for guard, s in self._routes.settled[outcome] if guard is None or guard()]
        if collecting():
            for subscription in wanted:
                if subscription.inline:
                    self._hub.count_dropped(subscription.name)
            wanted = [s for s in wanted if not s.inline]
        if self._lock.acquire(blocking=False):
            try:
                now = self._catch_up_locked()
                self._settle_locked(given, duration, outcome, error, 0.0, now, wanted, None)
            finally:
                self._release()
            return
        event = None
        if wanted:
            # Whether it came too late is for the machine to say, which nobody may ask just now.
            stale = given.permit.generation not in (self._machine.generation, OUTSIDE)
            state = given.permit.state
            event = self._settled_event(state, outcome, duration, error, late=stale)
        self._abandoned.append((given, duration, outcome, event))
        for subscription in wanted:
            if subscription.inline:
                subscription.call(cast("CallSettled", event))

    def _settled_event(
        self,
        state: State,
        outcome: Outcome,
        duration: float,
        error: str | BaseException | None,
        *,
        late: bool,
    ) -> CallSettled:
        event = CallSettledDraft()
        event.breaker = self.name
        event.seq = next(self._seqs)
        event.at = self._wall()
        event.state = state
        event.outcome = outcome
        event.duration = duration
        event.error = error_name(error) if isinstance(error, BaseException) else error
        event.slow = duration >= self.slow_from
        event.late = late
        event.__class__ = CallSettled
        return cast("CallSettled", event)

    def _settle_locked(
        self,
        given: Pass,
        duration: float,
        outcome: Outcome,
        error: str | BaseException | None,
        hint: float,
        now: float,
        wanted: Sequence[Subscription],
        exemplar: Exemplar | None,
    ) -> None:
        machine, permit = self._machine, given.permit
        slow = duration >= self.slow_from
        late, transition = machine.settle(permit, outcome, now=now, slow=slow, hint=hint)
        self._ledger.add(outcome, duration, slow=slow, exemplar=exemplar)
        given.in_flight -= 1
        self._in_flight -= 1
        if wanted:
            late = late and permit.generation != OUTSIDE
            event = self._settled_event(permit.state, outcome, duration, error, late=late)
            self._publish_locked(wanted, event)
        if transition is not None:
            self._changed_locked(transition, now)
        else:
            self._fit_locked()

    # -- the journal ------------------------------------------------------------------------------

    def _catch_up_locked(self) -> float:
        """Fold in what was written down without the lock. Returns the present time.

        The journal goes first: its calls ended before the fence, so before time moves on.
        """
        if self._refusal is not None:
            self._ledger.rejected += self._refusal.fold()
        transition = self._fold_locked(self._pass) if self._pass.journal else None
        now = self._machine.advance(self._clock.monotonic())
        if self._refusal is not None:
            now = self._refusal.latest = self._machine.advance(self._refusal.latest)
        if transition is not None:
            self._changed_locked(transition, now)
        if self._retired:
            for old in self._retired:
                if old.journal:
                    self._fold_locked(old)
            self._retired = tuple(old for old in self._retired if old.in_flight)
        while self._abandoned:
            given, duration, outcome, event = self._abandoned.pop(0)
            self._settle_locked(given, duration, outcome, None, 0.0, now, (), None)
            if event is not None:
                queued = [s for _, s in self._routes.settled[outcome] if not s.inline]
                self._publish_locked(queued, event)
        return now

    def _fold_locked(self, given: SharedPass) -> Transition | None:
        entries = given.fold()
        self._in_flight -= len(entries)
        machine = self._machine if given is self._pass else None
        if given.slips_out == len(given.slips):
            self._ledger.add_batch(SUCCESS, cast("list[float]", entries))
            return None if machine is None else machine.settle_batch(len(entries))
        failures = [entry[0] for entry in entries if isinstance(entry, tuple)]
        given.slips_out -= len(failures)
        self._ledger.add_batch(Outcome.FAILURE, failures)
        successes: list[float] = [entry for entry in entries if not isinstance(entry, tuple)]
        self._ledger.add_batch(SUCCESS, successes)
        transition = None
        if machine is not None:
            for failed, run in groupby(entries, _is_failure):
                changed = machine.settle_batch(len(list(run)), failed=failed)
                transition = transition or changed
        return transition

    # -- the state changes ------------------------------------------------------------------------

    def _changed_locked(self, transition: Transition, now: float) -> None:
        self._take_passes_back_locked()
        self._take_slips_back_locked()
        if self._pass.in_flight:
            self._retired += (self._pass,)
        self._pass = SharedPass(self._machine.permit)
        self._ledger.add_transition(transition.old, transition.new, transition.cause, now)
        self._entered_at = self._wall()
        if not self._routes.changed:
            return
        figures = transition.figures
        event = StateChanged(
            breaker=self.name,
            seq=next(self._seqs),
            at=self._entered_at,
            old=transition.old,
            new=transition.new,
            cause=transition.cause,
            calls=figures.calls,
            failures=figures.failures,
            slow_calls=figures.slow_calls,
            consecutive_failures=figures.consecutive_failures,
            failure_ratio=figures.failure_ratio,
            slow_call_ratio=figures.slow_call_ratio,
            open_for=transition.open_for,
            rejected=self._ledger.rejected + self._ledger.would_reject,
            reason=transition.reason,
        )
        self._publish_locked(self._routes.changed, event)

    def command(self, act: Callable[[Machine, float], Transition | None]) -> None:
        """Give the machine a manual command."""
        self._lock.acquire()
        try:
            now = self._catch_up_locked()
            transition = act(self._machine, now)
            if transition is not None:
                self._changed_locked(transition, now)
            else:
                self._fit_locked()
        finally:
            self._release()

    # -- reading ----------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """The state after all that has happened. An open breaker stays open until a call asks."""
        self._lock.acquire()
        try:
            self._catch_up_locked()
            return self._machine.state
        finally:
            self._release()

    def read(self) -> Reading:
        """Everything at this moment."""
        self._lock.acquire()
        try:
            now = self._catch_up_locked()
            self._take_passes_back_locked()
            self._exemplar_due = True
            ledger = self._ledger
            return Reading(
                breaker=self.name,
                policy=self.policy,
                buckets=ledger.buckets,
                state=self._machine.state,
                entered_at=self._entered_at,
                figures=self._machine.figures(now),
                open_wait=self._machine.wait or self.policy.open_for,
                durations=ledger.durations(),
                rejected=ledger.rejected,
                slow=ledger.slow,
                in_flight=self._in_flight,
                would_reject=ledger.would_reject,
                fallbacks={**dict.fromkeys(FALLBACK_OUTCOMES, 0), **ledger.fallbacks},
                transitions=dict(ledger.transitions),
                state_seconds=ledger.state_seconds(now),
            )
        finally:
            self._release()

    def dump(self) -> dict[str, Any]:
        """The state of the machine as plain data."""
        self._lock.acquire()
        try:
            return self._machine.dump(self._catch_up_locked())
        finally:
            self._release()

    # -- listeners --------------------------------------------------------------------------------

    def fallback_used(self, outcome: Outcome, error: str) -> None:
        """A fallback is about to be called."""
        self._lock.acquire()
        try:
            self._catch_up_locked()
            self._ledger.add_fallback(outcome)
            if self._routes.fallbacks:
                event = FallbackUsed(
                    breaker=self.name,
                    seq=next(self._seqs),
                    at=self._wall(),
                    outcome=outcome,
                    error=error,
                )
                self._publish_locked(self._routes.fallbacks, event)
        finally:
            self._release()

    def _publish_locked(self, wanted: Sequence[Subscription], event: Event) -> None:
        for subscription in wanted:
            if subscription.inline:
                self._outbox += ((subscription, event),)
                continue
            # One copy each: a context can be entered by one thread at a time.
            subscription.put(copy_context(), event)
            if not subscription.working:
                self._outbox += ((subscription, None),)

    def reroute(self, routes: Routes) -> None:
        """Another set of listeners, for calls in flight too."""
        self._lock.acquire()
        try:
            self._catch_up_locked()
            self._take_slips_back_locked()
            self._routes = routes
            self._successes = routes.successes
            if self._quiet_until:
                still_heard = self._quiet_until.keys() & {*routes.rejected}
                self._quiet_until = {s: self._quiet_until[s] for s in still_heard}
            for given in (self._pass, *self._retired):
                if given.watch is not LONG_WAY:
                    given.watch = self._success_guard()
                if given.watch_failures is not LONG_WAY:
                    given.watch_failures = routes.failure_guard
        finally:
            self._release()

    def start_over_after_fork(self) -> None:
        """A forked child: the state stays, counters begin at 0, the parent's calls are late."""
        self._machine.new_generation()
        self._start_over()
