"""The demo as a user starts it: a process of its own, with real sockets."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from prometheus_client.openmetrics import parser
from prometheus_client.samples import Sample

from breakerscope import Outcome, State

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals are those of POSIX")
BREAKERS = ["payment_api", "recommendations", "search"]


@contextmanager
def demo(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A running demo. Ends with the block, in any case."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("OTEL_")}
    command = [sys.executable, "-X", "dev", "-m", "breakerscope", "demo", "--headless", *arguments]
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment | {"TMPDIR": folder},
        ) as process,
    ):
        try:
            yield process
        finally:
            process.kill()


def metrics_url(process: subprocess.Popen[str]) -> str:
    assert process.stderr is not None
    for line in process.stderr:
        if found := re.match(r"metrics: (http://127\.0\.0\.1:\d+/metrics)$", line):
            return found[1]
    raise AssertionError("the demo did not say where its metrics are")


def until(condition: Callable[[], bool], seconds: float = 15.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.05)


def check_end(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, out + err
    assert out.endswith("\nconservation: ok\n")
    assert "Traceback" not in err
    # A search that is cancelled while asyncio opens its connection leaves the transport behind: the
    # task ends between the two steps of `create_connection`, and nobody has the transport yet.
    unclosed = [line for line in err.splitlines() if "ResourceWarning: unclosed" in line]
    assert [line for line in unclosed if "_SelectorSocketTransport" not in line] == []
    return out


def test_a_whole_run_counts_every_call_everywhere(tmp_path: Path) -> None:
    log, picture = tmp_path / "log.jsonl", tmp_path / "view.svg"
    options = ("--duration=6", "--seed=1", f"--log-file={log}", f"--picture={picture}")
    with demo(*options) as process:
        out = check_end(process)

    headings = [line for line in out.splitlines()[1:] if line and not line.startswith(" ")]
    assert headings == [*BREAKERS, "total", "conservation: ok"]
    of_search = out.partition("search\n")[2].splitlines()[1].split()
    assert of_search[0] == "events"
    assert all(int(cell) > 0 for cell in of_search[1:]), "all five outcomes, and transitions"

    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert {"circuit_breaker.state_changed", "circuit_breaker.call_failed"} <= {
        line["event"] for line in lines
    }
    for line in lines:
        assert {"breaker", "state", "seq", "level", "timestamp", "request_id", "trace_id"} <= set(
            line
        )
    assert picture.read_text().startswith("<svg")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_the_table(number: signal.Signals) -> None:
    with demo("--duration=600", "--seed=2") as process:
        url = metrics_url(process)
        until(lambda: "circuit_breaker_calls_total" in httpx.get(url).text)
        time.sleep(1.0)
        process.send_signal(number)
        out = check_end(process)
    assert "\ntotal\n" in out


def test_metrics_during_a_run() -> None:
    with demo("--duration=10", "--seed=3") as process:
        url = metrics_url(process)

        def read() -> list[Sample]:
            reply = httpx.get(url, headers={"Accept": "application/openmetrics-text"})
            assert reply.headers["content-type"].startswith("application/openmetrics-text")
            families = parser.text_string_to_metric_families(reply.text)
            return [sample for family in families for sample in family.samples]

        def named(name: str) -> list[Sample]:
            return [sample for sample in read() if sample.name == name]

        def seen() -> set[str]:
            calls = named("circuit_breaker_calls_total")
            return {sample.labels["outcome"] for sample in calls if sample.value}

        until(lambda: seen() == set(Outcome))
        states = named("circuit_breaker_state")
        for breaker in BREAKERS:
            of_one = {s.labels["state"]: s.value for s in states if s.labels["breaker"] == breaker}
            assert set(of_one) == set(State)
            assert sorted(of_one.values()) == [0, 0, 0, 0, 1]
        buckets = named("circuit_breaker_call_duration_seconds_bucket")
        exemplars = [sample.exemplar.labels for sample in buckets if sample.exemplar]
        assert exemplars
        assert all(re.fullmatch("[0-9a-f]{32}", labels["trace_id"]) for labels in exemplars)
        process.send_signal(signal.SIGINT)
        check_end(process)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_the_upstreams_die_with_a_demo_that_is_killed() -> None:
    with demo("--duration=600") as process:
        metrics_url(process)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        assert len(children) == 1
        process.kill()
        process.wait()
        until(lambda: not Path(f"/proc/{children[0]}/fd/0").exists())


def test_the_script_begins_again_until_it_is_stopped() -> None:
    with demo("--duration=3", "--repeat", "--metrics-address=0.0.0.0", "--seed=3") as process:
        url = metrics_url(process)
        assert process.stderr is not None
        said: list[str] = []
        for line in process.stderr:
            if found := re.search(r"search (\w+)$", line):
                said.append(found[1])
            if said[1:].count("healthy") == 2:
                break
        assert httpx.get(url).status_code == 200
        process.terminate()
        check_end(process)
    run = ["slow", "failing", "refusing", "failing", "healed"]
    assert said == ["healthy", *run, "healthy", *run, "healthy"]
