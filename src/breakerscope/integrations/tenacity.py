"""Retries by tenacity that leave a breaker alone until it may admit a call again.

`retry(wait=WaitForBreaker(wait_random_exponential()), retry=RetryUnlessRejected(...))`.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf

from breakerscope.core.errors import CircuitBreakerOpenError
from breakerscope.telemetry.errors import MissingExtraError

try:
    import tenacity
except ImportError as error:
    raise MissingExtraError(__name__, "tenacity", "'breakerscope[tenacity]'") from error

from tenacity.retry import retry_base
from tenacity.wait import wait_base

NO_WAIT = tenacity.wait_none()


class WaitForBreaker(wait_base):
    """After a rejection, waits for its `retry_after`, and then what `otherwise` says on top.

    So no attempt comes before the breaker may admit it, and a random `otherwise` spreads those who
    wait. After anything else, only what `otherwise` says (by default nothing).
    """

    def __init__(self, otherwise: Callable[[tenacity.RetryCallState], float] = NO_WAIT) -> None:
        self._otherwise = otherwise

    def __call__(self, retry_state: tenacity.RetryCallState) -> float:
        """Seconds to wait."""
        refused = _rejection(retry_state)
        least = 0.0 if refused is None else refused.retry_after or 0.0
        return least + self._otherwise(retry_state)


class RetryUnlessRejected(retry_base):
    """Retries what `otherwise` says, and a rejection only if waiting for it makes sense.

    That is if its `retry_after` is known (it is not while a breaker is forced open) and at most
    `max_wait` seconds. For use with `WaitForBreaker`.
    """

    def __init__(
        self,
        otherwise: Callable[[tenacity.RetryCallState], bool],
        *,
        max_wait: float = inf,
    ) -> None:
        self._otherwise = otherwise
        self._max_wait = max_wait

    def __call__(self, retry_state: tenacity.RetryCallState) -> bool:
        """Whether to try again."""
        refused = _rejection(retry_state)
        if refused is None:
            return self._otherwise(retry_state)
        return refused.retry_after is not None and refused.retry_after <= self._max_wait


def _rejection(retry_state: tenacity.RetryCallState) -> CircuitBreakerOpenError | None:
    outcome = retry_state.outcome
    error = None if outcome is None or not outcome.failed else outcome.exception()
    return error if isinstance(error, CircuitBreakerOpenError) else None
