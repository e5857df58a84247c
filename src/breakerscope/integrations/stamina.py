"""Retries by stamina that leave a breaker alone until it may admit a call again.

`@stamina.retry(on=unless_rejected(httpx.TransportError))`. stamina 25.2 or newer is needed: since
then a function given as `on` may say how long to wait.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from importlib.metadata import PackageNotFoundError, version
from math import inf
from random import uniform

from breakerscope.core.errors import CircuitBreakerOpenError
from breakerscope.telemetry.errors import MissingExtraError

try:
    _release = version("stamina")
except PackageNotFoundError as error:
    raise MissingExtraError(__name__, "stamina", "'breakerscope[stamina]'") from error
if tuple(map(int, _release.split(".")[:2])) < (25, 2):
    # An older one takes a wait for a plain yes, and would come too early.
    needs = f"stamina 25.2 or newer, and this is {_release}"
    raise MissingExtraError(__name__, needs, "'breakerscope[stamina]'")

Backoff = bool | float | timedelta
On = type[Exception] | tuple[type[Exception], ...] | Callable[[Exception], Backoff]


def unless_rejected(
    on: On, *, max_wait: float = inf, jitter: float = 1.0
) -> Callable[[Exception], Backoff]:
    """For `on=`: retries `on`, and a rejection not before its `retry_after`.

    After a rejection the wait is `retry_after` and a random time of up to `jitter` seconds, so that
    those who wait do not come all at once. A rejection is not retried if no time is known (the
    breaker is forced open), or one longer than `max_wait` seconds. Thread-safe.
    """

    def backoff(error: Exception) -> Backoff:
        if isinstance(error, CircuitBreakerOpenError):
            wait = error.retry_after
            if wait is None or wait > max_wait:
                return False
            return wait + uniform(0, jitter)  # noqa: S311 - spreads waits, keeps no secret
        return isinstance(error, on) if isinstance(on, type | tuple) else on(error)

    return backoff
