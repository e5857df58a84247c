"""Grafana's side of a dashboard, without Grafana: variables, intervals, and the queries it sends.

The rules are those of Grafana 11 to 13 in their classic form: a feature flag for odd characters in
label values is off. So a dashboard that works here does not depend on it.
"""

from __future__ import annotations

import math
import re
import urllib.error
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.servers.prometheus import Prometheus

Json = dict[str, Any]

VARIABLE = re.compile(
    r"\$(\w+)|\[\[(\w+?)(?::(\w+))?\]\]|\$\{(\w+)(?:\.[^:^}]+)?(?::([^}]+))?\}", re.ASCII
)
LABEL_VALUES = re.compile(r"label_values\((?P<selector>.+),\s*(?P<label>\w+)\)", re.DOTALL)
LEGEND_LABEL = re.compile(r"\{\{\s*(\w+)\s*\}\}")

# The upper end of each class of intervals, and what it is rounded to, in milliseconds.
ROUNDED = (
    (10, 1), (15, 10), (35, 20), (75, 50), (150, 100), (350, 200), (750, 500), (1500, 1000),
    (3500, 2000), (7500, 5000), (12500, 10000), (17500, 15000), (25000, 20000), (45000, 30000),
    (90000, 60000), (210000, 120000), (450000, 300000), (750000, 600000), (1050000, 900000),
    (1500000, 1200000), (2700000, 1800000), (5400000, 3600000),
)  # fmt: skip


class All:
    """The choice "All" of a variable whose own value for it is `.+`."""


Choice = All | str | Sequence[str]
"""What is chosen for a variable: all, one of a variable for one, or several of one for many."""


@dataclass(frozen=True)
class Screen:
    """What Grafana knows when it asks: the range, how often is scraped, and how wide a panel is."""

    start: float
    end: float
    scrape: float = 1.0
    points: int = 600

    def globals(self, at_least: str = "") -> dict[str, str]:
        """Grafana's own variables, for a query with this minimal step."""
        scrape = seconds(at_least) if at_least else self.scrape
        span = self.end - self.start
        interval = max(rounded(span / self.points), scrape)
        rate = max(interval + scrape, 4 * scrape)
        return {
            "__interval": written(interval),
            "__interval_ms": str(round(interval * 1000)),
            "__rate_interval": written(rate),
            "__range": written(span),
            "__range_s": str(round(span)),
            "__range_ms": str(round(span * 1000)),
            "__from": str(round(self.start * 1000)),
            "__to": str(round(self.end * 1000)),
        }

    def step(self, at_least: str = "") -> float:
        """The step of a range query."""
        return seconds(self.globals(at_least)["__interval"])


def rounded(interval: float) -> float:
    milliseconds = interval * 1000
    return next((value for end, value in ROUNDED if milliseconds < end), 3600000) / 1000


def written(duration: float) -> str:
    return f"{round(duration * 1000)}ms" if duration % 1 else f"{round(duration)}s"


def seconds(duration: str) -> float:
    number, unit = re.fullmatch(r"([\d.]+)(ms|s|m|h|d)", duration).groups()  # type: ignore[union-attr]
    return float(number) * {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}[unit]


# -- variables -------------------------------------------------------------------------------------


def _escaped_regex(value: str) -> str:
    return re.sub(r"[\\^$*+?.()|\[\]{}/]", r"\\\g<0>", value)


def _of_one(value: str) -> str:
    """What Prometheus' data source makes of the value of a variable for one."""
    return value.replace("\\", "\\\\").replace("'", "\\\\'")


def _of_many(value: str) -> str:
    """The same for one of several values."""
    return re.sub(r"[$^*{}\[\]+?.()|]", r"\\\\\g<0>", value.replace("\\", "\\\\\\\\"))


def _formatted(choice: Choice, how: str | None) -> str:
    if isinstance(choice, All):
        return ".+"
    if how is None and isinstance(choice, str):
        return _of_one(choice)
    if how not in (None, "regex"):
        raise ValueError(f"no such format here: {how}")
    escape = _of_many if how is None else _escaped_regex
    values = [escape(each) for each in ([choice] if isinstance(choice, str) else choice)]
    return values[0] if len(values) == 1 else f"({'|'.join(values)})"


def filled_in(text: str, choices: Mapping[str, Choice], own: Mapping[str, str]) -> str:
    """The text with its variables. Raises ValueError for one that the dashboard does not have."""

    def value(found: re.Match[str]) -> str:
        name = found[1] or found[2] or found[4]
        if name in own:
            return own[name]
        if name not in choices:
            raise ValueError(f"no variable {name} in {text}")
        return _formatted(choices[name], found[3] or found[5])

    return VARIABLE.sub(value, text)


# -- dashboards ------------------------------------------------------------------------------------


def panels(dashboard: Json) -> Iterator[Json]:
    """All panels but the rows."""
    return (panel for panel in dashboard["panels"] if panel["type"] != "row")


def query_variables(dashboard: Json) -> Iterator[Json]:
    """The variables that ask Prometheus."""
    return (each for each in dashboard["templating"]["list"] if each["type"] == "query")


