"""A breaker of another library, as our telemetry sees it: counters, state, events; no machine.

The other library decides everything. A bridge tells a `ForeignBreaker` what it saw, and nothing
that happens here can reach the call: each of these methods raises no Exception, calls no listener
under a lock, and counts what goes wrong.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache, wraps
from typing import Any, ParamSpec, cast

from breakerscope.bridges.libraries import BY_HAND, Library
from breakerscope.catalogue import STATE_ENTERED
from breakerscope.core.counters import Counters, Exemplar
from breakerscope.core.events import FALLBACK_OUTCOMES, Cause, Outcome, State
from breakerscope.core.journal import Journal
from breakerscope.core.policy import Policy
from breakerscope.core.publisher import Deliveries, Publisher, deliver
from breakerscope.core.reading import Reading
from breakerscope.core.reentrant import Reentrant
from breakerscope.core.subscribers import Subscribers
from breakerscope.core.transitions import Figures, Transition
from breakerscope.event_bus import EventBus

LISTENER = "bridges"
"""The name under which errors of the bridges themselves are counted."""

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
"""So many successes are told to the counters at once."""


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
            of.bus.count_error(LISTENER, error)

    return tried


def _nothing() -> None:
    """Only the catching up is wanted."""


class ForeignBreaker(Reentrant):
    """See the top of the file. Thread-safe.

    `look` asks the library for what it knows, without changing anything. It is never called under
    the lock.
    """

    def __init__(
        self,
        name: str,
        library: Library,
        *,
        bus: EventBus,
        state: State,
        buckets: tuple[float, ...],
        labels: Mapping[str, str],
        look: Callable[[], Look],
    ) -> None:
        self.name = name
        self.library = library
        self.bus = bus
        self.labels = labels
        self.buckets = buckets
        self.state = state
        self._look = look
        self._entered: float | None = None
        self._entered_at = math.nan
        self._untold = library.untold | {STATE_ENTERED}
        self._publisher = Publisher(name, time.time)
        self._start_over()
        bus.attach(self)

    def _start_over(self) -> None:
        super()._start_over()
        self._counters = Counters(self.buckets, state=self.state, now=time.monotonic())
        self._running: set[int] = set()
        self._journal = Journal()
        self._exemplar_due = True
        self._publisher.start_over()

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
        self._run(self._changed_locked, new, trip, call, self.look())

    def _changed_locked(self, new: State, trip: Cause, call: Call | None, look: Look) -> None:
        old = self.state
        if old is new:
            return
        now, at = time.monotonic(), time.time()
        transition = Transition(
            old=old,
            new=new,
            cause=_cause(old, new, trip, call),
            figures=cast("Figures", look),
            open_for=look.open_wait if new is State.OPEN else None,
        )
        self._counters.add_transition(old, new, transition.cause, now)
        # fmt: off
        self.state, self._entered, self._entered_at, self._untold = new, now, at, self.library.untold  # noqa: E501
        # fmt: on
        outbox = self._outbox_of(call)
        self._publisher.changed_locked(transition, at, self._counters.rejected, outbox)

    def _outbox_of(self, call: Call | None) -> Deliveries:
        """Where inline deliveries wait: for the end of the call, which may be in a lock of its
        library.
        """
        return self._deliveries if call is None else call.outbox

    @harmless
    def fallback_used(self, error: str) -> None:
        """A fallback stands in for a rejected call."""
        self._run(self._fallback_locked, error)

    def _fallback_locked(self, error: str) -> None:
        self._counters.add_fallback(Outcome.REJECTED)
        self._publisher.fallback_locked(Outcome.REJECTED, error, self._deliveries)

    def admitted(self, call: Call) -> None:
        """A call is let through."""
        self._running.add(id(call))

    def settled(self, call: Call, outcome: Outcome, duration: float, *, slow: bool) -> None:
        """An admitted call ended.

        A success that nobody wants to hear of goes into a journal, by one atomic step, and from
        there into the counters with others.
        """
        succeeded = outcome is Outcome.SUCCESS
        wanted = self._publisher.wanted(outcome)
        exemplar = None
        if (self._exemplar_due or outcome is Outcome.FAILURE) and self.bus.traced():
            self._exemplar_due = False
            exemplar = self.bus.exemplar(duration, time.time)
        if succeeded and not (wanted or slow or exemplar):
            self._running.discard(id(call))
            self._journal.entries.append(duration)
            if len(self._journal.entries) >= LONGEST_JOURNAL:
                self._run(_nothing)
            return
        error = call.error
        self._run(self._settled_locked, call, outcome, duration, error, slow, wanted, exemplar)

    def _settled_locked(
        self,
        call: Call,
        outcome: Outcome,
        duration: float,
        error: BaseException | None,
        slow: bool,  # noqa: FBT001 - `_run` hands on positions
        wanted: list[Any],
        exemplar: Exemplar | None,
    ) -> None:
        self._running.discard(id(call))
        self._counters.add(outcome, duration, self._journal, slow=slow, exemplar=exemplar)
        if wanted:
            event = self._publisher.settled(call.state, outcome, duration, error, slow=slow)
            self._publisher.publish_locked(wanted, event, call.outbox)

    def _catch_up_locked(self) -> None:
        if self._journal.entries:
            self._counters.drain(self._journal)

    def rejected(self, call: Call, retry_after: float | None) -> None:
        """A call was rejected."""
        subscribers = self._publisher.subscribers
        watched = bool(subscribers.rejection_guard())
        wait = self.look().open_wait if retry_after is None and subscribers.rejected else None
        self._run(self._rejected_locked, call, retry_after, wait, watched)

    def _rejected_locked(
        self,
        call: Call,
        retry_after: float | None,
        wait: float | None,
        watched: bool,  # noqa: FBT001
    ) -> None:
        self._counters.rejected += 1
        now = time.monotonic()
        if wait is not None and self._entered is not None and self.state is State.OPEN:
            retry_after = max(self._entered + wait - now, 0.0)
        self._publisher.rejected_locked(
            self.state,
            retry_after,
            now,
            self._counters.rejected,
            enforced=True,
            watched=watched,
            deliveries=call.outbox,
        )

    # -- listeners --------------------------------------------------------------------------------

    def set_subscribers(self, subscribers: Subscribers, /) -> None:
        """Another set of listeners."""
        self._run(self._publisher.set_subscribers_locked, subscribers)

    def ask_again(self) -> None:
        """Its own library decides whether a call may pass."""

    def start_over_after_fork(self) -> None:
        """A forked child: the state stays, counters begin at 0."""
        self._start_over()

    # -- reading ----------------------------------------------------------------------------------

    def look(self) -> Look:
        """What the library says, if it says anything."""
        try:
            return self._look()
        except Exception as error:
            self.bus.count_error(LISTENER, error)
            return BLIND

    def read(self) -> Reading:
        """All counters and figures at this moment, consistent with each other."""
        look = self.look()
        if self._is_inside:
            return self._read_locked(look)
        return cast("Reading", self._run(self._read_locked, look))

    def _read_locked(self, look: Look) -> Reading:
        counters = self._counters
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
            durations=counters.durations(),
            rejected=counters.rejected,
            slow=counters.slow,
            in_flight=len(self._running),
            would_reject=0,
            fallbacks={**dict.fromkeys(FALLBACK_OUTCOMES, 0), **counters.fallbacks},
            transitions=dict(counters.transitions),
            state_seconds=counters.state_seconds(time.monotonic()),
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
        self.outbox: Deliveries = []
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
            deliver(self.outbox)
            self.outbox.clear()
        except Exception as error:
            self._count(error)

    def _count(self, error: Exception) -> None:
        self.foreign.bus.count_error(LISTENER, error)


class DroppableCall(Call):
    """A call that ends when its generator is dropped, also one that never began."""

    __slots__ = ()

    def __del__(self) -> None:
        if not self.over:
            self.end()

    def deliver(self) -> None:
        """In the middle of a garbage collection the thread may hold a lock of a listener."""
        bus = self.foreign.bus
        if bus.collecting():
            bus.deliver_later(self.outbox)
            self.outbox.clear()
        else:
            super().deliver()


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
