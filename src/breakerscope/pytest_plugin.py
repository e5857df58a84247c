"""Fixtures for tests of code that uses breakers; pytest finds them by the entry point."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from breakerscope.core.clock import SYSTEM_CLOCK, set_default_clock
from breakerscope.core.events import Event
from breakerscope.event_bus import default_bus
from breakerscope.registry import default_registry
from breakerscope.testing import BreakerTime, FakeClock, capture_events, strict_listeners

SWITCH = "breakerscope_time"
TIME = pytest.StashKey[BreakerTime]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """The switch for `breaker_time`."""
    parser.addini(SWITCH, "let the fixture breaker_time turn the time of breakers", type="bool")


def pytest_configure(config: pytest.Config) -> None:
    """Before the modules of the tests are imported, and breakers with them."""
    if config.getini(SWITCH):
        config.stash[TIME] = BreakerTime()
        set_default_clock(config.stash[TIME].clock)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Another run in this process begins as this one did."""
    if TIME in config.stash:
        set_default_clock(SYSTEM_CLOCK)


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
def breaker_time(request: pytest.FixtureRequest) -> Generator[BreakerTime, None, None]:
    """The time of all breakers, also of those at module level: it stands still until the test
    turns it. They are reset as by `reset_breakers`.

    Needs `breakerscope_time = true` in the configuration of pytest: before any test module is
    imported, breakers have to be given a clock that can be turned.
    """
    config = request.config
    if TIME not in config.stash:
        where = "pytest.ini" if config.inipath is None else config.inipath.name
        raise pytest.UsageError(f"the fixture breaker_time needs {SWITCH} = true in {where}")
    request.getfixturevalue("reset_breakers")
    time = config.stash[TIME]
    time.stop()
    yield time
    time.go_on()


@pytest.fixture
def strict_breaker_listeners() -> Generator[None, None, None]:
    """The test fails at its end if a listener has raised."""
    with strict_listeners():
        yield