def annotation_queries(dashboard: Json) -> Sequence[Json]:
    """The queries for annotations."""
    found: Sequence[Json] = dashboard.get("annotations", {}).get("list", [])
    return found


def label_values(query: str) -> tuple[str, str]:
    """The selector and the label that a variable asks for."""
    found = LABEL_VALUES.fullmatch(query)
    assert found is not None, query
    return found["selector"], found["label"]


def expressions(dashboard: Json) -> Iterator[tuple[str, str]]:
    """Every query with the place where it stands."""
    for panel in panels(dashboard):
        for target in panel.get("targets", []):
            yield f"{panel['title']} {target['refId']}", target["expr"]
    for each in annotation_queries(dashboard):
        yield f"annotation {each['name']}", each["expr"]
    for variable in query_variables(dashboard):
        yield f"variable {variable['name']}", label_values(variable["query"]["query"])[0]


# -- asking ----------------------------------------------------------------------------------------


@dataclass
class Series:
    """One series of an answer, as (unix time, value)."""

    labels: dict[str, str]
    points: list[tuple[float, float]]

    @property
    def known(self) -> list[tuple[float, float]]:
        """The points that are numbers."""
        return [(at, value) for at, value in self.points if not math.isnan(value)]


@dataclass
class Answer:
    """What Prometheus says to one query."""

    where: str
    query: str
    legend: str
    series: list[Series] = field(default_factory=list)
    exemplars: list[Json] | None = None
    error: str = ""

    @property
    def problems(self) -> list[str]:
        """Why a panel would stay empty, or a legend would say nothing."""
        if self.error:
            return [f"{self.where}: {self.error}"]
        found: list[str] = []
        if not any(series.known for series in self.series):
            found.append(f"{self.where}: empty")
        found += [
            f"{self.where}: the legend says {label}, which no series has"
            for label in LEGEND_LABEL.findall(self.legend)
            if not any(label in series.labels for series in self.series)
        ]
        if self.exemplars == []:
            found.append(f"{self.where}: no exemplars")
        return found


class Grafana:
    """Asks a Prometheus what Grafana would ask it."""

    def __init__(self, prometheus: Prometheus, screen: Screen) -> None:
        self._prometheus = prometheus
        self.screen = screen

    def choices(self, dashboard: Json, choose: Mapping[str, Choice | None]) -> dict[str, Choice]:
        """What is chosen for each variable, in order. None: several if it can, else the first."""
        found: dict[str, Choice] = {}
        for variable in query_variables(dashboard):
            name = variable["name"]
            options = self.options(variable, found)
            choice = choose.get(name)
            if not variable.get("multi", False) and not isinstance(choice, str):
                choice = options[0]
            found[name] = options if choice is None else choice
        return found

    def options(self, variable: Json, choices: Mapping[str, Choice]) -> list[str]:
        """The values that a variable offers."""
        selector, label = label_values(variable["query"]["query"])
        answer = self._prometheus.get(
            f"label/{label}/values",
            **{
                "match[]": filled_in(selector, choices, self.screen.globals()),
                "start": self.screen.start,
                "end": self.screen.end,
            },
        )
        return list(answer)

    def answers(self, dashboard: Json, choices: Mapping[str, Choice]) -> Iterator[Answer]:
        """The answers to all queries of all panels, and to those of the annotations."""
        for panel in panels(dashboard):
            yield from self.answers_of(panel, choices)
        for each in annotation_queries(dashboard):
            legend = each["titleFormat"] + each["textFormat"]
            where = f"annotation {each['name']}"
            yield self._ask(where, each["expr"], choices, legend=legend, step=each["step"])

    def answers_of(self, panel: Json, choices: Mapping[str, Choice]) -> Iterator[Answer]:
        """The answers to the queries of one panel."""
        for target in panel.get("targets", []):
            yield self._ask(
                f"{panel['title']} {target['refId']}",
                target["expr"],
                choices,
                legend=target.get("legendFormat", ""),
                step=target.get("interval", ""),
                instant=target["instant"],
                exemplar=target.get("exemplar", False),
            )

    def _ask(
        self,
        where: str,
        expression: str,
        choices: Mapping[str, Choice],
        *,
        legend: str = "",
        step: str = "",
        instant: bool = False,
        exemplar: bool = False,
    ) -> Answer:
        screen = self.screen
        answer = Answer(where, "", legend)
        try:
            answer.query = filled_in(expression, choices, screen.globals(step))
            if instant:
                data = self._prometheus.get("query", query=answer.query, time=screen.end)
            else:
                data = self._prometheus.get(
                    "query_range",
                    query=answer.query,
                    start=screen.start,
                    end=screen.end,
                    step=screen.step(step),
                )
            for row in data["result"]:
                points = row["values"] if "values" in row else [row["value"]]
                numbers = [(float(at), float(value)) for at, value in points]
                answer.series.append(Series(row["metric"], numbers))
            if exemplar:
                answer.exemplars = self._prometheus.exemplars(
                    answer.query, screen.start, screen.end
                )
        except ValueError as error:
            answer.error = str(error)
        except urllib.error.HTTPError as error:
            answer.error = f"{answer.query}: {error.read().decode()}"
        return answer
