"""The servers that other tests rely on do what those tests believe."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from prometheus_client import CollectorRegistry, Gauge, start_http_server

from tests.servers.otlp import OtlpReceiver, SpanEvent
from tests.servers.process import wait_until
from tests.servers.prometheus import Prometheus

pytestmark = pytest.mark.server


def test_prometheus_scrapes(prometheus: Callable[[dict[str, list[str]]], Prometheus]) -> None:
    registry = CollectorRegistry()
    Gauge("answer", "a number", registry=registry).set(42)
    server, thread = start_http_server(0, addr="127.0.0.1", registry=registry)
    try:
        target = f"127.0.0.1:{server.server_port}"
        scraper = prometheus({"job_a": [target]})
        found = wait_until(lambda: scraper.query("answer"), "the first scrape")
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert found == {(("__name__", "answer"), ("instance", target), ("job", "job_a")): 42.0}


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

    wait_until(lambda: len(otlp_receiver.spans()) >= 300, "all spans")
    spans = otlp_receiver.spans()
    assert sorted(span.name for span in spans) == sorted(f"span {n}" for n in range(300))
    told = [SpanEvent("an event", {"part": str(part), "of": 'a "b" -> c'}) for part in range(3)]
    assert all(span.events == told for span in spans)
