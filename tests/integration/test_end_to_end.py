"""The demo under a real Prometheus and a real OTLP receiver: they count what its table says."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.servers.otlp import OtlpReceiver
from tests.servers.process import free_port, wait_until
from tests.servers.prometheus import Prometheus

pytestmark = pytest.mark.server

OUTCOMES = ["success", "failure", "ignored", "cancelled", "rejected"]
Counts = Counter[tuple[str, str]]


@contextmanager
def demo(port: int, otlp_url: str, protocol: str) -> Iterator[subprocess.Popen[str]]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("OTEL_")}
    environment["OTEL_EXPORTER_OTLP_ENDPOINT"] = otlp_url
    environment["OTEL_EXPORTER_OTLP_PROTOCOL"] = protocol
    arguments = ["--headless", "--duration=12", "--hold=60", "--seed=4", f"--metrics-port={port}"]
    with subprocess.Popen(
        [sys.executable, "-m", "breakerscope", "demo", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def read_table(process: subprocess.Popen[str]) -> Counts:
    """The counts of the callers in the table, as the demo prints it."""
    assert process.stdout is not None
    counts: Counts = Counter()
    breaker = ""
    for line in process.stdout:
        if line == "conservation: ok\n":
            return counts
        cells = line.split()
        if cells and not line.startswith(" "):
            breaker = cells[0]
        elif cells and cells[0] == "callers" and breaker != "total":
            for outcome, cell in zip(OUTCOMES, cells[2:7], strict=True):
                counts[breaker, outcome] = int(cell)
    assert process.stderr is not None
    raise AssertionError(f"no table: {process.stderr.read()}")


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_servers_count_what_the_callers_counted(
    prometheus: Callable[[dict[str, list[str]]], Prometheus],
    otlp_receiver: OtlpReceiver,
    protocol: str,
) -> None:
    port = free_port()
    scraper = prometheus({"demo": [f"127.0.0.1:{port}"]})
    started = time.time()
    url = otlp_receiver.grpc_url if protocol == "grpc" else otlp_receiver.http_url
    with demo(port, url, protocol) as process:
        asked = read_table(process)
        assert sum(asked.values()) > 1000

        def scraped() -> Counts:
            series = scraper.query("circuit_breaker_calls_total")
            by_labels = [(dict(labels), value) for labels, value in series.items()]
            return Counter({(of["breaker"], of["outcome"]): int(v) for of, v in by_labels})

        wait_until(lambda: scraped() == asked, "the last scrape")

        def received() -> Counts:
            return Counter(
                (
                    event.attributes["circuit_breaker.name"],
                    event.attributes["circuit_breaker.outcome"],
                )
                for span in otlp_receiver.spans()
                for event in span.events
                if "circuit_breaker.outcome" in event.attributes
            )

        wait_until(lambda: received() >= asked, "the last spans")
        assert received() == asked

        histograms = scraper.query(
            "sum by (breaker, outcome) (circuit_breaker_call_duration_seconds_count)"
        )
        assert {key: int(value) for key, value in histograms.items()} == {
            (("breaker", breaker), ("outcome", outcome)): count
            for (breaker, outcome), count in asked.items()
            if outcome != "rejected"
        }
        in_one_state = scraper.query("sum by (breaker) (circuit_breaker_state)")
        assert set(in_one_state.values()) == {1.0}

        exemplars = scraper.exemplars(
            "circuit_breaker_call_duration_seconds_bucket", started, time.time()
        )
        traces = {span.trace_id for span in otlp_receiver.spans()}
        assert exemplars
        assert {exemplar["labels"]["trace_id"] for exemplar in exemplars} <= traces
