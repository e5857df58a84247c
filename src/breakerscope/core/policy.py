"""When a breaker opens, how long it stays open, and how it closes again: one flat, frozen value."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from datetime import timedelta
from typing import Any

MAX_COUNT_WINDOW = 1_000_000


class PolicyError(ValueError):
    """A policy cannot be. The message lists every problem: the field, its value, what is
    allowed.
    """

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems

    def __reduce__(self) -> tuple[type[PolicyError], tuple[list[str]]]:
        return type(self), (self.problems,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The rules of one breaker. Times are seconds, rates are ratios from 0 to 1.

    Trip rules. The breaker opens when any of them is met. With none of them given, the rules are
    `failure_rate=0.5` and `consecutive_failures=5`; with some given, the others are off.

    - `consecutive_failures`: this many failures in a row.
    - `failure_count`: this many failures in the window.
    - `failure_rate`: this share of the calls in the window failed, once it holds `min_calls` calls.
    - `slow_call_rate`: this share of the calls in the window took `slow_call` seconds or longer,
      once it holds `min_calls` calls.

    `window` is a number of calls, or a `timedelta` for a window of time. Every time may be given as
    seconds, as a `timedelta` or as text with a unit ("500ms", "30s", "5m", "1h"); a window of time
    only as one of the last two.

    Open. The breaker refuses every call for `open_for` seconds. Each opening that follows a failed
    probe, or that comes sooner after a close than the last wait was long, multiplies the wait by
    `backoff`. `jitter` moves each wait at random by up to this share of it, up or down. No wait is
    longer than `open_for_max` (None: 300 or `open_for`, whichever is more). When the wait is over,
    the next call that asks is the first probe; with `probe_when_due` the breaker becomes half-open
    by itself, so an idle one does not look open for hours.

    Half-open. At most `probes` calls are in flight at once, and `probe_successes` of them (None: as
    many as `probes`) have to succeed; the first failure opens the breaker again, and so does a slow
    call where `slow_call_rate` is set. With `probe_failure_rate` the larger of these two numbers of
    probes is judged: the breaker opens again when this share of them has failed, and closes when
    the others could not make it so. A probe that has not settled after `probe_lease` seconds gives
    up its place and has no say any more.

    Closed again. Over the first `ramp_up` seconds a rising share of the calls is admitted (0: all).

    `shadow` decides and reports but never refuses: a policy can be tried in production.

    Raises PolicyError, naming all problems at once. Frozen, so it may be shared between threads.
    """

    failure_rate: float | None = None
    min_calls: int = 10
    window: int | timedelta = 100
    consecutive_failures: int | None = None
    failure_count: int | None = None
    slow_call: float | None = None
    slow_call_rate: float | None = None
    open_for: float = 10.0
    backoff: float = 1.0
    open_for_max: float | None = None
    jitter: float = 0.0
    probes: int = 1
    probe_successes: int | None = None
    probe_failure_rate: float | None = None
    probe_lease: float = 60.0
    probe_when_due: bool = False
    ramp_up: float = 0.0
    shadow: bool = False

    def __post_init__(self) -> None:
        for name in ("window", *TIMES):
            value = getattr(self, name)
            if (plain := normalized(name, value)) is not value:
                object.__setattr__(self, name, plain)
        if problems := _field_problems(self):
            raise PolicyError(problems)
        if not any(getattr(self, rule) is not None for rule in TRIP_RULES):
            self._resolve(failure_rate=0.5, consecutive_failures=5)
        if problems := _contradictions(self):
            raise PolicyError(problems)
        if self.open_for_max is None:
            self._resolve(open_for_max=max(300.0, self.open_for))
        if self.probe_successes is None:
            self._resolve(probe_successes=self.probes)

    def _resolve(self, **values: float) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @property
    def longest_wait(self) -> float:
        """The longest open wait, in seconds."""
        return self.open_for_max or self.open_for

    @property
    def successes_to_close(self) -> int:
        """How many probes have to succeed."""
        if self.probe_failure_rate is None:
            return self.probe_successes or self.probes
        return self.probes_judged - self.failures_to_reopen + 1

    @property
    def failures_to_reopen(self) -> int:
        """How many probes have to fail."""
        rate, n = self.probe_failure_rate, self.probes_judged
        return 1 if rate is None else next(k for k in range(1, n + 1) if k / n >= rate)

    @property
    def probes_judged(self) -> int:
        """How many probes are made at most, unless some are lost."""
        return max(self.probes, self.probe_successes or self.probes)

    @property
    def slow_from(self) -> float:
        """The seconds from which a call is slow; infinite if none is."""
        return math.inf if self.slow_call is None else self.slow_call

    @property
    def hash(self) -> str:
        """Eight hexadecimal digits, equal for equal policies in every process: shows config
        drift.
        """
        # Here, since most of its import is the loading of OpenSSL.
        import hashlib

        # A rule that a later version adds changes no hash as long as it is off.
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        told = {name: v for name, v in values.items() if v or name not in ADDED_LATER}
        text = ",".join(f"{name}={value!r}" for name, value in told.items())
        return hashlib.sha256(text.encode()).hexdigest()[:8]

    def differences(self, other: Policy, *, between: str = "and") -> list[str]:
        """The fields in which two policies differ, each with both values."""
        return [
            f"{field.name}: {getattr(self, field.name)!r} {between} {getattr(other, field.name)!r}"
            for field in fields(self)
            if getattr(self, field.name) != getattr(other, field.name)
        ]


