"""The tail: how long calls take while 8 threads call and a scrape runs every 100 ms.

Each subject serves a million calls in turns of 100,000; an empty function goes along, since most
of the tail is the interpreter switching threads. Prints JSON: microseconds.
"""

from __future__ import annotations

import json
import sys
import threading
from array import array
from time import perf_counter

from prometheus_client import generate_latest

import breakerscope
from benchmarks import loops, ours, peers
from benchmarks.loops import Body

THREADS = 8
TURNS = 10
SCRAPE_EVERY = 0.1
OTHER_BREAKERS = 100
PEERS = ("circuitbreaker", "resilix", "nopanic")


def turn(fn: Body, calls: int) -> array[float]:
    """The seconds of each call of all threads together."""
    ready = threading.Barrier(THREADS)
    taken = [array("d", bytes(8 * calls)) for _ in range(THREADS)]

    def run(own: array[float]) -> None:
        now = perf_counter
        ready.wait()
        for at in range(calls):
            start = now()
            fn()
            own[at] = now() - start

    threads = [threading.Thread(target=run, args=(own,)) for own in taken]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(taken[1:], start=taken[0])


def scrape_until(stop: threading.Event, count: list[int]) -> None:
    while not stop.wait(SCRAPE_EVERY):
        generate_latest(ours.REGISTRY)
        count[0] += 1


def main() -> None:
    """`python -m benchmarks.run_tail CALLS`"""
    calls = int(sys.argv[1])
    ours.switch_on()
    for _ in range(OTHER_BREAKERS):
        breakerscope.instrumented_breaker(peers.new_name())(loops.empty)()
    breaker = breakerscope.instrumented_breaker(peers.new_name())
    subjects: dict[str, Body] = {
        "empty function": loops.empty,
        "breakerscope": breaker(loops.empty),
        **{name: peers.BY_NAME[name].make(loops.empty) for name in PEERS},
    }
    found = {name: array("d") for name in subjects}
    stop, scrapes = threading.Event(), [0]
    scraper = threading.Thread(target=scrape_until, args=(stop, scrapes), daemon=True)
    scraper.start()
    names = list(subjects)
    each = calls // TURNS // THREADS
    for number in range(TURNS):
        for step in range(len(names)):
            name = names[(number + step) % len(names)]
            found[name] += turn(subjects[name], each)
    stop.set()
    scraper.join()
    counted = breaker.read().calls[breakerscope.Outcome.SUCCESS]
    if counted != each * TURNS * THREADS:
        raise AssertionError(f"{each * TURNS * THREADS} calls were made, {counted} counted")
    print(
        json.dumps(
            {"scrapes": scrapes[0], "calls": counted}
            | {name: _quantiles(times) for name, times in found.items()}
        )
    )


def _quantiles(times: array[float]) -> dict[str, float]:
    ordered = sorted(times)
    last = len(ordered) - 1
    at = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999, "p99.99": 0.9999, "max": 1.0}
    return {name: ordered[int(last * share)] * 1e6 for name, share in at.items()}


if __name__ == "__main__":
    main()
