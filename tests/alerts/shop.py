"""The demo, and breakers beside it in all kinds of trouble.

`python -m tests.alerts.shop PORT N URL`: N tells the two processes of the shop apart; N = 0 is
another service, which forgets its telemetry. `/over` of the upstream says when the trouble is over:
what was done by hand is then undone.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import httpx
from prometheus_client import CollectorRegistry, start_http_server

import breakerscope
from breakerscope import CircuitBreaker, CircuitBreakerOpenError, instrumented_breaker
from breakerscope.cli import main

DEMO_SECONDS = 40
PAUSE = 0.05
POLL = 0.2
# Prometheus takes some seconds to its first scrape.
FORGETS_AFTER = 12.0
BY_HAND = "fax"
DRIFTING = "flags"


class Upstream(Exception):
    """The dependency fails."""


def client() -> httpx.Client:
    # A probe may hang for longer than any test.
    return httpx.Client(trust_env=False, timeout=120)


def use(breaker: CircuitBreaker, url: str, callers: int = 1) -> None:
    """Call it for as long as the process lives."""

    def call(http: httpx.Client) -> None:
        if http.get(url).status_code >= 500:
            raise Upstream

    def run() -> None:
        with client() as http:
            while True:
                with suppress(Upstream, CircuitBreakerOpenError):
                    breaker.call(call, http)
                time.sleep(PAUSE)

    for _ in range(callers):
        threading.Thread(target=run, daemon=True).start()


def when_over(url: str, act: Callable[[], object]) -> None:
    """Act once the trouble is over."""

    def wait() -> None:
        with client() as http:
            while http.get(f"{url}/over").status_code != 200:
                time.sleep(POLL)
        act()

    threading.Thread(target=wait, daemon=True).start()


def quick(name: str, failures: int = 3) -> CircuitBreaker:
    return instrumented_breaker(name, consecutive_failures=failures, open_for=0.5)


def trouble(seed: str, url: str) -> None:
    """Begin when the demo has set up its telemetry, so that all breakers are in its registry."""
    while not breakerscope.breakers():
        time.sleep(0.01)
    services = {
        "ledger": (quick("ledger"), 1),
        "warehouse": (quick("warehouse"), 1),
        # One caller is caught in the probe; the others are refused.
        "reviews": (quick("reviews"), 3),
        "stock": (instrumented_breaker("stock", failure_rate=0.5, window=20, min_calls=20), 1),
        "geocoder": (
            instrumented_breaker(
                "geocoder", slow_call=0.2, slow_call_rate=0.8, window=20, min_calls=20
            ),
            2,
        ),
        "newsletter": (quick("newsletter", failures=1), 1),
        BY_HAND: (instrumented_breaker(BY_HAND), 1),
        DRIFTING: (instrumented_breaker(DRIFTING, window=10 + int(seed)), 1),
    }
    for name, (breaker, callers) in services.items():
        use(breaker, f"{url}/{name}/{seed}", callers)
    if seed == "1":
        services[BY_HAND][0].force_open("the vendor moves house")
        when_over(url, services[BY_HAND][0].reset)
        when_over(url, lambda: breakerscope.remove_breaker(DRIFTING))
        over = threading.Event()
        when_over(url, over.set)
        breakerscope.subscribe(lambda _event: over.wait(1.0), name="audit_sink", queue_size=50)


def forgetful(port: int, url: str) -> None:
    """A service that is scraped all the time, but shows no breakers until the trouble is over."""
    registry = CollectorRegistry()
    start_http_server(port, addr="127.0.0.1", registry=registry)
    telemetry = breakerscope.setup_telemetry(registry=registry)
    use(instrumented_breaker("invoices"), f"{url}/invoices")
    time.sleep(FORGETS_AFTER)
    telemetry.close()
    when_over(url, lambda: breakerscope.setup_telemetry(registry=registry))
    threading.Event().wait()


if __name__ == "__main__":
    port, seed, url = sys.argv[1:]
    if seed == "0":
        forgetful(int(port), url)
    threading.Thread(target=trouble, args=(seed, url), daemon=True).start()
    numbers = [
        f"--duration={DEMO_SECONDS}",
        "--hold=600",
        f"--seed={seed}",
        f"--metrics-port={port}",
    ]
    sys.exit(main(["demo", "--headless", *numbers]))
