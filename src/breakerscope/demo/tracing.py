"""Where the demo's spans go: into a count of their events, and to a collector if one is named."""

from __future__ import annotations

import os
import threading
from collections import Counter, defaultdict
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import Tracer

from breakerscope.catalogue import Attribute, SpanEventName
from breakerscope.demo.options import DemoError, missing
from breakerscope.demo.report import ASKED, TRANSITIONS

SERVICE_NAME = "breakerscope-demo"
EVENTS_OF_A_SPAN = 1000
SPAN_QUEUE = 200_000
"""Room for all spans that a slow collector lets wait: none may be dropped."""
ENDLESS_SPAN_QUEUE = 20_000
"""Room in a run without end: what a collector misses while it is away is its loss, not ours."""
FLUSH_MILLISECONDS = 10_000
ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
GRPC, HTTP = "grpc", "http/protobuf"
GRPC_PORT = ":4317"


class SpanEvents(SpanProcessor):
    """Counts the breakers' events on finished spans. Spans end in many threads, hence the lock."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self.tally: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self.spans = 0
        self.events_dropped = 0

    def on_end(self, span: ReadableSpan) -> None:
        """Count one span."""
        with self._lock:
            self.spans += 1
            self.events_dropped += span.dropped_events
            for event in span.events:
                facts = event.attributes or {}
                counts = self.tally[str(facts.get(Attribute.NAME.value, "?"))]
                if event.name == SpanEventName.STATE_CHANGE:
                    counts[TRANSITIONS] += 1
                elif event.name in (SpanEventName.CALL, SpanEventName.REJECTION):
                    counts[ASKED] += 1
                    counts[str(facts.get(Attribute.OUTCOME.value))] += 1


class CountingExporter(SpanExporter):
    """Counts what another exporter sends. Called by the one thread of a processor."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self.sent = self.failed = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Export, and count by what the exporter says."""
        result = self._exporter.export(spans)
        if result is SpanExportResult.SUCCESS:
            self.sent += len(spans)
        else:
            self.failed += len(spans)
        return result

    def shutdown(self) -> None:
        """End the other exporter."""
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = FLUSH_MILLISECONDS) -> bool:
        """Flush the other exporter."""
        return self._exporter.force_flush(timeout_millis)


@dataclass(frozen=True, slots=True)
class Tracing:
    """What the block of `tracing` works with. `export` is None where no collector is named."""

    tracer: Tracer
    provider: TracerProvider
    counted: SpanEvents
    export: CountingExporter | None

    def flush(self) -> None:
        """Send what still waits. Returns when it has been sent, or has failed."""
        self.provider.force_flush(FLUSH_MILLISECONDS)


@contextmanager
def tracing(*, endless: bool) -> Generator[Tracing, None, None]:
    """A tracer of our own inside the block: no sampling, no limits, whatever the environment says.

    Raises DemoError.
    """
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        raise DemoError("OTEL_SDK_DISABLED=true: the demo compares its spans, so unset it")
    exporter = _exporter()
    provider = TracerProvider(
        sampler=ALWAYS_ON,
        resource=Resource.create({"service.name": SERVICE_NAME}),
        span_limits=SpanLimits(max_events=EVENTS_OF_A_SPAN),
        shutdown_on_exit=False,
    )
    counted = SpanEvents()
    provider.add_span_processor(counted)
    if exporter is not None:
        batches = BatchSpanProcessor(
            exporter,
            max_queue_size=ENDLESS_SPAN_QUEUE if endless else SPAN_QUEUE,
            schedule_delay_millis=1000,
            max_export_batch_size=512,
        )
        provider.add_span_processor(batches)
    try:
        yield Tracing(provider.get_tracer("breakerscope.demo"), provider, counted, exporter)
    finally:
        provider.shutdown()


def _exporter() -> CountingExporter | None:
    """For the collector that the environment names. The exporter reads all else from there."""
    endpoint = _first_set(ENDPOINTS)
    if endpoint is None:
        return None
    # Without a word about the protocol, the usual port of gRPC is one.
    protocol = _first_set(PROTOCOLS) or (GRPC if endpoint.rstrip("/").endswith(GRPC_PORT) else HTTP)
    try:
        if protocol == GRPC:
            from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import (
                OTLPSpanExporter as GrpcExporter,
            )

            return CountingExporter(GrpcExporter())
        if protocol == HTTP:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import (
                OTLPSpanExporter as HttpExporter,
            )

            return CountingExporter(HttpExporter())
    except ImportError as error:
        raise missing("opentelemetry-exporter-otlp") from error
    raise DemoError(f"{PROTOCOLS[1]}={protocol}: allowed are {GRPC} and {HTTP}")


def _first_set(names: Sequence[str]) -> str | None:
    return next((value for name in names if (value := os.environ.get(name, "").strip())), None)
