"""Fallbacks, shadow mode, breakers per key, configuration, snapshots, help for tests."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

import breakerscope as bs
from breakerscope import FallbackError, LimitError, Outcome, SnapshotError, State
from breakerscope.breaker import CircuitBreaker
from breakerscope.core.classification import Classifier
from breakerscope.core.events import (
    CallRejected,
    CallSettled,
    FallbackUsed,
    PolicyChanged,
    StateChanged,
)
from breakerscope.core.policy import Policy
from breakerscope.event_bus import EventBus
from breakerscope.testing import BreakerTime, FakeClock, capture_events, force_state
from tests.unit.support import Boom, fail, fail_times, make_breaker, refused, succeed

pytestmark = pytest.mark.usefixtures("fresh_breakers")


# -- fallbacks --------------------


def test_a_fallback_answers_refused_calls_only() -> None:
    bus = EventBus()
    breaker = make_breaker(bus=bus, consecutive_failures=1)
    asked: list[tuple[int, str]] = []

    def instead(number: int, *, note: str) -> str:
        asked.append((number, note))
        return "instead"

    @breaker.with_fallback(instead)
    def work(number: int, *, note: str) -> str:
        raise Boom

    with capture_events(FallbackUsed, bus=bus) as events:
        with pytest.raises(Boom):
            work(1, note="a")
        assert work(2, note="b") == "instead"
    assert asked == [(2, "b")]
    assert events == [
        FallbackUsed(
            breaker="payment_api",
            seq=1,
            at=1_700_000_000.0,
            outcome=Outcome.REJECTED,
            error="breakerscope.CircuitBreakerOpenError",
        )
    ]
    assert breaker.read().fallbacks == {Outcome.REJECTED: 1, Outcome.FAILURE: 0}


def test_a_fallback_answers_failures_when_asked() -> None:
    breaker = CircuitBreaker(
        "x",
        Policy(consecutive_failures=100),
        classifier=Classifier(ignore=KeyError, failure_if=lambda status: status == 500),
        bus=EventBus(),
    )

    @breaker.with_fallback(lambda answer: -1, on=(Outcome.FAILURE,))
    def work(answer: int | Exception) -> int:
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert [work(200), work(500), work(Boom())] == [200, -1, -1]
    with pytest.raises(KeyError):
        work(KeyError())
    assert breaker.read().fallbacks == {Outcome.REJECTED: 0, Outcome.FAILURE: 2}


@pytest.mark.parametrize("kind", ["function", "coroutine function"])
def test_a_fallback_for_a_coroutine_function(kind: str) -> None:
    breaker = make_breaker(consecutive_failures=1)

    async def instead_async() -> str:
        return "instead"

    def instead() -> str:
        return "instead"

    fallback: Any = instead if kind == "function" else instead_async

    @breaker.with_fallback(fallback)
    async def work() -> str:
        return "fine"

    assert asyncio.run(work()) == "fine"
    fail_times(breaker, 1)
    assert asyncio.run(work()) == "instead"


def test_the_refusal_of_another_breaker_is_a_failure_here() -> None:
    outer, inner = make_breaker(name="outer"), make_breaker(name="inner")
    inner.force_open()

    @outer.with_fallback(lambda: "instead")
    def work() -> str:
        return inner.call(succeed)

    with pytest.raises(bs.CircuitBreakerOpenError):
        work()


def test_impossible_fallbacks() -> None:
    breaker = make_breaker()

    def stream() -> Iterator[int]:
        yield 1

    with pytest.raises(FallbackError, match="allowed is a callable"):
        breaker.with_fallback(3)  # type: ignore[call-overload]
    with pytest.raises(FallbackError, match="allowed are one or more of rejected, failure"):
        breaker.with_fallback(succeed, on=(Outcome.IGNORED,))
    with pytest.raises(FallbackError, match="is a generator"):
        breaker.with_fallback(stream)(stream)


# -- shadow mode --------------------


def test_shadow_mode_reports_and_refuses_nothing() -> None:
    clock, bus = FakeClock(), EventBus()
    breaker = make_breaker(clock, bus=bus, consecutive_failures=1, open_for=10.0, shadow=True)
    with capture_events(bus=bus) as events:
        fail_times(breaker, 2)
        assert breaker.call(succeed) == "fine"
        clock.advance(10.0)
        assert breaker.call(succeed) == "fine"
    told = [
        (event.retry_after, event.enforced, event.rejected)
        if isinstance(event, CallRejected)
        else (event.state, event.outcome, event.late)
        if isinstance(event, CallSettled)
        else (event.old, event.new)
        for event in events
        if not isinstance(event, FallbackUsed | PolicyChanged)
    ]
    assert told == [
        ("closed", "failure", False),
        ("closed", "open"),
        (10.0, False, 1),
        ("open", "failure", False),
        (10.0, False, 2),
        ("open", "success", False),
        ("open", "half_open"),
        ("half_open", "success", False),
        ("half_open", "closed"),
    ]
    reading = breaker.read()
    assert (reading.rejected, reading.would_reject, reading.in_flight) == (0, 2, 0)


# -- breakers per key --------------------


def test_a_breaker_of_a_key_that_was_removed_is_made_anew() -> None:
    per_host = bs.breakers_per("search", limit=2, consecutive_failures=3)
    first, other = per_host("a"), per_host("b")
    bs.remove_breaker("search:a")
    again = per_host("a")
    assert again is not first
    assert per_host("a") is again
    assert sorted(breaker.name for breaker in bs.breakers()) == ["search:a", "search:b"]
    assert per_host("b") is other
    per_host("c")
    assert bs.get_breaker("search:a") is None
    assert len(per_host) == 2


def test_breakers_per_key_are_bounded() -> None:
    per_host = bs.breakers_per("search", limit=2, consecutive_failures=3)
    a, b = per_host("a"), per_host("b")
    assert per_host("a") is a
    per_host("c")
    assert [breaker.name for breaker in bs.breakers()] == ["search:a", "search:c"]
    assert per_host("b") is not b
    assert len(per_host) == 2
    assert a.policy.consecutive_failures == 3


@pytest.mark.parametrize("limit", [0, 10_001, True, 1.5])
def test_an_impossible_limit(limit: int) -> None:
    with pytest.raises(LimitError, match="allowed is a whole number from 1 to 10000"):
        bs.breakers_per("search", limit=limit)


def test_impossible_options_are_told_before_the_first_key() -> None:
    with pytest.raises(bs.PolicyError):
        bs.breakers_per("search", open_for=-1.0)


# -- snapshots --------------------


@pytest.mark.parametrize("window", [5, timedelta(seconds=10)])
def test_another_process_goes_on_where_this_one_was(window: int | timedelta) -> None:
    clock, other_clock, bus = FakeClock(now=100.0), FakeClock(now=9_000.0), EventBus()
    policy: dict[str, Any] = {"failure_rate": 0.5, "min_calls": 4, "window": window, "backoff": 2.0}
    breaker = make_breaker(clock, **policy)
    other = make_breaker(other_clock, bus=bus, **policy)
    breaker.call(succeed)
    fail_times(breaker, 1)
    snapshot = json.loads(json.dumps(breaker.snapshot()))
    other.adopt(snapshot)
    assert other.snapshot() == snapshot
    breaker.call(succeed)
    fail_times(breaker, 1)
    clock.advance(4.0)
    with capture_events(StateChanged, bus=bus) as events:
        other.adopt(json.loads(json.dumps(breaker.snapshot())))
    assert [(e.old, e.new, e.cause) for e in events if isinstance(e, StateChanged)] == [
        ("closed", "open", "adopt")
    ]
    assert refused(other).retry_after == 6.0
    other_clock.advance(6.0)
    fail_times(other, 1)
    assert refused(other).retry_after == 20.0


def test_an_impossible_snapshot_changes_nothing() -> None:
    breaker = make_breaker(window=5, consecutive_failures=2)
    fail_times(breaker, 1)
    before = breaker.snapshot()
    wrong = {**before, "version": 2, "state": "ajar", "rows": [[1]], "wait": -1.0}
    del wrong["base_wait"]
    with pytest.raises(SnapshotError) as caught:
        breaker.adopt(wrong)
    assert str(caught.value) == (
        "version=2: allowed is 1; "
        "state='ajar': allowed is one of closed, open, half_open, forced_open, disabled; "
        "rows=[[1]]: allowed is a list of rows of whole numbers; "
        "wait=-1.0: allowed is seconds, 0 or more; "
        "base_wait: is missing"
    )
    assert breaker.snapshot() == before
    with pytest.raises(SnapshotError, match="window='5 calls': allowed is '10 calls'"):
        make_breaker(window=10).adopt(before)


# -- help for tests --------------------


@pytest.mark.parametrize("state", State)
def test_force_state(state: State) -> None:
    clock = FakeClock()
    breaker = make_breaker(clock, consecutive_failures=2, open_for=3.0)
    fail_times(breaker, 1)
    force_state(breaker, state)
    assert breaker.state is state
    if state is State.OPEN:
        assert refused(breaker).retry_after == 3.0
        clock.advance(3.0)
        breaker.call(succeed)
        assert breaker.state is State.CLOSED


def test_the_fixtures_of_the_plugin(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import breakerscope as bs

        def test_one(fresh_breakers, breaker_clock, breaker_events):
            assert bs.breakers() == []
            made = bs.CircuitBreaker("x", clock=breaker_clock.clock)
            breaker_clock.advance(1.0)
            made.force_open()
            made.disable()
            assert [event.new for event in breaker_events] == ["forced_open", "disabled"]
        """
    )
    pytester.runpytest_inprocess("-p", "no:randomly").assert_outcomes(passed=1)


