"""The state of a breaker as plain data, to keep or to hand to another process.

A snapshot is complete, can be written as JSON, and has a version. Its times are durations in
seconds, so it does not matter whose clock reads them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, cast

from breakerscope.core.events import State
from breakerscope.core.policy import Policy
from breakerscope.core.windows import TimeWindow

SNAPSHOT_VERSION = 1


OPTIONAL = frozenset({"probe_failures", "openings"})
"""What the snapshots of 0.1.0 do not have."""


class SnapshotError(ValueError):
    """A snapshot cannot be adopted. The message lists every problem."""


def to_snapshot(breaker: str, policy: Policy, state: Mapping[str, Any]) -> dict[str, Any]:
    """A snapshot around the dumped state of a machine."""
    return {
        "version": SNAPSHOT_VERSION,
        "breaker": breaker,
        "window": window_of(policy),
        **state,
    }


def window_of(policy: Policy) -> str:
    """What kind of window a policy has, in words; rows of one kind mean nothing to another."""
    if isinstance(policy.window, int):
        return f"{policy.window} calls"
    return f"{policy.window.total_seconds():g} seconds"


def checked(snapshot: Mapping[str, Any], policy: Policy) -> Mapping[str, Any]:
    """The snapshot, if a breaker with this policy can adopt it; else raises SnapshotError."""
    problems = [
        f"{name}={snapshot[name]!r}: allowed is {words}"
        if name in snapshot
        else f"{name}: is missing"
        for name, (words, allowed) in _rules(policy).items()
        if (name not in OPTIONAL if name not in snapshot else not allowed(snapshot[name]))
    ]
    if problems:
        raise SnapshotError("; ".join(problems))
    return snapshot


Rule = tuple[str, Callable[[Any], bool]]


def _rules(policy: Policy) -> dict[str, Rule]:
    window = window_of(policy)
    seconds: Rule = ("seconds, 0 or more", _seconds)
    maybe_seconds: Rule = ("seconds, 0 or more, or None", lambda v: v is None or _seconds(v))
    count: Rule = ("a whole number, 0 or more", _count)
    return {
        "version": (str(SNAPSHOT_VERSION), lambda v: v == SNAPSHOT_VERSION),
        "window": (repr(window), lambda v: v == window),
        "state": ("one of " + ", ".join(State), lambda v: v in tuple(State)),
        "rows": ("a list of rows of whole numbers", lambda v: _rows(v, policy)),
        "consecutive_failures": count,
        "probe_successes": count,
        "probe_failures": count,
        "openings": count,
        "wait": seconds,
        "base_wait": seconds,
        "ramp_for": seconds,
        "open_for": maybe_seconds,
        "closed_for": maybe_seconds,
    }


def _seconds(value: Any) -> bool:
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and math.isfinite(value)
        and value >= 0
    )


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _rows(value: Any, policy: Policy) -> bool:
    """As many rows, as wide, as the window of this policy dumps."""
    if not isinstance(value, list):
        return False
    rows = cast("list[object]", value)
    if isinstance(policy.window, int):
        width, fits = 2, len(rows) <= policy.window
    else:
        width, fits = 3, len(rows) == TimeWindow.BUCKETS
    return fits and all(_row(row, width) for row in rows)


def _row(row: Any, width: int) -> bool:
    if not isinstance(row, list):
        return False
    numbers = cast("list[object]", row)
    return len(numbers) == width and all(_count(number) for number in numbers)
