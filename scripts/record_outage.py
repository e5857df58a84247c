"""Goes through one real outage and writes what each signal showed into docs/telemetry.md.

Run by `make docs-outage`. The dependency is an HTTP server on loopback that is really stopped and
started again; the metrics come out of a real Prometheus; the lines are those of the log file.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import StringIO
from pathlib import Path
from typing import Any

import structlog
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry, start_http_server

import breakerscope as bs

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from tests.servers.process import free_port  # noqa: E402
from tests.servers.prometheus import Prometheus  # noqa: E402

PAGE = ROOT / "docs" / "telemetry.md"
NAME = "payment_api"
WELL, DOWN, AFTER = 5.0, 12.0, 8.0
PAUSE = 0.1

QUERIES = {
    "In which state is it?": f'circuit_breaker_state{{breaker="{NAME}"}} == 1',
    "How did the calls end?": "sum by (outcome) (circuit_breaker_calls_total) > 0",
    "Why did the state change, and how often?": (
        "sum by (from_state, to_state, cause) (circuit_breaker_transitions_total) > 0"
    ),
    "How long was it open, in seconds?": (
        'circuit_breaker_state_seconds_total{state=~"open|half_open"}'
    ),
    "What share of the last 15 seconds' calls was refused?": (
        'sum(rate(circuit_breaker_calls_total{outcome="rejected"}[15s]))'
        " / sum(rate(circuit_breaker_calls_total[15s]))"
    ),
}


class _Payments(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"paid")

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@contextmanager
def dependency(port: int) -> Iterator[None]:
    """The server that the breaker protects a client against."""
    server = ThreadingHTTPServer(("127.0.0.1", port), _Payments)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def outage(folder: Path) -> dict[str, str]:
    """What each signal showed, as text."""
    lines, exporter, registry = StringIO(), InMemorySpanExporter(), CollectorRegistry()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.WriteLoggerFactory(lines),
    )
    port, metrics_port = free_port(), free_port()
    server, thread = start_http_server(metrics_port, addr="127.0.0.1", registry=registry)
    with (
        bs.setup_telemetry(registry=registry),
        Prometheus({"shop": [f"127.0.0.1:{metrics_port}"]}, folder) as prometheus,
    ):
        payments = bs.instrumented_breaker(NAME, consecutive_failures=3, open_for=5.0)

        @payments
        def charge() -> bytes:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=1) as reply:
                return bytes(reply.read())

        def calls(seconds: float) -> None:
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                structlog.contextvars.bind_contextvars(order=int(time.monotonic() * 1000) % 100_000)
                span = provider.get_tracer("shop").start_as_current_span("checkout")
                with span, suppress(bs.CircuitBreakerOpenError, OSError):
                    charge()
                time.sleep(PAUSE)

        with dependency(port):
            calls(WELL)
        calls(DOWN)
        shown = {"while": asked(prometheus)}
        with dependency(port):
            calls(AFTER)
        time.sleep(2)
        shown["after"] = asked(prometheus)
    server.shutdown()
    thread.join()
    structlog.reset_defaults()
    spans = exporter.get_finished_spans()
    return {**shown, "log": lines.getvalue().rstrip(), "trace": traces(spans)}


def asked(prometheus: Prometheus) -> str:
    """The queries and their answers."""
    parts: list[str] = []
    for question, query in QUERIES.items():
        rows = []
        for labels, value in sorted(prometheus.query(query).items()):
            told = [f"{k}={v}" for k, v in labels if k in SHOWN]
            rows.append(f"{' '.join(told) or 'all':<60}{value:>8.4g}")
        parts.append(f"# {question}\n{query}\n" + "\n".join(f"    {row}" for row in rows))
    return "\n\n".join(parts)


SHOWN = ("breaker", "outcome", "state", "from_state", "to_state", "cause")


def traces(spans: tuple[ReadableSpan, ...]) -> str:
    """The span of the call that opened the breaker, and the next refused one that links to it."""
    opener = next(s for s in spans if any(_opens(e) for e in s.events))
    refused = next(s for s in spans if s.links)
    return "\n\n".join(map(_span, (opener, refused)))


def _opens(event: Any) -> bool:
    return dict(event.attributes or {}).get("circuit_breaker.cause") == "consecutive_failures"


def _span(span: ReadableSpan) -> str:
    lines = [f"span {span.name}   trace {trace.format_trace_id(span.context.trace_id)}"]
    for link in span.links:
        lines.append(f"  link to trace {trace.format_trace_id(link.context.trace_id)}")
        lines += [f"    {key} = {value!s}" for key, value in (link.attributes or {}).items()]
    for event in span.events:
        lines.append(f"  event {event.name}")
        lines += [f"    {key} = {value!s}" for key, value in (event.attributes or {}).items()]
    return "\n".join(lines)


def written(text: str, shown: dict[str, str]) -> str:
    """The page with what was shown between its markers."""
    fences = {"log": "json", "trace": "text", "while": "text", "after": "text"}
    for name, found in shown.items():
        block = f"```{fences[name]}\n{found}\n```"
        text = re.sub(
            rf"(<!-- recorded: {name} -->\n).*?(\n<!-- end -->)",
            lambda marks, block=block: marks[1] + block + marks[2],  # type: ignore[misc]
            text,
            flags=re.DOTALL,
        )
    return text


def main() -> None:
    """Writes the page."""
    with tempfile.TemporaryDirectory() as folder:
        shown = outage(Path(folder))
    json.loads(shown["log"].splitlines()[0])
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8"), shown), encoding="utf-8")


if __name__ == "__main__":
    main()
