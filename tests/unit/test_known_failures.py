"""Faults found in other breakers, each under its name: none of them is ours."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from contextvars import Context
from itertools import pairwise

import anyio
import anyio.lowlevel
import pytest
from prometheus_client import CollectorRegistry

import breakerscope as bs
from breakerscope import CircuitBreakerOpenError, Outcome, State
from breakerscope.breaker import CircuitBreaker
from breakerscope.core.events import Event, StateChanged
from breakerscope.core.policy import Policy
from breakerscope.event_bus import EventBus
from breakerscope.testing import FakeClock, capture_events
from tests.unit.support import (
    Boom,
    fail,
    fail_times,
    make_breaker,
    refused,
    refused_elsewhere,
    succeed,
)

WAIT = 10.0
CALLERS = 20


def half_open_herd(probes: int) -> tuple[CircuitBreaker, FakeClock]:
    """A breaker whose wait is just over."""
    clock = FakeClock()
    breaker = make_breaker(clock, consecutive_failures=1, open_for=1.0, probes=probes)
    fail_times(breaker, 1)
    clock.advance(1.0)
    return breaker, clock


@pytest.mark.parametrize("probes", [1, 3])
def test_twenty_threads_at_the_moment_of_half_open(probes: int) -> None:
    """circuitbreaker, aiobreaker, purgatory, hyx and others let all of them through.

    Also nodeshift/opossum#819 and resilience4j#1432: more probes than allowed.
    """
    breaker, _ = half_open_herd(probes)
    barrier, release = threading.Barrier(CALLERS), threading.Event()
    admitted: list[int] = []
    rejected: list[int] = []
    all_rejected = threading.Event()

    def caller(number: int) -> None:
        barrier.wait(WAIT)
        try:
            with breaker.guard():
                admitted.append(number)
                release.wait(WAIT)
        except CircuitBreakerOpenError:
            rejected.append(number)
            if len(rejected) == CALLERS - probes:
                all_rejected.set()

    threads = [threading.Thread(target=caller, args=(number,)) for number in range(CALLERS)]
    for thread in threads:
        thread.start()
    assert all_rejected.wait(WAIT)
    assert len(admitted) == probes
    release.set()
    for thread in threads:
        thread.join()
    assert breaker.state is State.CLOSED


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("probes", [1, 3])
def test_opossum_819_twenty_tasks_at_the_moment_of_half_open(probes: int, backend: str) -> None:
    breaker, _ = half_open_herd(probes)
    ends: list[str] = []

    @breaker
    async def protected(event: anyio.Event) -> None:
        await event.wait()

    async def caller(event: anyio.Event) -> None:
        try:
            await protected(event)
            ends.append("fine")
        except CircuitBreakerOpenError:
            ends.append("refused")

    async def main() -> None:
        event = anyio.Event()
        async with anyio.create_task_group() as group:
            for _ in range(CALLERS):
                group.start_soon(caller, event)
            await anyio.wait_all_tasks_blocked()
            assert ends == ["refused"] * (CALLERS - probes)
            event.set()

    anyio.run(main, backend=backend)
    assert ends.count("fine") == probes


def test_resilience4j_1432_probes_that_ask_one_after_the_other_are_bounded_too() -> None:
    breaker, _ = half_open_herd(probes=2)
    held = [breaker.guard(), breaker.guard()]
    for guard in held:
        Context().run(guard.__enter__)
    for _ in range(10):
        assert refused_elsewhere(breaker).state is State.HALF_OPEN
    held[0].__exit__(None, None, None)
    # One has succeeded and one is in flight: that is all that two probes allow.
    refused_elsewhere(breaker)
    held[1].__exit__(None, None, None)
    assert breaker.state is State.CLOSED


def test_resilience4j_935_a_probe_that_never_ends_does_not_wedge() -> None:
    clock = FakeClock()
    breaker = make_breaker(clock, consecutive_failures=1, open_for=1.0, probe_lease=5.0)
    fail_times(breaker, 1)
    clock.advance(1.0)
    lost = breaker.guard()
    lost.__enter__()
    assert refused_elsewhere(breaker).retry_after == 5.0
    clock.advance(5.0)
    breaker.call(succeed)
    assert breaker.state is State.CLOSED
    lost.__exit__(None, Boom(), None)
    assert breaker.state is State.CLOSED


def test_resilience4j_935_an_ignored_probe_gives_its_place_back() -> None:
    breaker, _ = half_open_herd(probes=1)
    with breaker.guard() as guard:
        guard.ignore()
    breaker.call(succeed)
    assert breaker.state is State.CLOSED


def test_polly_218_a_late_success_does_not_close() -> None:
    """A call admitted while closed ends while half-open."""
    clock = FakeClock()
    breaker = make_breaker(clock, consecutive_failures=1, open_for=1.0)
    late = breaker.guard()
    late.__enter__()
    fail_times(breaker, 1)
    clock.advance(1.0)
    with breaker.guard():
        late.__exit__(None, None, None)
        assert breaker.state is State.HALF_OPEN
    assert breaker.state is State.CLOSED
    assert breaker.read().calls[Outcome.SUCCESS] == 2


def test_polly_218_a_late_failure_does_not_open() -> None:
    clock = FakeClock()
    breaker = make_breaker(clock, consecutive_failures=1, open_for=1.0)
    late = breaker.guard()
    late.__enter__()
    fail_times(breaker, 1)
    clock.advance(1.0)
    breaker.call(succeed)
    late.__exit__(Boom, Boom(), None)
    assert breaker.state is State.CLOSED
    assert breaker.read().figures.failures == 0


@pytest.mark.parametrize("inline", [True, False])
def test_a_listener_that_raises_interlock_83(
    inline: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """pybreaker, aiobreaker and asyncbreaker hand the listener's exception to the caller."""
    bus = EventBus()
    breaker = make_breaker(bus=bus)
    heard: list[Event] = []

    def raising(event: Event) -> None:
        heard.append(event)
        raise ValueError("secret of the user")

    bus.subscribe(raising, name="raising", inline=inline)
    with caplog.at_level(logging.ERROR, logger="breakerscope"):
        assert [breaker.call(succeed) for _ in range(3)] == ["fine"] * 3
        with pytest.raises(Boom):
            breaker.call(fail)
        assert bus.flush(WAIT)
    assert len(heard) == 4
    assert bus.errors() == {"raising": 4}
    (record,) = caplog.records
    line = raising.__code__.co_firstlineno + 2
    assert record.getMessage() == (
        f"raising raised ValueError in {__file__}:{line}; the protected calls go on,"
        " what it did with this event is lost"
    )
    assert "secret" not in caplog.text


