"""The log lines: what is told, how loudly and how often, and what a broken stream costs."""

from __future__ import annotations

import asyncio
import json
import logging
import logging.config
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import StringIO
from pathlib import Path
from typing import Any, TextIO

import pytest
import structlog
from prometheus_client import CollectorRegistry

import breakerscope as bs
from breakerscope.catalogue import LogEvent
from breakerscope.event_bus import default_bus
from breakerscope.telemetry import logs
from tests.unit.support import Boom, fail, fail_times, succeed

pytestmark = pytest.mark.usefixtures("fresh_breakers")
WAIT = 10.0


@contextmanager
def structlog_to(file: TextIO) -> Iterator[None]:
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.WriteLoggerFactory(file),
    )
    try:
        yield
    finally:
        structlog.reset_defaults()


@contextmanager
def logged(**settings: Any) -> Iterator[list[dict[str, Any]]]:
    """The lines of the block, in the list when the block has ended."""
    lines: list[dict[str, Any]] = []
    file = StringIO()
    with structlog_to(file):
        with bs.setup_telemetry(registry=CollectorRegistry(), **settings):
            yield lines
        lines += [json.loads(line) for line in file.getvalue().splitlines()]


def told(lines: list[dict[str, Any]], *keys: str) -> list[tuple[Any, ...]]:
    return [
        (line["event"].removeprefix("circuit_breaker."), *(line.get(key) for key in keys))
        for line in lines
    ]


def a_bit_of_everything() -> None:
    breaker = bs.instrumented_breaker("payment_api", consecutive_failures=1, ignore=KeyError)
    breaker.call(succeed)
    with pytest.raises(KeyError):
        breaker.call(look_up)
    with pytest.raises(KeyboardInterrupt):
        breaker.call(interrupt)
    fail_times(breaker, 1)
    assert breaker.with_fallback(succeed)(succeed)() == "fine"
    breaker.reset()


def look_up() -> None:
    raise KeyError


def interrupt() -> None:
    raise KeyboardInterrupt


# -- levels and sampling --------------------------------------------------------------------------


def test_levels_by_default() -> None:
    with logged() as lines:
        a_bit_of_everything()
    assert told(lines, "level") == [
        ("call_failed", "info"),
        ("state_changed", "warning"),
        ("call_rejected", "warning"),
        ("state_changed", "info"),
    ]


def test_levels_of_ones_own() -> None:
    levels: dict[str, bs.LogLevel] = {
        LogEvent.CALL_SUCCEEDED: "debug",
        "circuit_breaker.call_ignored": "info",
        "circuit_breaker.call_cancelled": "warning",
        "circuit_breaker.call_failed": "error",
        "circuit_breaker.state_changed": "critical",
        "circuit_breaker.call_rejected": "off",
        "circuit_breaker.fallback_used": "debug",
    }
    with logged(log_levels=levels) as lines:
        a_bit_of_everything()
    assert told(lines, "level", "outcome") == [
        ("call_succeeded", "debug", "success"),
        ("call_ignored", "info", "ignored"),
        ("call_cancelled", "warning", "cancelled"),
        ("call_failed", "error", "failure"),
        ("state_changed", "critical", None),
        ("fallback_used", "debug", "rejected"),
        ("state_changed", "critical", None),
    ]


def test_everything_off() -> None:
    with logged(log_levels=dict.fromkeys(LogEvent, "off")) as lines:
        a_bit_of_everything()
    assert lines == []


def test_a_sample_of_the_lines() -> None:
    with logged(
        log_levels={"circuit_breaker.call_succeeded": "info"},
        log_sampling={"circuit_breaker.call_succeeded": 0.25},
    ) as lines:
        for name in ("a", "b"):
            for _ in range(10):
                bs.instrumented_breaker(name).call(succeed)
    assert told(lines, "breaker", "seq", "sample_rate") == [
        ("call_succeeded", breaker, seq, 0.25) for breaker in ("a", "b") for seq in (1, 5, 9)
    ]


def test_breakers_that_come_and_go_take_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "MAX_REMEMBERED", 2)
    with logged(
        log_levels={"circuit_breaker.call_succeeded": "info"},
        log_sampling={"circuit_breaker.call_succeeded": 0.001},
    ) as lines:
        for name in ("a", "b", "a", "c", "a", "b"):
            bs.instrumented_breaker(name).call(succeed)
            assert bs.flush(WAIT)
    # "b" was forgotten for "c", and begins anew; "a" was heard of in between.
    assert told(lines, "breaker") == [("call_succeeded", name) for name in ("a", "b", "c", "b")]


