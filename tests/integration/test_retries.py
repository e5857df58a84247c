"""tenacity and stamina: a rejection is not retried before its `retry_after`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
import stamina
import tenacity

import breakerscope as bs
from breakerscope import State
from breakerscope.breaker import CircuitBreaker
from breakerscope.core.policy import Policy
from breakerscope.integrations.stamina import unless_rejected
from breakerscope.integrations.tenacity import RetryUnlessRejected, WaitForBreaker
from breakerscope.testing import FakeClock


class Flaky:
    """Fails so many times, and is then fine; behind a breaker that one failure opens."""

    def __init__(self, failures: int) -> None:
        self.clock = FakeClock()
        self.failures = failures
        self.calls: list[float] = []
        policy = Policy(consecutive_failures=1, open_for=10.0)
        self.breaker = CircuitBreaker("flaky", policy, clock=self.clock.clock)

    def __call__(self) -> str:
        with self.breaker.guard():
            self.calls.append(self.clock.now)
            if len(self.calls) <= self.failures:
                raise ConnectionError
            return "fine"


def retrying(flaky: Flaky, **options: Any) -> tenacity.Retrying:
    return tenacity.Retrying(
        sleep=flaky.clock.advance,
        reraise=True,
        **{
            "wait": WaitForBreaker(tenacity.wait_fixed(0.5)),
            "retry": RetryUnlessRejected(tenacity.retry_if_exception_type(ConnectionError)),
            "stop": tenacity.stop_after_attempt(10),
            **options,
        },
    )


# -- tenacity --------------------


def test_tenacity_waits_for_the_breaker() -> None:
    flaky = Flaky(failures=1)
    attempts = retrying(flaky)
    assert attempts(flaky) == "fine"
    # A failure at 0, a rejection at 0.5 with 9.5 s to go, and the probe 0.5 s after that.
    assert flaky.calls == [0.0, 10.5]
    assert attempts.statistics["attempt_number"] == 3


def test_tenacity_in_a_loop() -> None:
    async def ask() -> str:
        async def sleep(seconds: float) -> None:
            flaky.clock.advance(seconds)

        return await tenacity.AsyncRetrying(
            sleep=sleep,
            wait=WaitForBreaker(),
            retry=RetryUnlessRejected(tenacity.retry_if_exception_type(ConnectionError)),
        )(asyncio.to_thread, flaky)

    flaky = Flaky(failures=1)
    assert asyncio.run(ask()) == "fine"
    assert flaky.calls == [0.0, 10.0]


def test_tenacity_does_not_wait_longer_than_it_may() -> None:
    flaky = Flaky(failures=1)
    on_errors = tenacity.retry_if_exception_type(ConnectionError)
    with pytest.raises(bs.CircuitBreakerOpenError):
        retrying(flaky, retry=RetryUnlessRejected(on_errors, max_wait=9.0))(flaky)
    assert (flaky.calls, flaky.clock.now) == ([0.0], 0.5)


def test_tenacity_gives_up_at_once_where_no_time_is_known() -> None:
    flaky = Flaky(failures=0)
    flaky.breaker.force_open()
    with pytest.raises(bs.CircuitBreakerOpenError):
        retrying(flaky)(flaky)
    assert flaky.clock.now == 0.0


def test_tenacity_does_what_it_did_for_everything_else() -> None:
    flaky = Flaky(failures=1)
    flaky.breaker.disable()
    assert retrying(flaky)(flaky) == "fine"
    assert flaky.calls == [0.0, 0.5]
    with pytest.raises(ZeroDivisionError):
        retrying(flaky)(lambda: 1 / 0)
    numbers = iter([0, 0, 1])
    on_zero = RetryUnlessRejected(tenacity.retry_if_result(lambda number: number == 0))
    assert retrying(flaky, retry=on_zero)(lambda: next(numbers)) == 1


# -- stamina --------------------


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """How long stamina slept each time; nobody really does."""
    waits: list[float] = []
    monkeypatch.setattr("tenacity.nap.time.sleep", waits.append)
    yield waits
    stamina.set_active(True)


def advancing(flaky: Flaky, slept: list[float]) -> Callable[[], str]:
    """The call, at the time that the sleeps have come to."""

    def call() -> str:
        flaky.clock.advance(sum(slept) - flaky.clock.now)
        return flaky()

    return call


def test_stamina_waits_for_the_breaker(slept: list[float]) -> None:
    flaky = Flaky(failures=1)
    ask = stamina.retry(
        on=unless_rejected(ConnectionError, jitter=0.0), wait_initial=0.5, wait_jitter=0.0
    )(advancing(flaky, slept))
    assert ask() == "fine"
    assert (slept, flaky.calls) == ([0.5, 9.5], [0.0, 10.0])


def test_stamina_gives_up_where_it_makes_no_sense(slept: list[float]) -> None:
    flaky = Flaky(failures=1)
    ask = stamina.retry(
        on=unless_rejected(ConnectionError, max_wait=9.0), wait_initial=0.5, wait_jitter=0.0
    )(advancing(flaky, slept))
    with pytest.raises(bs.CircuitBreakerOpenError):
        ask()
    assert slept == [0.5]
    flaky.breaker.force_open()
    with pytest.raises(bs.CircuitBreakerOpenError):
        ask()
    assert slept == [0.5]


def test_the_hook_for_stamina() -> None:
    def rejection(retry_after: float | None) -> bs.CircuitBreakerOpenError:
        return bs.CircuitBreakerOpenError("x", State.OPEN, retry_after)

    def own(error: Exception) -> timedelta:
        return timedelta(seconds=3)

    hook = unless_rejected((ConnectionError, KeyError), max_wait=60.0, jitter=1.0)
    waits = [hook(rejection(60.0)) for _ in range(100)]
    assert all(isinstance(wait, float) and 60.0 <= wait <= 61.0 for wait in waits)
    assert len(set(waits)) > 1
    assert [hook(rejection(60.1)), hook(rejection(None))] == [False, False]
    assert [hook(KeyError()), hook(ValueError())] == [True, False]
    assert unless_rejected(own)(ValueError()) == timedelta(seconds=3)
    assert unless_rejected(own, jitter=0.0)(rejection(5.0)) == 5.0
