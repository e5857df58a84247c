"""Breakers of other libraries, bridged, in one process: `python -m tests.dashboards.bridged_shop
PORT`.

Each goes through everything in a few seconds: fine, failing, open, half-open, closed again.
"""

from __future__ import annotations

import random
import sys
import threading
import time
from contextlib import suppress
from typing import Any

from opentelemetry.sdk.trace import TracerProvider
from prometheus_client import start_http_server

import breakerscope
from breakerscope import bridges
from tests.unit.bridged import KINDS, Kind

SECONDS = 60
CYCLE = 5.0
HEALTHY = 2.5
PAUSE = 0.03
WAIT = 0.5


class Upstream(Exception):
    """The dependency fails."""


def target_of(kind: Kind) -> Any:
    """A breaker that opens and closes, and looks at slow calls where it can."""
    if kind.library.name == "interlock-cb":
        import interlock

        return interlock.CircuitBreaker(
            name="shop",
            config=interlock.Config(
                failure_rate_threshold=0.5,
                minimum_number_of_calls=5,
                window_size=10,
                wait_duration_in_open=WAIT,
                permitted_calls_in_half_open=1,
            ),
        )
    if kind.library.name != "nopanic":
        return kind.make(WAIT)
    import nopanic

    return nopanic.CircuitBreaker(
        failure_threshold=0.5,
        min_calls=5,
        window=2.0,
        reset_timeout=WAIT,
        slow_call_duration=0.02,
        slow_call_threshold=0.95,
    )


def use(kind: Kind) -> None:
    """Call one of them for as long as the process lives."""
    chance = random.Random(kind.library.name)
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("shop")
    target = target_of(kind)
    if kind.library.name == "purgatory":
        bridges.purgatory.attach(target, kind.library.name)
    else:
        kind.attach(target, name=kind.library.name)
    start = time.monotonic()

    def call() -> None:
        time.sleep(chance.uniform(0.001, 0.03))
        if (time.monotonic() - start) % CYCLE > HEALTHY and chance.random() < 0.9:
            raise Upstream

    protected = kind.protect(target, call)
    while time.monotonic() < start + SECONDS:
        with tracer.start_as_current_span("request"), suppress(Exception):
            protected()
        time.sleep(PAUSE)


if __name__ == "__main__":
    breakerscope.setup_telemetry()
    start_http_server(int(sys.argv[1]), addr="127.0.0.1")
    threads = [threading.Thread(target=use, args=(kind,)) for kind in KINDS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