def test_gobreaker_37_a_listener_may_ask_for_the_state() -> None:
    """A callback under the lock that asks for the state waits for itself."""
    bus = EventBus()
    breaker = make_breaker(bus=bus, consecutive_failures=1)
    states: list[str] = []
    bus.subscribe(lambda _: states.append(breaker.state), StateChanged, inline=True)
    fail_times(breaker, 1)
    assert states == ["open"]


def test_gobreaker_119_changes_are_told_in_order() -> None:
    """Callbacks outside the lock come in any order, unless they are queued under it."""
    bus = EventBus()
    breaker = CircuitBreaker("x", Policy(consecutive_failures=1, open_for=0.001), bus=bus)
    changes: list[StateChanged] = []
    bus.subscribe(changes.append, StateChanged)

    def work() -> None:
        for number in range(2000):
            try:
                breaker.call(fail if number % 3 else succeed)
            except (Boom, CircuitBreakerOpenError):
                continue

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert bus.flush(WAIT)
    assert [change.seq for change in changes] == sorted(change.seq for change in changes)
    assert all(a.new is b.old for a, b in pairwise(changes))
    assert len(changes) == sum(breaker.read().transitions.values())


@pytest.mark.parametrize("step", [-3600.0, 0.0])
def test_fabfuel_31_a_clock_that_is_set_back_does_not_keep_it_open(step: float) -> None:
    clock = FakeClock(now=10_000.0)
    breaker = make_breaker(clock, consecutive_failures=1, open_for=10.0)
    fail_times(breaker, 1)
    clock.wall -= 3600.0
    clock.advance(10.0)
    breaker.call(succeed)
    fail_times(breaker, 1)
    clock.advance(step)
    assert refused(breaker).retry_after == 10.0


