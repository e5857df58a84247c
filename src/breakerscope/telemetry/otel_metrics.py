"""OpenTelemetry: the metrics of the catalogue, read from the breakers' own counters.

Numbers go through observable instruments, so any MeterProvider will do, and a call costs the same
with and without them. The API knows no observable histogram, and to record each duration would cost
more than the call. So the durations join at the reader: `with_durations` (ADR 4).
"""

from __future__ import annotations

import math
import threading
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from time import time_ns
from typing import TYPE_CHECKING, Any, TypeVar, cast
from weakref import WeakKeyDictionary

from breakerscope import catalogue
from breakerscope.catalogue import Kind, Metric, TraceKey
from breakerscope.hub import Hub
from breakerscope.ledger import Durations
from breakerscope.ledger import Exemplar as Observed
from breakerscope.reading import Reading
from breakerscope.registry import Registry
from breakerscope.telemetry.metrics import samples

if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation
    from opentelemetry.sdk.metrics import Exemplar
    from opentelemetry.sdk.metrics.export import HistogramDataPoint, MetricReader, MetricsData

    Reader = TypeVar("Reader", bound=MetricReader)

SCOPE = "breakerscope"


def attach(provider: MeterProvider | None, breakers: Registry, hub: Hub) -> Instruments:
    """Show the breakers through the instruments of this provider, by default the global one.

    The API cannot take an instrument back. So each provider gets one set of them, which is silent
    after `Instruments.detach` and speaks again after the next `attach`.
    """
    from opentelemetry import metrics

    in_force = metrics.get_meter_provider()
    # A stand-in until the application has set one: the instruments move on by themselves.
    key = _GLOBAL if provider in (None, in_force) else provider
    with _lock:
        instruments = _of_provider.get(key)
        if instruments is None:
            instruments = _of_provider[key] = Instruments(provider or in_force)
    instruments.source = breakers, hub
    return instruments


class _Global:
    """Stands for whatever provider is or will be the global one."""


_GLOBAL = _Global()
_lock = threading.Lock()
_of_provider: WeakKeyDictionary[object, Instruments] = WeakKeyDictionary()


class _Collection:
    """What one collection of one reader tells: each breaker is read once for all instruments."""

    def __init__(self, owner: Instruments) -> None:
        self.owner = owner
        self.readings: list[Reading] = []
        self.told: defaultdict[str, list[Observation]] = defaultdict(list)
        self.asked: set[str] = set()


class _Thread(threading.local):
    """A reader asks all instruments, and is handed the result, in one thread."""

    collection: _Collection | None = None


_thread = _Thread()


class Instruments:
    """One observable instrument for each metric but the histogram. Thread-safe."""

    def __init__(self, provider: MeterProvider) -> None:
        self.source: tuple[Registry, Hub] | None = None
        self._version = version("breakerscope")
        meter = provider.get_meter(SCOPE, self._version)
        for metric in catalogue.METRICS:
            if metric.kind is not Kind.HISTOGRAM:
                create = (
                    meter.create_observable_counter
                    if metric.kind is Kind.COUNTER
                    else meter.create_observable_gauge
                )
                create(
                    metric.instrument,
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
        breakers, hub = self.source
        collection.readings = [breaker.read() for breaker in breakers]
        told = collection.told
        for reading in collection.readings:
            for metric, _, labels, value, _ in samples(reading, self._version):
                # The SDK refuses NaN and logs it each time.
                if metric.kind is not Kind.HISTOGRAM and math.isfinite(value):
                    told[metric.name].append(Observation(value, labels))
        for metric, counts in (
            (catalogue.EVENTS_DROPPED, hub.dropped()),
            (catalogue.LISTENER_ERRORS, hub.errors()),
        ):
            told[metric.name] = [
                Observation(count, {catalogue.LISTENER.name: name})
                for name, count in counts.items()
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
            if collection is not None and collection.readings:
                metrics_data = _joined(metrics_data, collection.readings)
            base: Any = super()
            base._receive_metrics(metrics_data, timeout_millis=timeout_millis, **kwargs)

    WithDurations.__name__ = WithDurations.__qualname__ = reader.__name__
    return cast("type[Reader]", WithDurations)


_started = time_ns()


def _joined(metrics_data: MetricsData, readings: list[Reading]) -> MetricsData:
    """The data with the durations beside the instruments of ours."""
    from opentelemetry.sdk.metrics.export import AggregationTemporality, Histogram
    from opentelemetry.sdk.metrics.export import Metric as MetricData

    now = time_ns()
    of = catalogue.CALL_DURATION
    points = [point for reading in readings for point in _points(reading, now)]
    histogram = MetricData(
        of.instrument, of.help, of.ucum_unit, Histogram(points, AggregationTemporality.CUMULATIVE)
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


def _points(reading: Reading, now: int) -> Iterator[HistogramDataPoint]:
    from opentelemetry.sdk.metrics.export import HistogramDataPoint

    bounds = [float(bound) for bound in reading.buckets]
    for outcome, durations in reading.durations.items():
        yield HistogramDataPoint(
            attributes={
                catalogue.BREAKER.name: reading.breaker,
                catalogue.OUTCOME.name: outcome.value,
            },
            start_time_unix_nano=_started,
            time_unix_nano=now,
            count=sum(durations.counts),
            sum=durations.total_seconds,
            bucket_counts=durations.counts,
            explicit_bounds=bounds,
            # Optional in OTLP: not known here.
            min=cast("float", None),
            max=cast("float", None),
            exemplars=_exemplars(durations),
        )


def _exemplars(durations: Durations) -> list[Exemplar]:
    return [_exemplar(observed) for observed in durations.exemplars.values()]


def _exemplar(observed: Observed) -> Exemplar:
    from opentelemetry.sdk.metrics import Exemplar

    return Exemplar(
        filtered_attributes={},
        value=observed.value,
        time_unix_nano=int(observed.at * 1e9),
        trace_id=int(observed.labels[TraceKey.TRACE_ID.value], 16),
        span_id=int(observed.labels[TraceKey.SPAN_ID.value], 16),
    )
