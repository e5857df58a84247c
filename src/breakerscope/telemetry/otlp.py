"""OTLP: sets up the SDK of OpenTelemetry where the application has not, and takes it down again.

The exporters, the batches and the resource read the standard `OTEL_…` variables themselves. Here is
what the SDK leaves to the application: which protocol, which signals, and who looks after the end.
A provider can be set but once in a process; ours stays, and what is behind it can be exchanged.
"""

from __future__ import annotations

import importlib
import inspect
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

from opentelemetry import _logs, metrics, trace
from opentelemetry.sdk._logs import LoggerProvider, LogRecordProcessor
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider, ObservableCounter, ObservableGauge
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from breakerscope.catalogue import SpanEventName
from breakerscope.event_bus import EventBus
from breakerscope.telemetry.errors import MissingExtraError, TelemetryError
from breakerscope.telemetry.otel_metrics import with_durations

if not hasattr(LogRecordProcessor, "on_emit"):
    raise ImportError("too old", name="opentelemetry-sdk 1.38 or newer")

LISTENER = "otlp"
"""The name under which events count as dropped that could not be exported."""

MAX_SERIES = 100_000
"""How many series of an instrument the SDK keeps; by default it is 2,000 (ADR 4)."""

EVENT_NAMES = frozenset(name.value for name in SpanEventName)
GRPC, HTTP = "grpc", "http/protobuf"
PACKAGES = {
    GRPC: "opentelemetry.exporter.otlp.proto.grpc",
    HTTP: "opentelemetry.exporter.otlp.proto.http",
}
UNSET = frozenset({"ProxyTracerProvider", "_ProxyMeterProvider", "ProxyLoggerProvider"})
"""What the API hands out until the application has set a provider."""


class Otlp:
    """What was set up. `meter_provider` is None where there are no metrics, or not through ours."""

    def __init__(self) -> None:
        self.meter_provider: MeterProvider | None = None
        self.switches: list[_Switch] = []

    def flush(self) -> None:
        """Collect and send the metrics once more."""
        if self.meter_provider is not None:
            with suppress(Exception):  # the SDK logs it
                self.meter_provider.force_flush()

    def shutdown(self) -> None:
        """Send what waits and end the threads."""
        for switch in self.switches:
            switch.shutdown()
        if self.meter_provider is not None:
            with suppress(Exception):  # the SDK logs it
                self.meter_provider.shutdown()


def set_up(bus: EventBus, *, log_events: bool, otel_metrics: bool) -> Otlp:
    """Export the spans of this process, and if asked its log-based events and its metrics.

    Each signal is left alone for which the application has set a provider, or of which the
    environment says `OTEL_TRACES_EXPORTER=none`. Raises TelemetryError for a variable that cannot
    be, MissingExtraError where the exporter of the protocol is not installed.
    """
    made = Otlp()
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return made
    try:
        _spans(made, bus)
        if log_events:
            _logs_of(made, bus)
        if otel_metrics:
            _metrics(made)
    except BaseException:
        made.shutdown()
        raise
    return made


# -- one signal each ------------------------------------------------------------------------------


def _spans(made: Otlp, bus: EventBus) -> None:
    provider = trace.get_tracer_provider()
    if not _is_for_us(provider, "TRACES"):
        return
    exporter = _exporter("TRACES", "trace_exporter", "OTLPSpanExporter")
    if (switch := _switches.get(provider)) is None:
        ours = TracerProvider()
        switch = _switches[ours] = _Switch()
        ours.add_span_processor(switch)
        trace.set_tracer_provider(ours)
    switch.to = BatchSpanProcessor(_Counted(exporter, bus, _events_of_span))  # type: ignore[arg-type]
    made.switches.append(switch)


def _logs_of(made: Otlp, bus: EventBus) -> None:
    provider = _logs.get_logger_provider()
    if not _is_for_us(provider, "LOGS"):
        return
    exporter = _exporter("LOGS", "_log_exporter", "OTLPLogExporter")
    if (switch := _switches.get(provider)) is None:
        ours = LoggerProvider()
        switch = _switches[ours] = _Switch()
        ours.add_log_record_processor(switch)
        _logs.set_logger_provider(ours)
    switch.to = BatchLogRecordProcessor(_Counted(exporter, bus, _events_of_record))  # type: ignore[arg-type]
    made.switches.append(switch)


