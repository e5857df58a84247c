"""Bytes per breaker, fresh and after 300 calls, and after a simulated billion. Prints JSON."""

from __future__ import annotations

import gc
import json
import sys
import tracemalloc
from contextlib import suppress
from typing import Any

from prometheus_client import generate_latest

import breakerscope
from benchmarks import loops, ours, peers
from breakerscope.telemetry.settings import MAX_BREAKERS

CALLS = 300
FAILURE_EVERY = 25
BILLION = 10**9
BATCH = 10**6


def allocated() -> int:
    """Bytes that the interpreter holds after a collection."""
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


def bytes_per_breaker(number: int) -> dict[str, float]:
    """All metrics on; one call in 25 fails. The names are counted, the protected functions too."""
    failing = False

    def body() -> None:
        if failing:
            raise loops.Broken

    breakers: list[Any] = [None] * number
    functions: list[Any] = [None] * number
    before = allocated()
    for at in range(number):
        breakers[at] = breakerscope.instrumented_breaker(peers.new_name())
    fresh = allocated()
    for at in range(number):
        functions[at] = breakers[at](body)
    wrapped = allocated()
    for fn in functions:
        for call in range(CALLS):
            failing = call % FAILURE_EVERY == FAILURE_EVERY - 1
            with suppress(loops.Broken):
                fn()
        failing = False
    used = allocated()
    for breaker in breakers:
        breaker.read()
    after_reading = allocated()
    generate_latest(ours.REGISTRY)
    after_scrape = allocated()
    return {
        "breakers": number,
        "fresh": (fresh - before) / number,
        "after_300_calls": (used - wrapped + fresh - before) / number,
        "after_300_calls_and_a_reading": (after_reading - wrapped + fresh - before) / number,
        "kept_from_scrape_to_scrape_for_each_shown": (after_scrape - after_reading)
        / min(number, MAX_BREAKERS),
        "each_protected_function": (wrapped - fresh) / number,
    }


def simulated_billion() -> dict[str, float]:
    """One breaker, its counters and its window fed in batches, with failures and refusals between.

    Uses the inside of the breaker: a billion real calls would take ten minutes.
    """
    breaker: Any = breakerscope.instrumented_breaker(
        peers.new_name(), failure_rate=0.9, consecutive_failures=5, open_for=0.0001
    )
    controller = breaker._controller
    failing = False

    def body() -> None:
        if failing:
            raise loops.Broken

    fn = breaker(body)

    def turn(batch: int) -> None:
        nonlocal failing
        for at in range(10):
            failing = at < 7
            with suppress(loops.Broken, breakerscope.CircuitBreakerOpenError):
                fn()
        breaker.reset()
        controller.machine.settle_batch(batch)
        controller._counters.histogram(breakerscope.Outcome.SUCCESS).counts[0] += batch

    for _ in range(20):
        turn(1)
    before = allocated()
    done = 0
    while done < BILLION:
        turn(BATCH)
        done += BATCH
    calls = breaker.read().calls[breakerscope.Outcome.SUCCESS]
    if calls < BILLION:
        raise AssertionError(f"the simulation shows {calls} calls")
    return {"simulated_calls": float(calls), "grown_bytes": allocated() - before}


def main() -> None:
    """`python -m benchmarks.run_memory BREAKERS`"""
    ours.switch_on()
    fn = breakerscope.instrumented_breaker(peers.new_name())(loops.empty)
    fn()
    generate_latest(ours.REGISTRY)
    tracemalloc.start()
    print(json.dumps(bytes_per_breaker(int(sys.argv[1])) | simulated_billion()))


if __name__ == "__main__":
    main()
