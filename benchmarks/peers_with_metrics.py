"""The other breakers with metrics: their own adapters where they have them, else as users do it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import fluxgate
import nopanic_otel
from fluxgate.listeners.prometheus import PrometheusListener as FluxgateListener
from interlock.integrations.otel import OTelEventListener
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from prometheus_client import CollectorRegistry, Counter, Histogram
from pyresilience.contrib.prometheus import PrometheusListener as PyresilienceListener

from benchmarks import peers
from benchmarks.loops import Body, Loop, calls
from benchmarks.rounds import Subject

_pyresilience_listener = PyresilienceListener(namespace="bench_pyresilience")


class _Own:
    """A counter and a histogram of one subject, made anew for each loop."""

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> tuple[Any, Any]:
        self.registry = CollectorRegistry()
        options: dict[str, Any] = {"registry": self.registry, "labelnames": ["breaker", "outcome"]}
        calls_total = Counter("peer_calls", "Calls.", **options).labels("b", "success")
        seconds = Histogram("peer_seconds", "Seconds.", **options).labels("b", "success")
        return calls_total, seconds

    def counted(self) -> float:
        labels = {"breaker": "b", "outcome": "success"}
        found = self.registry.get_sample_value("peer_calls_total", labels)
        if found != self.registry.get_sample_value("peer_seconds_count", labels):
            raise AssertionError("the counter and the histogram differ")
        return found or 0.0


def successes() -> list[Subject]:
    """For the row of successful calls."""
    found = []
    makes: dict[str, Callable[[Body, Any, Any], Body]] = {
        "circuitbreaker, hand-wrapped Counter + Histogram": lambda fn, c, s: peers.hand_wrapped(
            peers.BY_NAME["circuitbreaker"].make(fn), c, s
        ),
        "resilix, hand-wrapped Counter + Histogram": lambda fn, c, s: peers.hand_wrapped(
            peers.BY_NAME["resilix"].make(fn), c, s
        ),
        "nopanic, hand-wrapped Counter + Histogram": lambda fn, c, s: peers.hand_wrapped(
            peers.nopanic_breaker()(fn), c, s
        ),
        "aiobreaker, listener with Counter + Histogram": lambda fn, c, s: peers.aiobreaker_with(
            peers.PrometheusListener(c, s)
        )(fn),
        "pybreaker, listener with Counter + Histogram": lambda fn, c, s: peers.pybreaker_with(
            peers.PrometheusListener(c, s)
        )(fn),
    }
    for name, make in makes.items():
        own = _Own()

        def build(fn: Body, make: Any = make, own: _Own = own) -> Loop:
            return calls(make(fn, *own.renew()))

        found.append(Subject(name, "with metrics", build, own.counted))
    found.append(
        Subject(
            "pyresilience, its PrometheusListener",
            "with metrics",
            lambda fn: calls(peers.pyresilience_with(fn, _pyresilience_listener)),
        )
    )
    found.append(
        Subject(
            "interlock-cb, its OTel listener",
            "with metrics",
            lambda fn: calls(peers.interlock_with(_interlock_listener())(fn)),
        )
    )
    found.append(
        Subject(
            "fluxgate, its PrometheusListener (states only)",
            "with metrics",
            lambda fn: calls(
                peers.fluxgate_with(
                    fluxgate.CircuitBreaker,
                    FluxgateListener(peers.new_name(), registry=CollectorRegistry()),
                )(fn)
            ),
        )
    )
    return found


def _interlock_listener() -> Any:
    provider = MeterProvider([InMemoryMetricReader()])
    return OTelEventListener(provider.get_meter("bench"))


@contextmanager
def _nopanic_instrumented(provider: MeterProvider) -> Iterator[None]:
    """Its listeners are global, so it is on for its own slices only."""
    undo = nopanic_otel.instrument(meter_provider=provider)
    try:
        yield
    finally:
        undo()


def makes_with_metrics() -> dict[str, tuple[str, Callable[..., Body], Any]]:
    """For rows of calls that do not succeed: name -> (name of the peer, make, around)."""
    provider = MeterProvider([InMemoryMetricReader()])
    around: Callable[[], AbstractContextManager[None]] = partial(_nopanic_instrumented, provider)
    return {
        "nopanic, its OTel add-on": (
            "nopanic",
            lambda fn, trips=True: peers.nopanic_breaker(trips=trips)(fn),
            around,
        ),
        "pyresilience, its PrometheusListener": (
            "pyresilience",
            lambda fn, trips=True: peers.pyresilience_with(fn, _pyresilience_listener, trips=trips),
            None,
        ),
        "interlock-cb, its OTel listener": (
            "interlock-cb",
            lambda fn, trips=True: peers.interlock_with(_interlock_listener(), trips=trips)(fn),
            None,
        ),
    }
