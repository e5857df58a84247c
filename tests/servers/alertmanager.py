"""A real Alertmanager, and a webhook that keeps what it is sent."""

from __future__ import annotations

import http.client
import json
import tempfile
import threading
import urllib.parse
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple, Self

from tests.servers.http import HttpServer
from tests.servers.process import ServerProcess, binary, free_port, start

Json = dict[str, Any]


class Message(NamedTuple):
    """One alert as it arrived at a receiver."""

    receiver: str
    status: str
    fingerprint: str
    labels: dict[str, str]
    annotations: dict[str, str]


class Webhook(HttpServer):
    """`/<receiver>` for each receiver."""

    def __init__(self) -> None:
        super().__init__(self._keep)
        self._lock = threading.Lock()
        self._messages: list[Message] = []

    @property
    def messages(self) -> list[Message]:
        """What arrived so far, in order."""
        with self._lock:
            return list(self._messages)

    def _keep(self, method: str, path: str, body: str) -> int:
        receiver = path.strip("/")
        found = [
            Message(receiver, one["status"], one["fingerprint"], one["labels"], one["annotations"])
            for one in json.loads(body)["alerts"]
        ]
        with self._lock:
            self._messages += found
        return 200


class Alertmanager:
    """Runs with this configuration inside the block."""

    def __init__(self, config: Json, folder: Path) -> None:
        self._config = config
        self._folder = folder
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        start(self._begin)
        return self

    def _begin(self) -> None:
        program = binary("prometheus-alertmanager")
        folder = Path(tempfile.mkdtemp(prefix="alertmanager-", dir=self._folder))
        config = folder / "alertmanager.yml"
        config.write_text(json.dumps(self._config))  # JSON is YAML
        self.address = f"127.0.0.1:{free_port()}"
        command = [
            program,
            f"--config.file={config}",
            f"--storage.path={folder / 'data'}",
            f"--web.listen-address={self.address}",
            "--cluster.listen-address=",
        ]
        self._stack.enter_context(ServerProcess(command, folder, self._is_ready))

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    def alerts(self, **filters: object) -> list[Json]:
        """What it holds: labels, annotations, and which other alerts mute it."""
        found: list[Json] = self._get("alerts", **filters)
        return found

    def _get(self, path: str, **parameters: object) -> Any:
        url = f"http://{self.address}/api/v2/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=10) as response:
            return json.load(response)

    def _is_ready(self) -> bool:
        """Ready, and ours: another one that took the port has another configuration."""
        try:
            original = self._get("status")["config"]["original"]
        except (OSError, http.client.HTTPException, ValueError, KeyError):
            return False
        receivers = [one["name"] for one in self._config["receivers"]]
        return all(name in original for name in receivers)
