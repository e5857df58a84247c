"""The file of events: whole lines only, each one written or counted, whatever the disk does."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

import breakerscope as bs
from breakerscope.core.events import CallSettled, Event, Outcome
from breakerscope.event_bus import EventBus
from breakerscope.telemetry.jsonl import JsonLines
from breakerscope.testing import capture_events
from tests.unit.support import fail_times, make_breaker, succeed

WAIT = 10.0


def events_in(*files: Path) -> list[Event]:
    return [bs.event_from_json(line) for file in files for line in file.read_text().splitlines()]


def sink(bus: EventBus, path: Path, *, max_bytes: int | None = None, backups: int = 1) -> JsonLines:
    return JsonLines(bus, path, max_bytes=max_bytes, backups=backups)


def test_a_line_for_each_event(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text(bs.event_to_json(before := an_event()) + "\n")
    with capture_events() as events, bs.to_jsonl(path) as lines:
        breaker = bs.CircuitBreaker("payment_api", bs.Policy(consecutive_failures=1))
        breaker.call(succeed)
        fail_times(breaker, 1)
    breaker.reset()
    assert lines.lost == 0
    assert events_in(path) == [before, *events]
    assert [type(event).__name__ for event in events] == [
        "CallSettled",
        "CallSettled",
        "StateChanged",
    ]


def an_event() -> CallSettled:
    with capture_events(CallSettled, bus=(bus := EventBus())) as events:
        make_breaker(bus=bus).call(succeed)
    (event,) = events
    assert isinstance(event, CallSettled)
    return event


def test_it_writes_what_was_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "failures.jsonl"
    breaker = bs.CircuitBreaker("payment_api", bs.Policy(consecutive_failures=1))
    with bs.to_jsonl(path, CallSettled, outcomes={Outcome.FAILURE}, breaker="payment_api"):
        breaker.call(succeed)
        fail_times(breaker, 1)
        fail_times(bs.CircuitBreaker("other"), 1)
    (event,) = events_in(path)
    assert isinstance(event, CallSettled)
    assert (event.breaker, event.outcome) == ("payment_api", Outcome.FAILURE)


def test_rotation_keeps_so_many_files_of_such_a_size(tmp_path: Path) -> None:
    path, bus = tmp_path / "events.jsonl", EventBus()
    breaker = make_breaker(bus=bus)
    with sink(bus, path, max_bytes=2_000, backups=2) as lines:
        for _ in range(100):
            breaker.call(succeed)
    files = [tmp_path / "events.jsonl.2", tmp_path / "events.jsonl.1", path]
    assert sorted(tmp_path.iterdir()) == sorted(files)
    assert all(file.stat().st_size <= 2_000 for file in files)
    kept = [event.seq for event in events_in(*files)]
    assert kept == list(range(101 - len(kept), 101))
    assert lines.lost == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_bytes": 0}, "max_bytes=0: allowed is 1 or more, or None"),
        ({"backups": 0}, "backups=0: allowed is 1 or more"),
        ({"queue_size": 0}, "queue_size=0: allowed is 1 or more"),
    ],
)
def test_impossible_options(tmp_path: Path, options: dict[str, int], message: str) -> None:
    with pytest.raises(bs.SubscriptionError, match=message):
        bs.to_jsonl(tmp_path / "events.jsonl", **options)  # type: ignore[arg-type]


def test_a_file_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such folder"):
        bs.to_jsonl(tmp_path / "no such folder" / "events.jsonl")


# -- faults ---------------------------------------------------------------------------------------


def test_a_full_device_takes_nothing_and_hurts_nobody() -> None:
    bus = EventBus()
    breaker = make_breaker(bus=bus)
    with sink(bus, Path("/dev/full")) as lines:
        for _ in range(5):
            assert breaker.call(succeed) == "fine"
    assert lines.lost == 5
    # So the alert about dropped events fires, whichever sink lost them.
    assert bus.dropped() == bus.errors() == {"jsonl": 5}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for four pages."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(disk)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("this user may not mount a tmpfs")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_full_disk_loses_lines_and_goes_on_when_there_is_room(small_disk: Path) -> None:
    path, ballast, bus = small_disk / "events.jsonl", small_disk / "ballast", EventBus()
    breaker = make_breaker(bus=bus)
    with sink(bus, path) as lines:
        breaker.call(succeed)
        assert bus.flush(WAIT)
        ballast.write_bytes(b"x" * 3 * 4096)
        for _ in range(100):
            assert breaker.call(succeed) == "fine"
        assert bus.flush(WAIT)
        lost_while_full = lines.lost
        assert 0 < lost_while_full < 100
        ballast.unlink()
        for _ in range(10):
            breaker.call(succeed)
    written = [event.seq for event in events_in(path)]
    assert len(written) + lines.lost == 111
    assert lines.lost == lost_while_full
    # The line that was torn by the full disk is whole, and what came after the outage is there.
    assert written == [*range(1, 112 - 10 - lost_while_full), *range(102, 112)]


def test_a_limit_on_the_size_of_files_loses_lines_and_goes_on(tmp_path: Path) -> None:
    path, bus = tmp_path / "events.jsonl", EventBus()
    breaker = make_breaker(bus=bus)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with sink(bus, path) as lines:
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, before[1]))
            for _ in range(20):
                assert breaker.call(succeed) == "fine"
            assert bus.flush(WAIT)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        lost = lines.lost
        assert path.stat().st_size == 1_000
        breaker.call(succeed)
    assert [e.seq for e in events_in(path)] == [*range(1, 21 - lost), 21]
    assert lines.lost == lost > 0


def test_a_line_that_stays_torn_is_counted(tmp_path: Path) -> None:
    path, bus = tmp_path / "events.jsonl", EventBus()
    breaker = make_breaker(bus=bus)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, before[1]))
        with sink(bus, path) as lines:
            for _ in range(20):
                breaker.call(succeed)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    whole = path.read_text().splitlines()[:-1]
    assert len(whole) + lines.lost == 20


def test_a_pipe_whose_reader_goes_away(tmp_path: Path) -> None:
    bus = EventBus()
    breaker = make_breaker(bus=bus)
    reader, writer = os.pipe()
    with sink(bus, Path(f"/dev/fd/{writer}")) as lines:
        os.close(writer)
        breaker.call(succeed)
        assert bus.flush(WAIT)
        assert bs.event_from_json(os.read(reader, 10_000)).seq == 1
        os.close(reader)
        for _ in range(5):
            assert breaker.call(succeed) == "fine"
    assert lines.lost == 5


def test_a_pipe_that_nobody_reads_holds_up_nobody() -> None:
    bus = EventBus()
    breaker = make_breaker(bus=bus)
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with suppress(BlockingIOError):
        while os.write(writer, b"\n" * 4096):
            pass
    lines = JsonLines(bus, f"/dev/fd/{writer}", max_bytes=None, backups=1, queue_size=10)
    os.close(writer)
    for _ in range(100):
        assert breaker.call(succeed) == "fine"
    assert not bus.flush(0.01)
    assert not lines.close(wait=0.01)
    # One line waits for the pipe, ten wait in the queue.
    assert lines.lost in (89, 90)
    filling = os.read(reader, 1_000_000)
    assert lines.close(WAIT)
    with os.fdopen(reader, "rb") as pipe:
        written = (filling + pipe.read()).strip().splitlines()
    assert len(written) + lines.lost == 100


# -- processes ------------------------------------------------------------------------------------


FORKING = """
import os, sys, breakerscope as bs
lines = bs.to_jsonl(sys.argv[1], max_bytes=20_000, backups=50)
breaker = bs.CircuitBreaker("payment_api")
for _ in range(100): breaker.call(len, "")
bs.flush()
child = os.fork()
for _ in range(1_000): breaker.call(len, "")
lines.close()
assert lines.lost == 0
if child:
    assert os.waitpid(child, 0)[1] == 0
    print(child)
else:
    os._exit(0)
"""


def test_a_forked_child_has_a_file_of_its_own(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", FORKING, str(tmp_path / "events.jsonl")],
        check=True, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    child = int(run.stdout)

    def count(name: str) -> int:
        return len(events_in(*(f for f in tmp_path.iterdir() if f.name.startswith(name))))

    assert count("events.jsonl") == 1_100
    assert count(f"events.{child}.jsonl") == 1_000


KILLED = """
import sys, breakerscope as bs
bs.to_jsonl(sys.argv[1])
breaker = bs.CircuitBreaker("payment_api")
for _ in range(50): breaker.call(len, "")
bs.flush()
print("flushed", flush=True)
sys.stdin.read()
"""


def test_what_was_flushed_survives_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"flushed\n"
        process.send_signal(signal.SIGKILL)
    assert [json.loads(line)["seq"] for line in path.read_text().splitlines()] == [*range(1, 51)]
