"""OpenTelemetry: the metrics of the catalogue, from the series that prometheus_client shows.

Numbers go through observable instruments, so any MeterProvider will do, and a call costs the same
with and without them. The API knows no observable histogram, and to record each duration would cost
more than the call. So the durations join at the reader: `with_durations` (ADR 4).
"""

from __future__ import annotations

import math
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import version
from itertools import pairwise
from time import time_ns
from typing import TYPE_CHECKING, Any, TypeVar, cast
from weakref import WeakKeyDictionary

from breakerscope import catalogue
from breakerscope.catalogue import Kind, Metric, TraceKey
from breakerscope.event_bus import EventBus
from breakerscope.registry import Registry
from breakerscope.telemetry.metrics import BreakerCollector
from breakerscope.telemetry.series import with_prefix
from breakerscope.telemetry.settings import MetricsSettings

if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation
    from opentelemetry.sdk.metrics import Exemplar
    from opentelemetry.sdk.metrics.export import HistogramDataPoint, MetricReader, MetricsData
    from prometheus_client import Metric as Family
    from prometheus_client.samples import Exemplar as Observed
    from prometheus_client.samples import Sample

    Reader = TypeVar("Reader", bound=MetricReader)

SCOPE = "breakerscope"


def attach(
    provider: MeterProvider | None, breakers: Registry, bus: EventBus, settings: MetricsSettings
) -> Instruments:
    """Show the breakers through the instruments of this provider, by default the global one.

    The API cannot take an instrument back. So each provider gets one set of them for a prefix,
    which is silent after `Instruments.detach` and speaks again after the next `attach`.
    """
    from opentelemetry import metrics

    in_force = metrics.get_meter_provider()
    # A stand-in until the application has set one: the instruments move on by themselves.
    key = _GLOBAL if provider in (None, in_force) else provider
    with _lock:
        of_prefix = _of_provider.setdefault(key, {})
        instruments = of_prefix.get(settings.prefix)
        if instruments is None:
            instruments = Instruments(provider or in_force, settings.prefix)
            of_prefix[settings.prefix] = instruments
    instruments.source = BreakerCollector(breakers, bus, settings)
    return instruments


class _Global:
    """Stands for whatever provider is or will be the global one."""


_GLOBAL = _Global()
_lock = threading.RLock()
_of_provider: WeakKeyDictionary[object, dict[str, Instruments]] = WeakKeyDictionary()


class _Collection:
    """What one collection of one reader tells: each breaker is read once for all instruments."""

    def __init__(self, owner: Instruments) -> None:
        self.owner = owner
        self.durations: Family | None = None
        self.told: defaultdict[str, list[Observation]] = defaultdict(list)
        self.asked: set[str] = set()


class _Thread(threading.local):
    """A reader asks all instruments, and is handed the result, in one thread."""

    collection: _Collection | None = None


_thread = _Thread()


class Instruments:
    """One observable instrument for each metric but the histogram. Thread-safe."""

    def __init__(self, provider: MeterProvider, prefix: str) -> None:
        self.source: BreakerCollector | None = None
        self.prefix = prefix
        meter = provider.get_meter(SCOPE, version("breakerscope"))
        for metric in catalogue.METRICS:
            if metric.kind is not Kind.HISTOGRAM:
                create = (
                    meter.create_observable_counter
                    if metric.kind is Kind.COUNTER
                    else meter.create_observable_gauge
                )
                create(
                    with_prefix(prefix, metric.instrument),
                    callbacks=[partial(self._observe, metric)],
                    unit=metric.ucum_unit,
                    description=metric.help,
                )

    def detach(self) -> None:
        """Fall silent: the next collection has no series of ours."""
        self.source = None

    def _observe(self, metric: Metric, _options: CallbackOptions) -> list[Observation]:
        collection = _thread.collection
        if collection is None or collection.owner is not self or metric.name in collection.asked:
            # An instrument that is asked again begins another collection.
            collection = _thread.collection = self._collect()
        collection.asked.add(metric.name)
        return collection.told[metric.name]

    def _collect(self) -> _Collection:
        from opentelemetry.metrics import Observation

        collection = _Collection(self)
        if self.source is None:
            return collection
        for metric, family in self.source.families().items():
            if metric.kind is Kind.HISTOGRAM:
                collection.durations = family
            else:
                collection.told[metric.name] = [
                    Observation(+sample.value, sample.labels)
                    for sample in family.samples
                    # The SDK refuses NaN and logs it each time.
                    if math.isfinite(sample.value)
                ]
        return collection


