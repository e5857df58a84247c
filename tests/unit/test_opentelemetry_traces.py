"""Span events by policy, log-based events, links and spans of our own, with the real SDK."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import opentelemetry._logs
import pytest
from opentelemetry import trace
from opentelemetry._logs import SeverityNumber
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.trace import ReadableSpan, Span, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON
from opentelemetry.trace import SpanKind, Status, StatusCode, Tracer
from prometheus_client import CollectorRegistry

import breakerscope as bs
from breakerscope.event_bus import default_bus
from breakerscope.telemetry import links
from tests.unit.support import Boom, fail, fail_times, refused, succeed

pytestmark = pytest.mark.usefixtures("fresh_breakers")
NAME = "payment_api"


class Spans:
    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider(sampler=ALWAYS_ON)
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracer: Tracer = self.provider.get_tracer("test")

    def named(self, name: str) -> ReadableSpan:
        (span,) = (span for span in self._exporter.get_finished_spans() if span.name == name)
        return span


@pytest.fixture
def spans() -> Iterator[Spans]:
    spans = Spans()
    yield spans
    spans.provider.shutdown()


@pytest.fixture
def global_spans(spans: Spans, monkeypatch: pytest.MonkeyPatch) -> Spans:
    """The same spans through the provider of the process, which can be set but once."""
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", spans.provider)
    return spans


@pytest.fixture
def log_events(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemoryLogRecordExporter]:
    exporter = InMemoryLogRecordExporter()  # type: ignore[no-untyped-call]
    provider = LoggerProvider()
    provider.add_log_record_processor(SimpleLogRecordProcessor(exporter))
    monkeypatch.setattr(opentelemetry._logs._internal, "_LOGGER_PROVIDER", provider)
    yield exporter
    provider.shutdown()


def set_up(**options: object) -> bs.Telemetry:
    return bs.setup_telemetry(registry=CollectorRegistry(), **options)  # type: ignore[arg-type]


def breaker() -> bs.CircuitBreaker:
    return bs.instrumented_breaker(NAME, consecutive_failures=2, open_for=60.0)


def story() -> None:
    """One success, two failures that open, two refusals."""
    payments = breaker()
    payments.call(succeed)
    fail_times(payments, 2)
    refused(payments)
    refused(payments)


TOLD = [
    "circuit_breaker.call",
    "circuit_breaker.call",
    "circuit_breaker.call",
    "circuit_breaker.state_change",
    "circuit_breaker.rejection",
    "circuit_breaker.rejection",
]


# -- policies -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "told"),
    [("all", TOLD), (True, TOLD), ("non_success", TOLD[1:]), ("off", []), (False, [])],
)
def test_what_a_policy_tells(spans: Spans, policy: bs.SpanPolicy, told: list[str]) -> None:
    with set_up(traces=policy), spans.tracer.start_as_current_span("request"):
        story()
    assert [event.name for event in spans.named("request").events] == told


@pytest.mark.parametrize("before", [StatusCode.UNSET, StatusCode.OK])
def test_the_status_of_a_span_that_is_not_ours_stays(spans: Spans, before: StatusCode) -> None:
    with set_up(), spans.tracer.start_as_current_span("request") as span:
        if before is StatusCode.OK:
            span.set_status(Status(before))
        story()
    assert spans.named("request").status.status_code is before
    assert spans.named("request").attributes == {}


# -- log-based events -----------------------------------------------------------------------------


def test_log_based_events_in_place_of_span_events(
    spans: Spans, log_events: InMemoryLogRecordExporter
) -> None:
    with set_up(events="log"), spans.tracer.start_as_current_span("request") as span:
        story()
    assert not spans.named("request").events
    records = [data.log_record for data in log_events.get_finished_logs()]
    assert [(record.event_name, record.severity_number) for record in records] == [
        ("circuit_breaker.call", SeverityNumber.DEBUG),
        ("circuit_breaker.call", SeverityNumber.INFO),
        ("circuit_breaker.call", SeverityNumber.INFO),
        ("circuit_breaker.state_change", SeverityNumber.WARN),
        ("circuit_breaker.rejection", SeverityNumber.WARN),
        ("circuit_breaker.rejection", SeverityNumber.WARN),
    ]
    assert dict(records[3].attributes or {}) == {
        "circuit_breaker.name": NAME,
        "circuit_breaker.seq": 4,
        "circuit_breaker.state": "open",
        "circuit_breaker.previous_state": "closed",
        "circuit_breaker.cause": "consecutive_failures",
        "circuit_breaker.open_for": 60.0,
    }
    assert {record.span_id for record in records} == {span.get_span_context().span_id}


def test_both_routes_tell_the_same(spans: Spans, log_events: InMemoryLogRecordExporter) -> None:
    with set_up(events="both"), spans.tracer.start_as_current_span("request"):
        story()
    on_span = [(e.name, dict(e.attributes or {})) for e in spans.named("request").events]
    in_log = [
        (data.log_record.event_name, dict(data.log_record.attributes or {}))
        for data in log_events.get_finished_logs()
    ]
    assert [name for name, _ in on_span] == TOLD
    assert on_span == in_log


def test_log_based_events_need_no_span_and_follow_the_policy(
    log_events: InMemoryLogRecordExporter,
) -> None:
    with set_up(events="log", traces="non_success"):
        story()
    names = [data.log_record.event_name for data in log_events.get_finished_logs()]
    assert names == TOLD[1:]


@pytest.mark.usefixtures("log_events")
def test_an_old_logs_api_is_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    class OldLogger:
        def emit(self, record: object) -> None: ...

    monkeypatch.setattr(opentelemetry._logs, "Logger", OldLogger)
    with pytest.raises(bs.MissingExtraError, match=r"pip install 'opentelemetry-api>=1\.38'"):
        set_up(events="both")
    set_up().close()


def test_an_unknown_route_is_refused() -> None:
    with pytest.raises(bs.TelemetryError, match="events='trace': allowed are span, log, both"):
        set_up(events="trace")


# -- links ----------------------------------------------------------------------------------------


def links_of(span: ReadableSpan) -> list[tuple[int, dict[str, object]]]:
    return [(link.context.span_id, dict(link.attributes or {})) for link in span.links]


@pytest.mark.parametrize("events", ["span", "log"])
def test_a_refusal_links_once_to_the_trace_that_opened(spans: Spans, events: str) -> None:
    with set_up(events=events):
        payments = breaker()
        with spans.tracer.start_as_current_span("opener") as opener:
            fail_times(payments, 2)
            refused(payments)
        with spans.tracer.start_as_current_span("victim"):
            for _ in range(3):
                refused(payments)
        with spans.tracer.start_as_current_span("bystander"):
            payments.reset("by hand")
            payments.call(succeed)
    why = {"circuit_breaker.name": NAME, "circuit_breaker.cause": "consecutive_failures"}
    assert links_of(spans.named("victim")) == [(opener.get_span_context().span_id, why)]
    assert links_of(spans.named("opener")) == []
    assert links_of(spans.named("bystander")) == []


def test_a_long_span_links_to_each_opening_once(spans: Spans) -> None:
    openers: list[int] = []
    context = trace.set_span_in_context(trace.INVALID_SPAN)
    with set_up(), spans.tracer.start_as_current_span("worker"):
        payments = breaker()
        for number in range(2):
            with spans.tracer.start_as_current_span(f"opener {number}", context) as opener:
                payments.force_open("by hand")
                openers.append(opener.get_span_context().span_id)
            refused(payments)
            refused(payments)
            payments.reset("by hand")
    assert [span_id for span_id, _ in links_of(spans.named("worker"))] == openers


def test_no_link_to_a_trace_that_is_not_kept_or_to_an_older_opening(spans: Spans) -> None:
    dark = TracerProvider(sampler=ALWAYS_OFF).get_tracer("test")
    with set_up():
        payments = breaker()
        with spans.tracer.start_as_current_span("opener"):
            payments.force_open("by hand")
        payments.reset("by hand")
        with dark.start_as_current_span("unsampled"):
            payments.force_open("by hand")
        with spans.tracer.start_as_current_span("first victim"):
            refused(payments)
        payments.reset("by hand")
        payments.force_open("by hand")
        with spans.tracer.start_as_current_span("second victim"):
            refused(payments)
    assert links_of(spans.named("first victim")) == []
    assert links_of(spans.named("second victim")) == []


def test_the_memory_of_openers_is_bounded(spans: Spans, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links, "MAX_OPENERS", 2)
    with set_up():
        many = [bs.instrumented_breaker(f"api {n}") for n in range(3)]
        with spans.tracer.start_as_current_span("opener"):
            for one in many:
                one.force_open("by hand")
        with spans.tracer.start_as_current_span("victim"):
            for one in many:
                refused(one)
    linked = [of["circuit_breaker.name"] for _, of in links_of(spans.named("victim"))]
    assert linked == ["api 1", "api 2"]


# -- what is broken ------------------------------------------------------------------------------


def test_broken_spans_and_processors_never_reach_the_call(
    spans: Spans, log_events: InMemoryLogRecordExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object, **kwargs: object) -> None:
        raise OSError("of the SDK")

    monkeypatch.setattr(log_events, "export", broken)
    monkeypatch.setattr(Span, "add_event", broken)
    monkeypatch.setattr(Span, "add_link", broken)
    before = default_bus.errors().get("opentelemetry", 0)
    with set_up(events="both"):
        payments = breaker()
        with spans.tracer.start_as_current_span("opener"):
            assert payments.call(succeed) == "fine"
            payments.force_open("by hand")
        with spans.tracer.start_as_current_span("victim"):
            refused(payments)
    assert default_bus.errors()["opentelemetry"] == before + 3


# -- spans of our own -----------------------------------------------------------------------------


def test_an_internal_span_has_the_events_of_its_call(global_spans: Spans) -> None:
    with set_up():
        payments = breaker()

        @bs.internal_span(payments)
        @payments
        def charge(amount: float) -> float:
            return amount

        with global_spans.tracer.start_as_current_span("request") as request:
            assert charge(2.5) == 2.5
    span = global_spans.named(f"circuit_breaker {NAME}")
    assert span.kind is SpanKind.INTERNAL
    assert span.parent == request.get_span_context()
    assert span.attributes == {"circuit_breaker.name": NAME}
    assert span.status.status_code is StatusCode.UNSET
    assert [event.name for event in span.events] == ["circuit_breaker.call"]
    assert not global_spans.named("request").events


def test_an_internal_span_tells_a_failure_without_its_message(global_spans: Spans) -> None:
    with set_up():
        payments = breaker()

        @bs.internal_span(payments)
        @payments
        async def charge() -> None:
            raise Boom("s3cret")

        with pytest.raises(Boom):
            asyncio.run(charge())
    span = global_spans.named(f"circuit_breaker {NAME}")
    assert span.status.status_code is StatusCode.ERROR
    assert span.attributes == {
        "circuit_breaker.name": NAME,
        "error.type": "tests.unit.support.Boom",
    }
    assert "s3cret" not in span.to_json()


def test_an_internal_span_covers_a_refused_call(global_spans: Spans) -> None:
    with set_up():
        payments = breaker()
        payments.force_open("by hand")
        with pytest.raises(bs.CircuitBreakerOpenError):
            bs.internal_span(payments)(payments(succeed))()
    span = global_spans.named(f"circuit_breaker {NAME}")
    assert span.attributes == {
        "circuit_breaker.name": NAME,
        "circuit_breaker.outcome": "rejected",
        "error.type": "breakerscope.CircuitBreakerOpenError",
    }
    assert [event.name for event in span.events] == ["circuit_breaker.rejection"]


def test_a_cancelled_call_is_no_error(global_spans: Spans) -> None:
    async def cancelled() -> None:
        @bs.internal_span(payments)
        @payments
        async def wait() -> None:
            await asyncio.Event().wait()

        task = asyncio.create_task(wait())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with set_up():
        payments = breaker()
        asyncio.run(cancelled())
    span = global_spans.named(f"circuit_breaker {NAME}")
    assert span.status.status_code is StatusCode.UNSET
    assert [dict(e.attributes or {})["circuit_breaker.outcome"] for e in span.events] == [
        "cancelled"
    ]


def test_a_generator_gets_no_internal_span() -> None:
    def numbers() -> Iterator[int]:
        yield 1

    with pytest.raises(TypeError, match="generator"):
        bs.internal_span(breaker())(numbers)


def test_a_failure_outside_of_telemetry_is_raised_as_it_is(global_spans: Spans) -> None:
    error = StopIteration(7)

    def stop() -> None:
        raise error

    with set_up(), pytest.raises(StopIteration) as caught:
        bs.internal_span(breaker())(stop)()
    assert caught.value is error
    with pytest.raises(Boom):
        bs.internal_span(breaker())(fail)()
