"""Two demos under a real Prometheus and real OTLP receivers: all count what their tables say.

A minute of load, once over gRPC and once over HTTP, side by side. For each demo five counts of
every call have to be equal to the unit: the callers', the events' and the last scrape's (the demo
compares these), and the series in Prometheus, the received spans and the lines of the log file.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.servers.otlp import OtlpReceiver
from tests.servers.process import free_port, wait_until
from tests.servers.prometheus import Prometheus

pytestmark = pytest.mark.server

OUTCOMES = ["success", "failure", "ignored", "cancelled", "rejected"]
SECONDS = 60
OF_LINE = {
    "circuit_breaker.call_succeeded": "success",
    "circuit_breaker.call_failed": "failure",
    "circuit_breaker.call_ignored": "ignored",
    "circuit_breaker.call_cancelled": "cancelled",
    "circuit_breaker.call_rejected": "rejected",
}
Counts = Counter[tuple[str, str]]


@dataclass
class Demo:
    """A demo that runs, and where its telemetry goes."""

    process: subprocess.Popen[str]
    port: int
    receiver: OtlpReceiver
    log: Path


@contextmanager
def demo(receiver: OtlpReceiver, protocol: str, folder: Path) -> Iterator[Demo]:
    port, log = free_port(), folder / "log.jsonl"
    otlp_url = receiver.grpc_url if protocol == "grpc" else receiver.http_url
    environment = {key: value for key, value in os.environ.items() if not key.startswith("OTEL_")}
    environment["OTEL_EXPORTER_OTLP_ENDPOINT"] = otlp_url
    environment["OTEL_EXPORTER_OTLP_PROTOCOL"] = protocol
    arguments = [
        "--headless",
        f"--duration={SECONDS}",
        "--hold=60",
        "--seed=4",
        f"--metrics-port={port}",
        f"--log-file={log}",
    ]
    with subprocess.Popen(
        [sys.executable, "-m", "breakerscope", "demo", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        try:
            yield Demo(process, port, receiver, log)
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


def written(log: Path) -> Counts:
    """The calls by the lines of the log file: a line about rejections says how many there were."""
    counts: Counts = Counter()
    for line in log.read_text(encoding="utf-8").splitlines():
        keys = json.loads(line)
        if outcome := OF_LINE.get(keys["event"]):
            counts[keys["breaker"], outcome] += keys.get("rejections", 1)
    return counts


def received(receiver: OtlpReceiver) -> Counts:
    """The calls by the events on the spans."""
    return Counter(
        (event.attributes["circuit_breaker.name"], event.attributes["circuit_breaker.outcome"])
        for span in receiver.spans()
        for event in span.events
        if "circuit_breaker.outcome" in event.attributes
    )


def scraped(scraper: Prometheus, instance: str) -> Counts:
    """The calls by the series of one demo."""
    series = scraper.query(f'circuit_breaker_calls_total{{instance="{instance}"}}')
    by_labels = [(dict(labels), value) for labels, value in series.items()]
    return Counter({(of["breaker"], of["outcome"]): int(v) for of, v in by_labels})


def test_servers_count_what_the_callers_counted(
    prometheus: Callable[[dict[str, list[str]]], Prometheus], tmp_path: Path
) -> None:
    started = time.time()
    with ExitStack() as stack:
        demos: list[Demo] = []
        for protocol in ("grpc", "http/protobuf"):
            folder = tmp_path / protocol.partition("/")[0]
            folder.mkdir()
            receiver = stack.enter_context(OtlpReceiver(folder))
            demos.append(stack.enter_context(demo(receiver, protocol, folder)))
        instances = [f"127.0.0.1:{running.port}" for running in demos]
        scraper = prometheus({"demo": instances})
        for running, instance in zip(demos, instances, strict=True):
            check(running, scraper, instance, started)


def check(running: Demo, scraper: Prometheus, instance: str, started: float) -> None:
    """All counts of one demo, after its end."""
    asked = read_table(running.process)
    assert sum(asked.values()) > 100 * SECONDS
    wait_until(lambda: scraped(scraper, instance) == asked, "the last scrape")
    wait_until(lambda: received(running.receiver) >= asked, "the last spans")
    assert received(running.receiver) == asked

    of = f'instance="{instance}"'
    histograms = scraper.query(
        f"sum by (breaker, outcome) (circuit_breaker_call_duration_seconds_count{{{of}}})"
    )
    assert {key: int(value) for key, value in histograms.items()} == {
        (("breaker", breaker), ("outcome", outcome)): count
        for (breaker, outcome), count in asked.items()
        if outcome != "rejected"
    }
    in_one_state = scraper.query(f"sum by (breaker) (circuit_breaker_state{{{of}}})")
    assert set(in_one_state.values()) == {1.0}

    exemplars = scraper.exemplars(
        f"circuit_breaker_call_duration_seconds_bucket{{{of}}}", started, time.time()
    )
    traces = {span.trace_id for span in running.receiver.spans()}
    assert exemplars
    assert {exemplar["labels"]["trace_id"] for exemplar in exemplars} <= traces

    # The last lines about rejections are written at the end.
    running.process.terminate()
    assert running.process.wait(20) == 0
    assert written(running.log) == asked
