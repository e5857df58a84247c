"""Who hears of the events of a breaker, as the breaker needs to know it.

The subscriptions themselves, their queues and threads, live outside of the core.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Sized
from contextvars import Context
from typing import Any, Protocol

from breakerscope.core.checks import ALWAYS, NEVER, Check
from breakerscope.core.counters import Exemplar
from breakerscope.core.events import (
    CallRejected,
    CallSettled,
    EventType,
    FallbackUsed,
    Outcome,
    PolicyChanged,
    StateChanged,
)


class Subscriber(Protocol):
    """One listener."""

    name: str
    types: tuple[EventType, ...]
    outcomes: frozenset[Outcome]
    guards: Mapping[EventType, Check]
    every: float
    inline: bool

    @property
    def working(self) -> bool:
        """Whether the thread of its queue runs."""
        ...

    def put(self, context: Context, event: Any, /) -> None:
        """Queue an event. Never blocks and calls no foreign code."""
        ...

    def ensure_worker(self) -> None:
        """Start the thread of the queue if there is none. Not to be called under a lock."""
        ...

    def deliver_inline(self, event: Any, /) -> None:
        """Call the listener in this thread if its guard agrees. Raises no Exception."""
        ...

    def call(self, event: Any, /) -> None:
        """Call the listener in this thread. Raises no Exception."""
        ...


class Bus(Protocol):
    """What a breaker needs of the event bus."""

    traced: Check

    @property
    def active(self) -> bool:
        """False while all calls pass unwatched."""
        ...

    @property
    def waiting(self) -> Sized:
        """Deliveries that were put off."""
        ...

    def attach(self, publisher: Any, /) -> None:
        """Tell this breaker who listens, now and at each change."""
        ...

    def exemplar(self, duration: float, wall: Callable[[], float], /) -> Exemplar | None:
        """The exemplar for a call that ended in this thread just now."""
        ...

    def count_error(self, listener: str, error: Exception, /) -> None:
        """A listener or a user's rule raised."""
        ...

    def collecting(self) -> bool:
        """Whether this thread is in the middle of a garbage collection."""
        ...

    def deliver_later(self, deliveries: Sequence[tuple[Subscriber, Any]], /) -> None:
        """Deliver these inline, in this context, as soon as no finaliser runs."""
        ...

    def call_later(self, seconds: float, callback: Callable[[], object], /) -> None:
        """Call this bound method from another thread, unless its object is gone by then. Never
        blocks and calls no foreign code.
        """
        ...

    def deliver_waiting(self) -> None:
        """Make the deliveries that were put off."""
        ...


class Subscribers:
    """The subscribers of a breaker by event type, worked out once for each change of them."""

    __slots__ = (
        "changed",
        "failure_guard",
        "fallbacks",
        "policy_changes",
        "queues_successes",
        "rejected",
        "rejection_guard",
        "settled",
        "success_guard",
        "successes",
    )

    def __init__(self, subscribers: Sequence[Subscriber], traced: Check = NEVER) -> None:
        settled = [(s.guards.get(CallSettled), s) for s in subscribers if CallSettled in s.types]
        self.settled = {
            outcome: tuple(pair for pair in settled if outcome in pair[1].outcomes)
            for outcome in Outcome
        }
        self.successes = self.settled[Outcome.SUCCESS]
        self.rejected = tuple(s for s in subscribers if CallRejected in s.types)
        self.changed = tuple(s for s in subscribers if StateChanged in s.types)
        self.fallbacks = tuple(s for s in subscribers if FallbackUsed in s.types)
        self.policy_changes = tuple(s for s in subscribers if PolicyChanged in s.types)
        self.queues_successes = any(not s.inline for _, s in self.successes)
        """Whether a queue is to hear of successes: it gets them in order, so under the lock."""
        self.success_guard = _any_of([guard for guard, _ in self.successes])
        """Says whether anybody wants the event of a success that happens here and now."""
        failures = [guard for guard, _ in self.settled[Outcome.FAILURE]]
        self.failure_guard = _any_of([*failures, traced])
        """Says whether anybody wants the event of such a failure, or an exemplar of it."""
        guards = [s.guards[CallRejected] for s in self.rejected if CallRejected in s.guards]
        self.rejection_guard = _any_of(guards)
        """Says whether a guarded listener wants the event of a rejection here and now."""


def _any_of(guards: Sequence[Check | None]) -> Check:
    """One guard that says yes when any of them does. None always says yes."""
    real = dict.fromkeys(guard for guard in guards if guard is not None)
    if None in guards:
        return ALWAYS
    either: Check = NEVER
    for guard in real:
        either = guard if either is NEVER else _either(either, guard)
    return either


def _either(first: Check, second: Check) -> Check:
    return lambda: first() or second()
