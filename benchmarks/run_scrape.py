"""A scrape of many breakers beside the same series held as prometheus_client children.

Prints JSON: milliseconds for both, for 1,000 breakers, and ours for other numbers of breakers.
"""

from __future__ import annotations

import gc
import json
import statistics
import sys
from collections.abc import Callable
from contextlib import suppress
from time import perf_counter
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

import breakerscope
from benchmarks import ours, peers
from benchmarks.loops import Broken

BREAKERS = 1_000
OTHER_NUMBERS = (10, 100, 1_000, 5_000)
CALLS = 40
Scrape = Callable[[CollectorRegistry], object]


def use(number: int) -> list[Callable[[], object]]:
    """So many breakers, each with successes and a few failures."""
    broken = False

    def body() -> None:
        if broken:
            raise Broken

    protected: list[Callable[[], object]] = []
    for _ in range(number):
        breaker = breakerscope.instrumented_breaker(peers.new_name(), failure_rate=0.9)
        fn = breaker(body)
        for call in range(CALLS):
            broken = call % 20 == 19
            with suppress(Broken):
                fn()
        broken = False
        protected.append(fn)
    return protected


def children(source: CollectorRegistry) -> CollectorRegistry:
    """The same series with the same values, held by prometheus_client."""
    registry = CollectorRegistry()
    for family in source.collect():
        samples = family.samples
        if not samples:
            continue
        names = [name for name in samples[0].labels if name != "le"]
        options: dict[str, Any] = {"labelnames": names, "registry": registry}
        if family.type == "histogram":
            bounds = list(dict.fromkeys(s.labels["le"] for s in samples if "le" in s.labels))
            histogram = Histogram(family.name, family.documentation, buckets=bounds, **options)
            for s in samples:
                if s.name.endswith("_count"):
                    child = histogram.labels(**s.labels)
                    for _ in range(int(s.value)):
                        child.observe(1e-6)
        elif family.type == "counter":
            counter = Counter(family.name, family.documentation, **options)
            for s in samples:
                _child(counter, s.labels).inc(s.value)
        else:
            gauge = Gauge(family.name, family.documentation, **options)
            for s in samples:
                _child(gauge, s.labels).set(s.value)
    return registry


def _child(metric: Any, labels: dict[str, str]) -> Any:
    return metric.labels(**labels) if labels else metric


def series(registry: CollectorRegistry) -> int:
    """How many samples a scrape has."""
    return sum(len(family.samples) for family in registry.collect())


def collect_only(registry: CollectorRegistry) -> None:
    for _ in registry.collect():
        pass


def scrape_seconds(registry: CollectorRegistry, scrape: Scrape = generate_latest) -> float:
    """The seconds of one scrape."""
    gc.collect(0)
    gc.disable()
    try:
        start = perf_counter()
        scrape(registry)
        return perf_counter() - start
    finally:
        gc.enable()


def main() -> None:
    """`python -m benchmarks.run_scrape ROUNDS`"""
    rounds = int(sys.argv[1])
    disable_created_metrics()
    breakerscope.setup_telemetry(registry=ours.REGISTRY, max_breakers=max(OTHER_NUMBERS))
    growth = {}
    for number in OTHER_NUMBERS:
        protected = use(number)
        if number == BREAKERS:
            other = children(ours.REGISTRY)
            have, want = series(ours.REGISTRY), series(other)
            if have != want:
                raise AssertionError(f"ours shows {have} series, the children {want}")
            found = _in_turn(rounds, protected, other)
            found["series"] = float(have)
        times = []
        for _ in range(max(rounds // 2, 3)):
            for fn in protected:
                fn()
            times.append(scrape_seconds(ours.REGISTRY))
        growth[number] = statistics.median(times) * 1e3
        for breaker in breakerscope.breakers():
            breakerscope.remove_breaker(breaker.name)
    print(json.dumps({"thousand": found, "milliseconds_by_breakers": growth}))


def _in_turn(
    rounds: int, protected: list[Callable[[], object]], other: CollectorRegistry
) -> dict[str, float]:
    """`generate_latest`, and `collect` alone: the rest of a scrape is text, the same for both."""
    ways: list[tuple[str, CollectorRegistry, Scrape]] = [
        ("ours", ours.REGISTRY, generate_latest),
        ("children", other, generate_latest),
        ("ours, collect() alone", ours.REGISTRY, collect_only),
        ("children, collect() alone", other, collect_only),
    ]
    times: dict[str, list[float]] = {name: [] for name, _, _ in ways}
    for turn in range(rounds):
        for step in range(len(ways)):
            for fn in protected:
                fn()
            name, registry, scrape = ways[(turn + step) % len(ways)]
            times[name].append(scrape_seconds(registry, scrape))
    found = {f"{name}, ms": statistics.median(each) * 1e3 for name, each in times.items()}
    found |= {f"{name}, minimum, ms": min(each) * 1e3 for name, each in times.items()}
    return found


if __name__ == "__main__":
    main()
