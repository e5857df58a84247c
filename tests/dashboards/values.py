"""Values as Grafana would show them: units, thresholds, mappings, and the shape of tables."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from tests.dashboards.grafana import LEGEND_LABEL, Answer, Json, Series

TEXT = "#CCCCDC"
NAMED = {"text": TEXT, "transparent": "#00000000"}


def _short(value: float, decimals: int | None) -> str:
    for size, letter in ((1e9, " Bil"), (1e6, " Mil"), (1e3, " K")):
        if abs(value) >= size and decimals is None:
            return f"{value / size:.3g}{letter}"
    return f"{value:.{decimals}f}" if decimals is not None else f"{value:.3g}"


def _seconds(value: float, _decimals: int | None) -> str:
    for size, name in ((86400, "days"), (3600, "hours"), (60, "mins"), (1, "s"), (1e-3, "ms")):
        if abs(value) >= size:
            return f"{value / size:.3g} {name}"
    return f"{value * 1e6:.3g} µs" if value else "0 s"


UNITS: Mapping[str, Callable[[float, int | None], str]] = {
    "short": _short,
    "percentunit": lambda value, decimals: f"{value * 100:.{decimals or 0}f}%",
    "s": _seconds,
    "reqps": lambda value, decimals: f"{_short(value, decimals)} req/s",
    "cps": lambda value, decimals: f"{_short(value, decimals)} c/s",
    "cpm": lambda value, decimals: f"{_short(value, decimals)} c/m",
    "dateTimeAsIso": lambda value, _: (
        f"{datetime.fromtimestamp(value / 1000, tz=UTC):%Y-%m-%d %H:%M:%S}"
    ),
}


@dataclass(frozen=True)
class Look:
    """How one field looks: the defaults of its panel, and what is said of it by name."""

    settings: Mapping[str, Any]

    @classmethod
    def of(cls, panel: Json, name: str = "") -> Look:
        config = panel["fieldConfig"]
        found = dict(config["defaults"])
        found |= {f"custom.{key}": value for key, value in found.get("custom", {}).items()}
        for override in config["overrides"]:
            if override["matcher"]["options"] == name:
                found |= {each["id"]: each["value"] for each in override["properties"]}
        return cls(found)

    def text(self, value: float | str) -> str:
        """The value with its unit, or what it stands for."""
        if (mapped := self._mapped(value)) is not None:
            return str(mapped["text"])
        if isinstance(value, str):
            return value
        if math.isnan(value):
            return str(self.settings.get("noValue", ""))
        decimals = self.settings.get("decimals")
        return UNITS[self.settings["unit"]](value, None if decimals is None else int(decimals))

    def colour(self, value: float | str) -> str:
        """The colour of its mapping, or of the threshold that it has reached."""
        if (mapped := self._mapped(value)) is not None:
            return str(mapped["color"])
        colour = self.settings.get("color", {})
        if colour.get("mode") == "fixed":
            return str(colour["fixedColor"])
        if isinstance(value, str) or math.isnan(value):
            return TEXT
        reached: list[str] = [
            step["color"]
            for step in self.settings["thresholds"]["steps"]
            if step["value"] is None or value >= step["value"]
        ]
        return NAMED.get(reached[-1], reached[-1])

    def _mapped(self, value: float | str) -> Json | None:
        key = value if isinstance(value, str) else f"{value:g}"
        for mapping in self.settings.get("mappings", []):
            if key in mapping["options"]:
                found: Json = mapping["options"][key]
                return found
        return None


def name_of(answer: Answer, series: Series) -> str:
    """What the legend says."""
    return LEGEND_LABEL.sub(lambda found: series.labels.get(found[1], ""), answer.legend) or "Value"


# -- tables ----------------------------------------------------------------------------------------

Table = list[dict[str, Any]]


def table_of(panel: Json, answers: Sequence[Answer]) -> tuple[list[str], Table]:
    """The columns and rows of a table panel, after its transformations."""
    several = len(answers) > 1
    frames: list[Table] = [
        [
            {"Time": at, **series.labels, _column(target, several=several): value}
            for series in answer.series
            for at, value in series.points
        ]
        for target, answer in zip(panel["targets"], answers, strict=True)
    ]
    rows = [row for frame in frames for row in frame]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    for each in panel.get("transformations", []):
        columns, rows = STEPS[each["id"]](columns, rows, each["options"])
    for sort in reversed(panel["options"].get("sortBy", [])):
        rows = sorted(
            rows, key=lambda row: row.get(sort["displayName"], -1), reverse=sort.get("desc", False)
        )
    return columns, rows


def _column(target: Json, *, several: bool) -> str:
    return f"Value #{target['refId']}" if several else "Value"


def _merge(columns: list[str], rows: Table, _options: Json) -> tuple[list[str], Table]:
    merged: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in rows:
        key = tuple(row.get(name) for name in columns if not name.startswith("Value"))
        merged.setdefault(key, {}).update(row)
    return columns, list(merged.values())


def _organize(columns: list[str], rows: Table, options: Json) -> tuple[list[str], Table]:
    kept = [name for name in columns if name not in options["excludeByName"]]
    kept.sort(key=lambda name: options["indexByName"].get(name, len(columns)))
    names = {name: options["renameByName"].get(name, name) for name in kept}
    return list(names.values()), [
        {names[name]: value for name, value in row.items() if name in names} for row in rows
    ]


def _group_by(columns: list[str], rows: Table, options: Json) -> tuple[list[str], Table]:
    kept = [name for name in columns if name in options["fields"]]
    distinct = {tuple(row.get(name) for name in kept) for row in rows}
    return kept, [dict(zip(kept, values, strict=True)) for values in distinct]


def _sort_by(columns: list[str], rows: Table, options: Json) -> tuple[list[str], Table]:
    [sort] = options["sort"]
    return columns, sorted(rows, key=lambda row: row[sort["field"]], reverse=sort["desc"])


def _limit(columns: list[str], rows: Table, options: Json) -> tuple[list[str], Table]:
    return columns, rows[: options["limitField"]]


STEPS: Mapping[str, Callable[[list[str], Table, Json], tuple[list[str], Table]]] = {
    "merge": _merge,
    "organize": _organize,
    "groupBy": _group_by,
    "sortBy": _sort_by,
    "limit": _limit,
}
