"""Does a call get dearer with more breakers, a longer window, or time? Prints JSON: ns per call."""

from __future__ import annotations

import gc
import json
import statistics
import sys
from collections.abc import Callable, Sequence
from datetime import timedelta
from itertools import cycle, islice
from time import perf_counter
from typing import Any

import breakerscope
from benchmarks import loops, ours, peers
from benchmarks.loops import Body
from breakerscope.breaker import CircuitBreaker
from breakerscope.core.clock import Clock
from breakerscope.core.policy import Policy

CALLS = 20_000
BREAKERS = (1, 100, 10_000)
WINDOWS = (10, 1_000, 100_000)
FAILURE_EVERY = 10
PEERS = ("circuitbreaker", "resilix")
WARM_UP = 1_000
"""Calls of each breaker before it is timed: the first ones take the lock more often."""


def nanoseconds(functions: Sequence[Body]) -> float:
    """One call, over the functions in turn; those that raise `Broken` are caught."""
    order = list(islice(cycle(functions), CALLS))
    gc.collect()
    gc.disable()
    try:
        start = perf_counter()
        for fn in order:
            try:  # noqa: SIM105 - `suppress` would be timed too
                fn()
            except loops.Broken:
                pass
        return (perf_counter() - start) / CALLS * 1e9
    finally:
        gc.enable()


def in_turn(rounds: int, subjects: dict[str, Callable[[], float]]) -> dict[str, float]:
    """The median of each, measured in the same rounds."""
    found: dict[str, list[float]] = {name: [] for name in subjects}
    names = list(subjects)
    for turn in range(rounds):
        for step in range(len(names)):
            name = names[(turn + step) % len(names)]
            found[name].append(subjects[name]())
    return {name: statistics.median(each) for name, each in found.items()}


def over_breakers() -> dict[str, Callable[[], float]]:
    """Ours, and two peers for comparison: the caches of the processor forget for them too."""
    subjects: dict[str, Callable[[], float]] = {}
    for number in BREAKERS:
        own = [
            breakerscope.instrumented_breaker(peers.new_name())(loops.empty) for _ in range(number)
        ]
        for fn in own:
            for _ in range(WARM_UP):
                fn()
        subjects[f"{number:,} breakers"] = lambda fns=own: nanoseconds(fns)  # type: ignore[misc]
        for name in PEERS:
            other = [peers.BY_NAME[name].make(loops.empty) for _ in range(number)]
            subjects[f"{number:,} of {name}"] = lambda fns=other: nanoseconds(fns)  # type: ignore[misc]
    return subjects


def over_windows() -> dict[str, Callable[[], float]]:
    """Full windows; one call in ten fails, so that the window has something to hold."""
    subjects: dict[str, Callable[[], float]] = {}
    for size in WINDOWS:
        options: dict[str, Any] = {"window": size, "min_calls": min(size, 10), "failure_rate": 0.9}
        fn = breakerscope.instrumented_breaker(peers.new_name(), **options)(_one_in_ten_fails())
        for _ in range(max(size // CALLS + 1, 1)):
            nanoseconds([fn])
        subjects[f"window of {size:,}"] = lambda fn=fn: nanoseconds([fn])  # type: ignore[misc]
    return subjects


def _one_in_ten_fails() -> Body:
    turns = cycle([False] * (FAILURE_EVERY - 1) + [True]).__next__

    def body() -> None:
        if turns():
            raise loops.Broken

    return body


def over_uptime() -> dict[str, float]:
    """A clock that steps through an hour, one call every 10 ms, one in ten fails; a time window."""
    time = 0.0

    def now() -> float:
        nonlocal time
        time += 0.005
        return time

    policy = Policy(failure_rate=0.9, window=timedelta(seconds=60))
    breaker = CircuitBreaker(peers.new_name(), policy, clock=Clock(now, now))
    fn = breaker(_one_in_ten_fails())
    found: dict[str, list[float]] = {}
    while time < 3600:
        minute = f"minute {int(time // 600) * 10} to {int(time // 600) * 10 + 10}"
        found.setdefault(minute, []).append(nanoseconds([fn]))
    return {name: statistics.median(each) for name, each in found.items()}


def main() -> None:
    """`python -m benchmarks.run_growth ROUNDS`"""
    rounds = int(sys.argv[1])
    ours.switch_on()
    print(
        json.dumps(
            {
                "breakers": in_turn(rounds, over_breakers()),
                "windows": in_turn(rounds, over_windows()),
                "uptime": over_uptime(),
            }
        )
    )


if __name__ == "__main__":
    main()
