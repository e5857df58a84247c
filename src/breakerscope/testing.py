"""Help for tests of code that uses breakers: a clock to turn by hand, and captured events."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar, overload

from breakerscope.breaker import CircuitBreaker
from breakerscope.core.clock import Clock
from breakerscope.core.events import Event, State
from breakerscope.event_bus import EventBus, default_bus

E = TypeVar("E", bound=Event)


class FakeClock:
    """A clock that stands still until somebody turns it: give `clock.clock` to a breaker.

    Not for use from several threads at once.
    """

    def __init__(self, now: float = 0.0, wall: float = 1_700_000_000.0) -> None:
        self.now = now
        self.wall = wall
        self.clock = Clock(monotonic=lambda: self.now, wall=lambda: self.wall)

    def advance(self, seconds: float) -> None:
        """Turn the clock by so many seconds; a negative number turns it back."""
        self.now += seconds
        self.wall += seconds


class BreakerTime:
    """The time of all breakers that a test can stop and turn: see the fixture `breaker_time`.

    It runs until `stop`, and goes on from where it is: for a breaker no time ever goes back. One
    thread at a time may turn it; breakers read it in any.
    """

    def __init__(self) -> None:
        self._ahead = 0.0
        self._stopped_at: float | None = None
        self.clock = Clock(monotonic=self._monotonic, wall=self._wall)

    def _monotonic(self) -> float:
        stopped_at = self._stopped_at
        return time.monotonic() + self._ahead if stopped_at is None else stopped_at

    def _wall(self) -> float:
        return time.time() - time.monotonic() + self._monotonic()

    def stop(self) -> None:
        """Stand still from now on."""
        self._stopped_at = self._monotonic()

    def advance(self, seconds: float) -> None:
        """Turn it by so many seconds. Raises ValueError for a negative number."""
        if not seconds >= 0:
            raise ValueError(f"advance({seconds!r}): allowed are seconds, 0 or more")
        if self._stopped_at is None:
            self._ahead += seconds
        else:
            self._stopped_at += seconds

    def go_on(self) -> None:
        """Run again."""
        if self._stopped_at is not None:
            self._ahead = self._stopped_at - time.monotonic()
            self._stopped_at = None


def force_state(breaker: CircuitBreaker, state: State) -> None:
    """Put a breaker into a state, as if it had got there by itself, with an empty window.

    OPEN waits for the policy's `open_for` from now on. Counters stay as they are.
    """
    breaker.adopt(
        {
            **breaker.snapshot(),
            "state": state.value,
            "rows": CircuitBreaker(breaker.name, breaker.policy, bus=EventBus()).snapshot()["rows"],
            "consecutive_failures": 0,
            "probe_successes": 0,
            "probe_failures": 0,
            "ramp_for": 0.0,
            "wait": breaker.policy.open_for,
            "openings": 1,
            "base_wait": breaker.policy.open_for,
            "open_for": breaker.policy.open_for if state is State.OPEN else None,
        }
    )


@overload
def capture_events(*, bus: EventBus = default_bus) -> AbstractContextManager[list[Event]]: ...


@overload
def capture_events(
    *types: type[E], bus: EventBus = default_bus
) -> AbstractContextManager[list[E]]: ...


@contextmanager
def capture_events(*types: Any, bus: EventBus = default_bus) -> Generator[list[Any]]:
    """Inside the block, all events of these types (none named: all) are appended to the list.

    They are delivered in the thread of the call, so they are in the list when the call returns.
    """
    events: list[Any] = []
    with bus.subscribe(events.append, *types, inline=True, name="capture_events"):
        yield events


@contextmanager
def strict_listeners(*, bus: EventBus = default_bus, timeout: float = 5.0) -> Generator[None]:
    """What listeners raise inside the block is raised at its end, as an ExceptionGroup.

    The end waits up to `timeout` seconds for the events that are still queued. The protected calls
    see nothing of it, as ever. Not for use from several threads at once.
    """
    raised: list[Exception] = []
    bus.raised = raised
    try:
        yield
        bus.flush(timeout)
    finally:
        bus.raised = None
    if raised:
        raise ExceptionGroup("listeners raised", raised)
