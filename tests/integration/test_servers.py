"""The servers that other tests rely on do what those tests believe."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import Link, StatusCode
from prometheus_client import CollectorRegistry, Gauge, start_http_server

from tests.servers.otlp import OtlpReceiver, SpanEvent
from tests.servers.process import (
    ServerEndedError,
    ServerProcess,
    free_port,
    require,
    start,
    wait_until,
)
from tests.servers.prometheus import Prometheus


@pytest.mark.server
def test_prometheus_scrapes(prometheus: Callable[[dict[str, list[str]]], Prometheus]) -> None:
    registry = CollectorRegistry()
    Gauge("answer", "a number", registry=registry).set(42)
    server, thread = start_http_server(0, addr="127.0.0.1", registry=registry)
    try:
        target = f"127.0.0.1:{server.server_port}"
        scraper = prometheus({"job_a": [target]})
        other = prometheus({"job_b": [target]})
        found = wait_until(lambda: scraper.query("answer"), "the first scrape")
        wait_until(lambda: other.query("answer"), "the first scrape of the other one")
        now = time.time()
        ranges = scraper.query_range("answer", now - 5, now + 1)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    series = (("__name__", "answer"), ("instance", target), ("job", "job_a"))
    assert found == {series: 42.0}
    assert ranges.keys() == {series}
    assert {value for _, value in ranges[series]} == {42.0}


@pytest.mark.server
@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_receiver_loses_nothing(otlp_receiver: OtlpReceiver, protocol: str) -> None:
    exporter: SpanExporter
    if protocol == "grpc":
        exporter = GrpcExporter(endpoint=otlp_receiver.grpc_url, insecure=True)
    else:
        exporter = HttpExporter(endpoint=f"{otlp_receiver.http_url}/v1/traces")
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(exporter))
    tracer = provider.get_tracer("test")
    for number in range(300):
        with tracer.start_as_current_span(f"span {number}") as span:
            for part in range(3):
                span.add_event("an event", {"part": part, "of": 'a "b" -> c'})
    provider.shutdown()

    spans = otlp_receiver.wait_for_spans(300)
    assert sorted(span.name for span in spans) == sorted(f"span {n}" for n in range(300))
    told = [SpanEvent("an event", {"part": str(part), "of": 'a "b" -> c'}) for part in range(3)]
    assert all(span.events == told for span in spans)


@pytest.mark.server
def test_receiver_tells_a_span_as_it_was(otlp_receiver: OtlpReceiver) -> None:
    provider = TracerProvider()
    exporter = GrpcExporter(endpoint=otlp_receiver.grpc_url, insecure=True)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    tracer = provider.get_tracer("test")
    tricky = "a line (\nSpan #7\n    Name           : no span\n)\u2028end"
    with tracer.start_as_current_span("outer", attributes={"n": 1, "a key": tricky}) as outer:
        link = Link(outer.get_span_context(), {"of": "the link"})
        with tracer.start_as_current_span("inner", links=[link], attributes={"ok": True}) as inner:
            inner.set_status(StatusCode.OK)
            inner.add_event("bare")
            inner.record_exception(ValueError("bad (thing)\nsecond line"))
    provider.shutdown()

    inner_seen, outer_seen = otlp_receiver.wait_for_spans(2)
    ids = outer.get_span_context()
    assert (outer_seen.name, outer_seen.status) == ("outer", "UNSET")
    assert (outer_seen.trace_id, outer_seen.span_id) == (
        f"{ids.trace_id:032x}",
        f"{ids.span_id:016x}",
    )
    assert outer_seen.attributes == {"n": "1", "a key": tricky}
    assert (inner_seen.name, inner_seen.status) == ("inner", "OK")
    assert inner_seen.parent_id == outer_seen.span_id
    assert inner_seen.attributes == {"ok": "true"}
    assert [event.name for event in inner_seen.events] == ["bare", "exception"]
    told = inner_seen.events[1].attributes
    assert told["exception.message"] == "bad (thing)\nsecond line"
    assert told["exception.escaped"] == "False"


def test_a_server_that_lost_its_port_begins_again(tmp_path: Path) -> None:
    script = (
        "import socket, sys; s = socket.create_server(('127.0.0.1', int(sys.argv[1]))); s.accept()"
    )
    with socket.create_server(("127.0.0.1", 0)) as thief:
        ports = [thief.getsockname()[1], free_port()]

        def begin() -> ServerProcess:
            command = [sys.executable, "-c", script, str(ports.pop(0))]
            return ServerProcess(command, tmp_path, is_ready=lambda: not ports).__enter__()

        start(begin).__exit__()
    with pytest.raises(ServerEndedError, match="three"):
        start(lambda: _ends("three", tmp_path).__enter__())


@pytest.mark.server
def test_a_prometheus_on_a_taken_port_is_not_mistaken_for_ours(
    prometheus: Callable[[dict[str, list[str]]], Prometheus], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = prometheus({"first": []})
    ports = [int(first.address.rpartition(":")[2])]
    monkeypatch.setattr(
        "tests.servers.prometheus.free_port", lambda: ports.pop() if ports else free_port()
    )
    second = prometheus({"second": []})
    assert not ports
    assert second.address != first.address
    assert "second" in second.get("status/config")["yaml"]


def _ends(last_words: str, folder: Path) -> ServerProcess:
    return ServerProcess([sys.executable, "-c", f"print('{last_words}')"], folder, lambda: False)


def test_a_missing_server_skips_but_fails_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="missing: no_such_server"):
        require(None, "no_such_server")
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="missing: no_such_server"):
        require(None, "no_such_server")
