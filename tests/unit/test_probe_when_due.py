"""`probe_when_due`: from open to half-open without a call."""

from __future__ import annotations

import os
from queue import SimpleQueue
from typing import Any

import pytest

from breakerscope.breaker import CircuitBreaker
from breakerscope.core.events import State, StateChanged
from breakerscope.core.policy import Policy
from breakerscope.event_bus import EventBus
from breakerscope.testing import FakeClock, capture_events
from tests.unit.support import fail_times, make_breaker, succeed

WAIT = 20.0


@pytest.mark.parametrize("look", ["state", "read", "snapshot"])
def test_whoever_looks_finds_it_half_open(look: str) -> None:
    clock, bus = FakeClock(), EventBus()
    breaker = make_breaker(
        clock, bus=bus, consecutive_failures=1, open_for=10.0, probe_when_due=True
    )
    fail_times(breaker, 1)
    clock.advance(9.9)
    assert breaker.state is State.OPEN
    with capture_events(StateChanged, bus=bus) as events:
        clock.advance(0.1)
        seen: dict[str, Any] = {
            "state": lambda: breaker.state,
            "read": lambda: breaker.read().state,
            "snapshot": lambda: breaker.snapshot()["state"],
        }
        assert seen[look]() == State.HALF_OPEN
    assert [(e.old, e.new, e.cause) for e in events] == [("open", "half_open", "wait_elapsed")]
    breaker.call(succeed)
    assert breaker.state is State.CLOSED


def test_without_it_a_breaker_stays_open_until_a_call_asks() -> None:
    clock = FakeClock()
    breaker = make_breaker(clock, consecutive_failures=1, open_for=10.0)
    fail_times(breaker, 1)
    clock.advance(3600.0)
    assert breaker.state is State.OPEN


def opened_soon(bus: EventBus, **options: Any) -> tuple[CircuitBreaker, SimpleQueue[StateChanged]]:
    """A breaker on the real clock, and the changes that it tells from then on."""
    policy = Policy(consecutive_failures=1, open_for=0.02, probe_when_due=True, **options)
    breaker = CircuitBreaker("idle", policy, bus=bus)
    told: SimpleQueue[StateChanged] = SimpleQueue()
    bus.subscribe(told.put, StateChanged, inline=True)
    fail_times(breaker, 1)
    return breaker, told


def test_the_change_is_told_while_nobody_looks() -> None:
    _breaker, told = opened_soon(EventBus())
    assert [told.get(timeout=WAIT).new for _ in range(2)] == [State.OPEN, State.HALF_OPEN]


def test_one_thread_serves_all_breakers_and_each_opening() -> None:
    breakers = [opened_soon(EventBus()) for _ in range(5)]
    for breaker, told in breakers:
        while told.get(timeout=WAIT).new is not State.HALF_OPEN:
            pass
        fail_times(breaker, 1)
    for _, told in breakers:
        while told.get(timeout=WAIT).new is not State.HALF_OPEN:
            pass


def test_a_policy_that_asks_for_it_later_is_followed() -> None:
    bus = EventBus()
    breaker = CircuitBreaker("late", Policy(consecutive_failures=1, open_for=0.02), bus=bus)
    fail_times(breaker, 1)
    told: SimpleQueue[StateChanged] = SimpleQueue()
    bus.subscribe(told.put, StateChanged, inline=True)
    breaker.update(Policy(consecutive_failures=1, open_for=0.02, probe_when_due=True))
    assert told.get(timeout=WAIT).new is State.HALF_OPEN


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")
def test_a_forked_child_has_a_timer_of_its_own() -> None:
    bus = EventBus()
    policy = Policy(consecutive_failures=1, open_for=0.2, probe_when_due=True)
    breaker = CircuitBreaker("forked", policy, bus=bus)
    told: SimpleQueue[StateChanged] = SimpleQueue()
    bus.subscribe(told.put, StateChanged, inline=True)
    fail_times(breaker, 1)
    child = os.fork()
    if child == 0:
        try:
            changes = [told.get(timeout=WAIT).new for _ in range(2)]
            os._exit(0 if changes == [State.OPEN, State.HALF_OPEN] else 1)
        except BaseException:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert [told.get(timeout=WAIT).new for _ in range(2)] == [State.OPEN, State.HALF_OPEN]