def test_the_lines_about_rejections_add_up() -> None:
    with logged(log_rejections_every=0) as lines:
        breaker = bs.instrumented_breaker("payment_api", consecutive_failures=1, open_for=60.0)
        fail_times(breaker, 1)
        for _ in range(5):
            with pytest.raises(bs.CircuitBreakerOpenError):
                breaker.call(succeed)
    rejections = [line["rejections"] for line in lines if line["event"].endswith("rejected")]
    assert rejections == [1] * 5


@pytest.mark.parametrize("shadow", [False, True])
def test_the_end_tells_the_rejections_that_no_line_has_told(shadow: bool) -> None:
    with logged() as lines:
        policy: dict[str, Any] = {"consecutive_failures": 1, "open_for": 60.0, "shadow": shadow}
        breaker = bs.instrumented_breaker("payment_api", **policy)
        bs.instrumented_breaker("idle", **policy)
        fail_times(breaker, 1)
        for _ in range(5):
            with suppress(bs.CircuitBreakerOpenError):
                breaker.call(succeed)
    assert told(lines, "breaker", "state", "rejections")[-2:] == [
        ("call_rejected", "payment_api", "open", 1),
        ("call_rejected", "payment_api", "open", 4),
    ]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"log_levels": {"circuit_breaker.opened": "info"}},
            "log_levels['circuit_breaker.opened']: allowed are circuit_breaker.state_changed,"
            " circuit_breaker.call_failed, circuit_breaker.call_rejected,"
            " circuit_breaker.call_succeeded, circuit_breaker.call_ignored,"
            " circuit_breaker.call_cancelled, circuit_breaker.fallback_used,"
            " circuit_breaker.policy_changed",
        ),
        (
            {"log_levels": {"circuit_breaker.call_failed": "loud"}},
            "log_levels['circuit_breaker.call_failed']='loud': allowed are debug, info, warning,"
            " error, critical, off",
        ),
        (
            {"log_sampling": {"circuit_breaker.call_rejected": 0.5}},
            "log_sampling['circuit_breaker.call_rejected']: allowed are"
            " circuit_breaker.call_failed, circuit_breaker.call_succeeded,"
            " circuit_breaker.call_ignored, circuit_breaker.call_cancelled,"
            " circuit_breaker.fallback_used",
        ),
        *[
            (
                {"log_sampling": {"circuit_breaker.call_failed": share}},
                f"log_sampling['circuit_breaker.call_failed']={share!r}: allowed is a share above"
                " 0, at most 1",
            )
            for share in (0, 1.5, float("nan"), True, "all")
        ],
        *[
            (
                {"log_rejections_every": seconds},
                f"log_rejections_every={seconds!r}: allowed are seconds, 0 or more",
            )
            for seconds in (-1, float("inf"), "never")
        ],
    ],
)
def test_impossible_settings_leave_everything_as_it_is(
    settings: dict[str, Any], message: str
) -> None:
    registry = CollectorRegistry()
    with bs.setup_telemetry(registry=registry):
        with pytest.raises(bs.LogSettingsError) as caught:
            bs.setup_telemetry(registry=CollectorRegistry(), **settings)
        assert str(caught.value) == message
        assert list(registry.collect())


# -- context --------------------------------------------------------------------------------------


def test_each_task_has_its_own_context_on_its_lines() -> None:
    async def request(number: int, breaker: bs.CircuitBreaker) -> None:
        structlog.contextvars.bind_contextvars(request_id=f"r{number}")
        await asyncio.sleep(0)
        with pytest.raises(Boom):
            await breaker.call(failing, number)

    async def failing(number: int) -> None:
        await asyncio.sleep(0)
        raise Boom

    async def requests() -> None:
        breaker = bs.instrumented_breaker("payment_api", consecutive_failures=100)
        await asyncio.gather(*(request(number, breaker) for number in range(20)))

    with logged() as lines:
        asyncio.run(requests())
    assert sorted(told(lines, "request_id")) == sorted(
        ("call_failed", f"r{number}") for number in range(20)
    )


