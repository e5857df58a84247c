"""What the tests of breakers share."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from breakerscope.breaker import CircuitBreaker
from breakerscope.gate import CircuitBreakerOpenError
from breakerscope.hub import Hub
from breakerscope.policy import Policy
from breakerscope.testing import FakeClock


class Boom(Exception):
    """What a failing dependency raises."""


def succeed() -> str:
    return "fine"


def fail() -> None:
    raise Boom


def make_breaker(
    clock: FakeClock | None = None,
    *,
    hub: Hub | None = None,
    name: str = "payment_api",
    **policy: object,
) -> CircuitBreaker:
    """A breaker of its own hub, with a clock that stands still."""
    return CircuitBreaker(
        name,
        Policy(**policy),  # type: ignore[arg-type]
        clock=(clock or FakeClock()).clock,
        hub=hub or Hub(),
    )


def fail_times(breaker: CircuitBreaker, times: int) -> None:
    for _ in range(times):
        with pytest.raises(Boom):
            breaker.call(fail)


def refused(breaker: CircuitBreaker, fn: Callable[[], object] = succeed) -> CircuitBreakerOpenError:
    """The error of a call that has to be refused."""
    with pytest.raises(CircuitBreakerOpenError) as caught:
        breaker.call(fn)
    return caught.value
