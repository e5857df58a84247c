"""A dependency that really misbehaves: an HTTP server whose answer depends on who is asked for.

What each does is written in `TROUBLE`, until `heal()` mends everything.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable

from tests.servers.http import HttpServer

HANG_SECONDS = 90.0
SLOW_SECONDS = 0.25
QUICK_ERRORS = 5
OF = 20
FAILING_OF, SLOW_OF = 9, 14
BLIP, BLIPS_EVERY = 0.4, 2.0


class Upstream(HttpServer):
    """Each path is one service."""

    def __init__(self) -> None:
        super().__init__(lambda _method, path, _body: self.status(path))
        self.healed = threading.Event()
        self._asked: Counter[str] = Counter()

    def heal(self) -> None:
        """From now on every answer is quick and good."""
        self.healed.set()

    def __exit__(self, *exc_info: object) -> None:
        self.heal()
        super().__exit__(*exc_info)

    def status(self, path: str) -> int:
        """Do what this service does, and say how it ends."""
        self._asked[path] += 1
        service = path.strip("/").split("/")[0]
        if self.healed.is_set() or service not in TROUBLE:
            return 200
        return TROUBLE[service](self, path)

    def asked(self, path: str) -> int:
        """How many requests to this path there were."""
        return self._asked[path]


def _hang(upstream: Upstream, path: str) -> int:
    """For one process: quick errors open its breaker, and the probe is left without an answer."""
    if path.endswith("/2"):
        return 200
    if upstream.asked(path) > QUICK_ERRORS:
        upstream.healed.wait(HANG_SECONDS)
    return 500


def _slow(upstream: Upstream, path: str) -> int:
    if upstream.asked(path) % OF < SLOW_OF:
        time.sleep(SLOW_SECONDS)
    return 200


TROUBLE: dict[str, Callable[[Upstream, str], int]] = {
    "over": lambda _upstream, _path: 503,
    "ledger": lambda _upstream, _path: 500,
    "warehouse": lambda _upstream, path: 500 if path.endswith("/1") else 200,
    "reviews": _hang,
    "stock": lambda upstream, path: 500 if upstream.asked(path) % OF < FAILING_OF else 200,
    "geocoder": _slow,
    "newsletter": lambda _upstream, _path: 500 if time.time() % BLIPS_EVERY < BLIP else 200,
}
