"""The rules that open a closed circuit, judged over a window. Pure functions."""

from __future__ import annotations

from math import inf

from breakerscope.core.events import Cause
from breakerscope.core.policy import Policy
from breakerscope.core.transitions import Figures
from breakerscope.core.windows import CountWindow, Window


def trip_cause(policy: Policy, window: Window, consecutive_failures: int) -> Cause | None:
    """The first rule that is met, or None."""
    limit = policy.consecutive_failures
    if limit is not None and consecutive_failures >= limit:
        return Cause.CONSECUTIVE_FAILURES
    if (limit := policy.failure_count) is not None and window.failures >= limit:
        return Cause.FAILURE_COUNT
    calls = window.calls
    if calls < policy.min_calls:
        return None
    if (rate := policy.failure_rate) is not None and window.failures / calls >= rate:
        return Cause.FAILURE_RATE
    if (rate := policy.slow_call_rate) is not None and window.slow_calls / calls >= rate:
        return Cause.SLOW_CALL_RATE
    return None


def failures_until_trip(policy: Policy, window: Window, consecutive_failures: int) -> float:
    """How many failures cannot meet a rule, with any number of successes between them, and none of
    them slow.
    """
    # A window of calls only gains them; one of time may forget all but those to come.
    calls = policy.min_calls
    if isinstance(window, CountWindow):
        calls = max(window.calls, calls)
    if (rate := policy.slow_call_rate) is not None and window.slow_calls / calls >= rate:
        return 0
    room = inf
    if (limit := policy.consecutive_failures) is not None:
        room = limit - 1 - consecutive_failures
    if (limit := policy.failure_count) is not None:
        room = min(room, limit - 1 - window.failures)
    if (rate := policy.failure_rate) is not None:
        room = min(room, _most_below(rate, calls) - window.failures)
    return max(room, 0)


def _most_below(rate: float, calls: int) -> int:
    """The largest number of failures that is less than this share of the calls."""
    most = int(rate * calls) + 1
    while most / calls >= rate:
        most -= 1
    return most


def figures_of(policy: Policy, window: Window, consecutive_failures: int) -> Figures:
    """What the window holds."""
    enough = window.calls >= policy.min_calls
    return Figures(
        calls=window.calls,
        failures=window.failures,
        slow_calls=window.slow_calls,
        consecutive_failures=consecutive_failures,
        failure_ratio=window.failures / window.calls if enough else None,
        slow_call_ratio=window.slow_calls / window.calls if enough else None,
    )