def test_no_value_of_the_user_is_ever_logged(caplog: pytest.LogCaptureFixture) -> None:
    def judge(result: str) -> bool:
        raise Boom(result)

    levels = dict.fromkeys(LogEvent, "info")
    caplog.set_level(logging.DEBUG)
    with logged(log_levels=levels) as lines:
        breaker = bs.instrumented_breaker("payment_api", failure_if=judge)
        breaker.call(lambda argument: argument, "s3cret")
        with pytest.raises(Boom):
            breaker.call(judge, "s3cret")
    assert told(lines) == [("call_succeeded",), ("call_failed",)]
    assert "raised" in caplog.text
    assert "s3cret" not in caplog.text + repr(lines)


# -- without structlog ----------------------------------------------------------------------------

UNCONFIGURED = """
import logging, sys, breakerscope as bs
if sys.argv[1] == "heard":
    logging.basicConfig(level=logging.INFO, format="%(levelname)s:%(name)s:%(message)s")
breaker = bs.instrumented_breaker("payment_api", consecutive_failures=1)
try: breaker.call(lambda: 1 / 0)
except ZeroDivisionError: pass
try: breaker.call(len, "")
except bs.CircuitBreakerOpenError: pass
"""


@pytest.mark.parametrize("heard", ["heard", "unheard"])
def test_an_application_without_structlog(heard: str) -> None:
    run = subprocess.run(
        [sys.executable, "-c", UNCONFIGURED, heard],
        check=True, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert run.stdout == ""
    begins = [re.sub(r"(seq|at)=\S+ ?", "", line)[:80] for line in run.stderr.splitlines()]
    assert begins == (
        [
            "INFO:breakerscope:circuit_breaker.call_failed breaker=payment_api state=closed o",
            "WARNING:breakerscope:circuit_breaker.state_changed breaker=payment_api state=ope",
            "WARNING:breakerscope:circuit_breaker.call_rejected breaker=payment_api state=ope",
        ]
        if heard == "heard"
        else []
    )


# -- faults ---------------------------------------------------------------------------------------


def calls_with_logs_to(file: TextIO) -> float | None:
    """Three failures with their lines to this file; how many errors the metrics show."""
    registry = CollectorRegistry()
    before = default_bus.errors().get("structlog", 0)
    with structlog_to(file), bs.setup_telemetry(registry=registry):
        breaker = bs.instrumented_breaker("payment_api", consecutive_failures=10)
        for _ in range(3):
            with pytest.raises(Boom):
                breaker.call(fail)
        assert breaker.call(succeed) == "fine"
        assert bs.flush(WAIT)
        errors = registry.get_sample_value(
            "circuit_breaker_listener_errors_total", {"listener": "structlog"}
        )
    assert errors is not None
    return errors - before


def test_the_pipe_of_the_log_stream_closes() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    file = os.fdopen(writer, "w")
    assert calls_with_logs_to(file) == 3
    with suppress(BrokenPipeError):
        file.close()


def test_the_disk_of_the_log_file_is_full() -> None:
    file = Path("/dev/full").open("w")  # noqa: SIM115
    assert calls_with_logs_to(file) == 3
    with suppress(OSError):
        file.close()


def test_a_log_stream_that_works_has_no_errors(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as file:
        assert calls_with_logs_to(file) == 0
    assert len((tmp_path / "log").read_text().splitlines()) == 3


def test_lines_whose_logger_dict_config_disabled_count_as_dropped() -> None:
    """`dictConfig` disables what exists and is not named, unless it is told not to."""
    logger = logging.getLogger("breakerscope")
    with bs.setup_telemetry(registry=CollectorRegistry()):
        breaker = bs.instrumented_breaker("api")
        before = default_bus.dropped()["structlog"]
        logging.config.dictConfig({"version": 1})
        try:
            assert logger.disabled
            breaker.force_open()
            breaker.reset()
            assert bs.flush()
        finally:
            logger.disabled = False
        assert default_bus.dropped()["structlog"] == before + 2


def test_a_change_of_rules_is_a_line() -> None:
    with logged() as lines:
        bs.instrumented_breaker("api").update(bs.Policy(open_for=30.0), reason="launch day")
    (line,) = [line for line in lines if line["event"] == LogEvent.POLICY_CHANGED]
    assert (line["level"], line["changes"], line["reason"]) == (
        "info",
        "open_for: 10.0 -> 30.0",
        "launch day",
    )
