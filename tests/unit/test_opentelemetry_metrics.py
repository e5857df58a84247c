"""The metrics through OpenTelemetry: exact durations, and the same series as by Prometheus."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import pytest
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Histogram,
    HistogramDataPoint,
    InMemoryMetricReader,
    Metric,
    NumberDataPoint,
)
from opentelemetry.sdk.trace import TracerProvider
from prometheus_client import CollectorRegistry
from prometheus_client import Metric as Family

import breakerscope as bs
from breakerscope import catalogue
from breakerscope.registry import default_registry
from breakerscope.telemetry.otel_metrics import with_durations
from breakerscope.testing import FakeClock
from tests.unit.support import Boom, fail_times, refused, succeed

pytestmark = pytest.mark.usefixtures("fresh_breakers")
NAME = "payment_api"
Reader = with_durations(InMemoryMetricReader)


def collected(reader: InMemoryMetricReader) -> dict[str, Metric]:
    data = reader.get_metrics_data()
    if data is None:
        return {}
    (resource,) = data.resource_metrics
    return {metric.name: metric for scope in resource.scope_metrics for metric in scope.metrics}


def durations(reader: InMemoryMetricReader) -> dict[tuple[str, str], HistogramDataPoint]:
    histogram = collected(reader)["circuit_breaker.call_duration"].data
    assert isinstance(histogram, Histogram)
    assert histogram.aggregation_temporality is AggregationTemporality.CUMULATIVE
    points = {}
    for point in histogram.data_points:
        attributes = dict(point.attributes or {})
        points[str(attributes.pop("breaker")), str(attributes.pop("outcome"))] = point
        assert not attributes
    return points


def breaker_that_takes(
    name: str, seconds: Iterable[float], buckets: tuple[float, ...]
) -> bs.CircuitBreaker:
    """A breaker with its own clock, after calls that took so long."""
    clock = FakeClock()
    breaker = bs.CircuitBreaker(name, bs.Policy(), clock=clock.clock, buckets=buckets)
    default_registry.add(breaker)
    for duration in seconds:
        breaker.call(clock.advance, duration)
    return breaker


# -- durations ------------------------------------------------------------------------------------


def test_durations_are_exact_with_the_bounds_of_each_breaker() -> None:
    reader = Reader()
    provider = MeterProvider(metric_readers=[reader])
    with bs.setup_telemetry(metrics=False, meter_provider=provider):
        breaker_that_takes("coarse", [0.5, 1, 1.5, 4], (1, 2))
        breaker_that_takes("fine", [0.125] * 3 + [8.0], (0.125, 0.25, 0.5))
        points = durations(reader)
    told = {
        key: (point.count, point.sum, tuple(point.bucket_counts), tuple(point.explicit_bounds))
        for key, point in points.items()
        if point.count
    }
    assert told == {
        ("coarse", "success"): (4, 7.0, (2, 1, 1), (1.0, 2.0)),
        ("fine", "success"): (4, 8.375, (3, 0, 0, 1), (0.125, 0.25, 0.5)),
    }
    assert len(points) == 8
    assert {(point.min, point.max) for point in points.values()} == {(None, None)}


def test_calls_and_durations_of_a_collection_are_of_one_moment() -> None:
    reader = Reader()
    provider = MeterProvider(metric_readers=[reader])
    with bs.setup_telemetry(metrics=False, meter_provider=provider):
        breaker = bs.instrumented_breaker(NAME)
        for calls in range(1, 4):
            breaker.call(succeed)
            metrics = collected(reader)
            told = {
                str(dict(point.attributes or {})["outcome"]): point.value
                for point in metrics["circuit_breaker.calls"].data.data_points
                if isinstance(point, NumberDataPoint)
            }
            assert told["success"] == calls
            histogram = metrics["circuit_breaker.call_duration"].data
            assert isinstance(histogram, Histogram)
            assert sum(point.count for point in histogram.data_points) == calls


def test_durations_carry_the_trace_of_a_call() -> None:
    reader = Reader()
    provider = MeterProvider(metric_readers=[reader])
    tracer = TracerProvider().get_tracer("test")
    with bs.setup_telemetry(metrics=False, meter_provider=provider):
        breaker = bs.instrumented_breaker(NAME)
        with tracer.start_as_current_span("request") as span:
            breaker.call(succeed)
        (exemplar,) = durations(reader)[NAME, "success"].exemplars
    ids = span.get_span_context()
    assert (exemplar.trace_id, exemplar.span_id) == (ids.trace_id, ids.span_id)


def test_any_reader_gets_the_numbers_and_none_gets_durations_unasked() -> None:
    reader = InMemoryMetricReader()
    provider = MeterProvider(metric_readers=[reader])
    with bs.setup_telemetry(metrics=False, meter_provider=provider):
        bs.instrumented_breaker(NAME, failure_rate=0.5, slow_call=1.0, slow_call_rate=0.5)
        names = set(collected(reader))
    expected = {metric.instrument for metric in catalogue.METRICS}
    no_ratio_yet = {"circuit_breaker.failure_ratio", "circuit_breaker.slow_call_ratio"}
    assert names == expected - {"circuit_breaker.call_duration"} - no_ratio_yet


# -- set up, undo, again --------------------------------------------------------------------------


def test_a_set_up_that_was_closed_is_silent_and_the_next_one_speaks() -> None:
    reader = Reader()
    provider = MeterProvider(metric_readers=[reader])
    first = bs.setup_telemetry(metrics=False, meter_provider=provider)
    bs.instrumented_breaker(NAME).call(succeed)
    assert "circuit_breaker.calls" in collected(reader)
    first.close()
    assert collected(reader) == {}
    with bs.setup_telemetry(metrics=False, meter_provider=provider):
        assert durations(reader)[NAME, "success"].count == 1


def test_a_removed_breaker_takes_its_series_along() -> None:
    reader = Reader()
    provider = MeterProvider(metric_readers=[reader])
    with bs.setup_telemetry(metrics=False, meter_provider=provider):
        bs.instrumented_breaker("one")
        bs.instrumented_breaker("two")
        assert {breaker for breaker, _ in durations(reader)} == {"one", "two"}
        bs.remove_breaker("one")
        left = {
            dict(point.attributes or {}).get("breaker", NAME)
            for metric in collected(reader).values()
            if "dropped" not in metric.name and "errors" not in metric.name
            for point in metric.data.data_points
        }
    assert left == {"two"}


# -- both routes agree ----------------------------------------------------------------------------


def by_name(registry: CollectorRegistry) -> dict[str, Family]:
    return {family.name: family for family in registry.collect()}


Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def samples(family: Family) -> Samples:
    return {(s.name, frozenset(s.labels.items())): s.value for s in family.samples}


def all_outcomes(clock: FakeClock) -> None:
    """A run in which a breaker of its own clock sees each outcome, two breakers, odd names."""
    hostile = 'quo"te back\\slash \\n dot.ted 🔌'
    for name, buckets in ((NAME, (0.5, 1, 60)), (hostile, (0.001, 2.5))):
        breaker = bs.CircuitBreaker(
            name,
            bs.Policy(
                consecutive_failures=2,
                failure_rate=0.9,
                min_calls=5,
                slow_call=3.0,
                slow_call_rate=0.9,
            ),
            classifier=bs.Classifier(ignore=(KeyError,)),
            clock=clock.clock,
            buckets=buckets,
        )
        default_registry.add(breaker)
        breaker.call(clock.advance, 0.75)
        breaker.call(clock.advance, 3.25)
        with pytest.raises(KeyError):
            breaker.call(look_up)
        with pytest.raises(KeyboardInterrupt):
            breaker.call(interrupted)
        breaker.call(succeed)
        breaker.call(succeed)
        breaker.with_fallback(succeed, on=[bs.Outcome.FAILURE])(broken)()
        fail_times(breaker, 1)
        refused(breaker)
        clock.advance(61.0)
        breaker.call(succeed)
    # One has enough calls in its window for the ratios, the other has not.
    breaker.force_open("by hand")
    for _ in range(5):
        bs.instrumented_breaker(NAME).call(succeed)


def look_up() -> None:
    raise KeyError


def interrupted() -> None:
    raise KeyboardInterrupt


def broken() -> str:
    raise Boom


@pytest.mark.parametrize(
    "settings",
    [{}, {"prefix": "shop", "labels": {"team": "checkout"}, "max_breakers": 1}],
    ids=["as they are", "prefix, labels and cap"],
)
def test_both_routes_tell_the_same_names_labels_and_values(settings: dict[str, Any]) -> None:
    direct, through_otel = CollectorRegistry(), CollectorRegistry()
    reader = with_durations(PrometheusMetricReader)(
        registry=through_otel, disable_target_info=True, scope_info_enabled=False
    )
    provider = MeterProvider(metric_readers=[reader])
    with bs.setup_telemetry(registry=direct, meter_provider=provider, **settings):
        all_outcomes(FakeClock())
        ours, theirs = by_name(direct), by_name(through_otel)
    prefix = "shop_" if settings else ""
    outcomes = {
        dict(labels)["outcome"]: value
        for (_, labels), value in samples(ours[f"{prefix}circuit_breaker_calls"]).items()
        if dict(labels)["breaker"] == NAME
    }
    assert outcomes == {"success": 10, "failure": 2, "ignored": 1, "cancelled": 1, "rejected": 1}
    assert set(theirs) == {prefix + metric.family for metric in catalogue.METRICS}
    for name, family in theirs.items():
        assert (family.type, family.documentation) == (ours[name].type, ours[name].documentation)
        # The SDK takes no NaN: a ratio that is not known has no series there.
        known = {key: v for key, v in samples(ours[name]).items() if not math.isnan(v)}
        assert samples(family) == known


def test_a_stock_exporter_adds_its_scope_and_target_and_nothing_else() -> None:
    direct, through_otel = CollectorRegistry(), CollectorRegistry()
    provider = MeterProvider(
        metric_readers=[with_durations(PrometheusMetricReader)(registry=through_otel)]
    )
    with bs.setup_telemetry(registry=direct, meter_provider=provider):
        bs.instrumented_breaker(NAME).call(succeed)
        ours, theirs = by_name(direct), by_name(through_otel)
    assert set(theirs) - set(ours) == {"target"}
    scope = {"otel_scope_name", "otel_scope_version", "otel_scope_schema_url"}
    for name in set(theirs) - {"target"}:
        labels = {frozenset(sample.labels) for sample in theirs[name].samples}
        assert labels == {
            frozenset(sample.labels) | scope
            for sample in ours[name].samples
            if not math.isnan(sample.value)
        }
