"""What can differ from one installation's alerts to the next. Checked as a part of MixinConfig.

Spans are written as in PromQL, in one unit: `90s`, `5m`, `3d`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import NamedTuple

_NAME = re.compile(r"[A-Z][a-zA-Z0-9]*")
_SEVERITY = re.compile(r"[a-z][a-z0-9_-]*")
_SPAN = re.compile(r"(0|[1-9][0-9]*)([smhdw])")
_BURN = re.compile(r"([0-9]+(?:\.[0-9]+)?) over ([0-9]+[smhdw]) and ([0-9]+[smhdw])")
_URL = re.compile(r"https?://[^\s/]+(/\S*)?")
_SECONDS = {"w": 604800, "d": 86400, "h": 3600, "m": 60, "s": 1}

LONGEST_STEM = len("RejectionBudgetBurnSlow")
LONGEST_NAME = 40
SCRAPES_IN_A_WINDOW = 4
SPANS_IN_AN_OBJECTIVE = 30 * 86400


class Burn(NamedTuple):
    """The budget goes `factor` times too fast, over both windows: the short one ends the alert."""

    factor: float
    long: str
    short: str


def seconds(span: str) -> int:
    """How long a span is. Raises ValueError."""
    if not (found := _SPAN.fullmatch(span)):
        raise ValueError(span)
    return int(found[1]) * _SECONDS[found[2]]


def span_of(length: int) -> str:
    """The same, back, in the largest unit that fits."""
    unit = next(unit for unit, size in _SECONDS.items() if length % size == 0)
    return f"{length // _SECONDS[unit]}{unit}"


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertSettings:
    """The table `[alerts]` of the configuration. See `docs/alerts.md`."""

    name_prefix: str = "CircuitBreaker"
    """What the names of all alerts begin with."""
    page_severity: str = "critical"
    """The label of alerts that wake somebody."""
    ticket_severity: str = "warning"
    """The label of alerts for working hours."""
    info_severity: str = "info"
    """The label of alerts that only explain others."""
    grafana_url: str = "http://localhost:3000"
    """Where the dashboards are."""
    objective: float = 0.999
    """The share of calls that must not be refused."""
    rate_window: str = "5m"
    """The window of all rates: at least four scrapes."""
    min_call_rate: float = 0.1
    """Calls per second below which a share says nothing."""
    min_calls: int = 100
    """Calls in the long window below which a burnt budget says nothing."""
    burn_page: tuple[str, ...] = ("14.4 over 1h and 5m", "6 over 6h and 30m")
    """When a burning budget pages: how many times too fast, over which two windows."""
    burn_ticket: tuple[str, ...] = ("3 over 1d and 2h", "1 over 3d and 6h")
    """When it makes a ticket."""
    burn_page_for: str = "2m"
    burn_ticket_for: str = "15m"
    burn_share: float = 0.25
    """A burning budget pages if more than this share of the instances refuse calls."""
    fleet_share: float = 0.5
    """From more than this share of tripped instances on, the dependency is down for all."""
    fleet_for: str = "2m"
    fleet_keep: str = "5m"
    tripped_for: str = "10m"
    tripped_keep: str = "5m"
    stuck_open_waits: float = 3.0
    """How many times its own wait a breaker may stay open without a probe."""
    stuck_open_after: str = "1m"
    """It may stay open for so long whatever its wait is."""
    stuck_open_for: str = "7m"
    """Longer than `rate_window`: calls are refused when it should have been over already."""
    stuck_half_open_after: str = "5m"
    """How long probes may take."""
    stuck_half_open_for: str = "5m"
    flaps: int = 4
    """More openings than this in the window are flapping."""
    flap_window: str = "30m"
    flap_keep: str = "15m"
    near_for: str = "5m"
    slow_for: str = "10m"
    should_have_opened_for: str = "5m"
    forced_after: str = "1h"
    """A state by hand that is older than this is told."""
    forced_ticket_after: str = "1d"
    """One that is older than this makes a ticket."""
    drift_for: str = "30m"
    absent_lookback: str = "1d"
    """A job whose breakers were seen within this time should still have them."""
    absent_for: str = "10m"
    dropped_window: str = "10m"
    dropped_for: str = "5m"
    group_wait: str = "30s"
    """Alertmanager: how long the first message of a group waits for others."""
    group_interval: str = "5m"
    repeat_interval: str = "4h"

    @property
    def budget(self) -> float:
        """The share of calls that may be refused."""
        return round(1 - self.objective, 12)

    @property
    def page_burns(self) -> tuple[Burn, ...]:
        """`burn_page`, read."""
        return tuple(map(_burn, self.burn_page))

    @property
    def ticket_burns(self) -> tuple[Burn, ...]:
        """`burn_ticket`, read."""
        return tuple(map(_burn, self.burn_ticket))

    def problems(self, scrape_interval: str) -> list[str]:
        """Everything that is wrong, with what is allowed."""
        found = [*self._wrong_texts(), *self._wrong_numbers()]
        spans = [*self._wrong_spans(), *self._wrong_burns()]
        if not spans and _SPAN.fullmatch(scrape_interval):
            spans = [*self._meaningless(seconds(scrape_interval))]
        return [f"alerts.{problem}" for problem in (*found, *spans)]

    def _wrong_texts(self) -> Iterable[str]:
        # The longest of our own names has to fit as well.
        if not _NAME.fullmatch(self.name_prefix or "A"):
            yield f"name_prefix = {self.name_prefix!r}: allowed is CamelCase, such as Breaker"
        elif len(self.name_prefix) > LONGEST_NAME - LONGEST_STEM:
            most = LONGEST_NAME - LONGEST_STEM
            yield f"name_prefix = {self.name_prefix!r}: allowed are at most {most} letters"
        severities = {
            key: getattr(self, key) for key in ("page_severity", "ticket_severity", "info_severity")
        }
        for key, value in severities.items():
            if not _SEVERITY.fullmatch(value):
                yield f"{key} = {value!r}: allowed are a to z, digits, - and _"
        if len(set(severities.values())) < len(severities):
            yield "page_severity, ticket_severity and info_severity must differ"
        if not _URL.fullmatch(self.grafana_url):
            yield f"grafana_url = {self.grafana_url!r}: allowed is http:// or https://"

    def _wrong_numbers(self) -> Iterable[str]:
        for key in ("objective", "burn_share"):
            share: float = getattr(self, key)
            if not 0 < share < 1:
                yield (
                    f"{key} = {share:g}: allowed is a share above 0 and below 1"
                    + (": with 1 every refused call would burn all of it" * (key == "objective"))
                )
        if not 0 < self.fleet_share < 1:
            yield f"fleet_share = {self.fleet_share:g}: allowed is a share above 0 and below 1"
        if not 0 < self.min_call_rate < float("inf"):
            yield f"min_call_rate = {self.min_call_rate:g}: allowed is a number above 0"
        if self.min_calls < 1:
            yield f"min_calls = {self.min_calls}: allowed is 1 or more"
        if not 1 < self.stuck_open_waits < float("inf"):
            yield f"stuck_open_waits = {self.stuck_open_waits:g}: allowed is a number above 1"
        if self.flaps < 1:
            yield f"flaps = {self.flaps}: allowed is 1 or more"

    def _wrong_spans(self) -> Iterable[str]:
        for each in fields(self):
            value = getattr(self, each.name)
            if not each.name.endswith(_SPAN_KEYS):
                continue
            if not _SPAN.fullmatch(value):
                yield f"{each.name} = {value!r}: allowed is a number with s, m, h, d or w"
            elif not seconds(value) and not each.name.endswith(_MAY_BE_NOTHING):
                yield f"{each.name} = {value!r}: allowed is more than nothing"

    def _wrong_burns(self) -> Iterable[str]:
        for key in ("burn_page", "burn_ticket"):
            burns: tuple[str, ...] = getattr(self, key)
            if not burns:
                yield f"{key} is empty: allowed is a list such as {_DEFAULT_BURN}"
            for text in burns:
                if not _BURN.fullmatch(text):
                    yield f"{key} has {text!r}: allowed is such as {_DEFAULT_BURN}"

    def _meaningless(self, scrape: int) -> Iterable[str]:
        """Spans that are well written, and with which an alert could never be right."""
        least = SCRAPES_IN_A_WINDOW * scrape
        for key in ("rate_window", "flap_window", "dropped_window"):
            if seconds(getattr(self, key)) < least:
                yield (
                    f"{key} = {getattr(self, key)!r}: shorter than four scrapes, so a missed one"
                    f" would silence it; allowed is {span_of(least)} or more"
                )
        for key, burns in (("burn_page", self.page_burns), ("burn_ticket", self.ticket_burns)):
            for burn in burns:
                if not seconds(self.rate_window) <= seconds(burn.short) < seconds(burn.long):
                    yield (
                        f"{key} over {burn.long} and {burn.short}: allowed is a short window from"
                        f" rate_window ({self.rate_window}) on, and a longer one"
                    )
                if burn.factor * self.budget >= 1:
                    yield (
                        f"{key}: {burn.factor:g} times a budget of {self.budget:g} is all calls, so"
                        " it could never fire; allowed is a higher objective or a lower factor"
                    )
                if not burn.factor:
                    yield f"{key} over {burn.long}: allowed is a factor above 0"
        for key in ("tripped_for", "stuck_open_for", "stuck_half_open_for"):
            if seconds(getattr(self, key)) < seconds(self.rate_window):
                yield (
                    f"{key} = {getattr(self, key)!r}: shorter than rate_window, so calls that were"
                    " refused long ago would still count, and an idle breaker would be reported;"
                    f" allowed is {self.rate_window} or more"
                )
        if seconds(self.forced_ticket_after) <= seconds(self.forced_after):
            yield "forced_ticket_after must be longer than forced_after"
        if seconds(self.absent_lookback) <= seconds(self.absent_for):
            yield "absent_lookback must be longer than absent_for, or it could never fire"


_SPAN_KEYS = ("_for", "_keep", "_after", "_window", "_lookback", "_wait", "_interval")
_MAY_BE_NOTHING = ("_for", "_keep", "_wait")
_DEFAULT_BURN = '"14.4 over 1h and 5m"'


def _burn(text: str) -> Burn:
    found = _BURN.fullmatch(text)
    if found is None:
        raise ValueError(text)
    return Burn(float(found[1]), found[2], found[3])
