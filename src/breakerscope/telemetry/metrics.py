"""prometheus_client: a collector that reads the breakers' own exact counters at scrape time.

Nothing is counted twice and nothing is pushed: a call costs the same with and without Prometheus.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING

from breakerscope import catalogue
from breakerscope.catalogue import Metric
from breakerscope.events import State
from breakerscope.hub import Hub
from breakerscope.ledger import Durations
from breakerscope.ledger import Exemplar as Observed
from breakerscope.machine import transitions_of
from breakerscope.reading import Reading
from breakerscope.registry import Registry

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client import Metric as Family
    from prometheus_client.samples import Exemplar


class DuplicateMetricError(ValueError):
    """The registry has a metric with one of our names already. The message names the registry's
    error.
    """


def attach(registry: CollectorRegistry, breakers: Registry, hub: Hub) -> BreakerCollector:
    """Show the breakers of `breakers` in `registry`. Raises DuplicateMetricError on a name
    clash.
    """
    collector = BreakerCollector(breakers, hub)
    try:
        registry.register(collector)
    except ValueError as error:
        raise DuplicateMetricError(
            f"the Prometheus registry has a metric with one of our names: {error};"
            " give setup_telemetry another registry"
        ) from error
    return collector


class BreakerCollector:
    """A custom collector in prometheus_client's sense. Thread-safe; holds no lock while it
    reads.
    """

    def __init__(self, breakers: Registry, hub: Hub) -> None:
        self._breakers = breakers
        self._hub = hub
        self._version = version("breakerscope")

    def describe(self) -> Iterable[Family]:
        """The families without samples: lets the registry see a clash before the first scrape."""
        return self._families().values()

    def collect(self) -> Iterable[Family]:
        """All series of all breakers, each read once."""
        families = self._families()
        for breaker in self._breakers:
            for metric, suffix, labels, value, exemplar in samples(breaker.read(), self._version):
                families[metric.name].add_sample(
                    metric.family + suffix, dict(labels), value, exemplar=_exemplar(exemplar)
                )
        for metric, counts in (
            (catalogue.EVENTS_DROPPED, self._hub.dropped()),
            (catalogue.LISTENER_ERRORS, self._hub.errors()),
        ):
            for listener, count in counts.items():
                labels = {catalogue.LISTENER.name: listener}
                families[metric.name].add_sample(metric.name, labels, count)
        return families.values()

    @staticmethod
    def _families() -> dict[str, Family]:
        from prometheus_client import Metric as Family

        return {
            metric.name: Family(metric.family, metric.help, metric.kind.value)
            for metric in catalogue.METRICS
        }


Sample = tuple[Metric, str, Mapping[str, str], float, Observed | None]


def samples(reading: Reading, package_version: str) -> Iterator[Sample]:
    """All series of one breaker: the metric, the suffix of the series, labels, value, exemplar."""
    own = {catalogue.BREAKER.name: reading.breaker}
    outcome_label = catalogue.OUTCOME.name
    for outcome, count in reading.calls.items():
        yield catalogue.CALLS, "_total", own | {outcome_label: outcome.value}, count, None
    for outcome, durations in reading.durations.items():
        labels = own | {outcome_label: outcome.value}
        yield from _histogram(durations, reading.buckets, labels)
    yield catalogue.SLOW_CALLS, "_total", own, reading.slow, None
    yield catalogue.WOULD_REJECT, "_total", own, reading.would_reject, None
    for outcome, count in reading.fallbacks.items():
        yield catalogue.FALLBACKS, "_total", own | {outcome_label: outcome.value}, count, None
    state_label = catalogue.STATE.name
    for state in State:
        labels = own | {state_label: state.value}
        yield catalogue.STATE_NOW, "", labels, float(state is reading.state), None
        yield catalogue.STATE_SECONDS, "_total", labels, reading.state_seconds[state], None
    for change in sorted({*transitions_of(reading.policy), *reading.transitions}):
        names = zip(catalogue.TRANSITIONS.label_names[1:], change, strict=True)
        labels = own | {name: part.value for name, part in names}
        yield catalogue.TRANSITIONS, "_total", labels, reading.transitions.get(change, 0), None
    for metric, number in _gauges(reading):
        yield metric, "", own, number, None
    labels = own | {
        catalogue.POLICY_HASH.name: reading.policy.hash,
        catalogue.VERSION.name: package_version,
    }
    yield catalogue.INFO, "", labels, 1.0, None


def _gauges(reading: Reading) -> Iterator[tuple[Metric, float]]:
    policy, figures = reading.policy, reading.figures
    yield catalogue.STATE_ENTERED, reading.entered_at
    yield catalogue.FAILURE_RATIO, _or_nan(figures.failure_ratio)
    yield catalogue.SLOW_CALL_RATIO, _or_nan(figures.slow_call_ratio)
    yield catalogue.FAILURE_RATIO_THRESHOLD, _or_nan(policy.failure_rate)
    yield catalogue.SLOW_CALL_RATIO_THRESHOLD, _or_nan(policy.slow_call_rate)
    yield catalogue.OPEN_WAIT, reading.open_wait
    yield catalogue.IN_FLIGHT, reading.in_flight


def _or_nan(ratio: float | None) -> float:
    return math.nan if ratio is None else ratio


def _histogram(
    durations: Durations, bounds: tuple[float, ...], labels: Mapping[str, str]
) -> Iterator[Sample]:
    so_far = 0
    for at, (bound, count) in enumerate(zip((*bounds, math.inf), durations.counts, strict=True)):
        so_far += count
        le = {"le": "+Inf" if bound == math.inf else repr(float(bound))}
        exemplar = durations.exemplars.get(at)
        yield catalogue.CALL_DURATION, "_bucket", {**labels, **le}, so_far, exemplar
    yield catalogue.CALL_DURATION, "_count", labels, so_far, None
    yield catalogue.CALL_DURATION, "_sum", labels, durations.total_seconds, None


def _exemplar(observed: Observed | None) -> Exemplar | None:
    if observed is None:
        return None
    from prometheus_client.samples import Exemplar

    return Exemplar(dict(observed.labels), observed.value, observed.at)
