"""What `setup_telemetry(otlp=True)` sends, as a real receiver got it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.servers.otlp import OtlpReceiver, Span
from tests.servers.process import wait_until

pytestmark = pytest.mark.server

PROTOCOLS = ["grpc", "http/protobuf"]
CALLS = 20
LONGEST_CALLS = 5.0
"""Seconds in which the calls are made, whatever happens to their telemetry."""


class Program:
    """See `tests/servers/otlp_program.py`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def call(self, times: int) -> int:
        """Make calls, and say how many events were dropped so far."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{times}\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def terminate(self) -> int:
        """End it by SIGTERM. Returns its exit code."""
        self._process.terminate()
        return self._process.wait(timeout=30)

    def close(self) -> None:
        """End it as a program ends; its telemetry is closed on the way."""
        _, errors = self._process.communicate(timeout=30)
        assert self._process.returncode == 0, errors
        assert "Traceback" not in errors


@contextmanager
def program(environment: dict[str, str], **options: object) -> Iterator[Program]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("OTEL_")}
    with subprocess.Popen(
        [sys.executable, "-m", "tests.servers.otlp_program", json.dumps(options)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=kept | environment,
        cwd=Path(__file__).parents[2],
    ) as process:
        try:
            yield Program(process)
        finally:
            process.kill()


def url(receiver: OtlpReceiver, protocol: str) -> str:
    return receiver.grpc_url if protocol == "grpc" else receiver.http_url


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_spans_metrics_and_log_based_events_arrive(tmp_path: Path, protocol: str) -> None:
    environment = {
        "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
        "OTEL_SERVICE_NAME": "shop",
        "OTEL_RESOURCE_ATTRIBUTES": "team=checkout",
    }
    receivers: dict[str, OtlpReceiver] = {}
    with ExitStack() as stack:
        for signal in ("traces", "metrics", "logs"):
            (folder := tmp_path / signal).mkdir()
            receivers[signal] = stack.enter_context(OtlpReceiver(folder, signal))
            # A variable of one signal is taken as it is, so over HTTP with the path.
            path = "" if protocol == "grpc" else f"/v1/{signal}"
            endpoint = url(receivers[signal], protocol) + path
            environment[f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT"] = endpoint
        running = stack.enter_context(program(environment, otel_metrics=True, events="both"))
        assert running.call(CALLS) == 0
        running.close()

        spans = receivers["traces"].wait_for_spans(CALLS)
        told = [(span.name, [event.name for event in span.events]) for span in spans]
        assert told == [("request", ["circuit_breaker.call"])] * CALLS

        def metrics() -> str | None:
            return found[-1] if (found := output_of("metrics").split("ResourceMetrics")) else None

        def output_of(signal: str) -> str:
            return receivers[signal].output()

        wait_until(lambda: "Buckets #2" in output_of("metrics"), "the metrics")
        wait_until(lambda: output_of("logs").count("EventName: ") >= CALLS, "the log records")
        for signal in receivers:
            assert "service.name: Str(shop)" in output_of(signal)
            assert "team: Str(checkout)" in output_of(signal)
        last = metrics()
        assert last is not None
        assert value_of(last, "circuit_breaker.calls", "Value") == CALLS
        assert value_of(last, "circuit_breaker.call_duration", "Count") == CALLS
        events = re.findall(r"^EventName: (.*)$", output_of("logs"), re.MULTILINE)
        assert events == ["circuit_breaker.call"] * CALLS


def value_of(output: str, metric: str, field: str) -> int:
    """The figure of the successful calls."""
    pattern = rf"Name: {re.escape(metric)}\n.*?outcome: Str\(success\).*?^{field}: (\d+)$"
    found = re.search(pattern, output, re.DOTALL | re.MULTILINE)
    assert found, output
    return int(found[1])


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_receiver_that_dies_and_comes_back(otlp_receiver: OtlpReceiver, protocol: str) -> None:
    """The calls go on; what arrived and what was dropped are together all events."""
    environment = {
        "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
        "OTEL_EXPORTER_OTLP_ENDPOINT": url(otlp_receiver, protocol),
        "OTEL_EXPORTER_OTLP_TIMEOUT": "1",
        "OTEL_BSP_SCHEDULE_DELAY": "100",
    }
    with program(environment) as running:
        assert running.call(CALLS) == 0
        before = len(otlp_receiver.wait_for_spans(CALLS))

        otlp_receiver.stop()
        started = time.monotonic()
        running.call(CALLS)
        assert time.monotonic() - started < LONGEST_CALLS
        wait_until(lambda: running.call(0) == CALLS, "all events of the outage are counted as lost")

        otlp_receiver.start_again()
        asked = 2 * CALLS

        def ask_again() -> list[Span]:
            # gRPC waits a while before it tries the address again, and may lose these as well.
            nonlocal asked
            asked += 1
            running.call(1)
            return otlp_receiver.spans()

        wait_until(ask_again, "the first span after the outage")
        lost = running.call(CALLS)
        asked += CALLS
        after = len(otlp_receiver.wait_for_spans(asked - before - lost))
        assert running.call(0) == lost
        running.close()
    assert before + after + lost == asked


@pytest.mark.skipif(os.name != "posix", reason="elsewhere the signal cannot be handled")
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_waits_is_sent_before_sigterm_ends_the_process(
    otlp_receiver: OtlpReceiver, protocol: str
) -> None:
    environment = {
        "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
        "OTEL_EXPORTER_OTLP_ENDPOINT": url(otlp_receiver, protocol),
        "OTEL_BSP_SCHEDULE_DELAY": "60000",
    }
    with program(environment) as running:
        running.call(CALLS)
        assert otlp_receiver.spans() == []
        assert running.terminate() == -signal.SIGTERM
    assert len(otlp_receiver.wait_for_spans(CALLS)) == CALLS
