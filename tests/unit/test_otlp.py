"""`setup_telemetry(otlp=True)`: what it sets up, what it leaves alone, and what it refuses."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Sequence

import opentelemetry._logs
import opentelemetry._logs._internal
import opentelemetry.metrics
import opentelemetry.metrics._internal
import pytest
from opentelemetry import metrics, trace
from opentelemetry._logs import get_logger_provider
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.util._once import Once

import breakerscope as bs
from breakerscope.event_bus import default_bus
from tests.unit.support import succeed

pytestmark = pytest.mark.usefixtures("fresh_breakers")

SET_ONCE = (
    (trace, "_TRACER_PROVIDER"),
    (metrics._internal, "_METER_PROVIDER"),
    (opentelemetry._logs._internal, "_LOGGER_PROVIDER"),
)


@pytest.fixture(autouse=True)
def fresh_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process where nobody has set a provider, and nobody listens to OTLP."""
    for module, name in SET_ONCE:
        monkeypatch.setattr(module, name, None)
        monkeypatch.setattr(module, f"{name}_SET_ONCE", Once())
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> list[ReadableSpan]:
    """What the exporter was given, in place of sending it."""
    spans: list[ReadableSpan] = []

    def export(_: object, batch: Sequence[ReadableSpan]) -> SpanExportResult:
        spans.extend(batch)
        return SpanExportResult.SUCCESS

    monkeypatch.setattr(OTLPSpanExporter, "export", export)
    return spans


def set_up(**options: object) -> bs.Telemetry:
    return bs.setup_telemetry(metrics=False, otlp=True, **options)  # type: ignore[arg-type]


def call_in_a_span(name: str) -> None:
    with trace.get_tracer("test").start_as_current_span(name):
        bs.instrumented_breaker("payment_api").call(succeed)


def test_only_what_is_asked_for_is_set_up(exported: list[ReadableSpan]) -> None:
    with set_up():
        call_in_a_span("request")
        assert isinstance(trace.get_tracer_provider(), TracerProvider)
        assert not isinstance(metrics.get_meter_provider(), MeterProvider)
        assert not isinstance(get_logger_provider(), LoggerProvider)
        assert not exported
    assert [span.name for span in exported] == ["request"]


def test_closing_ends_the_threads_and_a_second_set_up_exports_again(
    exported: list[ReadableSpan],
) -> None:
    threads = set(threading.enumerate())
    for name in ("first", "second"):
        with set_up():
            call_in_a_span(name)
        assert set(threading.enumerate()) <= threads
        call_in_a_span("between")
        # The application may flush at any time, whether we export or not.
        provider = trace.get_tracer_provider()
        assert isinstance(provider, TracerProvider)
        assert provider.force_flush()
    assert [span.name for span in exported] == ["first", "second"]


def test_providers_of_the_application_are_left_alone(exported: list[ReadableSpan]) -> None:
    trace.set_tracer_provider(theirs := TracerProvider())
    with set_up():
        call_in_a_span("request")
        assert trace.get_tracer_provider() is theirs
    theirs.shutdown()
    assert exported == []


@pytest.mark.parametrize(
    ("name", "value"), [("OTEL_TRACES_EXPORTER", "none"), ("OTEL_SDK_DISABLED", "true")]
)
def test_what_the_environment_switches_off_is_not_set_up(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with set_up():
        assert not isinstance(trace.get_tracer_provider(), TracerProvider)


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "smoke", "allowed are grpc, http/protobuf"),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json", "allowed are grpc, http/protobuf"),
        ("OTEL_TRACES_EXPORTER", "console", "allowed are otlp and none"),
    ],
)
def test_a_variable_that_cannot_be_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, told: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(bs.TelemetryError, match=f"{name}={value}.*{told}"):
        set_up()
    assert not isinstance(trace.get_tracer_provider(), TracerProvider)


@pytest.mark.parametrize(
    "missing",
    ["opentelemetry.sdk._logs", "opentelemetry.exporter.otlp.proto.grpc.trace_exporter"],
)
def test_a_missing_extra_is_named_with_the_command(
    monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    monkeypatch.delitem(sys.modules, "breakerscope.telemetry.otlp", raising=False)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(bs.MissingExtraError, match=r"pip install 'breakerscope\[otlp\]'"):
        set_up()
    with bs.setup_telemetry(metrics=False):
        call_in_a_span("request")


@pytest.mark.parametrize("broken", [SpanExportResult.FAILURE, RuntimeError("no network")])
def test_events_that_could_not_be_exported_count_as_dropped(
    monkeypatch: pytest.MonkeyPatch, broken: SpanExportResult | Exception
) -> None:
    def export(_: object, batch: Sequence[ReadableSpan]) -> SpanExportResult:
        if isinstance(broken, Exception):
            raise broken
        return broken

    monkeypatch.setattr(OTLPSpanExporter, "export", export)
    before = default_bus.dropped().get("otlp", 0)
    with set_up():
        call_in_a_span("request")
        with trace.get_tracer("test").start_as_current_span("request") as span:
            span.add_event("of somebody else")
    assert default_bus.dropped()["otlp"] == before + 1
