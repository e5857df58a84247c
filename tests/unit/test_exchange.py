"""One call in several steps."""

from __future__ import annotations

import asyncio
import gc
import threading
from typing import Any

import pytest

import breakerscope as bs
from breakerscope import Outcome, State
from breakerscope.breaker import CircuitBreaker
from breakerscope.core.classification import Classifier
from breakerscope.core.events import CallSettled
from breakerscope.core.policy import Policy
from breakerscope.event_bus import EventBus
from breakerscope.testing import FakeClock, capture_events
from tests.unit.support import Boom, make_breaker


def test_the_steps_are_the_duration() -> None:
    clock, bus = FakeClock(), EventBus()
    breaker = make_breaker(clock, bus=bus)
    with capture_events(CallSettled, bus=bus) as events:
        exchange = breaker.exchange()
        for _ in range(3):
            with exchange:
                clock.advance(1.0)
            clock.advance(100.0)
        assert (breaker.read().in_flight, events) == (1, [])
        exchange.end()
    assert breaker.read().in_flight == 0
    assert [(e.outcome, e.duration) for e in events if isinstance(e, CallSettled)] == [
        (Outcome.SUCCESS, 3.0)
    ]


def test_an_exchange_settles_once() -> None:
    breaker = make_breaker()
    exchange = breaker.exchange()
    with pytest.raises(Boom), exchange:
        raise Boom
    with exchange:
        pass
    with pytest.raises(Boom), exchange:
        raise Boom
    exchange.end()
    exchange.fail(Boom())
    del exchange
    assert {k: v for k, v in breaker.read().calls.items() if v} == {Outcome.FAILURE: 1}


def test_an_exchange_is_sorted_by_the_rules_of_the_breaker() -> None:
    classifier = Classifier(
        ignore=KeyError,
        failure_if=lambda status: status == 503,
        retry_after_from=lambda ended_with: 30.0,
    )
    breaker = CircuitBreaker(
        "x", Policy(consecutive_failures=2), classifier=classifier, bus=EventBus()
    )
    for result in (200, 503):
        breaker.exchange().end(result)
    breaker.exchange().fail(KeyError())
    breaker.exchange().fail(asyncio.CancelledError())
    breaker.exchange().fail(Boom())
    assert breaker.read().calls == {
        Outcome.SUCCESS: 1,
        Outcome.FAILURE: 2,
        Outcome.IGNORED: 1,
        Outcome.CANCELLED: 1,
        Outcome.REJECTED: 0,
    }
    assert (breaker.state, breaker.read().open_wait) == (State.OPEN, 30.0)
    with pytest.raises(bs.CircuitBreakerOpenError):
        breaker.exchange()


def test_an_exchange_that_is_forgotten_gives_its_probe_back() -> None:
    clock = FakeClock()
    breaker = make_breaker(clock, consecutive_failures=1, open_for=10.0)
    breaker.exchange().fail(Boom())
    clock.advance(10.0)
    forgotten: Any = breaker.exchange()
    with pytest.raises(bs.CircuitBreakerOpenError):
        breaker.exchange()
    del forgotten
    gc.collect()
    breaker.exchange().end()
    assert breaker.state is State.CLOSED
    assert breaker.read().calls[Outcome.CANCELLED] == 1


def test_a_step_may_be_awaited() -> None:
    async def ask() -> None:
        exchange = breaker.exchange()
        with exchange:
            await asyncio.sleep(0)
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        with exchange:
            await asyncio.sleep(1)

    breaker = make_breaker()
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(ask())
    assert breaker.read().calls[Outcome.CANCELLED] == 1


def test_of_many_threads_that_end_it_one_settles() -> None:
    breaker = make_breaker(failure_count=100)
    for _ in range(200):
        exchange = breaker.exchange()
        start = threading.Barrier(4)

        def end(exchange: Any = exchange, start: threading.Barrier = start) -> None:
            start.wait()
            exchange.end()

        threads = [threading.Thread(target=end) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert breaker.read().calls[Outcome.SUCCESS] == 200
    assert breaker.read().in_flight == 0


def test_a_call_is_refused_when_it_begins() -> None:
    breaker = make_breaker()
    breaker.force_open()
    with pytest.raises(bs.CircuitBreakerOpenError):
        breaker.exchange()
    assert breaker.read().calls[Outcome.REJECTED] == 1
