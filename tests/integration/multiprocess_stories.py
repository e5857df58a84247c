"""What happens in prometheus_client's multiprocess mode; run by test_metrics_multiprocess.

`python -m tests.integration.multiprocess_stories STORY` prints JSON. The mode is chosen for a whole
process when prometheus_client is imported, so each story has one of its own.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import signal
import struct
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Gauge, Histogram, values
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.openmetrics.exposition import generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

import breakerscope as bs
from breakerscope import catalogue
from breakerscope.event_bus import default_bus
from breakerscope.registry import default_registry
from breakerscope.telemetry.metrics import BreakerCollector, DuplicateMetricError
from breakerscope.telemetry.settings import MetricsSettings
from breakerscope.testing import FakeClock

NAME = "payment_api"


def merged(name: str, **labels: str) -> dict[str, float]:
    """A metric as any process shows it, by the values of the labels that were not asked for."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry)
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(generate_latest(registry).decode()):
        for sample in family.samples:
            if sample.name == name and labels.items() <= sample.labels.items():
                rest = [v for key, v in sorted(sample.labels.items()) if key not in labels]
                found[" ".join(rest)] = sample.value
    return found


def calls() -> dict[str, float]:
    return merged(catalogue.CALLS.name, breaker=NAME)


def states() -> dict[str, float]:
    return merged(catalogue.STATE_NOW.name, breaker=NAME)


def in_child(*, successes: int = 0, failures: int = 0) -> int:
    """Calls in a forked process that flushes and ends at once. Returns its pid."""
    pid = os.fork()
    if pid == 0:
        try:
            fail(failures)
            succeed(successes)
            bs.flush()
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    return pid


def succeed(times: int = 1, breaker: str = NAME) -> None:
    for _ in range(times):
        bs.instrumented_breaker(breaker).call(lambda: None)


def fail(times: int = 1) -> None:
    def boom() -> None:
        raise OSError

    for _ in range(times):
        with suppress(OSError):
            bs.instrumented_breaker(NAME).call(boom)


def until(done: Callable[[], bool], seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        # prometheus_client cannot read a file that another process has created and not yet filled.
        with suppress(struct.error):
            if done():
                return True
        time.sleep(0.01)
    return False


# -- the stories ----------------------------------------------------------------------------------


def every_series_at_zero() -> Any:
    """The names and labels are those of a collector; the values are 0."""
    bs.instrumented_breaker(NAME)
    bs.flush()
    registry = CollectorRegistry()
    MultiProcessCollector(registry)
    here = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in registry.collect()
        for sample in family.samples
    }
    collector = BreakerCollector(default_registry, default_bus, MetricsSettings())
    there = {
        (sample.name, tuple(sorted(sample.labels.items())))
        for family in collector.collect()
        for sample in family.samples
    }
    odd = {name for name, _ in here.keys() ^ there}
    ours = [value for (name, _), value in here.items() if name == catalogue.CALLS.name]
    return {"only in one": sorted(odd), "calls": ours, "states": states()}


def children() -> Any:
    """Parent and children on the same breaker; the parent's calls are not counted again."""
    succeed(3)
    bs.flush()
    for _ in range(3):
        in_child(successes=10, failures=2)
    succeed(4)
    bs.flush()
    return {"calls": calls(), "histogram": counts(), "states": states()}


def counts() -> dict[str, float]:
    return merged(f"{catalogue.CALL_DURATION.name}_count", breaker=NAME)


def by_itself() -> Any:
    """Nobody flushes: the thread does, in a forked child as well."""
    succeed(5)
    pid = os.fork()
    if pid == 0:
        succeed(7)
        time.sleep(30)
        os._exit(0)
    seen = until(lambda: calls().get("success") == 12)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return {"seen": seen, "after the kill": calls()}


def at_exit() -> Any:
    """A child that ends in the ordinary way, without a flush."""
    pid = os.fork()
    if pid == 0:
        succeed(9)
        sys.exit(0)
    os.waitpid(pid, 0)
    return calls()


