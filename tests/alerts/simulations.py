"""Days and nights of a service, told as counters and gauges: who would have been woken up?

Each simulation is a time-step model of some processes with one breaker each; promtool plays it to
the rules as they are shipped. The scrape and evaluation intervals are Prometheus' own defaults, one
minute each, if nothing else is said: the coarsest at which the default windows make sense.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.alerts.promtool import Json

STATES = ("closed", "open", "half_open", "forced_open", "disabled")
JOB, BREAKER = "shop", "search"
WAIT = 30


@dataclass
class Process:
    """One instance with a breaker. `calls` per second; `since` is when it was started."""

    name: str
    calls: float = 2.0
    since: int = 0
    until: int | None = None
    refusing: Callable[[int], float] = lambda _at: 0.0
    """The share of calls refused at a second; 1 is open, with a probe every 30 seconds."""
    restarts: tuple[int, ...] = ()
    gaps: tuple[tuple[int, int], ...] = ()
    """When it could not be scraped."""
    state: Callable[[int], str] | None = None
    """The state at a second; None: open while it refuses."""

    def series(self, seconds: int, step: int) -> Mapping[str, list[float | None]]:
        """What a scrape every `step` seconds sees: None where there was no scrape."""
        labels = f'job="{JOB}", instance="{self.name}", breaker="{BREAKER}"'
        found: dict[str, list[float | None]] = {}
        counts = dict.fromkeys(("success", "failure", "rejected"), 0.0)
        opened = 0
        before = "closed"
        entered = self.since
        for at in range(seconds + 1):
            if at in self.restarts or at == self.since:
                counts, opened, before, entered = dict.fromkeys(counts, 0.0), 0, "closed", at
            share = self.refusing(at)
            now = self._state(at, share, before, entered)
            if now != before:
                opened += before == "closed" and now == "open"
                before, entered = now, at
            counts["rejected"] += self.calls * share
            counts["success"] += self.calls * (1 - share)
            if at % step:
                continue
            seen = self.since <= at and (self.until is None or at < self.until)
            seen = seen and not any(start <= at < end for start, end in self.gaps)

            def put(name: str, more: str, value: float, *, seen: bool = seen) -> None:
                found.setdefault(f"{name}{{{labels}{more}}}", []).append(value if seen else None)

            for outcome, count in counts.items():
                put("circuit_breaker_calls_total", f', outcome="{outcome}"', round(count, 3))
            for each in STATES:
                put("circuit_breaker_state", f', state="{each}"', float(each == now))
            change = ', from_state="closed", to_state="open", cause="failure_rate"'
            put("circuit_breaker_transitions_total", change, opened)
            put("circuit_breaker_state_entered_timestamp_seconds", "", entered)
            put("circuit_breaker_open_wait_seconds", "", WAIT)
            put("circuit_breaker_info", ', policy_hash="0a1b2c3d", version="0.1.0"', 1)
        return found

    def _state(self, at: int, share: float, before: str, entered: int) -> str:
        if self.state is not None:
            return self.state(at)
        if not share:
            return "closed"
        # A probe that fails: one second half-open after each wait.
        probing = before == "open" and at - entered >= WAIT
        return "half_open" if probing else "open"


@dataclass
class Simulation:
    """Some hours of some processes."""

    name: str
    seconds: int
    processes: list[Process] = field(default_factory=list)
    step: int = 60

    def as_test(self, query: str) -> Json:
        """As promtool reads it: the answer to a question at the end should be nothing."""
        return {
            "name": self.name,
            "interval": f"{self.step}s",
            "input_series": list(self.input_series()),
            "promql_expr_test": [
                {"expr": query, "eval_time": f"{self.seconds}s", "exp_samples": []}
            ],
        }

    def input_series(self) -> Iterator[Json]:
        """As promtool reads them. A process that is gone leaves a mark, as Prometheus does."""
        for process in self.processes:
            for name, values in process.series(self.seconds, self.step).items():
                words = []
                for before, value in zip([None, *values], values, strict=False):
                    gone = before is not None and value is None
                    words.append("stale" if gone else "_" if value is None else f"{value:g}")
                yield {"series": name, "values": " ".join(words)}


def some(count: int, **more: Any) -> list[Process]:
    """Processes that are all alike."""
    return [Process(f"{at}:1", **more) for at in range(count)]


def down(*spans: tuple[int, int]) -> Callable[[int], float]:
    """Everything is refused in these spans of seconds."""
    return lambda at: float(any(start <= at < end for start, end in spans))


HOUR, DAY = 3600, 86400
GAPS = ((1, 1), (2, 5), (3, 10), (4, 20))


def flapping(every: int, length: int, start: int = 2 * HOUR) -> Callable[[int], float]:
    """Open for `length` of every so many seconds."""
    return lambda at: float(at >= start and (at - start) % every < length)


NOISE = (
    Simulation("a quiet night", 8 * HOUR, some(3)),
    Simulation(
        "restart storm: all 10 processes restart, one after the other, 6 times in an hour",
        3 * HOUR,
        [
            Process(f"{at}:1", restarts=tuple(HOUR + 600 * n + 10 * at for n in range(6)))
            for at in range(10)
        ],
    ),
    Simulation(
        "restart storm in which each process refuses calls for its first 20 seconds",
        5 * HOUR,
        [
            Process(
                f"{at}:1",
                restarts=(4 * HOUR + 10 * at,),
                refusing=down((4 * HOUR + 10 * at, 4 * HOUR + 10 * at + 20)),
            )
            for at in range(10)
        ],
    ),
    Simulation(
        "low traffic: 3 processes, a call in 15 minutes each, all refused for 8 hours",
        12 * HOUR,
        some(3, calls=1 / 900, refusing=down((3 * HOUR, 11 * HOUR))),
    ),
    Simulation(
        "half-open flaps: one of 10 goes open, half-open and closed all the time, 6 hours",
        8 * HOUR,
        [*some(9), Process("9:1", refusing=flapping(60, 32))],
    ),
    Simulation(
        "half-open flaps in all 4: open for 10 seconds, a probe, closed, each half an hour",
        12 * HOUR,
        some(4, refusing=flapping(1800, 10)),
    ),
    Simulation(
        "one of 5 is open for 20 hours",
        DAY,
        [*some(4), Process("4:1", refusing=down((2 * HOUR, 22 * HOUR)))],
    ),
    Simulation(
        "scale-in from 10 to 2 while 2 of the 10 are open",
        4 * HOUR,
        [
            *[Process(f"{at}:1", until=2 * HOUR + 60 * at) for at in range(2, 10)],
            Process("0:1", until=3 * HOUR, refusing=down((HOUR, 2 * HOUR + 120))),
            Process("1:1", refusing=down((HOUR, 2 * HOUR + 120))),
        ],
    ),
    Simulation(
        "first deploy: the dependency is not there in the first 90 seconds",
        4 * HOUR,
        some(3, since=60, refusing=down((60, 150))),
    ),
    Simulation(
        "scrape gaps of 1 to 20 minutes, with 40 seconds of refusals in the longest",
        6 * HOUR,
        some(
            4,
            gaps=tuple((HOUR * n, HOUR * n + 60 * length) for n, length in GAPS),
            refusing=down((4 * HOUR + 300, 4 * HOUR + 340)),
        ),
    ),
    Simulation(
        "opens and heals twice a day: 40 seconds each, in all 3 processes",
        DAY + DAY // 2,
        some(3, refusing=flapping(DAY // 2, 40)),
    ),
    Simulation(
        "a policy in shadow mode is open for 6 hours and refuses nothing",
        8 * HOUR,
        some(3, state=lambda at: "open" if 3600 <= at < 7 * HOUR else "closed"),
    ),
    Simulation(
        "maintenance: forced open for 2 hours, without a call",
        4 * HOUR,
        some(3, calls=0.0, state=lambda at: "forced_open" if 3600 <= at < 10800 else "closed"),
    ),
)

OUTAGE = 2 * HOUR + 30
"""Not at a scrape, for nothing real is."""

REAL: tuple[tuple[str, list[Process]], ...] = (
    ("down for all 5 instances", some(5, refusing=down((OUTAGE, 9 * HOUR)))),
    (
        "down for all 5, a call in 5 s each",
        some(5, calls=0.2, refusing=down((OUTAGE, 9 * HOUR))),
    ),
    ("down for the only instance", some(1, refusing=down((OUTAGE, 9 * HOUR)))),
    (
        "down for 3 of 5 instances",
        [*some(2), *[Process(f"b{n}:1", refusing=down((OUTAGE, 9 * HOUR))) for n in range(3)]],
    ),
    (
        "all flap: open for half of every 20 s",
        some(5, refusing=lambda at: float(at >= OUTAGE and (at - OUTAGE) % 20 < 10)),
    ),
    (
        "10 of 100 calls refused everywhere",
        some(5, refusing=lambda at: 0.1 * (at >= OUTAGE), state=lambda _at: "closed"),
    ),
    (
        "3 of 100 calls refused everywhere",
        some(5, refusing=lambda at: 0.03 * (at >= OUTAGE), state=lambda _at: "closed"),
    ),
)
