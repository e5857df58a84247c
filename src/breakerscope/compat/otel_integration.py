"""The guide's tracer, as a thin layer over OpenTelemetry: the spans are real ones."""

from __future__ import annotations

import os
import threading
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from weakref import WeakSet

from opentelemetry import trace
from opentelemetry.trace import Span, Status, StatusCode
from opentelemetry.util.types import AttributeValue

from breakerscope.compat._replaced import replaced
from breakerscope.event_bus import default_bus
from breakerscope.names import encodable
from breakerscope.telemetry.errors import MissingExtraError

__all__ = ["EventType", "OTelTracer", "SpanStatus", "get_otel_tracer", "setup_otel_tracer"]

ERROR_TYPE, ERROR_MESSAGE = "error.type", "error.message"
UNKNOWN_ERROR = "UnknownError"
ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
DEFAULT_SERVICE = "default"


class SpanStatus(StrEnum):
    """How a span ended."""

    UNSET = "unset"
    OK = "ok"
    ERROR = "error"


class EventType(StrEnum):
    """The names of the guide's events."""

    CIRCUIT_BREAKER_STATE_CHANGE = "circuit_breaker.state_change"
    CIRCUIT_BREAKER_CALL = "circuit_breaker.call"
    CIRCUIT_BREAKER_ERROR = "circuit_breaker.error"
    LOG_ENTRY = "log.entry"
    ERROR = "error"


Attributes = Mapping[str, AttributeValue]


class OTelTracer:
    """Makes spans by OpenTelemetry's global tracer provider. Thread-safe and task-safe."""

    def __init__(self, service_name: str) -> None:
        replaced("OTelTracer")
        self._begin(service_name)

    @classmethod
    def _quietly(cls, service_name: str) -> OTelTracer:
        made = cls.__new__(cls)
        made._begin(service_name)
        return made

    def _begin(self, service_name: str) -> None:
        if not isinstance(service_name, str) or not service_name:
            raise ValueError(f"service_name={service_name!r}: allowed is text that is not empty")
        self.service_name = service_name
        self._tracer = trace.get_tracer(service_name)
        # Those whose error was told already, so that it is told once.
        self._failed: WeakSet[Span] = WeakSet()

    def start_span(
        self,
        name: str,
        attributes: Attributes | None = None,
        parent_span_id: Span | None = None,
    ) -> Span:
        """A span to be ended with `end_span`. Its parent is the given span, or the current one."""
        context = None if parent_span_id is None else trace.set_span_in_context(parent_span_id)
        return self._tracer.start_span(encodable(name), context, attributes=attributes)

    def end_span(self, span: Span, status: SpanStatus = SpanStatus.OK) -> None:
        """End a span. An error that was recorded is not overwritten."""
        if status is SpanStatus.ERROR:
            span.set_status(Status(StatusCode.ERROR))
        elif status is SpanStatus.OK and span not in self._failed:
            span.set_status(Status(StatusCode.OK))
        span.end()

    @contextmanager
    def span_context(self, name: str, attributes: Attributes | None = None) -> Generator[Span]:
        """The block is a span, which is the current one inside. What the block raises is recorded
        as an error, unless `record_error` was called for this span already.
        """
        with self._tracer.start_as_current_span(
            encodable(name),
            attributes=attributes,
            record_exception=False,
            set_status_on_exception=False,
            end_on_exit=False,
        ) as span:
            try:
                yield span
            except Exception as error:
                if span not in self._failed:
                    self.record_error(span, str(error), type(error).__name__)
                self.end_span(span, SpanStatus.ERROR)
                raise
            except BaseException:
                self.end_span(span, SpanStatus.UNSET)
                raise
            self.end_span(span)

    def record_event(
        self, span: Span, event_type: EventType | str, attributes: Attributes | None = None
    ) -> None:
        """Add an event to a span."""
        name = event_type.value if isinstance(event_type, EventType) else event_type
        span.add_event(encodable(name), attributes)

    def record_error(
        self,
        span: Span,
        error_message: str,
        error_type: str | None = None,
        attributes: Attributes | None = None,
    ) -> None:
        """Add an event "error" to a span, and mark the span as failed. The message goes along, so
        it should hold no secret.
        """
        self._failed.add(span)
        kind = encodable(error_type or UNKNOWN_ERROR)
        own = {ERROR_TYPE: kind, ERROR_MESSAGE: encodable(error_message)}
        span.add_event(EventType.ERROR.value, {**own, **(attributes or {})})
        span.set_status(Status(StatusCode.ERROR, kind))

    def set_span_attribute(self, span: Span, key: str, value: AttributeValue) -> None:
        """Set one attribute of a span."""
        span.set_attribute(key, value)

    def get_active_span(self) -> Span | None:
        """The current span, or None."""
        span = trace.get_current_span()
        return span if span.get_span_context().is_valid else None


_lock = threading.RLock()
_tracer: OTelTracer | None = None


def get_otel_tracer() -> OTelTracer:
    """The tracer of the process: that of `setup_otel_tracer`, or else one named "default"."""
    global _tracer  # noqa: PLW0603 - one tracer a process, as in the old module
    replaced("get_otel_tracer")
    with _lock:
        if _tracer is None:
            _tracer = OTelTracer._quietly(DEFAULT_SERVICE)
        return _tracer


def setup_otel_tracer(service_name: str) -> OTelTracer:
    """The tracer of the process from now on.

    Where the application has set no tracer provider, one of the SDK is set, with this name as
    `service.name`; it exports by OTLP if `OTEL_EXPORTER_OTLP_ENDPOINT` says where to. Raises
    MissingExtraError without the SDK, ValueError for an empty name.
    """
    global _tracer  # noqa: PLW0603 - one tracer a process, as in the old module
    replaced("setup_otel_tracer")
    made = OTelTracer._quietly(service_name)
    with _lock:
        if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
            _set_provider(service_name)
        _tracer = made
    return made


def _set_provider(service_name: str) -> None:
    try:
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider

        from breakerscope.telemetry.otlp import set_up
    except ImportError as error:
        raise MissingExtraError(
            "setup_otel_tracer()", str(error.name), "'breakerscope[otlp]'"
        ) from error
    if any(os.environ.get(each) for each in ENDPOINTS):
        # As the SDK reads it. What the environment says already goes before.
        os.environ.setdefault("OTEL_SERVICE_NAME", service_name)
        set_up(default_bus, log_events=False, otel_metrics=False)
    else:
        resource = Resource.create({SERVICE_NAME: service_name})
        trace.set_tracer_provider(TracerProvider(resource=resource))
