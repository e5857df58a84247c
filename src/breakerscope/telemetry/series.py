"""The series of a breaker in Prometheus' words: which there are, and what a reading says of each.

`PARTS` is the whole table, one row a metric. Names and labels of the series depend on the policy
and the buckets only, so they are worked out once for all breakers that are alike.

`PARTS_TO_MERGE` says the same where the values of several processes will be merged: what adds up is
added up, and of everything else the largest is taken.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.metadata import version
from itertools import accumulate
from typing import Any, NamedTuple

from breakerscope import catalogue
from breakerscope.catalogue import Metric
from breakerscope.core.counters import Exemplar
from breakerscope.core.events import FALLBACK_OUTCOMES, SETTLED_OUTCOMES, Cause, Outcome, State
from breakerscope.core.policy import Policy
from breakerscope.core.reading import Reading
from breakerscope.core.transitions import transitions_of

Change = tuple[State, State, Cause]
Column = tuple[str, Mapping[str, str]]
"""What a sample's name ends with, and its labels without those of the breaker."""


class Shape(NamedTuple):
    """What the series of a breaker depend on. `changes` are all that have a series, the metrics in
    `untold` have none.
    """

    policy: Policy
    buckets: tuple[float, ...]
    changes: tuple[Change, ...]
    untold: frozenset[object] = frozenset()


@dataclass(frozen=True, slots=True)
class Part:
    """One metric of a breaker. `columns` and `values` go in step.

    `adds_up` says whether the sum over breakers, or over processes, means anything.
    """

    metric: Metric
    columns: Callable[[Shape], Iterable[Column]]
    values: Callable[[Reading, Shape], Iterable[float]]
    adds_up: bool = True

    def told(self, reading: Reading, shape: Shape) -> Iterable[float]:
        """The values; none of a metric that the breaker cannot tell."""
        if shape.untold and self.metric in shape.untold:
            return ()
        return self.values(reading, shape)


@lru_cache(maxsize=1024)
def _changes_of(policy: Policy) -> tuple[Change, ...]:
    return tuple(transitions_of(policy))


def shape_of(reading: Reading) -> Shape:
    """The shape of the breaker that was read. Changes that its policy does not know come last, in
    the order in which they came, so a shape only ever grows at the end of a part.
    """
    changes = _changes_of(reading.policy) if reading.changes is None else reading.changes
    if reading.transitions:
        changes += tuple(change for change in reading.transitions if change not in changes)
    return Shape(reading.policy, reading.buckets, changes, reading.untold)


# -- how the columns of a metric are labelled ------------------------------------------------------


def _alone(_shape: Shape, suffix: str = "") -> Iterable[Column]:
    return [(suffix, {})]


def _total(shape: Shape) -> Iterable[Column]:
    return _alone(shape, "_total")


def _by(
    label: catalogue.Label, values: Sequence[str], suffix: str = "_total"
) -> Callable[[Shape], Iterable[Column]]:
    columns = [(suffix, {label.name: str(value)}) for value in values]
    return lambda _shape: columns


def _changes(shape: Shape) -> Iterable[Column]:
    names = catalogue.TRANSITIONS.label_names[1:]
    for change in shape.changes:
        yield "_total", {name: part.value for name, part in zip(names, change, strict=True)}


def _info(shape: Shape) -> Iterable[Column]:
    labels = {
        catalogue.POLICY_HASH.name: shape.policy.hash,
        catalogue.VERSION.name: version("breakerscope"),
    }
    return [("", labels)]


# -- the histogram ---------------------------------------------------------------------------------


def _bounds(buckets: tuple[float, ...]) -> list[str]:
    from prometheus_client import utils

    untyped: Any = utils
    return [untyped.floatToGoString(bound) for bound in (*buckets, math.inf)]


def _histogram(shape: Shape) -> Iterable[Column]:
    """The buckets of each outcome, then its `_count` and `_sum`."""
    bounds = _bounds(shape.buckets)
    for outcome in SETTLED_OUTCOMES:
        labels = {catalogue.OUTCOME.name: outcome.value}
        yield from (("_bucket", {**labels, "le": bound}) for bound in bounds)
        yield "_count", labels
        yield "_sum", labels


def _histogram_values(reading: Reading, _shape: Shape) -> Iterable[float]:
    values: list[float] = []
    for durations in reading.durations.values():
        values += accumulate(durations.counts)
        values += (values[-1], durations.total_seconds)
    return values


def exemplars_of(reading: Reading) -> Iterable[tuple[int, Exemplar]]:
    """The exemplars, each with its column in the histogram."""
    width = len(reading.buckets) + 3
    for at, durations in enumerate(reading.durations.values()):
        for bucket, exemplar in durations.exemplars.items():
            yield at * width + bucket, exemplar


# -- the table -------------------------------------------------------------------------------------


