"""A real Prometheus that scrapes every second."""

from __future__ import annotations

import http.client
import json
import tempfile
import urllib.parse
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from tests.servers.process import ServerProcess, binary, free_port, start


class Prometheus:
    """`targets` are "host:port" by the name of the job. What its rules find goes to the
    Alertmanager, if there is one.
    """

    def __init__(
        self,
        targets: dict[str, list[str]],
        folder: Path,
        rules: Path | None = None,
        alertmanager: str | None = None,
    ) -> None:
        self._targets = targets
        self._folder = folder
        self._rules = [str(rules)] if rules else []
        self._alertmanagers = [{"static_configs": [{"targets": [alertmanager]}]}] * bool(
            alertmanager
        )
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        start(self._begin)
        return self

    def _begin(self) -> None:
        program = binary("prometheus")
        # A folder for each start: one test may run several servers, and each locks its data.
        folder = Path(tempfile.mkdtemp(prefix="prometheus-", dir=self._folder))
        config = folder / "prometheus.yml"
        jobs = [
            {"job_name": job, "static_configs": [{"targets": hosts}]}
            for job, hosts in self._targets.items()
        ]
        every = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        document = {
            "global": every,
            "scrape_configs": jobs,
            "rule_files": self._rules,
            "alerting": {"alertmanagers": self._alertmanagers},
        }
        config.write_text(json.dumps(document))
        self.address = f"127.0.0.1:{free_port()}"
        command = [
            program,
            f"--config.file={config}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address={self.address}",
            "--enable-feature=exemplar-storage",
        ]
        data = str(folder / "data")
        self._stack.enter_context(ServerProcess(command, folder, lambda: self._is_ready(data)))

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    def query(self, expression: str) -> dict[tuple[tuple[str, str], ...], float]:
        """The value of each series, by its labels in sorted order."""
        result = self.get("query", query=expression)["result"]
        return {tuple(sorted(row["metric"].items())): float(row["value"][1]) for row in result}

    def query_range(
        self, expression: str, start: float, end: float, step: float = 1.0
    ) -> dict[tuple[tuple[str, str], ...], list[tuple[float, float]]]:
        """The (unix time, value) points of each series, by its labels in sorted order."""
        data = self.get("query_range", query=expression, start=start, end=end, step=step)
        return {
            tuple(sorted(row["metric"].items())): [
                (at, float(value)) for at, value in row["values"]
            ]
            for row in data["result"]
        }

    def exemplars(self, expression: str, start: float, end: float) -> list[dict[str, Any]]:
        """The exemplars of all series between two unix times."""
        series = self.get("query_exemplars", query=expression, start=start, end=end)
        return [exemplar for one in series for exemplar in one["exemplars"]]

    def get(self, path: str, **parameters: object) -> Any:
        """The data of an answer of the HTTP API."""
        url = f"http://{self.address}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=10) as response:
            return json.load(response)["data"]

    def _is_ready(self, data: str) -> bool:
        """A ready answer may come from another Prometheus that took the port: this one's data?"""
        try:
            with urllib.request.urlopen(f"http://{self.address}/-/ready", timeout=1) as response:
                if response.status != 200:
                    return False
            return bool(self.get("status/flags")["storage.tsdb.path"] == data)
        except (OSError, http.client.HTTPException, ValueError, KeyError):
            return False