# -- durations ------------------------------------------------------------------------------------


def with_durations(reader: type[Reader]) -> type[Reader]:
    """The same kind of metric reader, which adds the breakers' durations to what it collects.

    `with_durations(PeriodicExportingMetricReader)(OTLPMetricExporter())`: a histogram for each
    breaker and outcome with the bounds of the breaker, its exact counts and sum, and exemplars. The
    temporality is cumulative, whatever the exporter prefers; least and greatest value are not told.
    """

    class WithDurations(cast("Any", reader)):  # type: ignore[misc]
        """See `with_durations`."""

        def _receive_metrics(
            self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any
        ) -> None:
            collection, _thread.collection = _thread.collection, None
            if collection is not None and collection.durations is not None:
                metrics_data = _joined(metrics_data, collection.durations, collection.owner.prefix)
            base: Any = super()
            base._receive_metrics(metrics_data, timeout_millis=timeout_millis, **kwargs)

    WithDurations.__name__ = WithDurations.__qualname__ = reader.__name__
    return cast("type[Reader]", WithDurations)


_started = time_ns()


def _joined(metrics_data: MetricsData, durations: Family, prefix: str) -> MetricsData:
    """The data with the durations beside the instruments of ours."""
    from opentelemetry.sdk.metrics.export import AggregationTemporality, Histogram
    from opentelemetry.sdk.metrics.export import Metric as MetricData

    of = catalogue.CALL_DURATION
    histogram = MetricData(
        with_prefix(prefix, of.instrument),
        of.help,
        of.ucum_unit,
        Histogram(list(_points(durations.samples)), AggregationTemporality.CUMULATIVE),
    )
    return replace(
        metrics_data,
        resource_metrics=[
            replace(
                resource,
                scope_metrics=[
                    replace(scope, metrics=[*scope.metrics, histogram])
                    if scope.scope.name == SCOPE
                    else scope
                    for scope in resource.scope_metrics
                ],
            )
            for resource in metrics_data.resource_metrics
        ],
    )


@dataclass
class _Histogram:
    """The samples of one breaker and outcome."""

    labels: Mapping[str, str]
    bounds: list[float] = field(default_factory=list[float])
    up_to: list[float] = field(default_factory=list[float])
    exemplars: list[Observed] = field(default_factory=list["Observed"])
    total: float = 0.0


def _points(samples: Iterable[Sample]) -> Iterator[HistogramDataPoint]:
    from opentelemetry.sdk.metrics.export import HistogramDataPoint

    now = time_ns()
    for histogram in _histograms(samples):
        yield HistogramDataPoint(
            attributes=histogram.labels,
            start_time_unix_nano=_started,
            time_unix_nano=now,
            count=int(histogram.up_to[-1]),
            sum=histogram.total,
            bucket_counts=[int(high - low) for low, high in pairwise([0, *histogram.up_to])],
            explicit_bounds=histogram.bounds[:-1],
            # Optional in OTLP: not known here.
            min=cast("float", None),
            max=cast("float", None),
            exemplars=[_exemplar(observed) for observed in histogram.exemplars],
        )


def _histograms(samples: Iterable[Sample]) -> Iterable[_Histogram]:
    found: dict[tuple[str, ...], _Histogram] = {}
    for sample in samples:
        labels = {name: value for name, value in sample.labels.items() if name != "le"}
        histogram = found.setdefault(tuple(labels.values()), _Histogram(labels))
        if sample.name.endswith("_bucket"):
            histogram.bounds.append(float(sample.labels["le"]))
            histogram.up_to.append(sample.value)
            if sample.exemplar is not None:
                histogram.exemplars.append(sample.exemplar)
        elif sample.name.endswith("_sum"):
            histogram.total = sample.value
    return found.values()


def _exemplar(observed: Observed) -> Exemplar:
    from opentelemetry.sdk.metrics import Exemplar

    return Exemplar(
        filtered_attributes={},
        value=observed.value,
        time_unix_nano=int(float(observed.timestamp or 0.0) * 1e9),
        trace_id=int(observed.labels[TraceKey.TRACE_ID.value], 16),
        span_id=int(observed.labels[TraceKey.SPAN_ID.value], 16),
    )
