"""The recent past of each breaker as numbers: what the live view shows, without a picture of it."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from breakerscope import (
    CallRejected,
    CallSettled,
    CircuitBreaker,
    Event,
    Outcome,
    State,
    StateChanged,
)
from breakerscope.demo.script import health, progress

RECENT_SECONDS = 4.0
CELLS = 60
"""Into how many slices of time the strip of states divides the run."""
EVENTS = 6

# A slice of time shows the first of these that the breaker was in: a probe is rare and short.
STRIP_ORDER = (State.HALF_OPEN, State.FORCED_OPEN, State.OPEN, State.DISABLED, State.CLOSED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One breaker at one moment. Rates are calls per second, latencies seconds, ratios 0 to 1."""

    name: str
    phase: str
    state: State
    strip: Sequence[State]
    rates: Mapping[Outcome, float]
    failure_ratio: float | None
    threshold: float | None
    p50: float | None
    p99: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """Everything at one moment. Events come with the second of the run, the newest first."""

    elapsed: float
    duration: float
    rows: Sequence[Row]
    events: Sequence[tuple[float, StateChanged]]


class _Track:
    """The recent past of one breaker."""

    def __init__(self) -> None:
        self.state = State.CLOSED
        self.strip: list[State] = []
        self.calls: deque[tuple[float, Outcome, float | None]] = deque()

    def extend_to(self, cell: int) -> None:
        """Time goes on in the same state."""
        while len(self.strip) <= cell:
            self.strip.append(self.state)

    def change(self, state: State) -> None:
        """Another state in the last slice of time."""
        self.state = state
        self.strip[-1] = min(self.strip[-1], state, key=STRIP_ORDER.index)

    def forget(self, before: float) -> None:
        """Drop the calls that ended before this time."""
        while self.calls and self.calls[0][0] < before:
            self.calls.popleft()


class Board:
    """A listener that remembers what the live view needs. Thread-safe."""

    def __init__(
        self,
        breakers: Sequence[CircuitBreaker],
        *,
        duration: float,
        repeat: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._breakers = breakers
        self._duration = duration
        self._repeat = repeat
        self._clock = clock
        self._start = clock()
        self._lock = threading.RLock()
        self._tracks = {breaker.name: _Track() for breaker in breakers}
        self._events: deque[tuple[float, StateChanged]] = deque(maxlen=EVENTS)

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return self._clock() - self._start

    def start(self) -> None:
        """The run begins now."""
        self._start = self._clock()

    def __call__(self, event: Event) -> None:
        """Remember one event."""
        track = self._tracks.get(event.breaker)
        if track is None:
            return
        with self._lock:
            now = self.elapsed
            if isinstance(event, StateChanged):
                track.extend_to(self._cell(now))
                track.change(event.new)
                self._events.appendleft((now, event))
            elif isinstance(event, CallRejected):
                track.calls.append((now, Outcome.REJECTED, None))
            elif isinstance(event, CallSettled):
                track.calls.append((now, event.outcome, event.duration))
            track.forget(now - RECENT_SECONDS)

    def moment(self) -> Moment:
        """How it is now."""
        readings = {breaker.name: breaker.read() for breaker in self._breakers}
        rows: list[Row] = []
        with self._lock:
            now = self.elapsed
            share = progress(now, self._duration, repeat=self._repeat)
            for name, track in self._tracks.items():
                reading = readings[name]
                track.extend_to(self._cell(now))
                track.forget(now - RECENT_SECONDS)
                counts = Counter(outcome for _, outcome, _ in track.calls)
                seconds = max(min(now, RECENT_SECONDS), 1.0)
                durations = sorted(took for _, _, took in track.calls if took is not None)
                rows.append(
                    Row(
                        name=name,
                        phase=health(name, share).phase,
                        state=reading.state,
                        strip=tuple(track.strip),
                        rates={outcome: counts[outcome] / seconds for outcome in Outcome},
                        failure_ratio=reading.figures.failure_ratio,
                        threshold=reading.policy.failure_rate,
                        p50=quantile(durations, 0.5),
                        p99=quantile(durations, 0.99),
                    )
                )
            return Moment(
                elapsed=now, duration=self._duration, rows=rows, events=tuple(self._events)
            )

    def _cell(self, elapsed: float) -> int:
        return min(int(elapsed / self._duration * CELLS), CELLS - 1)


def quantile(ordered: Sequence[float], share: float) -> float | None:
    """The value below which this share of the values lies; None without values."""
    if not ordered:
        return None
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]
