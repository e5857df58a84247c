"""A real Prometheus that scrapes every second."""

from __future__ import annotations

import json
import urllib.parse
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from tests.servers.process import ServerProcess, binary, free_port

STARTS = 3
"""Another program may take a free port before the server does."""


class Prometheus:
    """`targets` are "host:port" by the name of the job."""

    def __init__(self, targets: dict[str, list[str]], folder: Path) -> None:
        self._targets = targets
        self._folder = folder
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        program = binary("prometheus")
        config = self._folder / "prometheus.yml"
        jobs = [
            {"job_name": job, "static_configs": [{"targets": hosts}]}
            for job, hosts in self._targets.items()
        ]
        every = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        config.write_text(json.dumps({"global": every, "scrape_configs": jobs}))
        for attempt in range(STARTS):
            self.address = f"127.0.0.1:{free_port()}"
            command = [
                program,
                f"--config.file={config}",
                f"--storage.tsdb.path={self._folder / f'data{attempt}'}",
                f"--web.listen-address={self.address}",
                "--enable-feature=exemplar-storage",
            ]
            try:
                self._stack.enter_context(ServerProcess(command, self._folder, self._is_ready))
                break
            except RuntimeError:
                if attempt == STARTS - 1:
                    raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    def query(self, expression: str) -> dict[tuple[tuple[str, str], ...], float]:
        """The value of each series, by its labels in sorted order."""
        result = self.get("query", query=expression)["result"]
        return {tuple(sorted(row["metric"].items())): float(row["value"][1]) for row in result}

    def exemplars(self, expression: str, start: float, end: float) -> list[dict[str, Any]]:
        """The exemplars of all series between two unix times."""
        series = self.get("query_exemplars", query=expression, start=start, end=end)
        return [exemplar for one in series for exemplar in one["exemplars"]]

    def get(self, path: str, **parameters: object) -> Any:
        """The data of an answer of the HTTP API."""
        url = f"http://{self.address}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=10) as response:
            return json.load(response)["data"]

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://{self.address}/-/ready", timeout=1) as response:
                return bool(response.status == 200)
        except OSError:
            return False
