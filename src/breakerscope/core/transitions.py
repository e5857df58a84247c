"""The changes of state that can happen, and what is told of one that did.

`TRANSITIONS` is the whole table; the diagram in the docs is drawn from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations

from breakerscope.core.events import Cause, State
from breakerscope.core.policy import Policy

CLOSED, OPEN, HALF_OPEN = State.CLOSED, State.OPEN, State.HALF_OPEN
FORCED_OPEN, DISABLED = State.FORCED_OPEN, State.DISABLED

TRIPS = (
    Cause.CONSECUTIVE_FAILURES,
    Cause.FAILURE_COUNT,
    Cause.FAILURE_RATE,
    Cause.SLOW_CALL_RATE,
)

TRANSITIONS: frozenset[tuple[State, State, Cause]] = frozenset(
    [(CLOSED, OPEN, cause) for cause in TRIPS]
    + [
        (OPEN, HALF_OPEN, Cause.WAIT_ELAPSED),
        (HALF_OPEN, CLOSED, Cause.PROBES_SUCCEEDED),
        (HALF_OPEN, OPEN, Cause.PROBE_FAILED),
    ]
    + [(old, FORCED_OPEN, Cause.FORCE_OPEN) for old in State if old is not FORCED_OPEN]
    + [(old, DISABLED, Cause.DISABLE) for old in State if old is not DISABLED]
    + [(old, CLOSED, Cause.RESET) for old in State if old is not CLOSED]
    + [(FORCED_OPEN, new, Cause.RELEASE) for new in (CLOSED, OPEN, DISABLED)]
    + [(old, new, Cause.ADOPT) for old, new in permutations(State, 2)]
)


def transitions_of(policy: Policy) -> list[tuple[State, State, Cause]]:
    """The changes that a breaker with this policy can make: by its rules, and by hand."""
    rules = {cause for cause in TRIPS if getattr(policy, cause.value) is not None}
    never = {Cause.ADOPT, *TRIPS} - rules
    return sorted(change for change in TRANSITIONS if change[2] not in never)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What the window holds. A ratio is None below the minimum number of calls.

    Attributes:
        calls: Successes and failures in the window.
        failures: Failures in the window.
        slow_calls: Calls in the window that took at least `slow_call` seconds.
        consecutive_failures: Failures in a row up to now, whatever the window holds.
        failure_ratio: Failures by calls, from 0 to 1.
        slow_call_ratio: Slow calls by calls, from 0 to 1.
    """

    calls: int
    failures: int
    slow_calls: int
    consecutive_failures: int
    failure_ratio: float | None
    slow_call_ratio: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """One change of state: the only source for its event, its log line and its metrics."""

    old: State
    new: State
    cause: Cause
    figures: Figures
    open_for: float | None = None
    reason: str | None = None