def dead_workers() -> Any:
    """Counters of the dead stay, states go when the server says so."""
    bs.instrumented_breaker(NAME, consecutive_failures=1)
    pid = in_child(failures=1)
    succeed()
    bs.flush()
    before = states()
    mark_process_dead(pid)
    return {"before": before, "after": states(), "calls": calls()}


def buckets() -> Any:
    """The same observations through prometheus_client's own histogram."""
    own = Histogram("own", "own", buckets=(0.5, 1, 2.5), registry=None)
    bs.setup_telemetry(registry=CollectorRegistry())
    clock = FakeClock()
    breaker = bs.CircuitBreaker(NAME, buckets=(0.5, 1, 2.5), clock=clock.clock)
    default_registry.add(breaker)
    for seconds in (0.1, 0.5, 0.7, 1.5, 9, 9):
        breaker.call(clock.advance, seconds)
        own.observe(seconds)
    bs.flush()
    name = catalogue.CALL_DURATION.name
    labels = {"breaker": NAME, "outcome": "success"}
    return {
        part: [merged(f"{name}_{part}", **labels), merged(f"own_{part}")]
        for part in ("bucket", "count", "sum")
    }


def ratios() -> Any:
    """A worker that knows no ratio does not hide that of another."""
    in_child(failures=4, successes=12)
    succeed()
    bs.flush()
    return merged(catalogue.FAILURE_RATIO.name)


def set_up_again() -> Any:
    """Closing keeps what was counted, and a second set-up does not count it again."""
    telemetry = bs.setup_telemetry(registry=CollectorRegistry())
    succeed(5)
    telemetry.close()
    closed = {"calls": calls(), "states": states()}
    bs.setup_telemetry(registry=CollectorRegistry())
    succeed(2)
    bs.flush()
    again = {"calls": calls(), "states": states()}
    bs.setup_telemetry(registry=CollectorRegistry(), prefix="shop", labels={"team": "a"})
    succeed(1)
    bs.flush()
    other = merged(f"shop_{catalogue.CALLS.name}", breaker=NAME, outcome="success")
    return {"closed": closed, "again": again, "other name": other}


def removed() -> Any:
    """A removed breaker is in no state; the next one of its name goes on counting."""
    succeed(3)
    bs.flush()
    bs.instrumented_breaker(NAME).force_open()
    bs.remove_breaker(NAME)
    bs.flush()
    gone = {"calls": calls(), "states": states()}
    succeed(2)
    bs.flush()
    return {"gone": gone, "made again": {"calls": calls(), "states": states()}}


def cap() -> Any:
    """The names ever shown count, as nothing can be taken out of the files."""
    bs.setup_telemetry(registry=CollectorRegistry(), max_breakers=2, logs=False)
    for number in range(6):
        succeed(10**number, f"b{number}")
        bs.flush()
        bs.remove_breaker(f"b{number}")
    succeed(1, "b0")
    bs.flush()
    labels = {"outcome": "success"}
    return {"calls": merged(catalogue.CALLS.name, **labels), "states": states_of("_OTHER")}


def states_of(breaker: str) -> dict[str, float]:
    return merged(catalogue.STATE_NOW.name, breaker=breaker)


def clash() -> Any:
    """Names are looked up in the registry, though it does not show our series."""
    registry = CollectorRegistry()
    Gauge("circuit_breaker_state", "another's", registry=registry)
    with suppress(DuplicateMetricError):
        bs.setup_telemetry(registry=registry)
        return "no error"
    fine = CollectorRegistry()
    with bs.setup_telemetry(registry=fine):
        shown = list(fine.collect())
    Gauge("circuit_breaker_state", "another's", registry=fine)
    return {"shown": len(shown)}


def no_folder() -> Any:
    os.environ["PROMETHEUS_MULTIPROC_DIR"] += "/not/there"
    try:
        bs.setup_telemetry(registry=CollectorRegistry())
    except bs.TelemetryError as error:
        return str(error)
    return None


