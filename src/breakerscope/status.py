"""Which breakers are open now, since when and why: what a scrape says, as a table."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from http.client import HTTPException
from urllib.parse import urlsplit
from urllib.request import urlopen

from prometheus_client.parser import text_string_to_metric_families

from breakerscope import catalogue
from breakerscope.core.events import State
from breakerscope.names import readable

TIMEOUT_SECONDS = 10.0
REFUSING = (State.OPEN, State.FORCED_OPEN)
HEAD = ("BREAKER", "STATE", "SINCE", "FOR", "WHY")


class StatusError(ValueError):
    """The metrics cannot be had. The message says why."""


@dataclass
class Status:
    """One breaker as a scrape shows it. Where several processes answer together, each state has the
    number of those that are in it, and `since` is the latest change.
    """

    breaker: str
    states: Counter[str] = field(default_factory=Counter[str])
    since: float = 0.0
    causes: dict[str, Counter[str]] = field(default_factory=dict[str, Counter[str]])
    """How often each state was entered, by cause."""

    @property
    def refuses(self) -> bool:
        """Whether calls are refused, in one process at least."""
        return any(self.states[state] for state in REFUSING)

    def why(self) -> str:
        """What has brought it into the states that are not closed, the most frequent first."""
        causes = Counter[str]()
        for state, processes in self.states.items():
            if processes and state != State.CLOSED:
                causes += self.causes.get(state, Counter())
        total = causes.total()
        return ", ".join(
            cause if n == total == 1 else f"{cause} ({n}x)" for cause, n in causes.most_common()
        )

    def row(self, now: float) -> tuple[str, ...]:
        """The cells of its line; `now` in seconds since the epoch."""
        several = self.states.total() > 1
        states = [f"{s} ({n})" if several else s for s, n in self.states.most_common() if n]
        since = time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(self.since))
        return (
            readable(self.breaker),
            readable(", ".join(states)),
            since,
            duration(now - self.since),
            readable(self.why()),
        )


def read_statuses(url: str) -> list[Status]:
    """All breakers that the metrics at this URL show: those that refuse calls first, then by name.

    Raises StatusError if there are none, or no metrics.
    """
    if urlsplit(url).scheme not in ("http", "https"):
        raise StatusError(f"{url}: allowed is the http:// or https:// URL of the metrics")
    try:
        with urlopen(url, timeout=TIMEOUT_SECONDS) as answer:  # noqa: S310 - looked at above
            text = answer.read().decode()
        found = statuses_in(text)
    except (OSError, HTTPException, ValueError) as error:
        raise StatusError(f"{url}: {getattr(error, 'reason', None) or error}") from error
    if not found:
        raise StatusError(f"{url}: there are no metrics of breakers")
    return sorted(found, key=lambda status: (not status.refuses, status.breaker))


def statuses_in(text: str) -> list[Status]:
    """The breakers in the text of a scrape, whatever prefix their metrics have. Raises ValueError
    for what is no such text.
    """
    found: dict[str, Status] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = sample.labels
            name = labels.get("breaker", "")
            if sample.name.endswith(catalogue.STATE_NOW.name):
                status = found.setdefault(name, Status(name))
                status.states[labels["state"]] += int(sample.value)
            elif sample.name.endswith(catalogue.STATE_ENTERED.name):
                status = found.setdefault(name, Status(name))
                status.since = max(status.since, sample.value)
            elif sample.name.endswith(catalogue.TRANSITIONS.name) and sample.value:
                status = found.setdefault(name, Status(name))
                causes = status.causes.setdefault(labels["to_state"], Counter())
                causes[labels["cause"]] += int(sample.value)
    return list(found.values())


def table(statuses: Iterable[Status], now: float) -> str:
    """The lines of these breakers, below a head."""
    rows = [HEAD, *(status.row(now) for status in statuses)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)) for row in rows]
    return "".join(f"{line.rstrip()}\n" for line in lines)


def duration(seconds: float) -> str:
    """Its two largest units: "3d 4h", "2m 5s"."""
    left = max(int(seconds), 0)
    parts: list[str] = []
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)):
        if left >= size or (unit == "s" and not parts):
            parts.append(f"{left // size}{unit}")
        left %= size
    return " ".join(parts[:2])
