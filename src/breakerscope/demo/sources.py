"""What the event stream and the metrics say about the run: two of the four sources."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import cast

import httpx
from prometheus_client import Metric
from prometheus_client.openmetrics import parser as openmetrics

from breakerscope import CallRejected, CallSettled, Event, Outcome, StateChanged, catalogue
from breakerscope.demo.report import ASKED, TRANSITIONS, Tally

OPENMETRICS = "application/openmetrics-text"
SCRAPE_SECONDS = 10.0
_Parser = Callable[[str], Iterable[Metric]]


class EventCounts:
    """A listener that counts all events. Called by the one thread of its subscription."""

    def __init__(self) -> None:
        self.tally: defaultdict[str, Counter[str]] = defaultdict(Counter)

    def __call__(self, event: Event) -> None:
        """Count one event."""
        counts = self.tally[event.breaker]
        if isinstance(event, CallSettled):
            counts[ASKED] += 1
            counts[event.outcome.value] += 1
        elif isinstance(event, CallRejected):
            counts[ASKED] += 1
            counts[Outcome.REJECTED.value] += 1
        elif isinstance(event, StateChanged):
            counts[TRANSITIONS] += 1


@dataclass(frozen=True, slots=True)
class Scrape:
    """What one scrape says. `losses` should all be 0 after the last call."""

    tally: Tally
    losses: Mapping[str, int]
    exemplars: int


def scrape(url: str) -> Scrape:
    """Read /metrics as a Prometheus server would."""
    reply = httpx.get(url, headers={"Accept": OPENMETRICS}, timeout=SCRAPE_SECONDS, trust_env=False)
    return read_metrics(reply.raise_for_status().text)


@dataclass(slots=True)
class _Sums:
    tally: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    losses: Counter[str] = field(default_factory=Counter[str])
    exemplars: int = 0


def read_metrics(text: str) -> Scrape:
    """Read OpenMetrics text with prometheus_client's own parser.

    "asked" is taken from other series than the outcomes: the counts of the histograms, and the
    rejections, which have none. So the two can disagree.
    """
    sums = _Sums()
    # The parser has no types of its own.
    parse = cast("_Parser", openmetrics.text_string_to_metric_families)  # pyright: ignore[reportUnknownMemberType]
    for family in parse(text):
        for sample in family.samples:
            sums.exemplars += sample.exemplar is not None
            if sample.name in _READERS:
                _READERS[sample.name](sums, sample.labels, int(sample.value))
    return Scrape(sums.tally, sums.losses, sums.exemplars)


Labels = Mapping[str, str]


def _calls(sums: _Sums, labels: Labels, value: int) -> None:
    outcome = labels[catalogue.OUTCOME.name]
    counts = sums.tally[labels[catalogue.BREAKER.name]]
    counts[outcome] += value
    if outcome == Outcome.REJECTED:
        counts[ASKED] += value


def _durations(sums: _Sums, labels: Labels, value: int) -> None:
    sums.tally[labels[catalogue.BREAKER.name]][ASKED] += value


def _transitions(sums: _Sums, labels: Labels, value: int) -> None:
    sums.tally[labels[catalogue.BREAKER.name]][TRANSITIONS] += value


def _in_flight(sums: _Sums, labels: Labels, value: int) -> None:
    sums.losses[f"calls of {labels[catalogue.BREAKER.name]} in flight"] += value


def _dropped(sums: _Sums, labels: Labels, value: int) -> None:
    sums.losses[f"events dropped by {labels[catalogue.LISTENER.name]}"] += value


def _errors(sums: _Sums, labels: Labels, value: int) -> None:
    sums.losses[f"errors of {labels[catalogue.LISTENER.name]}"] += value


_READERS = {
    catalogue.CALLS.name: _calls,
    f"{catalogue.CALL_DURATION.name}_count": _durations,
    catalogue.TRANSITIONS.name: _transitions,
    catalogue.IN_FLIGHT.name: _in_flight,
    catalogue.EVENTS_DROPPED.name: _dropped,
    catalogue.LISTENER_ERRORS.name: _errors,
}
