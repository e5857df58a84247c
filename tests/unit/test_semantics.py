"""The rules of a breaker, through the public door: whole lists of events are compared."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import Any

import pytest

from breakerscope import CircuitBreakerOpenError, Outcome, State
from breakerscope.core.events import CallRejected, CallSettled, Cause, StateChanged
from breakerscope.event_bus import EventBus
from breakerscope.testing import FakeClock, capture_events
from tests.unit.support import Boom, fail, fail_times, make_breaker, refused, succeed

NAME = "payment_api"


def test_one_outage_tells_the_whole_story() -> None:
    clock, bus = FakeClock(wall=1000.0), EventBus()
    breaker = make_breaker(clock, bus=bus, consecutive_failures=2, open_for=10.0)

    def slow_success() -> str:
        clock.advance(0.5)
        return "fine"

    with capture_events(bus=bus) as events:
        assert breaker.call(slow_success) == "fine"
        fail_times(breaker, 2)
        assert refused(breaker).retry_after == 10.0
        clock.advance(10.0)
        assert breaker.call(succeed) == "fine"

    closed, half_open = State.CLOSED, State.HALF_OPEN
    nothing: Any = {"slow_calls": 0, "failure_ratio": None, "slow_call_ratio": None}
    assert events == [
        CallSettled(
            breaker=NAME, seq=1, at=1000.5, state=closed, outcome=Outcome.SUCCESS, duration=0.5
        ),
        CallSettled(
            breaker=NAME,
            seq=2,
            at=1000.5,
            state=closed,
            outcome=Outcome.FAILURE,
            duration=0.0,
            error="tests.unit.support.Boom",
        ),
        CallSettled(
            breaker=NAME,
            seq=3,
            at=1000.5,
            state=closed,
            outcome=Outcome.FAILURE,
            duration=0.0,
            error="tests.unit.support.Boom",
        ),
        StateChanged(
            breaker=NAME,
            seq=4,
            at=1000.5,
            old=closed,
            new=State.OPEN,
            cause=Cause.CONSECUTIVE_FAILURES,
            calls=3,
            failures=2,
            consecutive_failures=2,
            open_for=10.0,
            rejected=0,
            **nothing,
        ),
        CallRejected(
            breaker=NAME, seq=5, at=1000.5, state=State.OPEN, retry_after=10.0, rejected=1
        ),
        StateChanged(
            breaker=NAME,
            seq=6,
            at=1010.5,
            old=State.OPEN,
            new=half_open,
            cause=Cause.WAIT_ELAPSED,
            calls=3,
            failures=2,
            consecutive_failures=2,
            open_for=None,
            rejected=1,
            **nothing,
        ),
        CallSettled(
            breaker=NAME, seq=7, at=1010.5, state=half_open, outcome=Outcome.SUCCESS, duration=0.0
        ),
        StateChanged(
            breaker=NAME,
            seq=8,
            at=1010.5,
            old=half_open,
            new=closed,
            cause=Cause.PROBES_SUCCEEDED,
            calls=3,
            failures=2,
            consecutive_failures=0,
            open_for=None,
            rejected=1,
            **nothing,
        ),
    ]


def test_a_rate_trips_at_the_failure_that_completes_the_minimum() -> None:
    breaker = make_breaker(failure_rate=0.5, min_calls=4)
    fail_times(breaker, 2)
    breaker.call(succeed)
    assert breaker.state is State.CLOSED
    fail_times(breaker, 1)
    assert breaker.state is State.OPEN


def test_a_success_never_opens() -> None:
    """Rates are judged when a failing or a slow call settles; so do gobreaker and Polly."""
    breaker = make_breaker(failure_rate=0.5, min_calls=4)
    fail_times(breaker, 3)
    for _ in range(2):
        breaker.call(succeed)
        assert breaker.state is State.CLOSED
    assert breaker.read().figures.failure_ratio == 0.6
    fail_times(breaker, 1)
    assert breaker.state is State.OPEN


def test_a_rate_that_no_binary_fraction_holds_is_met_exactly() -> None:
    breaker = make_breaker(failure_rate=0.7, min_calls=10)
    for _ in range(3):
        breaker.call(succeed)
    fail_times(breaker, 7)
    assert breaker.state is State.OPEN


def test_late_successes_do_not_count_in_the_next_window() -> None:
    clock, bus = FakeClock(), EventBus()
    breaker = make_breaker(clock, bus=bus, consecutive_failures=1, open_for=1.0)
    breaker.call(succeed)  # lays out the passes, so the next call takes the short way
    late = breaker.guard()
    late.__enter__()
    fail_times(breaker, 1)
    clock.advance(1.0)
    breaker.call(succeed)
    late.__exit__(None, None, None)
    reading = breaker.read()
    assert reading.figures.calls == 0
    assert reading.calls[Outcome.SUCCESS] == 3
    assert reading.in_flight == 0


@pytest.mark.parametrize("error", [asyncio.CancelledError, KeyboardInterrupt])
def test_a_cancelled_probe_neither_closes_nor_opens(error: type[BaseException]) -> None:
    clock = FakeClock()
    breaker = make_breaker(clock, consecutive_failures=1, open_for=1.0)
    fail_times(breaker, 1)
    clock.advance(1.0)
    with pytest.raises(error), breaker.guard():
        raise error
    assert breaker.state is State.HALF_OPEN
    breaker.call(succeed)
    assert breaker.state is State.CLOSED


def test_a_guard_hears_the_last_word() -> None:
    breaker = make_breaker(consecutive_failures=2)
    with breaker.guard() as g:
        g.fail("stale")
    with breaker.guard() as g:
        g.ignore()
    with pytest.raises(Boom), breaker.guard() as g:
        g.success()
        raise Boom
    with breaker.guard() as g:
        g.success()
        g.fail()
    counts = {outcome.value: n for outcome, n in breaker.read().calls.items()}
    assert counts == {"success": 1, "failure": 2, "ignored": 1, "cancelled": 0, "rejected": 0}
    assert breaker.state is State.CLOSED


def test_a_guard_is_for_one_block() -> None:
    guard = make_breaker().guard()
    with guard, pytest.raises(RuntimeError, match="ask the breaker for a new one"):
        guard.__enter__()


def test_every_form_counts_once() -> None:
    breaker = make_breaker()

    @breaker
    def plain(value: int) -> int:
        return value

    @breaker
    async def coroutine(value: int) -> int:
        return value

    @breaker
    def stream(upto: int) -> Iterator[int]:
        yield from range(upto)

    @breaker
    async def async_stream(upto: int) -> AsyncIterator[int]:
        for number in range(upto):
            yield number

    class Service:
        @breaker
        def method(self) -> str:
            return type(self).__name__

        @breaker
        @classmethod
        def of_class(cls) -> str:
            return cls.__name__

        @staticmethod
        @breaker
        def static() -> int:
            return 1

    async def all_async() -> tuple[int, list[int], int, int]:
        hidden = await breaker.call(lambda: coroutine.__wrapped__(5))  # type: ignore[attr-defined]
        called = await breaker.call(coroutine.__wrapped__, 6)  # type: ignore[attr-defined]
        return await coroutine(2), [n async for n in async_stream(3)], hidden, called

    assert plain(1) == 1
    assert list(stream(3)) == [0, 1, 2]
    assert asyncio.run(all_async()) == (2, [0, 1, 2], 5, 6)
    assert (Service().method(), Service.of_class(), Service.static()) == ("Service", "Service", 1)
    with breaker.guard():
        pass
    reading = breaker.read()
    assert reading.calls[Outcome.SUCCESS] == 10
    assert reading.in_flight == 0


def test_a_coroutine_that_is_never_awaited_never_asked() -> None:
    breaker = make_breaker()

    async def work() -> None: ...

    breaker.call(work).close()
    breaker.call(succeed)
    hidden, also_hidden = work(), work()
    breaker.call(lambda: hidden).close()
    breaker.call(partial(lambda: also_hidden)).close()
    hidden.close()
    also_hidden.close()
    assert breaker.read().calls == dict.fromkeys(Outcome, 0) | {Outcome.SUCCESS: 1}
    assert breaker.read().in_flight == 0


@pytest.mark.parametrize("shadow", [False, True])
def test_a_hidden_coroutine_asks_once(shadow: bool) -> None:
    """Where the breaker has to be asked, a lambda has asked before it shows what it hides."""
    clock = FakeClock()
    breaker = make_breaker(clock, consecutive_failures=1, open_for=1.0, shadow=shadow)

    async def work() -> int:
        return 7

    fail_times(breaker, 1)
    clock.advance(0.0 if shadow else 1.0)
    begun = breaker.call(partial(work))

    async def main() -> int:
        return await begun

    assert asyncio.run(main()) == 7
    after = breaker.read()
    failed, succeeded = {Outcome.FAILURE: 1}, {Outcome.SUCCESS: 1}
    assert after.calls == dict.fromkeys(Outcome, 0) | failed | succeeded
    assert (after.would_reject, after.in_flight) == (int(shadow), 0)
    assert after.state is (State.OPEN if shadow else State.CLOSED)


def test_a_hidden_coroutine_that_is_never_awaited_was_cancelled() -> None:
    """Where the breaker had to be asked: here for a probe, whose place is free again."""
    clock = FakeClock()
    breaker = make_breaker(clock, consecutive_failures=1, open_for=1.0)
    fail_times(breaker, 1)
    clock.advance(1.0)

    async def work() -> None: ...

    hidden = work()
    begun = breaker.call(lambda: hidden)
    assert breaker.read().in_flight == 1
    begun.close()
    del begun
    hidden.close()
    ended = {Outcome.CANCELLED: 1, Outcome.FAILURE: 1}
    assert breaker.read().calls == dict.fromkeys(Outcome, 0) | ended
    assert breaker.read().in_flight == 0


def test_an_abandoned_stream_is_cancelled_and_gives_its_place_back() -> None:
    clock = FakeClock()
    breaker = make_breaker(clock, consecutive_failures=1, open_for=1.0)

    @breaker
    def stream() -> Iterator[int]:
        yield 1
        clock.advance(3.0)
        yield 2

    fail_times(breaker, 1)
    clock.advance(1.0)
    numbers = stream()
    assert next(numbers) == 1
    with pytest.raises(CircuitBreakerOpenError):
        next(stream())
    del numbers
    reading = breaker.read()
    assert reading.calls[Outcome.CANCELLED] == 1
    assert reading.in_flight == 0
    assert list(stream()) == [1, 2]
    assert breaker.read().durations[Outcome.SUCCESS].total_seconds == 3.0
    assert breaker.state is State.CLOSED


def test_a_stream_is_timed_while_it_works_not_while_it_is_read() -> None:
    clock = FakeClock()
    breaker = make_breaker(clock)

    @breaker
    def stream() -> Iterator[int]:
        clock.advance(1.0)
        yield 1

    for _ in stream():
        clock.advance(100.0)
    assert breaker.read().durations[Outcome.SUCCESS].total_seconds == 1.0


def test_wait_grows_and_starts_again_after_a_stable_close() -> None:
    clock = FakeClock()
    breaker = make_breaker(
        clock, consecutive_failures=1, open_for=1.0, backoff=2.0, open_for_max=5.0
    )
    waits = []
    fail_times(breaker, 1)
    for _ in range(4):
        waits.append(retry_after := refused(breaker).retry_after)
        clock.advance(retry_after or 0.0)
        fail_times(breaker, 1)
    assert waits == [1.0, 2.0, 4.0, 5.0]
    clock.advance(5.0)
    breaker.call(succeed)
    clock.advance(5.0)
    fail_times(breaker, 1)
    assert refused(breaker).retry_after == 1.0


def test_manual_commands() -> None:
    clock = FakeClock()
    breaker = make_breaker(clock, consecutive_failures=1, open_for=1.0)
    breaker.force_open("maintenance")
    clock.advance(1000.0)
    error = refused(breaker)
    assert (error.breaker, error.state, error.retry_after) == (NAME, State.FORCED_OPEN, None)
    breaker.disable()
    fail_times(breaker, 10)
    assert breaker.state is State.DISABLED
    breaker.reset()
    fail_times(breaker, 1)
    assert breaker.state is State.OPEN
    breaker.reset()
    assert breaker.state is State.CLOSED


def test_one_isolation_may_be_entered_again_and_may_decorate() -> None:
    breaker = make_breaker()
    isolation = breaker.isolated("maintenance")
    with isolation, isolation:
        refused(breaker)
    assert breaker.state is State.CLOSED
    with isolation:
        with isolation:
            pass
        assert breaker.state is State.FORCED_OPEN

    @breaker.isolated()
    def maintain() -> State:
        return breaker.state

    assert (maintain(), breaker.state) == (State.FORCED_OPEN, State.CLOSED)


def test_isolation_nests_and_gives_back_what_was() -> None:
    clock = FakeClock()
    breaker = make_breaker(clock, consecutive_failures=1, open_for=10.0)
    fail_times(breaker, 1)
    with breaker.isolated("outer"), breaker.isolated("inner"):
        clock.advance(4.0)
        assert breaker.state is State.FORCED_OPEN
    assert breaker.state is State.OPEN
    assert refused(breaker).retry_after == 6.0
    with breaker.isolated():
        breaker.disable()
        assert breaker.state is State.FORCED_OPEN
    assert breaker.state is State.DISABLED


def test_slow_calls_open() -> None:
    clock = FakeClock()
    breaker = make_breaker(clock, slow_call=1.0, slow_call_rate=0.5, min_calls=2)

    def slow() -> None:
        clock.advance(1.0)

    breaker.call(succeed)
    breaker.call(slow)
    assert breaker.state is State.OPEN
    assert breaker.read().slow == 1


def test_an_exception_of_the_function_is_the_callers_own() -> None:
    breaker = make_breaker()
    with pytest.raises(Boom) as caught:
        breaker(fail)()
    assert caught.value.__context__ is None


# -- would it be admitted? -------------------------------------------------------------------------


def test_would_admit_answers_and_takes_no_place() -> None:
    clock = FakeClock()
    breaker = make_breaker(clock, consecutive_failures=1, open_for=10.0, ramp_up=100.0)
    assert breaker.would_admit
    fail_times(breaker, 1)
    assert not breaker.would_admit
    clock.advance(10.0)
    assert [breaker.would_admit, breaker.would_admit] == [True, True]
    assert breaker.state is State.OPEN
    with breaker.guard():
        assert not breaker.would_admit
    assert breaker.state is State.CLOSED
    for _ in range(50):
        asked = breaker.would_admit
        try:
            breaker.call(succeed)
        except CircuitBreakerOpenError:
            assert not asked
        else:
            assert asked
        clock.advance(1.0)
    breaker.disable()
    assert breaker.would_admit
    breaker.force_open()
    assert not breaker.would_admit
    shadow = make_breaker(shadow=True)
    shadow.force_open()
    assert shadow.would_admit
