"""`breakerscope status`: which breakers are open now, since when and why."""

from __future__ import annotations

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest, start_http_server

import breakerscope as bs
from breakerscope.cli import main
from breakerscope.event_bus import EventBus
from breakerscope.registry import Registry
from breakerscope.status import duration, read_statuses, statuses_in, table
from breakerscope.telemetry.metrics import BreakerCollector
from breakerscope.telemetry.settings import MetricsSettings
from breakerscope.testing import FakeClock
from tests.unit.support import fail_times, make_breaker, succeed
from tests.unit.test_cli import refused

START = 1_700_000_000.0


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(wall=START)


@pytest.fixture
def registry(clock: FakeClock) -> CollectorRegistry:
    """The metrics of four breakers in four states."""
    breakers, bus = Registry(), EventBus()

    def made(name: str, **policy: Any) -> bs.CircuitBreaker:
        return breakers.add(make_breaker(clock, bus=bus, name=name, **policy))

    made("well").call(succeed)
    unsure = made("unsure", consecutive_failures=1, open_for=5.0, probes=2)
    twice = made("twice", consecutive_failures=1, open_for=5.0)
    for breaker in (unsure, twice):
        fail_times(breaker, 1)
    clock.advance(5.0)
    unsure.call(succeed)
    fail_times(twice, 1)
    clock.advance(60.0)
    made("by hand").force_open("deployment")
    clock.advance(3600.0)
    found = CollectorRegistry()
    settings = MetricsSettings("shop", {}, 100)
    found.register(BreakerCollector(breakers, bus, settings))
    return found


@pytest.fixture
def url(registry: CollectorRegistry) -> Iterator[str]:
    server, thread = start_http_server(0, addr="127.0.0.1", registry=registry)
    yield f"http://127.0.0.1:{server.server_port}/metrics"
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_table(url: str, clock: FakeClock) -> None:
    assert table(read_statuses(url), clock.wall).splitlines() == [
        "BREAKER  STATE        SINCE                 FOR    WHY",
        "by hand  forced_open  2023-11-14 22:14:25Z  1h     force_open",
        "twice    open         2023-11-14 22:13:25Z  1h 1m  consecutive_failures (1x),"
        " probe_failed (1x)",
        "unsure   half_open    2023-11-14 22:13:25Z  1h 1m  wait_elapsed",
        "well     closed       2023-11-14 22:13:20Z  1h 1m",
    ]


def test_several_processes_answer_together(registry: CollectorRegistry, clock: FakeClock) -> None:
    text = generate_latest(registry).decode()
    counted = text.replace(
        'state{breaker="well",state="closed"} 1.0', 'state{breaker="well",state="closed"} 3.0'
    )
    (well,) = [status for status in statuses_in(counted) if status.breaker == "well"]
    assert well.row(clock.wall)[1] == "closed (3)"


def test_the_exit_code_says_whether_one_refuses(
    url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status", url]) == 1
    out, err = capsys.readouterr()
    assert (out.splitlines()[0].split(), err) == (["BREAKER", "STATE", "SINCE", "FOR", "WHY"], "")
    assert "by hand" in out.splitlines()[1]


@pytest.mark.parametrize("url", ["localhost:8000", "file:///etc/passwd", "", "metrics"])
def test_what_is_no_url_of_metrics(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "allowed is the http:// or https:// URL" in refused(capsys, "status", url)


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (200, b"", "there are no metrics of breakers"),
        (200, b"up 1\n", "there are no metrics of breakers"),
        (200, b"<html>\n\xff", "invalid start byte"),
        (200, b"{broken", ""),
        (404, b"", "Not Found"),
        (500, b"", "Internal Server Error"),
    ],
)
def test_an_answer_without_metrics(
    status: int, body: bytes, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            told = refused(capsys, "status", f"http://127.0.0.1:{server.server_port}/metrics")
        finally:
            server.shutdown()
            thread.join()
    assert message in told


def test_nobody_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        port = server.server_port
    assert "refused" in refused(capsys, "status", f"http://127.0.0.1:{port}/metrics")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0s"), (0.9, "0s"), (59, "59s"), (61, "1m 1s"), (3600, "1h"), (90061, "1d 1h")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