def _gauge(metric: Metric, value: Callable[[Reading], float | None], *, adds_up: bool) -> Part:
    def values(reading: Reading, _shape: Shape) -> Iterable[float]:
        found = value(reading)
        return (math.nan if found is None else found,)

    return Part(metric, _alone, values, adds_up)


PARTS: tuple[Part, ...] = (
    Part(
        catalogue.CALLS,
        _by(catalogue.OUTCOME, (*SETTLED_OUTCOMES, Outcome.REJECTED)),
        lambda r, _: r.calls.values(),
    ),
    Part(catalogue.CALL_DURATION, _histogram, _histogram_values),
    Part(catalogue.SLOW_CALLS, _total, lambda r, _: (r.slow,)),
    Part(catalogue.WOULD_REJECT, _total, lambda r, _: (r.would_reject,)),
    Part(
        catalogue.FALLBACKS,
        _by(catalogue.OUTCOME, FALLBACK_OUTCOMES),
        lambda r, _: r.fallbacks.values(),
    ),
    Part(
        catalogue.STATE_NOW,
        _by(catalogue.STATE, tuple(State), ""),
        lambda r, _: [state is r.state for state in State],
    ),
    Part(
        catalogue.TRANSITIONS,
        _changes,
        lambda r, shape: [r.transitions.get(change, 0) for change in shape.changes],
    ),
    Part(
        catalogue.STATE_SECONDS,
        _by(catalogue.STATE, tuple(State)),
        lambda r, _: r.state_seconds.values(),
    ),
    _gauge(catalogue.STATE_ENTERED, lambda r: r.entered_at, adds_up=False),
    _gauge(catalogue.FAILURE_RATIO, lambda r: r.figures.failure_ratio, adds_up=False),
    _gauge(catalogue.SLOW_CALL_RATIO, lambda r: r.figures.slow_call_ratio, adds_up=False),
    _gauge(catalogue.FAILURE_RATIO_THRESHOLD, lambda r: r.policy.failure_rate, adds_up=False),
    _gauge(catalogue.SLOW_CALL_RATIO_THRESHOLD, lambda r: r.policy.slow_call_rate, adds_up=False),
    _gauge(catalogue.OPEN_WAIT, lambda r: r.open_wait, adds_up=False),
    _gauge(catalogue.IN_FLIGHT, lambda r: r.in_flight, adds_up=True),
    Part(catalogue.INFO, _info, lambda _r, _s: (1,), adds_up=False),
)
"""The metrics of a breaker, as a scrape shows them."""


# -- the same, to be merged ------------------------------------------------------------------------


def _buckets_apart(shape: Shape) -> Iterable[Column]:
    return [column for column in _histogram(shape) if column[0] != "_count"]


def _bucket_counts_apart(reading: Reading, _shape: Shape) -> Iterable[float]:
    for durations in reading.durations.values():
        yield from durations.counts
        yield durations.total_seconds


def _state_in_use(reading: Reading, _shape: Shape) -> Iterable[float]:
    in_use = any(reading.calls.values()) or reading.in_flight or reading.transitions
    return [bool(in_use) and state is reading.state for state in State]


def _zero_for_unknown(part: Part) -> Part:
    def values(reading: Reading, shape: Shape) -> Iterable[float]:
        return [0.0 if math.isnan(value) else value for value in part.values(reading, shape)]

    return replace(part, values=values)


def _to_merge(part: Part) -> Part:
    match part.metric:
        case catalogue.CALL_DURATION:
            # prometheus_client adds the buckets up itself, and makes `_count` of them.
            return replace(part, columns=_buckets_apart, values=_bucket_counts_apart)
        case catalogue.STATE_NOW:
            # A process that never uses the breaker, as a server's master, is in no state.
            return replace(part, values=_state_in_use)
        case catalogue.FAILURE_RATIO | catalogue.SLOW_CALL_RATIO:
            # NaN is larger than nothing: one idle process would hide the ratio of all others.
            return _zero_for_unknown(part)
        case _:
            return part


PARTS_TO_MERGE = tuple(_to_merge(part) for part in PARTS)


class Layout:
    """The columns of each part by shape, with full names. Thread-safe."""

    def __init__(self, parts: tuple[Part, ...], prefix: str = "") -> None:
        self.parts = parts
        self._prefix = prefix
        self.columns = lru_cache(maxsize=1024)(self._columns)

    def family(self, metric: Metric) -> str:
        """The name of a metric's family in this layout."""
        return with_prefix(self._prefix, metric.family)

    def _columns(self, shape: Shape) -> tuple[tuple[Column, ...], ...]:
        return tuple(
            ()
            if part.metric in shape.untold
            else tuple(
                (self.family(part.metric) + suffix, labels)
                for suffix, labels in part.columns(shape)
            )
            for part in self.parts
        )


def with_prefix(prefix: str, name: str) -> str:
    """The name of a metric under a prefix; none is the empty text."""
    return f"{prefix}_{name}" if prefix else name
