"""breakerscope as the rows use it: through its front door, with everything switched on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prometheus_client import CollectorRegistry

import breakerscope
from benchmarks import loops, peers
from benchmarks.loops import Body, Loop
from benchmarks.rounds import Subject
from breakerscope import catalogue

REGISTRY = CollectorRegistry()


def switch_on(*, traces: bool | str = True) -> None:
    """Metrics with histogram in a registry, logs at their defaults, tracing."""
    breakerscope.setup_telemetry(registry=REGISTRY, traces=traces)  # type: ignore[arg-type]


class Form:
    """One form of protected call, with a new breaker for each loop that is built."""

    def __init__(self, make: Callable[[Any, Body], Loop], outcome: str, **options: Any) -> None:
        self._make = make
        self._outcome = outcome
        self._options = options
        self.breaker: Any = None

    def build(self, fn: Body) -> Loop:
        """The loop around this body."""
        self.breaker = breakerscope.instrumented_breaker(peers.new_name(), **self._options)
        return self._make(self.breaker, fn)

    def counted(self) -> float:
        """The calls that a scrape shows, by counter and histogram alike; nothing is in flight."""
        own = {"breaker": self.breaker.name}
        labels = own | {"outcome": self._outcome}
        found = REGISTRY.get_sample_value(catalogue.CALLS.name, labels)
        if self._outcome != "rejected":
            timed = REGISTRY.get_sample_value(f"{catalogue.CALL_DURATION.name}_count", labels)
            if timed != found:
                raise AssertionError(f"{own}: the counter shows {found}, the histogram {timed}")
        if REGISTRY.get_sample_value(catalogue.IN_FLIGHT.name, own) != 0:
            raise AssertionError(f"{own}: calls in flight after all have ended")
        return found or 0.0

    def subject(self, name: str) -> Subject:
        return Subject(name, "ours", self.build, self.counted)


def decorator(breaker: Any, fn: Body) -> Loop:
    return loops.calls(breaker(fn))


def by_call(breaker: Any, fn: Body) -> Loop:
    return loops.calls_through(breaker.call, fn)


def by_guard(breaker: Any, fn: Body) -> Loop:
    return loops.blocks(breaker.guard, fn)


def asynchronous(breaker: Any, fn: Body) -> Loop:
    return loops.awaits(breaker(fn))


def failing(breaker: Any, fn: Body) -> Loop:
    return loops.catching(breaker(fn), loops.Broken)
