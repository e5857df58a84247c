"""`set_active(False)`: all calls pass unwatched, whatever the state of their breaker."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

import breakerscope as bs
from breakerscope.breaker import CircuitBreaker
from breakerscope.core.classification import Classifier
from breakerscope.core.events import State
from breakerscope.core.policy import Policy
from breakerscope.event_bus import EventBus
from breakerscope.testing import FakeClock, capture_events
from tests.unit.support import Boom, fail_times, refused, succeed


@pytest.fixture(autouse=True)
def _active_again() -> Iterator[None]:
    yield
    bs.set_active(True)


def called(breaker: CircuitBreaker, body: Callable[[], object]) -> object:
    return breaker.call(body)


def decorated(breaker: CircuitBreaker, body: Callable[[], object]) -> object:
    return breaker(body)()


def guarded(breaker: CircuitBreaker, body: Callable[[], object]) -> object:
    with breaker.guard():
        return body()


def exchanged(breaker: CircuitBreaker, body: Callable[[], object]) -> object:
    exchange = breaker.exchange()
    with exchange:
        result = body()
    exchange.end(result)
    return result


def generated(breaker: CircuitBreaker, body: Callable[[], object]) -> object:
    def generator() -> Iterator[object]:
        yield body()

    return next(iter(breaker(generator)()))


def awaited(breaker: CircuitBreaker, body: Callable[[], object]) -> object:
    @breaker
    async def coroutine() -> object:
        return body()

    return asyncio.run(coroutine())


def awaited_by_call(breaker: CircuitBreaker, body: Callable[[], object]) -> object:
    async def coroutine() -> object:
        return body()

    async def main() -> object:
        return await breaker.call(coroutine)

    return asyncio.run(main())


def awaited_later(breaker: CircuitBreaker, body: Callable[[], object]) -> object:
    async def coroutine() -> object:
        return body()

    def later() -> Any:
        return asyncio.ensure_future(coroutine())

    async def main() -> object:
        await breaker.call(later)
        return await breaker(later)()

    return asyncio.run(main())


def async_generated(breaker: CircuitBreaker, body: Callable[[], object]) -> object:
    @breaker
    async def generator() -> AsyncIterator[object]:
        yield body()

    async def main() -> object:
        return await anext(generator())

    return asyncio.run(main())


FORMS: dict[str, Callable[[CircuitBreaker, Callable[[], object]], object]] = {
    form.__name__: form
    for form in (
        called,
        decorated,
        guarded,
        exchanged,
        generated,
        awaited,
        awaited_by_call,
        awaited_later,
        async_generated,
    )
}


def everything(breaker: CircuitBreaker) -> dict[str, Any]:
    reading = breaker.read()
    return {
        name: getattr(reading, name)
        for name in ("state", "calls", "rejected", "in_flight", "figures", "durations", "fallbacks")
    }


def raises() -> None:
    raise Boom


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("state", ["closed", "open", "half_open", "forced_open", "disabled"])
@pytest.mark.parametrize("window", [10, "30s"])
def test_no_call_is_refused_or_counted(form: str, state: str, window: Any) -> None:
    clock, bus = FakeClock(), EventBus()
    policy = Policy(consecutive_failures=2, window=window, slow_call=5.0, slow_call_rate=0.5)
    asked: list[object] = []

    def is_failure(error: object) -> bool:
        asked.append(error)
        return False

    classifier = Classifier(failures=is_failure, failure_if=is_failure)
    breaker = CircuitBreaker("x", policy, clock=clock.clock, bus=bus, classifier=classifier)
    breaker.call(succeed)
    if state in ("open", "half_open"):
        breaker.adopt(breaker.snapshot() | {"state": state, "open_for": 60.0})
    elif state != "closed":
        {"forced_open": breaker.force_open, "disabled": breaker.disable}[state]()
    before = everything(breaker)
    asked.clear()
    with capture_events(bus=bus) as events:
        bs.set_active(False)
        assert breaker.would_admit
        for _ in range(3):
            assert FORMS[form](breaker, succeed) == "fine"
            with pytest.raises(Boom):
                FORMS[form](breaker, raises)
        FORMS[form](breaker, lambda: clock.advance(0.0))
    assert events == asked == []
    assert everything(breaker) == before
    bs.set_active(True)
    if state in ("open", "forced_open"):
        refused(breaker)
    else:
        assert FORMS[form](breaker, succeed) == "fine"
        assert sum(breaker.read().calls.values()) > 1


def test_a_breaker_in_the_middle_of_refusing_stops_at_once() -> None:
    breaker = bs.CircuitBreaker("x", Policy(consecutive_failures=1), bus=EventBus())
    fail_times(breaker, 1)
    for _ in range(100):
        refused(breaker)
    bs.set_active(False)
    assert breaker.call(succeed) == "fine"
    bs.set_active(True)
    refused(breaker)
    assert breaker.read().rejected == 101


def test_calls_that_have_begun_end_as_they_would_have() -> None:
    breaker = bs.CircuitBreaker("x", Policy(consecutive_failures=1), bus=EventBus())
    with pytest.raises(Boom), breaker.guard():
        bs.set_active(False)
        raise Boom
    assert breaker.state is State.OPEN
    with breaker.guard():
        bs.set_active(True)
    assert breaker.read().in_flight == 0
    refused(breaker)


def test_a_fallback_still_stands_in_and_is_not_counted() -> None:
    breaker = bs.CircuitBreaker("x", Policy(consecutive_failures=1), bus=EventBus())
    protected = breaker.with_fallback(lambda: "cached", on=[bs.Outcome.FAILURE])(raises)
    bs.set_active(False)
    assert protected() == "cached"
    assert sum(breaker.read().fallbacks.values()) == 0


def test_it_is_for_future_breakers_too_and_told_once(caplog: pytest.LogCaptureFixture) -> None:
    assert bs.is_active()
    with caplog.at_level(logging.WARNING, "breakerscope"):
        bs.set_active(False)
        bs.set_active(False)
        assert not bs.is_active()
        breaker = bs.CircuitBreaker("x", Policy(consecutive_failures=1), bus=EventBus())
        fail_times(breaker, 3)
        assert breaker.state is State.CLOSED
        bs.set_active(True)
    assert [record.getMessage() for record in caplog.records] == [
        "set_active(False): all calls pass unwatched",
        "set_active(True): breakers work again",
    ]


@pytest.mark.parametrize("value", [None, 0, "false"])
def test_only_true_and_false_are_allowed(value: Any) -> None:
    with pytest.raises(TypeError, match="allowed are True and False"):
        bs.set_active(value)
    assert bs.is_active()