def _metrics(made: Otlp) -> None:
    provider = metrics.get_meter_provider()
    if not _is_for_us(provider, "METRICS"):
        return
    exporter = _exporter("METRICS", "metric_exporter", "OTLPMetricExporter")
    reader = with_durations(PeriodicExportingMetricReader)(exporter, **_limits())
    made.meter_provider = ours = MeterProvider(metric_readers=[reader])
    _meter_providers.add(ours)
    if provider not in _meter_providers:
        metrics.set_meter_provider(ours)


def _limits() -> dict[str, Any]:
    """The limit on series, for an SDK that has one."""
    name = "cardinality_limits"
    if name not in inspect.signature(PeriodicExportingMetricReader).parameters:
        return {}
    return {name: dict.fromkeys((ObservableCounter, ObservableGauge), MAX_SERIES)}


_switches: WeakKeyDictionary[object, _Switch] = WeakKeyDictionary()
_meter_providers: WeakSet[object] = WeakSet()


def _is_for_us(provider: object, signal: str) -> bool:
    variable = f"OTEL_{signal}_EXPORTER"
    wanted = os.environ.get(variable, "").strip().lower() or "otlp"
    if wanted not in ("otlp", "none"):
        raise TelemetryError(f"{variable}={wanted} with otlp=True: allowed are otlp and none")
    is_ours = provider in _switches or provider in _meter_providers
    return wanted == "otlp" and (is_ours or type(provider).__name__ in UNSET)


def _exporter(signal: str, module: str, name: str) -> Any:
    """The exporter for the protocol that the environment names; gRPC, as the SDK has it."""
    variables = (f"OTEL_EXPORTER_OTLP_{signal}_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
    variable = next((v for v in variables if os.environ.get(v, "").strip()), variables[1])
    protocol = os.environ.get(variable, "").strip() or GRPC
    if protocol not in PACKAGES:
        raise TelemetryError(f"{variable}={protocol}: allowed are {', '.join(PACKAGES)}")
    try:
        exporters = importlib.import_module(f"{PACKAGES[protocol]}.{module}")
    except ImportError as error:
        raise MissingExtraError(
            f"otlp=True over {protocol}", str(error.name), "'breakerscope[otlp]'"
        ) from error
    return getattr(exporters, name)()


# -- between the SDK and the exporter -------------------------------------------------------------


class _Switch(SpanProcessor, LogRecordProcessor):
    """A processor of spans or log records that can be turned off, and on to another one."""

    def __init__(self) -> None:
        self.to: BatchSpanProcessor | BatchLogRecordProcessor | None = None

    def on_end(self, span: ReadableSpan) -> None:
        if isinstance(self.to, BatchSpanProcessor):
            self.to.on_end(span)

    def on_emit(self, log_record: Any) -> None:
        if isinstance(self.to, BatchLogRecordProcessor):
            self.to.on_emit(log_record)

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self.to is None or self.to.force_flush(timeout_millis)

    def shutdown(self) -> None:
        to, self.to = self.to, None
        if to is not None:
            to.shutdown()  # type: ignore[no-untyped-call]


class _Counted:
    """An exporter that counts our events in what it could not send. Called by one thread."""

    def __init__(self, exporter: Any, bus: EventBus, events_of: Callable[[Any], int]) -> None:
        self._exporter = exporter
        self._bus = bus
        self._events_of = events_of
        self.shutdown = exporter.shutdown

    def export(self, batch: Sequence[Any]) -> Any:
        sent = False
        try:
            result = self._exporter.export(batch)
            sent = result.name == "SUCCESS"
        finally:
            if not sent:
                for _ in range(sum(map(self._events_of, batch))):
                    self._bus.count_dropped(LISTENER)
        return result

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return bool(self._exporter.force_flush(timeout_millis))


def _events_of_span(span: ReadableSpan) -> int:
    return sum(event.name in EVENT_NAMES for event in span.events)


def _events_of_record(data: Any) -> int:
    return int(data.log_record.event_name in EVENT_NAMES)
