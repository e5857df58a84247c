"""A real Celery worker: what a task says to Celery is no failure of the dependency."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import breakerscope
from tests.servers.process import ServerProcess

ROOT = Path(__file__).parents[2]
SECONDS = 30.0

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the worker forks")


@pytest.fixture
def tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The module of the tasks, beside a worker with one forked process."""
    for name in ("queue", "control", "processed", "results"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("CELERY_FOLDER", str(tmp_path))
    monkeypatch.delitem(sys.modules, "tests.integration.celery_app", raising=False)
    module: Any = importlib.import_module("tests.integration.celery_app")
    source = Path(breakerscope.__file__).parents[1]
    paths = os.pathsep.join([str(ROOT), str(source)])
    command = ["env", f"CELERY_FOLDER={tmp_path}", f"PYTHONPATH={paths}"]
    command += [sys.executable, "-m", "celery", "--app", "tests.integration.celery_app"]
    command += ["worker", "--pool", "prefork", "--concurrency", "1", "--loglevel", "warning"]
    command += ["--without-gossip", "--without-mingle", "--without-heartbeat"]

    def is_ready() -> bool:
        return bool(module.counts.delay().get(timeout=SECONDS))

    with ServerProcess(command, tmp_path, is_ready):
        yield module
    breakerscope.remove_breaker("payments")
    module.app.close()


def told(result: Any) -> str:
    """What became of a task: its value, or the name of its exception."""
    value = result.get(timeout=SECONDS, propagate=False)
    return value if isinstance(value, str) else type(value).__name__


def test_what_is_said_to_celery_is_no_failure(tasks: Any) -> None:
    assert told(tasks.charge.delay("ok")) == "charged"
    assert told(tasks.charge.delay("busy once")) == "charged"
    tasks.charge.delay("ignore")
    tasks.charge.delay("reject")
    # Two retries say nothing; the end of all retries is a failure.
    assert told(tasks.charge.delay("busy")) == "ConnectionError"
    assert tasks.counts.delay().get(timeout=SECONDS) == {
        "state": "closed",
        "success": 2,
        "ignored": 5,
        "failure": 1,
    }


def test_a_task_waits_until_the_breaker_lets_it_through(tasks: Any) -> None:
    for _ in range(2):
        assert told(tasks.charge.delay("down")) == "ConnectionError"
    assert told(tasks.charge.delay("ok")) == "CircuitBreakerOpenError"
    assert told(tasks.charge_when_it_is_back.delay()) == "charged"
    counted = tasks.counts.delay().get(timeout=SECONDS)
    assert counted.pop("rejected") >= 1
    assert counted == {"state": "closed", "failure": 2, "success": 1}
