"""`open_for` as a function: the code chooses how long the circuit opens for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

import breakerscope as bs
from breakerscope.breaker import CircuitBreaker
from breakerscope.core.classification import Classifier, ClassifierError
from breakerscope.core.events import State
from breakerscope.core.policy import Policy
from breakerscope.event_bus import EventBus
from breakerscope.testing import FakeClock
from tests.unit.support import Boom, fail, fail_times, refused, succeed

Asked = tuple[int, object]


def opened_by(
    choose: Callable[[int, Any], Any], clock: FakeClock | None = None, **policy: Any
) -> CircuitBreaker:
    """A breaker that the first failure opens, and that asks for how long."""
    return CircuitBreaker(
        "x",
        Policy(**({"consecutive_failures": 1} | policy)),
        classifier=Classifier(open_for=choose, failure_if=lambda result: result == "bad"),
        clock=(clock or FakeClock()).clock,
        bus=EventBus(),
    )


def in_guard(breaker: CircuitBreaker) -> None:
    with breaker.guard():
        fail()


def told_in_guard(breaker: CircuitBreaker) -> None:
    with breaker.guard() as guard:
        guard.fail("stale")
        raise Boom


def in_exchange(breaker: CircuitBreaker) -> None:
    with breaker.exchange():
        fail()


def in_generator(breaker: CircuitBreaker) -> None:
    def generator() -> Any:
        yield 1
        raise Boom

    list(breaker(generator)())


def in_coroutine(breaker: CircuitBreaker) -> None:
    @breaker
    async def coroutine() -> None:
        raise Boom

    asyncio.run(coroutine())


def awaited(breaker: CircuitBreaker) -> None:
    async def main() -> None:
        async def coroutine() -> None:
            raise Boom

        await breaker.call(lambda: asyncio.ensure_future(coroutine()))

    asyncio.run(main())


FORMS: dict[str, Callable[[CircuitBreaker], object]] = {
    "call": lambda breaker: breaker.call(fail),
    "decorator": lambda breaker: breaker(fail)(),
    "fallback": lambda breaker: breaker.with_fallback(lambda: None)(fail)(),
    "guard": in_guard,
    "guard that is told": told_in_guard,
    "exchange": in_exchange,
    "generator": in_generator,
    "coroutine": in_coroutine,
    "future": awaited,
}


@pytest.mark.parametrize("form", FORMS)
def test_each_form_asks(form: str) -> None:
    asked: list[Asked] = []

    def choose(opening: int, error: object) -> float:
        asked.append((opening, error if isinstance(error, str) else type(error)))
        return 42.0

    breaker = opened_by(choose)
    with pytest.raises(Boom):
        FORMS[form](breaker)
    assert asked == [(1, "stale" if form == "guard that is told" else Boom)]
    assert refused(breaker).retry_after == breaker.read().open_wait == 42.0


def test_the_openings_in_a_row_are_counted() -> None:
    clock, asked = FakeClock(), list[int]()

    def choose(opening: int, _error: object) -> float:
        asked.append(opening)
        return 10.0 * opening

    breaker = opened_by(choose, clock)
    for wait in (10.0, 20.0, 30.0):
        fail_times(breaker, 1)
        assert refused(breaker).retry_after == wait
        clock.advance(wait)
    breaker.call(succeed)
    # It was closed for less than the last wait.
    clock.advance(29.0)
    fail_times(breaker, 1)
    clock.advance(40.0)
    breaker.call(succeed)
    clock.advance(40.0)
    fail_times(breaker, 1)
    breaker.reset()
    fail_times(breaker, 1)
    assert asked == [1, 2, 3, 4, 1, 1]


def test_the_openings_in_a_row_go_through_a_snapshot() -> None:
    clock = FakeClock()
    one, other = (opened_by(lambda opening, error: float(opening), clock) for _ in range(2))
    fail_times(one, 1)
    other.adopt(one.snapshot())
    clock.advance(1.0)
    fail_times(other, 1)
    assert other.read().open_wait == 2.0


def test_a_condemned_result_is_told_by_its_name_and_a_slow_call_by_none() -> None:
    clock, asked = FakeClock(), list[Asked]()

    def choose(opening: int, error: object) -> None:
        asked.append((opening, error))

    breaker = opened_by(
        choose, clock, slow_call=1.0, slow_call_rate=0.5, min_calls=1, failure_rate=0.5
    )
    breaker.call(lambda: "bad")
    breaker.reset()
    breaker.call(lambda: clock.advance(2.0))
    assert breaker.state is State.OPEN
    assert asked == [(1, "failure_if"), (1, None)]


@pytest.mark.parametrize(
    ("answer", "wait"),
    [("90s", 90.0), (timedelta(minutes=2), 120.0), (0.5, 0.5), (None, 8.0), (1e6, 300.0)],
)
def test_times_are_said_as_everywhere_and_none_is_longer_than_the_longest(
    answer: object, wait: float
) -> None:
    breaker = opened_by(lambda opening, error: answer, open_for=8.0)
    fail_times(breaker, 1)
    assert breaker.read().open_wait == wait


@pytest.mark.parametrize("answer", [0, -1.0, float("nan"), float("inf"), "soon", True, [1]])
def test_an_impossible_answer_is_counted_and_the_policy_says(answer: object) -> None:
    bus = EventBus()
    breaker = CircuitBreaker(
        "x",
        Policy(consecutive_failures=1, open_for=8.0),
        classifier=Classifier(open_for=lambda opening, error: answer),  # type: ignore[arg-type,return-value]
        bus=bus,
    )
    fail_times(breaker, 1)
    assert breaker.read().open_wait == 8.0
    assert bus.errors() == {"open_for": 1}


def test_a_function_that_raises_does_not_hide_the_error_of_the_call() -> None:
    def choose(_opening: int, _error: object) -> float:
        raise LookupError

    breaker = opened_by(choose, open_for=8.0)
    fail_times(breaker, 1)
    assert breaker.read().open_wait == 8.0


def test_the_function_may_use_the_breaker() -> None:
    breaker = opened_by(lambda opening, error: breaker.read().open_wait + opening, open_for=8.0)
    fail_times(breaker, 1)
    assert breaker.read().open_wait == 9.0


def test_a_dependency_that_asks_for_more_gets_it() -> None:
    breaker = CircuitBreaker(
        "x",
        Policy(consecutive_failures=1),
        classifier=Classifier(open_for=lambda *_: 5.0, retry_after_from=lambda _: 30.0),
        bus=EventBus(),
    )
    fail_times(breaker, 1)
    assert breaker.read().open_wait == 30.0


def test_instrumented_breaker_takes_a_function_or_a_time() -> None:
    def choose(opening: int, _error: object) -> float:
        return 7.0 * opening

    breaker = bs.instrumented_breaker("chooses", consecutive_failures=1, open_for=choose)
    try:
        assert (
            bs.instrumented_breaker("chooses", consecutive_failures=1, open_for=choose) is breaker
        )
        with pytest.raises(bs.ContradictionError, match="open_for"):
            bs.instrumented_breaker("chooses", consecutive_failures=1, open_for="7s")
        fail_times(breaker, 1)
        assert breaker.read().open_wait == 7.0
    finally:
        bs.remove_breaker("chooses")


def test_a_rule_that_cannot_be_called_is_refused() -> None:
    with pytest.raises(ClassifierError, match="a time belongs to the policy"):
        Classifier(open_for=30.0)  # type: ignore[arg-type]


def test_what_operators_set_goes_before_the_function() -> None:
    breaker = bs.instrumented_breaker("tuned", consecutive_failures=1, open_for=lambda *_: 5.0)
    try:
        bs.configure({"breakers": {"tuned": {"open_for": "1m"}}})
        fail_times(breaker, 1)
        assert breaker.read().open_wait == 60.0
        bs.configure({})
        breaker.reset()
        fail_times(breaker, 1)
        assert breaker.read().open_wait == 5.0
    finally:
        bs.configure({})
        bs.remove_breaker("tuned")
