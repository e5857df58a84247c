"""The demo, and beside it breakers whose names need care: `python -m tests.dashboards.shop PORT N`.

They live in the same process and registry. Each goes through everything in a few seconds: fine,
failing, open, half-open, closed again, and open by hand; one of them in shadow mode.
"""

from __future__ import annotations

import random
import sys
import threading
import time
from contextlib import suppress

from opentelemetry.sdk.trace import TracerProvider

import breakerscope
from breakerscope import CircuitBreakerOpenError, instrumented_breaker
from breakerscope.cli import main

SHADOW = "order history"
ODD_NAMES = ("search.v2", SHADOW, "say \"when\" or 'then'")
SECONDS = 40
CYCLE = 5.0
HEALTHY = 2.0
PAUSE = 0.03
BY_HAND = 7.0


class Upstream(Exception):
    """The dependency fails."""


def use(name: str, seed: str) -> None:
    """Call one of them for as long as the process lives."""
    chance = random.Random(f"{seed} {name}")
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer(name)
    breaker = instrumented_breaker(
        name,
        failure_rate=0.5,
        slow_call=0.02,
        slow_call_rate=0.95,
        window=20,
        min_calls=5,
        # Another one in each process: policies that drift.
        open_for=0.5 + int(seed) / 10,
        backoff=1.2,
        # Shorter than a healthy time, or it could sleep through all of them.
        open_for_max=1.0,
        shadow=name == SHADOW,
    )
    start = time.monotonic()

    @breaker.with_fallback(lambda: None)
    def call() -> None:
        time.sleep(chance.uniform(0.001, 0.03))
        if (time.monotonic() - start) % CYCLE > HEALTHY and chance.random() < 0.9:
            raise Upstream

    by_hand = start + BY_HAND
    while True:
        with tracer.start_as_current_span("order"), suppress(Upstream, CircuitBreakerOpenError):
            call()
        time.sleep(PAUSE)
        if time.monotonic() > by_hand:
            by_hand += BY_HAND
            with breaker.isolated("maintenance"):
                time.sleep(1.2)


def use_all(seed: str) -> None:
    """Begin when the demo has set up its telemetry, so that all breakers are in its registry."""
    while not breakerscope.breakers():
        time.sleep(0.01)
    for name in ODD_NAMES:
        threading.Thread(target=use, args=(name, seed), daemon=True).start()


if __name__ == "__main__":
    port, seed = sys.argv[1:]
    threading.Thread(target=use_all, args=(seed,), daemon=True).start()
    numbers = [f"--duration={SECONDS}", "--hold=60", f"--seed={seed}", f"--metrics-port={port}"]
    sys.exit(main(["demo", "--headless", *numbers]))
