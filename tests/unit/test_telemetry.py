"""The three adapters, each against the real library behind it, and all of them for one story."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator
from io import StringIO
from typing import Any

import pytest
import structlog
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.openmetrics.exposition import generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

import breakerscope as bs
from breakerscope import catalogue
from breakerscope.catalogue import Attribute
from breakerscope.event_bus import default_bus
from breakerscope.telemetry.metrics import BreakerCollector, DuplicateMetricError
from tests.unit.support import Boom, fail, fail_times, succeed

pytestmark = pytest.mark.usefixtures("fresh_breakers")
NAME = "payment_api"


@pytest.fixture
def registry() -> Iterator[CollectorRegistry]:
    """Telemetry of this test alone, in a registry of its own."""
    registry = CollectorRegistry()
    with bs.setup_telemetry(registry=registry):
        yield registry


@pytest.fixture
def spans() -> Iterator[tuple[TracerProvider, InMemorySpanExporter]]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    yield provider, exporter
    provider.shutdown()


@pytest.fixture
def structlog_lines() -> Iterator[StringIO]:
    """structlog as an application configures it; what it wrote, line by line."""
    written = StringIO()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(written),
    )
    yield written
    structlog.reset_defaults()


def an_outage() -> bs.CircuitBreaker:
    """Two successes, two failures that open, three refusals."""
    breaker = bs.instrumented_breaker(NAME, consecutive_failures=2, open_for=60.0)
    for _ in range(2):
        breaker.call(succeed)
    fail_times(breaker, 2)
    for _ in range(3):
        with pytest.raises(bs.CircuitBreakerOpenError):
            breaker.call(succeed)
    return breaker


# -- metrics --------------------------------------------------------------------------------------


def value(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    return registry.get_sample_value(name, {"breaker": NAME, **labels})


def test_every_series_exists_at_zero_before_the_first_call(registry: CollectorRegistry) -> None:
    bs.instrumented_breaker(NAME)
    for outcome in bs.Outcome:
        assert value(registry, "circuit_breaker_calls_total", outcome=outcome) == 0
    for state in bs.State:
        present = value(registry, "circuit_breaker_state", state=state)
        assert present == (1 if state is bs.State.CLOSED else 0)
    opening = {"from_state": "closed", "to_state": "open", "cause": "failure_rate"}
    assert value(registry, "circuit_breaker_transitions_total", **opening) == 0
    not_a_rule = opening | {"cause": "slow_call_rate"}
    assert value(registry, "circuit_breaker_transitions_total", **not_a_rule) is None


def test_metrics_of_an_outage(registry: CollectorRegistry) -> None:
    an_outage()
    calls = {o: value(registry, "circuit_breaker_calls_total", outcome=o) for o in bs.Outcome}
    assert calls == {"success": 2, "failure": 2, "ignored": 0, "cancelled": 0, "rejected": 3}
    counts = [
        value(registry, "circuit_breaker_call_duration_seconds_count", outcome=outcome)
        for outcome in ("success", "failure", "ignored", "cancelled", "rejected")
    ]
    assert counts == [2, 2, 0, 0, None]
    one_hot = {s: value(registry, "circuit_breaker_state", state=s) for s in bs.State}
    assert one_hot == {"closed": 0, "open": 1, "half_open": 0, "forced_open": 0, "disabled": 0}
    ratio = value(registry, "circuit_breaker_failure_ratio")
    assert ratio is not None
    assert math.isnan(ratio)
    assert value(registry, "circuit_breaker_open_wait_seconds") == 60
    assert value(registry, "circuit_breaker_in_flight_calls") == 0


def test_the_exposition_is_valid_openmetrics_with_the_names_of_the_catalogue(
    registry: CollectorRegistry,
) -> None:
    hostile = 'quo"te back\\slash \\n dot.ted 🔌'
    bs.instrumented_breaker(hostile).call(succeed)
    families = {
        family.name: family
        for family in text_string_to_metric_families(generate_latest(registry).decode())
    }
    assert list(families) == [metric.family for metric in catalogue.METRICS]
    for metric in catalogue.METRICS:
        family = families[metric.family]
        assert (family.type, family.documentation) == (metric.kind, metric.help)
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == set(metric.label_names)
            if "breaker" in sample.labels:
                assert sample.labels["breaker"] == hostile


def test_a_removed_breaker_takes_its_series_along(registry: CollectorRegistry) -> None:
    bs.instrumented_breaker(NAME)
    bs.remove_breaker(NAME)
    assert value(registry, "circuit_breaker_in_flight_calls") is None


def test_the_order_of_set_up_and_breakers_does_not_matter() -> None:
    breaker = bs.CircuitBreaker("outside")
    with bs.setup_telemetry(registry=(first := CollectorRegistry())):
        bs.instrumented_breaker(NAME)
        with bs.setup_telemetry(registry=(second := CollectorRegistry())):
            assert value(second, "circuit_breaker_in_flight_calls") == 0
            assert value(first, "circuit_breaker_in_flight_calls") is None
            assert breaker.state is bs.State.CLOSED
    bs.remove_breaker(NAME)


def test_a_clash_of_names_is_named_and_leaves_nothing_behind() -> None:
    registry = CollectorRegistry()
    Counter("circuit_breaker_calls", "of another library", registry=registry)
    with pytest.raises(DuplicateMetricError, match="circuit_breaker_calls"):
        bs.setup_telemetry(registry=registry)
    bs.setup_telemetry(registry=CollectorRegistry()).close()


def test_exemplars_name_the_trace(
    registry: CollectorRegistry, spans: tuple[TracerProvider, InMemorySpanExporter]
) -> None:
    breaker = bs.instrumented_breaker(NAME)
    with spans[0].get_tracer("test").start_as_current_span("request") as span:
        breaker.call(succeed)
    trace_id = f"{span.get_span_context().trace_id:032x}"
    exemplars = [
        sample.exemplar.labels["trace_id"]
        for family in text_string_to_metric_families(generate_latest(registry).decode())
        for sample in family.samples
        if sample.exemplar
    ]
    assert exemplars == [trace_id]


# -- traces ---------------------------------------------------------------------------------------


@pytest.mark.usefixtures("registry")
def test_span_events_of_an_outage(spans: tuple[TracerProvider, InMemorySpanExporter]) -> None:
    provider, exporter = spans
    with provider.get_tracer("test").start_as_current_span("request"):
        an_outage()
    (span,) = exporter.get_finished_spans()
    told = [
        (event.name, dict(event.attributes or {}).get(Attribute.OUTCOME)) for event in span.events
    ]
    assert told == [
        ("circuit_breaker.call", "success"),
        ("circuit_breaker.call", "success"),
        ("circuit_breaker.call", "failure"),
        ("circuit_breaker.call", "failure"),
        ("circuit_breaker.state_change", None),
        ("circuit_breaker.rejection", "rejected"),
        ("circuit_breaker.rejection", "rejected"),
        ("circuit_breaker.rejection", "rejected"),
    ]
    assert dict(span.events[4].attributes or {}) == {
        "circuit_breaker.name": NAME,
        "circuit_breaker.seq": 5,
        "circuit_breaker.state": "open",
        "circuit_breaker.previous_state": "closed",
        "circuit_breaker.cause": "consecutive_failures",
        "circuit_breaker.open_for": 60.0,
    }
    assert span.status.status_code is StatusCode.UNSET


@pytest.mark.parametrize(("policy", "events"), [("non_success", 6), ("off", 0), (False, 0)])
def test_span_policies(
    spans: tuple[TracerProvider, InMemorySpanExporter], policy: bs.SpanPolicy, events: int
) -> None:
    provider, exporter = spans
    with (
        bs.setup_telemetry(registry=CollectorRegistry(), traces=policy),
        provider.get_tracer("test").start_as_current_span("request"),
    ):
        an_outage()
    (span,) = exporter.get_finished_spans()
    assert len(span.events) == events


@pytest.mark.usefixtures("registry")
def test_no_span_no_cost_no_event() -> None:
    an_outage()
    assert bs.flush()


# -- logs -----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("registry")
def test_log_lines_of_an_outage(
    structlog_lines: StringIO, spans: tuple[TracerProvider, InMemorySpanExporter]
) -> None:
    with spans[0].get_tracer("test").start_as_current_span("request") as span:
        structlog.contextvars.bind_contextvars(request_id="r1")
        breaker = an_outage()
        structlog.contextvars.clear_contextvars()
    breaker.reset("by hand")
    assert bs.flush()
    lines = [json.loads(line) for line in structlog_lines.getvalue().splitlines()]
    ids = {
        "trace_id": f"{span.get_span_context().trace_id:032x}",
        "span_id": f"{span.get_span_context().span_id:016x}",
    }
    for line in lines:
        assert line.pop("breaker") == NAME
        assert isinstance(line.pop("at"), float)
        line.pop("duration", None)
        line.pop("retry_after", None)
    of_call = ids | {"request_id": "r1"}
    failed = {
        "event": "circuit_breaker.call_failed",
        "level": "info",
        "state": "closed",
        "outcome": "failure",
        "error": "tests.unit.support.Boom",
        "slow": False,
        "late": False,
    }
    figures = {"calls": 4, "failures": 2, "slow_calls": 0, "consecutive_failures": 2}
    assert lines == [
        failed | of_call | {"seq": 3},
        failed | of_call | {"seq": 4},
        {
            "event": "circuit_breaker.state_changed",
            "level": "warning",
            "seq": 5,
            "state": "open",
            "previous_state": "closed",
            "cause": "consecutive_failures",
            "open_for": 60.0,
        }
        | figures
        | of_call,
        {
            "event": "circuit_breaker.call_rejected",
            "level": "warning",
            "seq": 6,
            "state": "open",
            "rejections": 1,
        }
        | of_call,
        # The other two refusals, before the state changes.
        {
            "event": "circuit_breaker.call_rejected",
            "level": "warning",
            "seq": 9,
            "state": "open",
            "rejections": 2,
        },
        {
            "event": "circuit_breaker.state_changed",
            "level": "info",
            "seq": 9,
            "state": "closed",
            "previous_state": "open",
            "cause": "reset",
            "reason": "by hand",
        }
        | figures,
    ]


@pytest.mark.usefixtures("registry")
def test_without_structlog_the_standard_logger_hears(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="breakerscope"):
        an_outage()
        assert bs.flush()
    told = [(record.levelname, record.getMessage().split()[0]) for record in caplog.records]
    assert told == [
        ("WARNING", "circuit_breaker.state_changed"),
        ("WARNING", "circuit_breaker.call_rejected"),
    ]


@pytest.mark.usefixtures("registry")
def test_nothing_is_written_unasked(capfd: pytest.CaptureFixture[str]) -> None:
    an_outage()
    assert bs.flush()
    assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("registry")
def test_the_message_of_an_exception_is_never_told(
    structlog_lines: StringIO, spans: tuple[TracerProvider, InMemorySpanExporter]
) -> None:
    provider, exporter = spans
    breaker = bs.instrumented_breaker(NAME, consecutive_failures=1)

    def leak(argument: str) -> None:
        raise Boom(argument)

    with provider.get_tracer("test").start_as_current_span("request"), pytest.raises(Boom):
        breaker.call(leak, "s3cret")
    assert bs.flush()
    (span,) = exporter.get_finished_spans()
    mine = [event for event in span.events if event.name.startswith("circuit_breaker")]
    assert "s3cret" not in structlog_lines.getvalue() + repr(
        [dict(e.attributes or {}) for e in mine]
    )


def test_closing_leaves_the_process_as_before() -> None:
    registry = CollectorRegistry()
    telemetry = bs.setup_telemetry(registry=registry)
    an_outage()
    telemetry.close()
    telemetry.close()
    assert list(registry.collect()) == []
    breaker = bs.get_breaker(NAME)
    assert breaker is not None
    assert bs.flush()
    with pytest.raises(bs.CircuitBreakerOpenError):
        breaker.call(fail)
    bs.remove_breaker(NAME)


@pytest.mark.parametrize("closes", [True, False])
def test_a_finaliser_that_sets_up_in_the_middle_of_a_set_up(
    closes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """prometheus_client holds its lock while it asks our collector for the names. The one below
    ends later, so it is the one that stays.
    """
    real, between = BreakerCollector.describe, list[bs.Telemetry]()

    def describe(self: BreakerCollector) -> Any:
        monkeypatch.setattr(BreakerCollector, "describe", real)
        between.append(bs.setup_telemetry(registry=CollectorRegistry(), logs=False))
        if closes:
            between[0].close()
        return real(self)

    monkeypatch.setattr(BreakerCollector, "describe", describe)
    registry = CollectorRegistry()
    before = default_bus._subscriptions
    with bs.setup_telemetry(registry=registry, logs=False, traces="all"):
        assert len(between) == 1
        assert len(default_bus._subscriptions) == len(before) + 1
        assert b"circuit_breaker_state" in generate_latest(registry)
    assert default_bus._subscriptions == before


def test_a_registry_that_takes_nothing_back_is_not_in_the_way_for_ever() -> None:
    class Stubborn(CollectorRegistry):
        def unregister(self, collector: Any) -> None:
            raise RuntimeError("no")

    before = default_bus._subscriptions
    telemetry = bs.setup_telemetry(registry=Stubborn(), logs=False)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="no"):
            telemetry.close()
    telemetry.close()
    bs.setup_telemetry(registry=CollectorRegistry(), logs=False).close()
    assert default_bus._subscriptions == before