ADDED_LATER = frozenset({"probe_failure_rate", "probe_when_due"})
"""Fields that 0.1.0 did not have."""
TRIP_RULES = ("consecutive_failures", "failure_count", "failure_rate", "slow_call_rate")


@dataclass(frozen=True, slots=True)
class _Allowed:
    """What a field may hold, in words and as a test."""

    words: str
    test: Callable[[Any], bool]
    optional: bool = False

    def admits(self, value: object) -> bool:
        return (value is None and self.optional) or self.test(value)

    def __str__(self) -> str:
        return f"{self.words} or None" if self.optional else self.words


def _number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        # A whole number that no float can hold.
        return False


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _window(value: object) -> bool:
    if isinstance(value, timedelta):
        return value > timedelta(0)
    return _whole(value) and 1 <= value <= MAX_COUNT_WINDOW  # type: ignore[operator]


OR_A_TIME = ' ("30s", a timedelta)'
_RATE = _Allowed("a ratio above 0 and up to 1", lambda v: _number(v) and 0 < v <= 1, optional=True)
_COUNT = _Allowed("a whole number of at least 1", lambda v: _whole(v) and v >= 1)
_MAYBE_COUNT = _Allowed(_COUNT.words, _COUNT.test, optional=True)
_SECONDS = _Allowed(f"seconds above 0{OR_A_TIME}", lambda v: _number(v) and v > 0)
_MAYBE_SECONDS = _Allowed(_SECONDS.words, _SECONDS.test, optional=True)
_SWITCH = _Allowed("True or False", lambda v: isinstance(v, bool))

ALLOWED = {
    "failure_rate": _RATE,
    "min_calls": _COUNT,
    "window": _Allowed(
        f"a whole number of calls from 1 to {MAX_COUNT_WINDOW}, or a time above 0{OR_A_TIME}",
        _window,
    ),
    "consecutive_failures": _MAYBE_COUNT,
    "failure_count": _MAYBE_COUNT,
    "slow_call": _MAYBE_SECONDS,
    "slow_call_rate": _RATE,
    "open_for": _SECONDS,
    "backoff": _Allowed("a factor of at least 1", lambda v: _number(v) and v >= 1),
    "open_for_max": _MAYBE_SECONDS,
    "jitter": _Allowed("a ratio from 0 to below 1", lambda v: _number(v) and 0 <= v < 1),
    "probes": _COUNT,
    "probe_successes": _MAYBE_COUNT,
    "probe_failure_rate": _RATE,
    "probe_lease": _SECONDS,
    "probe_when_due": _SWITCH,
    "ramp_up": _Allowed(f"seconds, 0 or more{OR_A_TIME}", lambda v: _number(v) and v >= 0),
    "shadow": _SWITCH,
}


TIMES = frozenset({"slow_call", "open_for", "open_for_max", "probe_lease", "ramp_up"})
"""The fields that are seconds."""
_TIME = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h)")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def normalized(field: str, value: Any) -> Any:
    """A time as the policy has it: seconds, or a `timedelta` for a window. All else as it is."""
    if field != "window" and field not in TIMES:
        return value
    if isinstance(value, str) and (time := _TIME.fullmatch(value.strip())):
        try:
            value = timedelta(seconds=float(time[1]) * _UNITS[time[2]])
        except OverflowError:
            return value
    if field != "window" and isinstance(value, timedelta):
        return value.total_seconds()
    return value


def _shown(value: object) -> str:
    text = repr(value) if not isinstance(value, int) or abs(value) < 10**30 else "a huge number"
    return text if len(text) <= 80 else text[:77] + "..."


def _field_problems(policy: Policy) -> list[str]:
    return [
        f"{name}={_shown(getattr(policy, name))}: allowed is {allowed}"
        for name, allowed in ALLOWED.items()
        if not allowed.admits(getattr(policy, name))
    ]


def _contradictions(policy: Policy) -> list[str]:
    """Fields that are fine alone and meaningless together."""
    problems: list[str] = []
    if isinstance(policy.window, int):
        judges_a_rate = policy.failure_rate is not None or policy.slow_call_rate is not None
        if judges_a_rate and policy.min_calls > policy.window:
            problems.append(
                f"min_calls={policy.min_calls}: allowed is at most window={policy.window},"
                " or no rate would ever be judged"
            )
        if policy.failure_count is not None and policy.failure_count > policy.window:
            problems.append(
                f"failure_count={policy.failure_count}: allowed is at most window={policy.window},"
                " or the rule could never be met"
            )
    if policy.slow_call_rate is not None and policy.slow_call is None:
        problems.append(
            f"slow_call_rate={policy.slow_call_rate}: allowed only together with slow_call,"
            " the seconds from which a call is slow"
        )
    if policy.open_for_max is not None and policy.open_for_max < policy.open_for:
        problems.append(
            f"open_for_max={policy.open_for_max}: allowed is at least open_for={policy.open_for}"
        )
    return problems
