"""The exact counters of one breaker: what the metrics are read from.

Pure and not thread-safe: the owner holds a lock around each method. Counters only grow. Each
admitted call is in one bucket of one histogram, so the counts of a histogram are the count of its
outcome. Each change is made by one statement without a call, so no interrupt leaves half of it.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, cast

from breakerscope.core.events import SETTLED_OUTCOMES, Cause, Outcome, State
from breakerscope.core.journal import Entry, Journal, Run, durations_of

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


class Histogram:
    """Durations of calls that ended alike, by bucket."""

    __slots__ = ("bounds", "counts", "exemplars", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0
        self.exemplars: Mapping[int, Exemplar] = NOTHING

    def with_batch(self, durations: list[float]) -> tuple[list[int], float]:
        """What `counts` and `total` will be with these durations, at least one. Changes nothing
        here; may sort the list.
        """
        bounds, counts, added = self.bounds, self.counts.copy(), sum(durations)
        if added <= bounds[0]:
            # So is each of them.
            counts[0] += len(durations)
            return counts, self.total + added
        durations.sort()
        start, n = 0, len(durations)
        while start < n:
            at = bisect_left(bounds, durations[start])
            end = n if at == len(bounds) else bisect_right(durations, bounds[at], start)
            counts[at] += end - start
            start = end
        return counts, self.total + added

    def read(self) -> Durations:
        """The histogram as it is."""
        return Durations(tuple(self.counts), self.total, dict(self.exemplars))


NO_HISTOGRAMS: tuple[Histogram | None, ...] = (None,) * len(SETTLED_OUTCOMES)


class Counters:
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
        "unjudged",
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
        self.unjudged: list[Run] = []
        """Calls that are counted here and not in the window yet."""

    def add(
        self,
        outcome: Outcome,
        duration: float,
        journal: Journal,
        *,
        slow: bool,
        exemplar: Exemplar | None = None,
    ) -> None:
        """One of the calls of a journal settled under the lock."""
        of = self.histogram(outcome)
        at, counts = bisect_left(of.bounds, duration), of.counts
        exemplars = of.exemplars if exemplar is None else {**of.exemplars, at: exemplar}
        # fmt: off
        counts[at], of.total, of.exemplars, self.slow, journal.settled = counts[at] + 1, of.total + duration, exemplars, self.slow + slow, journal.settled + 1  # noqa: E501
        # fmt: on

    def drain(
        self,
        journal: Journal,
        runs_of: Callable[[list[Entry], bool], list[Run]] | None = None,
        *,
        timed: bool = False,
    ) -> None:
        """The calls in the journal settled. `runs_of` says in which runs they are to be judged;
        without it they came too late for that.
        """
        n = len(journal.entries)
        entries = journal.entries[:n]
        mixed = journal.may_hold_failures
        runs = self.unjudged if runs_of is None else runs_of(entries, mixed)
        successes, failures = cast("list[float]", entries), list[float]()
        if mixed or timed:
            successes, failures = durations_of(entries)
        if self._clock_may_go_back:
            # A sum that falls would look like a restart.
            successes = [max(duration, 0.0) for duration in successes]
            failures = [max(duration, 0.0) for duration in failures]
        settled, failed = journal.settled + n, journal.failures + len(failures)
        one = self.histogram(Outcome.SUCCESS if successes else Outcome.FAILURE)
        counts, total = one.with_batch(successes or failures)
        other, other_counts, other_total = one, counts, total
        if successes and failures:
            other = self.histogram(Outcome.FAILURE)
            other_counts, other_total = other.with_batch(failures)
        # fmt: off
        one.counts, one.total, other.counts, other.total, self.unjudged, journal.settled, journal.failures, journal.entries[:n] = counts, total, other_counts, other_total, runs, settled, failed, ()  # noqa: E501
        # fmt: on

    def add_fallback(self, outcome: Outcome) -> None:
        """A fallback stood in for a call that ended so."""
        self.fallbacks = {**self.fallbacks, outcome: self.fallbacks.get(outcome, 0) + 1}

    def add_transition(self, old: State, new: State, cause: Cause, now: float) -> None:
        """The state changed at `now`."""
        change = (old, new, cause)
        transitions = {**self.transitions, change: self.transitions.get(change, 0) + 1}
        spent = self._seconds.get(old, 0.0) + max(now - self._entered, 0.0)
        seconds = {**self._seconds, old: spent}
        # fmt: off
        self.transitions, self._seconds, self._state, self._entered = transitions, seconds, new, now
        # fmt: on

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

    def histogram(self, outcome: Outcome) -> Histogram:
        """The histogram of this outcome, made when it is first needed."""
        at = SETTLED_OUTCOMES.index(outcome)
        if (histogram := self._histograms[at]) is None:
            histogram = Histogram(self.buckets)
            self._histograms = (*self._histograms[:at], histogram, *self._histograms[at + 1 :])
        return histogram
