"""gunicorn with four workers: one scrape of any of them shows the calls of all, the killed too."""

from __future__ import annotations

import http.client
import os
import signal
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import pytest
from prometheus_client.parser import text_string_to_metric_families

import breakerscope
from tests.servers.process import ServerProcess, free_port, start, wait_until

ROOT = Path(__file__).parents[2]
WORKERS = 4
REQUESTS = 3000
CLIENTS = 8
CALLS = "circuit_breaker_calls_total"

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="gunicorn forks")


class Gunicorn:
    """A server on a free port, with the files of prometheus_client in a folder of its own."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self._folder = folder
        self._arguments = arguments
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        start(self._begin)
        return self

    def _begin(self) -> None:
        self.port = free_port()
        files = self._folder / f"files-{self.port}"
        files.mkdir()
        source = Path(breakerscope.__file__).parents[1]
        settings = {
            "PROMETHEUS_MULTIPROC_DIR": str(files),
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(source)]),
        }
        command = [sys.executable, "-m", "gunicorn", "--bind", f"127.0.0.1:{self.port}"]
        command += ["--workers", str(WORKERS), "--graceful-timeout", "5"]
        command += ["--config", str(ROOT / "tests/integration/gunicorn_conf.py")]
        command += [*self._arguments, "tests.integration.gunicorn_app:application"]
        # The variables come by way of env(1): the server's process has no other place for them.
        command = ["env", *(f"{name}={value}" for name, value in settings.items()), *command]
        self._stack.enter_context(ServerProcess(command, self._folder, self._is_ready))

    def _is_ready(self) -> bool:
        try:
            return b"circuit_breaker" in self.get("/metrics")
        except (OSError, http.client.HTTPException):
            return False

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    def get(self, path: str) -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            assert answer.status == 200
            return answer.read()
        finally:
            connection.close()

    def shown(self, name: str, label: str) -> dict[str, float]:
        return {
            sample.labels[label]: sample.value
            for family in text_string_to_metric_families(self.get("/metrics").decode())
            for sample in family.samples
            if sample.name == name
        }

    def load(self, requests: int) -> Counter[int]:
        """So many requests with one call each. Returns how many each worker answered, by pid."""
        with ThreadPoolExecutor(CLIENTS) as pool:
            pids = pool.map(lambda number: int(self.get(f"/call?n={number}")), range(requests))
            return Counter(pids)


@pytest.mark.parametrize("preload", [False, True])
def test_four_workers_count_as_one(tmp_path: Path, preload: bool) -> None:
    with Gunicorn(tmp_path, *(["--preload"] if preload else [])) as server:
        workers = server.load(REQUESTS)
        assert len(workers) == WORKERS
        assert workers.total() == REQUESTS
        expected = {"success": REQUESTS * 0.9, "failure": REQUESTS * 0.1}
        nothing = dict.fromkeys(["ignored", "cancelled"], 0.0)
        everything = expected | nothing | {"rejected": 0.0}
        wait_until(lambda: server.shown(CALLS, "outcome") == everything, "all pushed", 5)
        histogram = server.shown("circuit_breaker_call_duration_seconds_count", "outcome")
        assert histogram == expected | nothing
        in_states = server.shown("circuit_breaker_state", "state")
        assert in_states == dict.fromkeys(breakerscope.State, 0.0) | {"closed": WORKERS}

        victim = next(iter(workers))
        os.kill(victim, signal.SIGKILL)
        more = REQUESTS // 10

        # gunicorn starts another one; the dead one is in no state and its calls are still there.
        def replaced() -> bool:
            return server.shown("circuit_breaker_state", "state")["closed"] == WORKERS - 1

        wait_until(replaced, "the end of the worker was noticed", 10)
        assert server.shown(CALLS, "outcome") == everything
        again = server.load(more)
        assert victim not in again
        assert again.total() == more
        everything |= {"success": (REQUESTS + more) * 0.9, "failure": (REQUESTS + more) * 0.1}
        wait_until(lambda: server.shown(CALLS, "outcome") == everything, "all pushed again", 5)