def test_the_time_of_breakers_at_module_level(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nbreakerscope_time = true")
    pytester.makepyfile(
        """
        import time

        import breakerscope as bs
        import pytest

        payments = bs.instrumented_breaker("of_the_module", consecutive_failures=1, open_for=3600.0)

        @payments
        def pay(amount):
            return 1 / amount

        @pytest.mark.parametrize("again", [1, 2])
        def test_it_recovers(breaker_time, again):
            with pytest.raises(ZeroDivisionError):
                pay(0)
            with pytest.raises(bs.CircuitBreakerOpenError) as refused:
                pay(1)
            assert refused.value.retry_after == 3600.0
            breaker_time.advance(3599.0)
            assert not payments.would_admit
            at = payments.read().state_seconds[bs.State.OPEN]
            assert (at % 3600.0) == 3599.0
            breaker_time.advance(1.0)
            assert pay(1) == 1.0
            assert payments.state is bs.State.CLOSED

        def test_it_runs_otherwise():
            before = payments.read().state_seconds[bs.State.CLOSED]
            time.sleep(0.001)
            assert payments.read().state_seconds[bs.State.CLOSED] > before
        """
    )
    pytester.runpytest_inprocess("-p", "no:randomly").assert_outcomes(passed=3)
    assert bs.CircuitBreaker("x")._now is time.monotonic


def test_the_time_of_breakers_has_to_be_asked_for(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]")
    pytester.makepyfile("def test_one(breaker_time): ...")
    result = pytester.runpytest_inprocess("-p", "no:randomly")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines("*breaker_time needs breakerscope_time = true in tox.ini*")


def test_the_time_of_breakers_never_goes_back() -> None:
    turned = BreakerTime()
    before = turned.clock.monotonic()
    turned.stop()
    stopped, wall = turned.clock.monotonic(), turned.clock.wall()
    turned.advance(60.0)
    assert turned.clock.monotonic() == stopped + 60.0 >= before + 60.0
    assert turned.clock.wall() == pytest.approx(wall + 60.0, abs=1.0)
    turned.go_on()
    turned.go_on()
    turned.advance(60.0)
    assert turned.clock.monotonic() >= stopped + 120.0
    with pytest.raises(ValueError, match=r"advance\(-1\): allowed are seconds, 0 or more"):
        turned.advance(-1)


# -- Retry-After --------------------


class Response:
    def __init__(self, value: str | None) -> None:
        self.headers = {} if value is None else {"Retry-After": value}


class HttpError(Exception):
    def __init__(self, response: Response | None) -> None:
        self.response = response


@pytest.mark.parametrize(
    ("ended_with", "seconds"),
    [
        (Response("30"), 30.0),
        (HttpError(Response(" 7 ")), 7.0),
        (HttpError(None), None),
        (Response("Thu, 01 Jan 1970 00:01:00 GMT"), 50.0),
        (Response("Thu, 01 Jan 1970 00:00:00 GMT"), 0.0),
        (Response("soon"), None),
        (Response("-1"), None),
        (Response("²"), None),
        (Response(None), None),
        (ValueError(), None),
    ],
)
def test_http_retry_after(ended_with: object, seconds: float | None) -> None:
    assert bs.http_retry_after(ended_with, now=lambda: 10.0) == seconds


def test_a_hint_lengthens_the_wait_up_to_the_longest() -> None:
    breaker = CircuitBreaker(
        "x",
        Policy(consecutive_failures=2, open_for=10.0, open_for_max=60.0),
        classifier=Classifier(
            failure_if=lambda response: True, retry_after_from=bs.http_retry_after
        ),
        clock=(clock := FakeClock()).clock,
        bus=EventBus(),
    )
    breaker.call(Response, "30")
    clock.advance(5.0)
    breaker.call(Response, None)
    assert refused(breaker).retry_after == 25.0
    clock.advance(25.0)
    breaker.call(Response, "3600")
    assert refused(breaker, fail).retry_after == 60.0
