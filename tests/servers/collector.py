"""Runs in a container in Jaeger's place: takes OTLP at Jaeger's ports and prints what it gets.

Healthy at Jaeger's address means here: both ports listen. It does not read Jaeger's configuration.
"""

from __future__ import annotations

import importlib.util
import signal
import socket
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

GRPC, HTTP, HEALTH = 4317, 4318, 13133


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Health(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if listens(GRPC) and listens(HTTP) else 503)
        self.end_headers()

    def do_HEAD(self) -> None:
        self.do_GET()

    def log_message(self, *_: object) -> None:
        """The log is for spans."""


def main() -> None:
    spec = importlib.util.find_spec("rotel")
    assert spec is not None
    assert spec.origin is not None
    agent = subprocess.Popen(
        [
            str(Path(spec.origin).parent / "rotel-agent"),
            "start",
            *("--exporter", "blackhole"),
            *("--debug-log", "traces"),
            *("--debug-log-verbosity", "detailed"),
            *("--otlp-grpc-endpoint", f"0.0.0.0:{GRPC}"),
            *("--otlp-http-endpoint", f"0.0.0.0:{HTTP}"),
        ]
    )

    def end(*_: object) -> None:
        agent.terminate()
        sys.exit(agent.wait())

    signal.signal(signal.SIGTERM, end)
    ThreadingHTTPServer(("127.0.0.1", HEALTH), Health).serve_forever()


if __name__ == "__main__":
    main()
