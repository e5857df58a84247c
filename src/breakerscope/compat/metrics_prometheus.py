"""The guide's collector: what the application itself tells it, as valid Prometheus text.

It counts beside the breakers, by hand, as the guide does. It has a registry of its own, so that
nothing is counted twice in the metrics that breakers have by themselves. The names of its metrics
are those of the old module, with the endings that a counter must have.
"""

from __future__ import annotations

import math
import statistics
import threading
import time
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from enum import Enum, StrEnum
from typing import TYPE_CHECKING, Any

from breakerscope.compat._replaced import replaced
from breakerscope.names import encodable

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry, Metric

__all__ = ["CircuitBreakerState", "PrometheusMetricsCollector", "get_prometheus_collector"]

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
MAX_COMPONENTS = 1000
OTHER = "_OTHER"
"""What components beyond the limit are counted as: names from outside must not fill the memory."""
PERCENTILES = (50, 95, 99)
LEVELS = ("debug", "info", "warning", "error", "critical")


class CircuitBreakerState(StrEnum):
    """The states of the guide."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class _Component:
    """What was told about one component."""

    def __init__(self, samples: int) -> None:
        self.successes = 0
        self.failures = 0
        self.latencies: deque[float] = deque(maxlen=samples)
        self.buckets = [0] * (len(BUCKETS) + 1)
        self.seconds = 0.0
        self.last_failure: float | None = None
        self.state = CircuitBreakerState.CLOSED
        self.logs: Counter[str] = Counter()

    @property
    def calls(self) -> int:
        return self.successes + self.failures

    @property
    def failure_rate(self) -> float:
        """In percent."""
        return 100.0 * self.failures / self.calls if self.calls else 0.0

    def percentile(self, percent: float) -> float:
        """By linear interpolation between the samples, so it lies never outside of them."""
        if len(self.latencies) < 2:
            return self.latencies[0] if self.latencies else 0.0
        return statistics.quantiles(self.latencies, n=1000, method="inclusive")[
            round(percent * 10) - 1
        ]


class PrometheusMetricsCollector:
    """Counts what it is told, by component. Thread-safe.

    A component may have any name: what UTF-8 cannot hold is escaped. Statistics of latencies are
    about the last `max_latency_samples`. Above 1,000 components, further ones are counted as
    `_OTHER`. Raises ValueError, which names the argument.
    """

    def __init__(self, max_latency_samples: int = 1000) -> None:
        replaced("PrometheusMetricsCollector")
        self._begin(max_latency_samples)

    @classmethod
    def _quietly(cls) -> PrometheusMetricsCollector:
        made = cls.__new__(cls)
        made._begin(1000)
        return made

    def _begin(self, max_latency_samples: int) -> None:
        if not isinstance(max_latency_samples, int) or max_latency_samples < 1:
            raise ValueError(
                f"max_latency_samples={max_latency_samples!r}: allowed is a whole number from 1 on"
            )
        self._samples = max_latency_samples
        self._lock = threading.RLock()
        self._components: dict[str, _Component] = {}

    def record_circuit_breaker_call(
        self,
        component: str,
        latency: float,
        success: bool,  # noqa: FBT001 - as in the old module
        timestamp: float | None = None,
    ) -> None:
        """Count one call: `latency` in seconds, `timestamp` a unix time (None: now)."""
        if not _is_seconds(latency):
            raise ValueError(f"latency={latency!r}: allowed are seconds from 0 on")
        with self._lock:
            found = self._component(component)
            found.latencies.append(latency)
            found.buckets[bisect_left(BUCKETS, latency)] += 1
            found.seconds += latency
            if success:
                found.successes += 1
            else:
                found.failures += 1
                found.last_failure = time.time() if timestamp is None else timestamp

    def record_circuit_breaker_state(
        self,
        component: str,
        state: str | Enum,
        timestamp: float | None = None,  # noqa: ARG002 - the old module took it
    ) -> None:
        """Say in which state a component is now: closed, open or half_open."""
        name = state.value if isinstance(state, Enum) else state
        if name not in {each.value for each in CircuitBreakerState}:
            allowed = ", ".join(each.value for each in CircuitBreakerState)
            raise ValueError(f"state={state!r}: allowed are {allowed}")
        with self._lock:
            self._component(component).state = CircuitBreakerState(name)

    def record_log_entry(self, component: str, level: str = "info") -> None:
        """Count one line of a log."""
        if level not in LEVELS:
            raise ValueError(f"level={level!r}: allowed are {', '.join(LEVELS)}")
        with self._lock:
            self._component(component).logs[level] += 1

    # -- figures -----------------------------------------------------------------------------------

    def get_latency_percentiles(
        self, component: str, percentiles: Sequence[float] | None = None
    ) -> dict[str, float]:
        """Seconds by "p50" and so on; zeros where nothing is known."""
        wanted = PERCENTILES if percentiles is None else percentiles
        if wrong := [each for each in wanted if not 0.1 <= each <= 99.9]:
            raise ValueError(f"percentiles={wrong!r}: allowed are 0.1 to 99.9")
        with self._lock:
            found = self._known(component)
            return {f"p{each:g}": found.percentile(each) for each in wanted}

    def get_failure_rate(self, component: str) -> float:
        """In percent; 0.0 where nothing is known."""
        with self._lock:
            return self._known(component).failure_rate

    def get_success_rate(self, component: str) -> float:
        """In percent; 100.0 where nothing is known."""
        return 100.0 - self.get_failure_rate(component)

    def get_metrics_summary(self, component: str) -> dict[str, Any]:
        """Counts, rates in percent, latencies in seconds, and the state; zeros where nothing is
        known.
        """
        with self._lock:
            found = self._known(component)
            latencies = found.latencies
            return {
                "component": component,
                "total_calls": found.calls,
                "successful_calls": found.successes,
                "failed_calls": found.failures,
                "success_rate": 100.0 - found.failure_rate,
                "failure_rate": found.failure_rate,
                "avg_latency": statistics.fmean(latencies) if latencies else 0.0,
                "min_latency": min(latencies, default=0.0),
                "max_latency": max(latencies, default=0.0),
                "current_state": found.state.value,
                "last_failure_time": found.last_failure,
                "latency_percentiles": {f"p{each}": found.percentile(each) for each in PERCENTILES},
            }

    def get_components(self) -> set[str]:
        """Of which components something was told."""
        with self._lock:
            return set(self._components)

    def reset_component(self, component: str) -> None:
        """Forget one component."""
        with self._lock:
            self._components.pop(encodable(component), None)

    def reset_all(self) -> None:
        """Forget everything."""
        with self._lock:
            self._components.clear()

    # -- Prometheus --------------------------------------------------------------------------------

    def export_prometheus_format(self) -> str:
        """The text that Prometheus scrapes, made by prometheus_client."""
        from prometheus_client import generate_latest

        return generate_latest(self.registry()).decode()

    def registry(self) -> CollectorRegistry:
        """A registry with nothing but this collector."""
        from prometheus_client import CollectorRegistry

        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        return registry

    def describe(self) -> Iterable[Metric]:
        """Nothing: the names are known when somebody asks."""
        return []

    def collect(self) -> Iterator[Metric]:
        """As prometheus_client asks."""
        from prometheus_client.core import (
            CounterMetricFamily,
            GaugeMetricFamily,
            HistogramMetricFamily,
        )

        calls = CounterMetricFamily("circuit_breaker_calls", "Calls.", labels=["component"])
        well = CounterMetricFamily(
            "circuit_breaker_calls_success", "Calls that went well.", labels=["component"]
        )
        failed = CounterMetricFamily(
            "circuit_breaker_calls_failed", "Calls that failed.", labels=["component"]
        )
        rate = GaugeMetricFamily(
            "circuit_breaker_failure_rate", "Failed calls, in percent.", labels=["component"]
        )
        latency = HistogramMetricFamily(
            "circuit_breaker_latency_seconds", "How long calls took.", labels=["component"]
        )
        state = GaugeMetricFamily(
            "circuit_breaker_state",
            "1 for the present state, 0 for the others.",
            labels=["component", "state"],
        )
        entries = CounterMetricFamily("log_entries", "Lines of the log.", labels=["component"])
        by_level = CounterMetricFamily(
            "log_entries_by_level", "Lines of the log, by level.", labels=["component", "level"]
        )
        with self._lock:
            for name, found in self._components.items():
                calls.add_metric([name], found.calls)
                well.add_metric([name], found.successes)
                failed.add_metric([name], found.failures)
                rate.add_metric([name], found.failure_rate)
                latency.add_metric([name], list(_cumulated(found.buckets)), found.seconds)
                for each in CircuitBreakerState:
                    state.add_metric([name, each.value], float(found.state is each))
                entries.add_metric([name], found.logs.total())
                for level, count in found.logs.items():
                    by_level.add_metric([name, level], count)
        yield from (calls, well, failed, rate, latency, state, entries, by_level)

    def _component(self, name: str) -> _Component:
        if not isinstance(name, str) or not name:
            raise ValueError(f"component={name!r}: allowed is text that is not empty")
        name = encodable(name)
        found = self._components.get(name)
        if found is None:
            if len(self._components) >= MAX_COMPONENTS:
                name = OTHER
            found = self._components.setdefault(name, _Component(self._samples))
        return found

    def _known(self, name: str) -> _Component:
        return self._components.get(encodable(name)) or _Component(self._samples)


def _cumulated(counts: Sequence[int]) -> Iterator[tuple[str, float]]:
    total = 0
    for bound, count in zip((*BUCKETS, math.inf), counts, strict=True):
        total += count
        yield ("+Inf" if bound == math.inf else str(bound), total)


def _is_seconds(value: object) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return 0 <= value < math.inf


_default_collector = PrometheusMetricsCollector._quietly()


def get_prometheus_collector() -> PrometheusMetricsCollector:
    """The collector of the whole process."""
    replaced("get_prometheus_collector")
    return _default_collector
