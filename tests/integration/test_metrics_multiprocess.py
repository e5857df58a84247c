"""prometheus_client's multiprocess mode: each test is a story that runs in a process of its own."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import breakerscope
from tests.integration.multiprocess_stories import STORIES

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the mode is for servers that fork")
ROOT = Path(__file__).parents[2]
STATES = dict.fromkeys(breakerscope.State, 0.0)


def tell(story: str, folder: Path) -> Any:
    assert story in STORIES
    paths = [str(ROOT), str(Path(breakerscope.__file__).parents[1])]
    done = subprocess.run(
        [sys.executable, "-m", "tests.integration.multiprocess_stories", story],
        env=os.environ
        | {"PROMETHEUS_MULTIPROC_DIR": str(folder), "PYTHONPATH": os.pathsep.join(paths)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def calls(**found: float) -> dict[str, float]:
    return dict.fromkeys(breakerscope.Outcome, 0.0) | found


def test_every_series_is_there_at_zero(tmp_path: Path) -> None:
    assert tell("every_series_at_zero", tmp_path) == {
        "only in one": [],
        "calls": [0.0] * 5,
        "states": STATES,
    }


def test_children_and_parent_are_summed(tmp_path: Path) -> None:
    assert tell("children", tmp_path) == {
        "calls": calls(success=37, failure=6),
        "histogram": {"success": 37, "failure": 6, "ignored": 0, "cancelled": 0},
        # The children were not reported dead by a server.
        "states": STATES | {"closed": 4},
    }


def test_pushing_needs_nobody_and_a_kill_loses_nothing_pushed(tmp_path: Path) -> None:
    told = tell("by_itself", tmp_path)
    assert told == {"seen": True, "after the kill": calls(success=12)}


def test_the_end_of_a_process_pushes(tmp_path: Path) -> None:
    assert tell("at_exit", tmp_path) == calls(success=9)


def test_dead_workers(tmp_path: Path) -> None:
    assert tell("dead_workers", tmp_path) == {
        "before": STATES | {"closed": 1, "open": 1},
        "after": STATES | {"closed": 1},
        "calls": calls(success=1, failure=1),
    }


def test_buckets_are_those_of_a_histogram_of_prometheus_client(tmp_path: Path) -> None:
    told = tell("buckets", tmp_path)
    assert told["bucket"][0] == {"0.5": 2, "1.0": 3, "2.5": 4, "+Inf": 6}
    assert told["count"][0] == {"": 6}
    for ours, theirs in told.values():
        assert ours == pytest.approx(theirs)


def test_the_worst_ratio_is_shown(tmp_path: Path) -> None:
    assert tell("ratios", tmp_path) == {"payment_api": 0.25}


def test_a_second_set_up_counts_nothing_twice(tmp_path: Path) -> None:
    assert tell("set_up_again", tmp_path) == {
        "closed": {"calls": calls(success=5), "states": STATES},
        "again": {"calls": calls(success=7), "states": STATES | {"closed": 1}},
        "other name": {"a": 8},
    }


def test_a_removed_breaker(tmp_path: Path) -> None:
    assert tell("removed", tmp_path) == {
        "gone": {"calls": calls(success=3), "states": STATES},
        "made again": {"calls": calls(success=5), "states": STATES | {"closed": 1}},
    }


def test_the_cap_counts_all_names_ever_shown(tmp_path: Path) -> None:
    assert tell("cap", tmp_path) == {
        "calls": {"b0": 2, "b1": 10, "_OTHER": 111_100},
        "states": STATES,
    }


def test_a_clash_of_names(tmp_path: Path) -> None:
    assert tell("clash", tmp_path) == {"shown": 0}


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    assert tell("no_folder", tmp_path) == (
        f"PROMETHEUS_MULTIPROC_DIR='{tmp_path}/not/there':"
        " allowed is a folder that exists and can be written to"
    )


def test_a_write_that_fails_is_made_up_for(tmp_path: Path) -> None:
    assert tell("no_room", tmp_path) == {"before": 2, "errors": True, "after": 5}


def test_hostile_text_takes_no_scrape_from_anybody(tmp_path: Path) -> None:
    told = tell("hostile_text", tmp_path)
    assert told["calls"] == {r"host:\udc80\n": 1}
    assert told["listeners"] == [r"\udc80\n", "opentelemetry"]
    assert told["counted"]


def test_a_fork_in_the_middle_of_a_push(tmp_path: Path) -> None:
    assert tell("forks_during_pushes", tmp_path) == 20


def test_only_the_files_of_dead_processes_are_removed(tmp_path: Path) -> None:
    told = tell("dead_files", tmp_path)
    child = told.pop("child")
    assert told == {
        "removed": [
            "counter_PID.db",
            "gauge_livemax_PID.db",
            "gauge_livesum_PID.db",
            "histogram_PID.db",
        ],
        "again": 0,
        "foreign": [f"counter_{child}.db.bak", "notes.txt"],
        "success": [5.0, 3.0],
    }


def test_a_folder_that_is_emptied_under_a_running_process_is_told(tmp_path: Path) -> None:
    assert tell("emptied", tmp_path) == [
        "somebody has removed FILE while this process runs: its metrics are lost until it starts"
        " again; remove_dead_files() leaves the files of running processes alone"
    ]


@pytest.mark.parametrize("folder", ["nowhere", "a file"])
def test_a_folder_that_is_none_is_refused(tmp_path: Path, folder: str) -> None:
    (tmp_path / "a file").write_text("")
    with pytest.raises(breakerscope.MultiprocessError, match="allowed is a folder that exists"):
        breakerscope.remove_dead_files(tmp_path / folder)


def test_what_was_removed_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        child = process.pid
    names = [f"counter_{child}.db", f"histogram_{child}.db", f"counter_{os.getpid()}.db"]
    for name in names:
        (tmp_path / name).touch()
    with caplog.at_level(logging.INFO, "breakerscope"):
        removed = breakerscope.remove_dead_files(tmp_path)
    assert removed == [tmp_path / name for name in names[:2]]
    assert caplog.messages == [f"removed 2 files of 1 processes that have ended: {tmp_path}"]
