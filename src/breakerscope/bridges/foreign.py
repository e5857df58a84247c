"""A breaker of another library, as our telemetry sees it: counters, state, events; no machine.

The other library decides everything. A bridge tells a `ForeignBreaker` what it saw, and nothing
that happens here can reach the call: each of these methods raises no Exception, calls no listener
under a lock, and counts what goes wrong.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar, copy_context
from dataclasses import dataclass
from functools import lru_cache, wraps
from itertools import count
from typing import Any, ParamSpec

from breakerscope.bridges.libraries import BY_HAND, Library
from breakerscope.catalogue import STATE_ENTERED
from breakerscope.classify import error_name
from breakerscope.events import (
    FALLBACK_OUTCOMES,
    CallRejected,
    CallSettled,
    Cause,
    Event,
    FallbackUsed,
    Outcome,
    State,
    StateChanged,
)
from breakerscope.hub import Hub, Routes, Subscription, collecting
from breakerscope.ledger import NOTHING, Ledger
from breakerscope.machine import Figures
from breakerscope.policy import Policy
from breakerscope.reading import Reading

LISTENER = "bridges"
"""The name under which errors of the bridges themselves are counted."""

Outbox = list[tuple[Subscription, Event | None]]
P = ParamSpec("P")


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignPolicy(Policy):
    """The thresholds of a breaker of another library as ours know them; `settings` are its own, so
    that its hash shows where they differ between instances.
    """

    settings: tuple[object, ...] = ()


@lru_cache(maxsize=1024)
def policy_of(
    *settings: object,
    failure_rate: float | None = None,
    slow_call: float | None = None,
    slow_call_rate: float | None = None,
) -> ForeignPolicy:
    """One object for equal settings."""
    return ForeignPolicy(
        failure_rate=failure_rate,
        slow_call=slow_call,
        slow_call_rate=slow_call_rate,
        settings=settings,
    )


PLAIN = policy_of()

LONGEST_JOURNAL = 256
"""So many successes are told to the ledger at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What a library says of one of its breakers at this moment; None: it cannot tell."""

    open_wait: float | None = None
    consecutive_failures: int | None = None
    calls: int | None = None
    failures: int | None = None
    slow_calls: int | None = None
    failure_ratio: float | None = None
    slow_call_ratio: float | None = None
    policy: Policy = PLAIN


BLIND = Look()


def harmless(method: Callable[P, None]) -> Callable[P, None]:
    """What the method raises is counted, and goes no further."""

    @wraps(method)
    def tried(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            method(*args, **kwargs)
        except Exception as error:
            of: Any = args[0]
            of.hub.count_error(LISTENER, error)

    return tried


class ForeignBreaker:
    """See the top of the file. Thread-safe.

    `look` asks the library for what it knows, without changing anything. It is never called under
    the lock.
    """

    def __init__(
        self,
        name: str,
        library: Library,
        *,
        hub: Hub,
        state: State,
        buckets: tuple[float, ...],
        labels: Mapping[str, str],
        look: Callable[[], Look],
    ) -> None:
        self.name = name
        self.library = library
        self.hub = hub
        self.labels = labels
        self.buckets = buckets
        self.state = state
        self._look = look
        self._entered: float | None = None
        self._entered_at = math.nan
        self._untold = library.untold | {STATE_ENTERED}
        self._seqs = count(1)
        self._routes = Routes(())
        self._start_over()
        hub.attach(self)

    def _start_over(self) -> None:
        # A call may end in a finaliser, so in a thread that is just here.
        self._lock = threading.RLock()
        self._ledger = Ledger(self.buckets, state=self.state, now=time.monotonic())
        self._running: set[int] = set()
        self._journal: list[float] = []
        self._exemplar_due = True
        self._quiet_until: Mapping[Subscription, float] = NOTHING

    # -- what a bridge tells ----------------------------------------------------------------------

    def ask(self) -> Call:
        """A call asks."""
        return Call(self)

    def saw(self, new: str, trip: Cause = Cause.CONSECUTIVE_FAILURES) -> None:
        """The library is in this state now. `trip` is the rule that opens it after a failure."""
        if new != self.state:
            self._changed(new, trip)

    @harmless
    def _changed(self, name: str, trip: Cause) -> None:
        new = State(name)
        call = current.get()
        if call is not None and call.foreign is not self:
            call = None
        look = self.look()
        outbox: Outbox = []
        with self._lock:
            old, self.state = self.state, new
            if old is new:
                return
            now = time.monotonic()
            cause = _cause(old, new, trip, call)
            self._ledger.add_transition(old, new, cause, now)
            self._entered, self._entered_at = now, time.time()
            self._untold = self.library.untold
            if self._routes.changed:
                event = StateChanged(
                    breaker=self.name,
                    seq=next(self._seqs),
                    at=self._entered_at,
                    old=old,
                    new=new,
                    cause=cause,
                    calls=look.calls,
                    failures=look.failures,
                    slow_calls=look.slow_calls,
                    consecutive_failures=look.consecutive_failures,
                    failure_ratio=look.failure_ratio,
                    slow_call_ratio=look.slow_call_ratio,
                    open_for=look.open_wait if new is State.OPEN else None,
                    rejected=self._ledger.rejected,
                )
                self._publish_locked(self._routes.changed, event, outbox)
        if call is None:
            self._deliver(outbox)
        else:
            call.outbox += outbox

    @harmless
    def fallback_used(self, error: str) -> None:
        """A fallback stands in for a rejected call."""
        outbox: Outbox = []
        with self._lock:
            self._ledger.add_fallback(Outcome.REJECTED)
            if self._routes.fallbacks:
                event = FallbackUsed(
                    breaker=self.name,
                    seq=next(self._seqs),
                    at=time.time(),
                    outcome=Outcome.REJECTED,
                    error=error,
                )
                self._publish_locked(self._routes.fallbacks, event, outbox)
        self._deliver(outbox)

    def admitted(self, call: Call) -> None:
        """A call is let through."""
        self._running.add(id(call))

    def settled(self, call: Call, outcome: Outcome, duration: float, *, slow: bool) -> None:
        """An admitted call ended.

        A success that nobody wants to hear of goes into a journal, by one atomic step, and from
        there into the ledger with others.
        """
        routes = self._routes
        succeeded = outcome is Outcome.SUCCESS
        listeners = routes.successes if succeeded else routes.settled[outcome]
        wanted = [s for guard, s in listeners if guard is None or guard()] if listeners else []
        exemplar = None
        if (self._exemplar_due or outcome is Outcome.FAILURE) and self.hub.traced():
            self._exemplar_due = False
            exemplar = self.hub.exemplar(duration, time.time)
        if succeeded and not (wanted or slow or exemplar):
            self._running.discard(id(call))
            self._journal.append(duration)
            if len(self._journal) < LONGEST_JOURNAL:
                return
            with self._lock:
                self._fold_locked()
            return
        with self._lock:
            self._running.discard(id(call))
            self._ledger.add(outcome, duration, slow=slow, exemplar=exemplar)
            if wanted:
                event = CallSettled(
                    breaker=self.name,
                    seq=next(self._seqs),
                    at=time.time(),
                    state=call.state,
                    outcome=outcome,
                    duration=duration,
                    error=None if call.error is None else error_name(call.error),
                    slow=slow,
                )
                self._publish_locked(wanted, event, call.outbox)

    def _fold_locked(self) -> None:
        # One by one: a finaliser may come in between, and fold.
        batch: list[float] = []
        while self._journal:
            batch.append(self._journal.pop())
        self._ledger.add_batch(Outcome.SUCCESS, batch)

    def rejected(self, call: Call, retry_after: float | None) -> None:
        """A call was refused."""
        routes = self._routes
        watched = bool(routes.rejection_guard())
        wait = self.look().open_wait if retry_after is None and routes.rejected else None
        with self._lock:
            self._ledger.rejected += 1
            now = time.monotonic()
            due = [s for s in routes.rejected if self._is_due_locked(s, now, watched=watched)]
            if due:
                if wait is not None and self._entered is not None and self.state is State.OPEN:
                    retry_after = max(self._entered + wait - now, 0.0)
                event = CallRejected(
                    breaker=self.name,
                    seq=next(self._seqs),
                    at=time.time(),
                    state=self.state,
                    retry_after=retry_after,
                    rejected=self._ledger.rejected,
                )
                self._publish_locked(due, event, call.outbox)

    def _is_due_locked(self, subscription: Subscription, now: float, *, watched: bool) -> bool:
        if CallRejected in subscription.guards and not watched:
            return False
        if subscription.every:
            if now < self._quiet_until.get(subscription, -math.inf):
                return False
            self._quiet_until = {**self._quiet_until, subscription: now + subscription.every}
        return True

    # -- listeners --------------------------------------------------------------------------------

    def _publish_locked(self, wanted: Sequence[Subscription], event: Event, outbox: Outbox) -> None:
        for subscription in wanted:
            if subscription.inline:
                outbox.append((subscription, event))
                continue
            subscription.put(copy_context(), event)
            if not subscription.working:
                outbox.append((subscription, None))

    def _deliver(self, outbox: Outbox) -> None:
        """Call the inline listeners, but not in the middle of a garbage collection: the thread may
        hold a lock of theirs.
        """
        for subscription, event in outbox:
            if event is None:
                subscription.ensure_worker()
            elif collecting():
                self.hub.count_dropped(subscription.name)
            else:
                subscription.deliver_inline(event)
        outbox.clear()

    def reroute(self, routes: Routes) -> None:
        """Another set of listeners."""
        with self._lock:
            self._routes = routes
            if self._quiet_until:
                still_heard = self._quiet_until.keys() & {*routes.rejected}
                self._quiet_until = {s: self._quiet_until[s] for s in still_heard}

    def start_over_after_fork(self) -> None:
        """A forked child: the state stays, counters begin at 0."""
        self._start_over()

    # -- reading ----------------------------------------------------------------------------------

    def look(self) -> Look:
        """What the library says, if it says anything."""
        try:
            return self._look()
        except Exception as error:
            self.hub.count_error(LISTENER, error)
            return BLIND

    def read(self) -> Reading:
        """All counters and figures at this moment, consistent with each other."""
        look = self.look()
        with self._lock:
            ledger = self._ledger
            self._fold_locked()
            self._exemplar_due = True
            return Reading(
                breaker=self.name,
                policy=look.policy,
                buckets=self.buckets,
                state=self.state,
                entered_at=self._entered_at,
                figures=Figures(
                    calls=look.calls or 0,
                    failures=look.failures or 0,
                    slow_calls=look.slow_calls or 0,
                    consecutive_failures=look.consecutive_failures or 0,
                    failure_ratio=look.failure_ratio,
                    slow_call_ratio=look.slow_call_ratio,
                ),
                open_wait=math.nan if look.open_wait is None else look.open_wait,
                durations=ledger.durations(),
                rejected=ledger.rejected,
                slow=ledger.slow,
                in_flight=len(self._running),
                would_reject=0,
                fallbacks={**dict.fromkeys(FALLBACK_OUTCOMES, 0), **ledger.fallbacks},
                transitions=dict(ledger.transitions),
                state_seconds=ledger.state_seconds(time.monotonic()),
                untold=self._untold,
                changes=self.library.changes,
            )

    def __repr__(self) -> str:
        return f"<ForeignBreaker {self.name!r} {self.library.name} {self.state}>"


class Call:
    """One call through a foreign breaker, from asking to its end. For one thread or task. What goes
    wrong in here is counted, and goes no further.
    """

    __slots__ = ("_start", "admitted", "error", "foreign", "outbox", "over", "passed", "state")

    def __init__(self, foreign: ForeignBreaker) -> None:
        self.foreign = foreign
        self.state = foreign.state
        self.outbox: Outbox = []
        self.admitted = self.over = self.passed = False
        self.error: BaseException | None = None
        self._start = 0.0

    def admit(self) -> None:
        """The library lets the call through: the protected function is about to run."""
        if self.admitted:
            return
        try:
            self.state = self.foreign.state
            self.admitted = True
            self.foreign.admitted(self)
        except Exception as error:
            self._count(error)
        self._start = time.monotonic()

    def settle(self, outcome: Outcome, *, slow: bool = False) -> None:
        """The library judged the call. Only the first judgement counts."""
        if not self.admitted or self.over:
            return
        try:
            duration = max(time.monotonic() - self._start, 0.0)
            self.over = True
            self.foreign.settled(self, outcome, duration, slow=slow)
        except Exception as error:
            self._count(error)

    def fail(self, error: BaseException | None, *, slow: bool = False) -> None:
        """The library counts the call as a failure."""
        self.error = error
        self.settle(Outcome.FAILURE, slow=slow)

    def reject(self, retry_after: float | None = None) -> None:
        """The library refused the call."""
        if self.admitted or self.over:
            return
        try:
            self.over = True
            self.foreign.rejected(self, retry_after)
        except Exception as error:
            self._count(error)

    def end(self, error: BaseException | None = None, *, slow: bool = False) -> None:
        """The call returns or raises. Without a judgement it was cancelled; an exception that the
        library does not count as a failure is ignored.
        """
        if not self.over:
            self.error = error
            if not self.passed or (error is not None and not isinstance(error, Exception)):
                self.settle(Outcome.CANCELLED, slow=slow)
            else:
                self.settle(Outcome.SUCCESS if error is None else Outcome.IGNORED, slow=slow)
        # Nothing is to keep the frames of the call alive.
        self.error = None
        if self.outbox:
            self.deliver()

    def deliver(self) -> None:
        """Call the inline listeners. Not to be called under a lock of the library."""
        try:
            self.foreign._deliver(self.outbox)
        except Exception as error:
            self._count(error)

    def _count(self, error: Exception) -> None:
        self.foreign.hub.count_error(LISTENER, error)


class DroppableCall(Call):
    """A call that ends when its generator is dropped, also one that never began."""

    __slots__ = ()

    def __del__(self) -> None:
        if not self.over:
            self.end()


current: ContextVar[Call | None] = ContextVar("breakerscope_foreign_call", default=None)
"""The call on whose behalf a library works just now."""


class Blocks:
    """The `with` blocks of one breaker that are open, each by the thread or task that is in it."""

    def __init__(self) -> None:
        self._open: dict[int, Call] = {}

    def enter(self, call: Call) -> None:
        """A block begins."""
        self._open[id(call)] = call
        _stack.set((*_stack.get(), call))

    def leave(self) -> Call | None:
        """The block that ends; None if none is known. One that was begun elsewhere is any one."""
        stack = _stack.get()
        for at in range(len(stack) - 1, -1, -1):
            if (call := self._open.pop(id(stack[at]), None)) is not None:
                _stack.set(stack[:at] + stack[at + 1 :])
                return call
        try:
            return self._open.popitem()[1]
        except KeyError:
            return None


_stack: ContextVar[tuple[Call, ...]] = ContextVar("breakerscope_foreign_blocks", default=())


def _cause(old: State, new: State, trip: Cause, call: Call | None) -> Cause:
    """Why the state changed: what the running call explains, else somebody's hand."""
    if call is not None:
        if new is State.HALF_OPEN and old is State.OPEN:
            return Cause.WAIT_ELAPSED
        if new is State.OPEN:
            return trip if old is State.CLOSED else Cause.PROBE_FAILED
        if new is State.CLOSED and call.admitted:
            return Cause.PROBES_SUCCEEDED
    return BY_HAND[new]