def no_room() -> Any:
    """What cannot be written does not hurt the calls, is counted, and is written later."""
    bs.setup_telemetry(registry=CollectorRegistry(), logs=False)
    succeed(2)
    bs.flush()
    cell: Any = values.ValueClass
    real = cell.set

    def full(self: object, amount: float) -> None:
        raise OSError

    cell.set = full
    succeed(3)
    bs.flush()
    errors = default_bus.errors().get("metrics", 0)
    before = calls()["success"]
    cell.set = real
    bs.flush()
    return {"before": before, "errors": errors > 0, "after": calls()["success"]}


def hostile_text() -> Any:
    """What one process writes, all the others have to read until the files are deleted."""

    class Renamed(bs.CircuitBreaker):
        @property
        def name(self) -> str:
            return "\udc80"

    bs.setup_telemetry(registry=CollectorRegistry(), logs=False, labels={"team": "a"})
    default_registry.add(Renamed("first"))
    default_registry.add(bs.CircuitBreaker("second", labels={"team": "\ud800"}))

    def listen(_: bs.Event) -> None: ...

    listen.__qualname__ = "\udc80\n"
    bs.subscribe(listen)
    bs.breakers_per("host")("\udc80\n").call(lambda: None)
    bs.flush()
    labels = {"team": "a"}
    errors = merged(catalogue.LISTENER_ERRORS.name, **labels)
    return {
        "calls": merged(catalogue.CALLS.name, outcome="success", **labels),
        "listeners": sorted(merged(catalogue.EVENTS_DROPPED.name, **labels)),
        "counted": errors["metrics"] >= 2,
    }


def forks_during_pushes() -> Any:
    """A child never inherits a lock that a push holds: here, a push is going on all the time."""
    for number in range(20):
        succeed(1, f"b{number}")
    stop = threading.Event()

    def push() -> None:
        while not stop.is_set():
            bs.flush()

    pushing = threading.Thread(target=push)
    pushing.start()
    for _ in range(20):
        in_child(successes=1)
    stop.set()
    pushing.join()
    return calls()["success"]


def dead_files() -> Any:
    """The folder has files of this process, of one that has ended, and foreign ones."""
    folder = Path(os.environ["PROMETHEUS_MULTIPROC_DIR"])
    succeed(2)
    bs.flush()
    child = in_child(successes=3)
    for foreign in ("notes.txt", f"counter_{child}.db.bak"):
        (folder / foreign).write_text("")
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s")
    before = calls()["success"]
    removed = bs.remove_dead_files()
    succeed()
    bs.flush()
    return {
        "removed": sorted({path.name.replace(str(child), "PID") for path in removed}),
        "again": len(bs.remove_dead_files()),
        "foreign": sorted(path.name for path in folder.iterdir() if path.suffix != ".db"),
        "child": child,
        "success": [before, calls()["success"]],
    }


def emptied() -> list[str]:
    """Somebody empties the folder while the process runs."""
    errors: queue.SimpleQueue[str] = queue.SimpleQueue()

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            errors.put(record.getMessage())

    succeed()
    own = Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]) / f"counter_{os.getpid()}.db"
    bs.flush()
    logging.getLogger("breakerscope").addHandler(Handler())
    # A look may come at any moment; the one that finds it has to come first.
    deadline = time.monotonic() + 20.0
    told: list[str] = []
    while not told and time.monotonic() < deadline:
        own.touch()
        time.sleep(0.25)
        own.unlink()
        with suppress(queue.Empty):
            told.append(errors.get(timeout=1.0))
    return [text.replace(str(own), "FILE") for text in told]


STORIES = {
    story.__name__: story
    for story in (
        every_series_at_zero,
        children,
        by_itself,
        at_exit,
        dead_workers,
        buckets,
        ratios,
        set_up_again,
        removed,
        cap,
        clash,
        no_folder,
        no_room,
        hostile_text,
        forks_during_pushes,
        dead_files,
        emptied,
    )
}

if __name__ == "__main__":
    parent = os.getpid()
    told = STORIES[sys.argv[1]]()
    if os.getpid() == parent:
        print(json.dumps(told))
