"""The figures of the guide's breaker: what the real one counts, and what only the old one knew."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

from breakerscope.core.events import Outcome

LATENCIES = 100


@dataclass(slots=True)
class CircuitBreakerMetrics:
    """What was counted since the breaker was made or reset. Times are unix times in seconds,
    latencies the seconds of the last 100 successes.
    """

    success_count: int = 0
    failure_count: int = 0
    total_calls: int = 0
    last_failure_time: float | None = None
    last_success_time: float | None = None
    consecutive_successes: int = 0
    consecutive_failures: int = 0
    state_transitions: int = 0
    latencies: list[float] = field(default_factory=list[float])

    def get_failure_rate(self) -> float:
        """The share of failed calls, 0 to 1; 0.0 before the first call."""
        return self.failure_count / self.total_calls if self.total_calls else 0.0

    def get_average_latency(self) -> float:
        """The mean of `latencies`, in seconds; 0.0 if there are none."""
        return math.fsum(self.latencies) / len(self.latencies) if self.latencies else 0.0


class Totals(NamedTuple):
    """What only ever grows, as the breaker counts it."""

    successes: int
    failures: int
    transitions: int


class Notes:
    """What the old figures have besides: when it went well and when not. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._begin()

    def _begin(self) -> None:
        self._last_failure: float | None = None
        self._last_success: float | None = None
        self._successes_in_a_row = 0
        self._failures_in_a_row = 0
        self._latencies: deque[float] = deque(maxlen=LATENCIES)

    def clear(self) -> None:
        """As if nothing had happened."""
        with self._lock:
            self._begin()

    def add(self, outcome: Outcome, seconds: float) -> None:
        """One call that went through."""
        now = time.time()
        with self._lock:
            if outcome is Outcome.SUCCESS:
                self._last_success = now
                self._successes_in_a_row += 1
                self._failures_in_a_row = 0
                self._latencies.append(seconds)
            elif outcome is Outcome.FAILURE:
                self._last_failure = now
                self._failures_in_a_row += 1
                self._successes_in_a_row = 0

    def beside(self, counted: Totals) -> CircuitBreakerMetrics:
        """These, and what the breaker counted, as a copy."""
        with self._lock:
            return CircuitBreakerMetrics(
                success_count=counted.successes,
                failure_count=counted.failures,
                total_calls=counted.successes + counted.failures,
                last_failure_time=self._last_failure,
                last_success_time=self._last_success,
                consecutive_successes=self._successes_in_a_row,
                consecutive_failures=self._failures_in_a_row,
                state_transitions=counted.transitions,
                latencies=list(self._latencies),
            )
