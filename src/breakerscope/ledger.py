"""The exact counters of one breaker: what the metrics are read from.

Pure and not thread-safe: the breaker's gate holds a lock around each method. Counters only grow.
Each admitted call is in one bucket of one histogram, so the counts of a histogram are the count of
its outcome.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from breakerscope.events import SETTLED_OUTCOMES, Cause, Outcome, State

DEFAULT_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
"""Upper bounds of the duration histogram in seconds: a call to a dependency, from cache to
minute."""

MAX_BUCKETS = 64

NOTHING: Mapping[Any, Any] = {}
"""An empty mapping for all who have nothing to count."""


class BucketsError(ValueError):
    """The bounds of a histogram cannot be. The message names what is wrong."""


def checked_buckets(bounds: Sequence[Any]) -> tuple[float, ...]:
    """The bounds as a tuple, if they can be bounds: finite, above 0, rising, at most 64 of them."""
    numbers = tuple(bounds)
    if not 1 <= len(numbers) <= MAX_BUCKETS:
        raise BucketsError(f"buckets: {len(numbers)} bounds given: allowed are 1 to {MAX_BUCKETS}")
    for bound in numbers:
        if isinstance(bound, bool) or not isinstance(bound, int | float):
            raise BucketsError(f"buckets: {bound!r}: allowed are numbers of seconds")
        if not math.isfinite(bound) or bound <= 0:
            raise BucketsError(f"buckets: {bound!r}: allowed are finite seconds above 0")
    for low, high in pairwise(numbers):
        if high <= low:
            raise BucketsError(f"buckets: {low!r} before {high!r}: allowed are rising bounds")
    return numbers


@dataclass(frozen=True, slots=True)
class Exemplar:
    """One observation with the trace it was made in. `at` is wall-clock time in seconds."""

    labels: Mapping[str, str]
    value: float
    at: float


@dataclass(frozen=True, slots=True)
class Durations:
    """A histogram as it was read: a count for each bound and one for what lies above the last
    one.
    """

    counts: tuple[int, ...]
    total_seconds: float
    exemplars: Mapping[int, Exemplar]


class _Histogram:
    __slots__ = ("bounds", "counts", "exemplars", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0
        self.exemplars: dict[int, Exemplar] | None = None

    def add(self, duration: float, exemplar: Exemplar | None) -> None:
        at = bisect_left(self.bounds, duration)
        self.counts[at] += 1
        self.total += duration
        if exemplar is not None:
            if self.exemplars is None:
                self.exemplars = {}
            self.exemplars[at] = exemplar

    def add_batch(self, durations: list[float]) -> None:
        """Sorts `durations` in place unless all fall into one bucket, the usual case."""
        bounds, counts = self.bounds, self.counts
        self.total += sum(durations)
        longest = max(durations)
        if longest <= bounds[0]:
            counts[0] += len(durations)
            return
        at = bisect_left(bounds, min(durations))
        if at == bisect_left(bounds, longest):
            counts[at] += len(durations)
            return
        durations.sort()
        start, n = 0, len(durations)
        while start < n:
            at = bisect_left(bounds, durations[start])
            end = n if at == len(bounds) else bisect_right(durations, bounds[at], start)
            counts[at] += end - start
            start = end

    def read(self) -> Durations:
        return Durations(tuple(self.counts), self.total, dict(self.exemplars or ()))


NO_HISTOGRAMS: tuple[_Histogram | None, ...] = (None,) * len(SETTLED_OUTCOMES)


class Ledger:
    """What has happened since the breaker was made (in this process)."""

    __slots__ = (
        "_clock_may_go_back",
        "_entered",
        "_histograms",
        "_seconds",
        "_state",
        "buckets",
        "fallbacks",
        "rejected",
        "slow",
        "transitions",
        "would_reject",
    )

    def __init__(
        self,
        buckets: tuple[float, ...],
        *,
        state: State,
        now: float,
        clock_may_go_back: bool = True,
    ) -> None:
        self.buckets = buckets
        self._clock_may_go_back = clock_may_go_back
        self._histograms = NO_HISTOGRAMS
        self.rejected = 0
        self.would_reject = 0
        self.slow = 0
        # What is rare is replaced, not changed: most breakers share the empty ones.
        self.fallbacks: Mapping[Outcome, int] = NOTHING
        self.transitions: Mapping[tuple[State, State, Cause], int] = NOTHING
        self._seconds: Mapping[State, float] = NOTHING
        self._state = state
        self._entered = now

    def add(
        self, outcome: Outcome, duration: float, *, slow: bool, exemplar: Exemplar | None = None
    ) -> None:
        """One admitted call settled."""
        self._histogram(outcome).add(duration, exemplar)
        if slow:
            self.slow += 1

    def add_batch(self, outcome: Outcome, durations: list[float]) -> None:
        """Calls that ended alike, none of them slow. May reorder the list."""
        if durations:
            if self._clock_may_go_back:
                # A sum that falls would look like a restart.
                durations = [max(duration, 0.0) for duration in durations]
            self._histogram(outcome).add_batch(durations)

    def add_fallback(self, outcome: Outcome) -> None:
        """A fallback stood in for a call that ended so."""
        self.fallbacks = {**self.fallbacks, outcome: self.fallbacks.get(outcome, 0) + 1}

    def add_transition(self, old: State, new: State, cause: Cause, now: float) -> None:
        """The state changed at `now`."""
        change = (old, new, cause)
        self.transitions = {**self.transitions, change: self.transitions.get(change, 0) + 1}
        seconds = self._seconds.get(old, 0.0) + max(now - self._entered, 0.0)
        self._seconds = {**self._seconds, old: seconds}
        self._state = new
        self._entered = now

    def state_seconds(self, now: float) -> dict[State, float]:
        """The time spent in each state, the present one up to `now`."""
        seconds = {state: self._seconds.get(state, 0.0) for state in State}
        seconds[self._state] += max(now - self._entered, 0.0)
        return seconds

    def durations(self) -> dict[Outcome, Durations]:
        """The histogram of each outcome that an admitted call can have."""
        nothing = Durations((0,) * (len(self.buckets) + 1), 0.0, {})
        return {
            outcome: nothing if histogram is None else histogram.read()
            for outcome, histogram in zip(SETTLED_OUTCOMES, self._histograms, strict=True)
        }

    def _histogram(self, outcome: Outcome) -> _Histogram:
        at = SETTLED_OUTCOMES.index(outcome)
        if (histogram := self._histograms[at]) is None:
            histogram = _Histogram(self.buckets)
            self._histograms = (*self._histograms[:at], histogram, *self._histograms[at + 1 :])
        return histogram