def test_a_clock_that_runs_back_stands_still_for_refused_calls_and_durations() -> None:
    clock = FakeClock(now=100.0)
    breaker = make_breaker(clock, consecutive_failures=1, open_for=10.0)
    breaker.call(lambda: clock.advance(-3.0))
    with breaker.guard():
        clock.advance(-3.0)
    assert breaker.read().durations[Outcome.SUCCESS].total_seconds == 0.0
    clock.advance(6.0)
    fail_times(breaker, 1)
    waits = [refused(breaker).retry_after]
    for step in (-5.0, -5.0, 13.0, -1.0):
        clock.advance(step)
        waits.append(refused(breaker).retry_after)
    assert waits == [10.0, 10.0, 10.0, 7.0, 7.0]
    # A reading sees the time as well.
    clock.advance(2.0)
    assert breaker.state is State.OPEN
    clock.advance(-2.0)
    assert refused(breaker).retry_after == 6.0
    clock.advance(8.0)
    breaker.call(succeed)
    assert breaker.state is State.CLOSED


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_async_def_decorated_trips(backend: str) -> None:
    """pybreaker: a decorated coroutine function never trips."""
    breaker = make_breaker(consecutive_failures=2)

    @breaker
    async def failing() -> None:
        await anyio.lowlevel.checkpoint()
        raise Boom

    async def main() -> list[str]:
        ends = []
        for _ in range(3):
            try:
                await failing()
            except (Boom, CircuitBreakerOpenError) as error:
                ends.append(type(error).__name__)
        return ends

    assert anyio.run(main, backend=backend) == ["Boom", "Boom", "CircuitBreakerOpenError"]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_cancelled_task_is_neutral(backend: str) -> None:
    breaker = make_breaker(consecutive_failures=1)

    @breaker
    async def forever() -> None:
        await anyio.sleep_forever()

    async def main() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(forever)
            await anyio.wait_all_tasks_blocked()
            assert breaker.read().in_flight == 1
            group.cancel_scope.cancel()

    anyio.run(main, backend=backend)
    reading = breaker.read()
    assert (reading.calls[Outcome.CANCELLED], reading.in_flight) == (1, 0)
    assert breaker.state is State.CLOSED


def test_counts_with_8_threads() -> None:
    """fluxgate loses 70 %, purgatory some; see also test_conservation.py."""
    breaker = make_breaker()
    protected = breaker(succeed)

    def work() -> None:
        for _ in range(10_000):
            protected()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert breaker.read().calls[Outcome.SUCCESS] == 80_000
    assert breaker.read().figures.calls == 100


@pytest.mark.parametrize("error", [asyncio.CancelledError, KeyboardInterrupt])
def test_cancellation_or_keyboard_interrupt_between_failures(error: type[BaseException]) -> None:
    """circuitbreaker forgets its failures then."""
    breaker = make_breaker(consecutive_failures=2)
    fail_times(breaker, 1)
    with pytest.raises(error), breaker.guard():
        raise error
    fail_times(breaker, 1)
    assert breaker.state is State.OPEN


def test_lock_held_during_the_protected_call() -> None:
    """pybreaker: one call at a time. Here five calls are inside at once."""
    breaker = make_breaker()
    inside = threading.Barrier(5)

    @breaker
    def meet() -> None:
        inside.wait(WAIT)

    threads = [threading.Thread(target=meet) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert breaker.read().calls[Outcome.SUCCESS] == 5


def test_its_own_documented_prometheus_example() -> None:
    """purgatory's raises NameError. All blocks of our documents run as tests; this is the first."""
    registry = CollectorRegistry()
    with bs.setup_telemetry(registry=registry):
        payments = bs.instrumented_breaker("documented", consecutive_failures=5, open_for=10.0)
        payments.call(succeed)
    bs.remove_breaker("documented")
    with bs.setup_telemetry(registry=registry), capture_events() as events:
        assert events == []


def test_re_entrant_calls_do_not_share_anything() -> None:
    """One decorated function runs inside itself: per-call state on the shared object would mix."""
    clock = FakeClock()
    breaker = make_breaker(clock)
    durations: list[float] = []

    @breaker
    def nested(depth: int, then: Callable[[int], None]) -> None:
        clock.advance(1.0)
        if depth:
            then(depth - 1)

    def again(depth: int) -> None:
        nested(depth, again)

    breaker.subscribe(lambda event: durations.append(event.duration), inline=True)
    again(3)
    assert durations == [1.0, 2.0, 3.0, 4.0]
