"""A dependency that really misbehaves: an HTTP server whose answer depends on who is asked for.

Each path is one service. What it does is written in `TROUBLE`, until `heal()` mends everything.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self
from urllib.parse import urlsplit

HANG_SECONDS = 90.0
SLOW_SECONDS = 0.25
QUICK_ERRORS = 5
OF = 20
FAILING_OF, SLOW_OF = 9, 14
BLIP, BLIPS_EVERY = 0.4, 2.0


class Upstream:
    """Serves on a free port of loopback inside the block."""

    def __init__(self) -> None:
        self.healed = threading.Event()
        self._asked: Counter[str] = Counter()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def heal(self) -> None:
        """From now on every answer is quick and good."""
        self.healed.set()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.healed.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def status(self, path: str) -> int:
        """Do what this service does, and say how it ends."""
        self._asked[path] += 1
        service = path.strip("/").split("/")[0]
        if self.healed.is_set() or service not in TROUBLE:
            return 200
        return TROUBLE[service](self, path)

    def turn(self, path: str) -> int:
        """Which of `OF` requests to this path it is: the same share in each window."""
        return self._asked[path] % OF

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        upstream = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_GET(self) -> None:
                self.send_response(upstream.status(urlsplit(self.path).path))
                self.send_header("Content-Length", "0")
                self.end_headers()

            def handle(self) -> None:
                with suppress(ConnectionError):  # a client was killed in the middle
                    super().handle()

            def log_message(self, *_: object) -> None:
                """Thousands of requests are no news."""

        return Handler


def _hang(upstream: Upstream, path: str) -> int:
    """For one process: quick errors open its breaker, and the probe is left without an answer."""
    if path.endswith("/2"):
        return 200
    if upstream._asked[path] > QUICK_ERRORS:
        upstream.healed.wait(HANG_SECONDS)
    return 500


def _slow(upstream: Upstream, path: str) -> int:
    if upstream.turn(path) < SLOW_OF:
        time.sleep(SLOW_SECONDS)
    return 200


TROUBLE: dict[str, Callable[[Upstream, str], int]] = {
    "over": lambda _upstream, _path: 503,
    "ledger": lambda _upstream, _path: 500,
    "warehouse": lambda _upstream, path: 500 if path.endswith("/1") else 200,
    "reviews": _hang,
    "stock": lambda upstream, path: 500 if upstream.turn(path) < FAILING_OF else 200,
    "geocoder": _slow,
    "newsletter": lambda _upstream, _path: 500 if time.time() % BLIPS_EVERY < BLIP else 200,
}
