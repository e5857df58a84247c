"""Fixtures for tests of code that uses breakers; pytest finds them by the entry point."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from breakerscope.core.events import Event
from breakerscope.event_bus import default_bus
from breakerscope.registry import default_registry
from breakerscope.testing import FakeClock, capture_events, strict_listeners


@pytest.fixture
def breaker_clock() -> FakeClock:
    """A clock that stands still until the test turns it."""
    return FakeClock()


@pytest.fixture
def breaker_events() -> Generator[list[Event], None, None]:
    """All events of all breakers during the test."""
    with capture_events() as events:
        yield events


@pytest.fixture
def fresh_breakers() -> Generator[None, None, None]:
    """The test starts without any breaker and with all listeners' counts at 0, and leaves those
    breakers behind that there were before.
    """
    before = list(default_registry)
    default_registry.clear()
    default_bus.forget_counts()
    yield
    default_registry.clear()
    for breaker in before:
        default_registry.add(breaker)


@pytest.fixture
def reset_breakers() -> Generator[None, None, None]:
    """Every breaker of `instrumented_breaker` is closed and has forgotten its window, before and
    after the test: for breakers at module level, which tests share. Counters go on.
    """
    for breaker in default_registry:
        breaker.reset("test")
    yield
    for breaker in default_registry:
        breaker.reset("test")


@pytest.fixture
def strict_breaker_listeners() -> Generator[None, None, None]:
    """The test fails at its end if a listener has raised."""
    with strict_listeners():
        yield
