"""What was switched on is switched off again: registry, listeners, threads, all as before."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from prometheus_client import REGISTRY, CollectorRegistry, Counter

import breakerscope as bs
from breakerscope.catalogue import LogEvent
from breakerscope.event_bus import default_bus
from breakerscope.telemetry.metrics import DuplicateMetricError
from tests.unit.support import fail_times, succeed

pytestmark = pytest.mark.usefixtures("fresh_breakers")
NAME = "payment_api"


@pytest.fixture(autouse=True)
def nothing_is_set_up() -> None:
    bs.setup_telemetry(registry=CollectorRegistry()).close()
    # Earlier tests have dropped events under names that are used here.
    default_bus.forget_counts()


class Process(NamedTuple):
    """What telemetry could leave behind in a process."""

    metrics: frozenset[str]
    listeners: frozenset[str]
    names_traces: bool
    handlers: tuple[logging.Handler, ...]
    threads: frozenset[threading.Thread]


def process() -> Process:
    return Process(
        frozenset(metric.name for metric in REGISTRY.collect()),
        frozenset(default_bus.dropped()),
        default_bus.trace_ids is not None,
        tuple(logging.getLogger("breakerscope").handlers),
        frozenset(threading.enumerate()),
    )


def assert_as(before: Process) -> None:
    """Nothing is left. Threads of earlier tests may have ended in between."""
    after = process()
    assert after._replace(threads=before.threads) == before
    assert after.threads <= before.threads


def calls_of_every_kind() -> None:
    breaker = bs.instrumented_breaker(NAME, consecutive_failures=1)
    breaker.call(succeed)
    fail_times(breaker, 1)
    with pytest.raises(bs.CircuitBreakerOpenError):
        breaker.call(succeed)
    breaker.reset()


def everything(folder: Path) -> list[Callable[[], object]]:
    """All that listens, and how each of them is closed."""
    return [
        bs.setup_telemetry(log_levels=dict.fromkeys(LogEvent, "debug")).close,
        bs.subscribe(lambda _: None, name="queued").close,
        bs.subscribe(lambda _: None, name="inline", inline=True).close,
        bs.to_jsonl(folder / "events.jsonl").close,
        bs.recent().close,
        bs.stream().close,
        bs.astream().close,
    ]


@pytest.mark.parametrize("times", [1, 2])
def test_closing_leaves_the_process_as_before(tmp_path: Path, times: int) -> None:
    before = process()
    closes = everything(tmp_path)
    calls_of_every_kind()
    during = process()
    assert during.metrics - before.metrics > {"circuit_breaker_calls", "circuit_breaker_state"}
    assert during.listeners - before.listeners == {
        "structlog", "opentelemetry", "queued", "inline", "jsonl", "recent", "stream", "astream",
    }  # fmt: skip
    started = {thread.name for thread in during.threads - before.threads}
    assert started == {
        f"breakerscope-{name}" for name in ("structlog", "queued", "jsonl", "stream", "astream")
    }
    assert during.names_traces
    for _ in range(times):
        for close in closes:
            close()
    assert bs.flush()
    for thread in during.threads - before.threads:  # not every close() waits
        thread.join(10.0)
    assert_as(before)
    calls_of_every_kind()
    assert_as(before)


def test_a_second_set_up_replaces_the_first() -> None:
    before = process()
    first = bs.setup_telemetry()
    second = bs.setup_telemetry(traces=False)
    assert process().listeners - before.listeners == {"structlog"}
    first.close()
    assert process().listeners - before.listeners == {"structlog"}
    assert process().metrics > before.metrics
    second.close()
    assert_as(before)


def test_a_set_up_that_fails_leaves_nothing_behind() -> None:
    before = process()
    registry = CollectorRegistry()
    Counter("circuit_breaker_calls", "of another library", registry=registry)
    with pytest.raises(DuplicateMetricError):
        bs.setup_telemetry(registry=registry)
    assert_as(before)


def test_closing_while_others_call() -> None:
    breaker = bs.instrumented_breaker(NAME, consecutive_failures=1_000)
    before = process()
    stop = threading.Event()
    answers: list[str] = []

    def call() -> None:
        while not stop.is_set():
            answers.append(breaker.call(succeed))
            fail_times(breaker, 1)

    callers = [threading.Thread(target=call) for _ in range(3)]
    for caller in callers:
        caller.start()
    for _ in range(30):
        bs.setup_telemetry(log_levels=dict.fromkeys(LogEvent, "debug")).close()
    stop.set()
    for caller in callers:
        caller.join(10.0)
    for thread in set(threading.enumerate()) - before.threads:
        thread.join(10.0)
    assert_as(before)
    assert set(answers) == {"fine"}
