"""A dashboard as a picture, without Grafana: the grid to scale, each panel by its kind.

Good enough to judge layout and content. It says on itself that it is a preview.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Patch, Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator

from tests.dashboards.grafana import Answer, Choice, Grafana, Json, Series, annotation_queries
from tests.dashboards.values import NAMED, TEXT, UNITS, Look, name_of, table_of

WIDTH, UNIT, GAP, HEAD, TITLE, DPI = 1600, 38, 8, 96, 26, 100
PAGE, PANEL, EDGE, DIM = "#111217", "#181B1F", "#2A2D35", "#9A9BA8"
PALETTE = ("#73BF69", "#F2CC0C", "#8AB8FF", "#FF780A", "#F2495C", "#5794F2", "#B877D9", "#37872D")
NOTE = "Preview: drawn from the queries of the dashboard by matplotlib, not by Grafana"


class Picture:
    """One dashboard with one choice of its variables."""

    def __init__(self, grafana: Grafana, dashboard: Json, choices: Mapping[str, Choice]) -> None:
        self._grafana = grafana
        self._screen = grafana.screen
        self._dashboard = dashboard
        self._choices = choices
        rows = max(each["gridPos"]["y"] + each["gridPos"]["h"] for each in dashboard["panels"])
        self._height = HEAD + rows * UNIT + GAP
        self._figure = Figure(figsize=(WIDTH / DPI, self._height / DPI), dpi=DPI, facecolor=PAGE)
        self._marks = [
            (mark, at, colour)
            for mark, colour, answer in self._annotations()
            for at in _starts(answer)
        ]

    def save(self, file: Path) -> None:
        """Draw everything, and write a PNG."""
        with mpl.rc_context({"font.family": "DejaVu Sans", "text.color": TEXT}):
            self._head()
            for panel in self._dashboard["panels"]:
                at = panel["gridPos"]
                left, top = at["x"] * WIDTH / 24 + GAP / 2, HEAD + at["y"] * UNIT
                width, height = at["w"] * WIDTH / 24 - GAP, at["h"] * UNIT - GAP
                if panel["type"] == "row":
                    self._text(left + 6, top + 20, f"⌄ {panel['title']}", 11, weight="bold")
                else:
                    self._panel(panel, left, top, width, height)
            FigureCanvasAgg(self._figure)
            self._figure.savefig(file, facecolor=PAGE)

    # -- the frame ---------------------------------------------------------------------------------

    def _annotations(self) -> list[tuple[str, str, Answer]]:
        only = {**self._dashboard, "panels": []}
        answers = self._grafana.answers(only, self._choices)
        queries = annotation_queries(self._dashboard)
        return [
            (query["name"], query["iconColor"], answer)
            for query, answer in zip(queries, answers, strict=True)
        ]

    def _head(self) -> None:
        start, end = (
            datetime.fromtimestamp(at, tz=UTC) for at in (self._screen.start, self._screen.end)
        )
        self._text(14, 30, self._dashboard["title"], 15, weight="bold")
        times = f"{start:%Y-%m-%d %H:%M:%S} to {end:%H:%M:%S} UTC"
        self._text(WIDTH - 14, 30, times, 10, align="right")
        self._text(WIDTH - 14, 56, NOTE, 10, align="right", colour="#F2CC0C")
        chosen = "    ".join(
            f"{name}: {choice if isinstance(choice, str) else 'All'}"
            for name, choice in self._choices.items()
        )
        links = "    ".join(f"↗ {link['title']}" for link in self._dashboard["links"])
        self._text(14, 56, f"{chosen}        {links}", 10, colour=DIM)
        left = 14.0
        for query in annotation_queries(self._dashboard):
            self._text(left, 80, f"┃ {query['name']}", 10, colour=query["iconColor"])
            left += 30 + 8 * len(query["name"])

    def _text(
        self,
        x: float,
        y: float,
        text: str,
        size: float,
        *,
        colour: str = TEXT,
        align: str = "left",
        weight: str = "normal",
    ) -> None:
        self._figure.text(
            x / WIDTH, 1 - y / self._height, text, fontsize=size, color=colour, ha=align,
            weight=weight, parse_math=False,
        )  # fmt: skip

    def _axes(self, left: float, top: float, width: float, height: float) -> Axes:
        rectangle = (
            left / WIDTH,
            1 - (top + height) / self._height,
            width / WIDTH,
            height / self._height,
        )
        axes = self._figure.add_axes(rectangle)
        axes.set_facecolor("none")
        axes.tick_params(colors=DIM, labelsize=8, length=0)
        for side in axes.spines.values():
            side.set_visible(False)
        return axes

    def _panel(self, panel: Json, left: float, top: float, width: float, height: float) -> None:
        frame = FancyBboxPatch(
            (left / WIDTH, 1 - (top + height) / self._height),
            width / WIDTH,
            height / self._height,
            boxstyle="square,pad=0",
            facecolor=PANEL,
            edgecolor=EDGE,
            transform=self._figure.transFigure,
            zorder=-1,
        )
        self._figure.add_artist(frame)
        answers = list(self._grafana.answers_of(panel, self._choices))
        KINDS[panel["type"]](self, panel, answers, (left, top, width, height))
        self._text(left + 10, top + 19, panel["title"], 10, weight="bold")

    # -- the kinds of panels -----------------------------------------------------------------------

    def stat(self, panel: Json, answers: Sequence[Answer], place: Place) -> None:
        left, top, width, height = place
        values = [series.points[-1][1] for series in answers[0].series]
        value = values[0] if values else math.nan
        look = Look.of(panel)
        text, colour = look.text(value), look.colour(value)
        if panel["options"]["colorMode"] == "background":
            axes = self._axes(left, top, width, height)
            axes.add_patch(Rectangle((0, 0), 1, 1, facecolor=colour, transform=axes.transAxes))
            axes.set_axis_off()
            colour = "#FFFFFF"
        x, y = left + width / 2, top + height / 2 + 24
        self._text(x, y, text, 26, colour=colour, align="center", weight="bold")

    def alertlist(self, _panel: Json, _answers: Sequence[Answer], place: Place) -> None:
        left, top, _, _ = place
        text = "Grafana fills this list from its alert API,\nwhich a preview does not have."
        self._text(left + 12, top + 70, text, 10, colour=DIM)

    def timeseries(self, panel: Json, answers: Sequence[Answer], place: Place) -> None:
        axes, lines = self._plot(place), _lines(panel, answers)
        custom = panel["fieldConfig"]["defaults"]["custom"]
        if custom.get("stacking", {}).get("mode") == "normal":
            _stack(axes, lines, bars=custom.get("drawStyle") == "bars", step=self._screen.step())
        else:
            for _, colour, series, look in lines:
                style = "--" if look.settings.get("custom.lineStyle") else "-"
                fill = look.settings.get("custom.fillOpacity", 0) / 100
                times, values = _with_gaps(series, self._screen.step())
                axes.plot(times, values, style, color=colour, linewidth=1.7)
                axes.fill_between(times, values, color=colour, alpha=fill, linewidth=0)
        for answer in answers:
            for each in answer.exemplars or []:
                at, took = float(each["timestamp"]), float(each["value"])
                axes.plot(at, took, marker="D", markersize=3, color="#8AB8FF", alpha=0.7)
        self._limits(panel, axes)
        if "sortBy" in panel["options"]["legend"]:
            lines.sort(key=lambda line: -max(value for _, value in line[2].known))
        self._finish(panel, axes, place, [(name, colour) for name, colour, _, _ in lines])

    def state_timeline(self, panel: Json, answers: Sequence[Answer], place: Place) -> None:
        left, top, width, height = place
        named = sorted(
            ((name_of(answer, each), each) for answer in answers for each in answer.series),
            key=lambda pair: pair[0],
        )
        longest = max((len(name) for name, _ in named), default=0)
        margin = 34 + 7.4 * longest
        axes = self._axes(left + margin, top + TITLE + 8, width - margin - 14, height - TITLE - 62)
        step, look = self._screen.step(), Look.of(panel)
        for row, (_, series) in enumerate(named):
            for value, begin, end in _runs(series, step):
                colour = look.colour(value)
                bar = Rectangle((begin, row - 0.42), end - begin, 0.84, facecolor=colour)
                axes.add_patch(bar)
                if (end - begin) / (self._screen.end - self._screen.start) > 0.06:
                    axes.text(
                        begin + 0.3, row, look.text(value), va="center", fontsize=8, color="#FFF"
                    )
        axes.set_ylim(len(named) - 0.45, -0.55)
        axes.set_yticks(range(len(named)), [name for name, _ in named], parse_math=False)
        axes.tick_params(axis="y", labelsize=9, labelcolor=TEXT)
        self._time_axis(axes)
        options = look.settings["mappings"][0]["options"].values()
        self._legend(place, [(each["text"], each["color"]) for each in options])

    def table(self, panel: Json, answers: Sequence[Answer], place: Place) -> None:
        left, top, width, height = place
        columns, rows = table_of(panel, answers)
        line = 27
        fits = int((height - TITLE - 34) / line)
        looks = [Look.of(panel, name) for name in columns]
        longest = [
            max(len(name), *(len(look.text(row.get(name, math.nan))) for row in rows)) + 3
            for name, look in zip(columns, looks, strict=True)
        ]
        edges = [left + 12.0]
        for length in longest:
            edges.append(edges[-1] + length * (width - 12) / sum(longest))
        for name, look, x, following in zip(columns, looks, edges, edges[1:], strict=False):
            self._text(x, top + TITLE + 22, name, 9.5, colour="#6E9FFF", weight="bold")
            for number, row in enumerate(rows[:fits]):
                y = top + TITLE + 46 + number * line
                value = row.get(name, math.nan)
                text, colour = look.text(value), TEXT
                cell_options = look.settings.get("custom.cellOptions", {})
                if cell_options.get("type") == "color-text":
                    colour = look.colour(value)
                elif cell_options:
                    cell = self._axes(x - 6, y - 18, following - x - 6, line - 3)
                    cell.set_axis_off()
                    box = Rectangle((0, 0), 1, 1, transform=cell.transAxes)
                    box.set_facecolor(look.colour(value))
                    cell.add_patch(box)
                    colour = "#FFFFFF"
                if look.settings.get("links"):
                    colour = "#6E9FFF"
                self._text(x, y, text, 10, colour=colour)

    def bargauge(self, panel: Json, answers: Sequence[Answer], place: Place) -> None:
        left, top, width, height = place
        bars = [
            (name_of(answer, each), each.points[-1][1])
            for answer in answers
            for each in answer.series
        ]
        bars.sort(key=lambda bar: -bar[1])
        look = Look.of(panel)
        margin = 34 + 7.4 * max((len(name) for name, _ in bars), default=0)
        axes = self._axes(left + margin, top + TITLE + 8, width - margin - 90, height - TITLE - 20)
        most = max((value for _, value in bars), default=0) or 1
        for row, (_, value) in enumerate(bars):
            colour = look.colour(value)
            axes.barh(row, most, height=0.7, color="#22252B")
            axes.barh(row, value, height=0.7, color=colour)
            axes.text(most * 1.02, row, look.text(value), va="center", fontsize=9, color=colour)
        axes.set_xlim(0, most)
        axes.set_ylim(max(len(bars), 3) - 0.5, -0.5)
        axes.set_xticks([])
        axes.set_yticks(range(len(bars)), [name for name, _ in bars], parse_math=False)
        axes.tick_params(axis="y", labelsize=9, labelcolor=TEXT)

    def heatmap(self, panel: Json, answers: Sequence[Answer], place: Place) -> None:
        axes = self._plot(place)
        buckets = sorted(
            (float(series.labels["le"]), dict(series.known)) for series in answers[0].series
        )
        step = self._screen.step()
        boxes, counts, tops = [], [], []
        for row, (bound, points) in enumerate(buckets):
            below = buckets[row - 1][1] if row else {}
            tops.append("+Inf" if math.isinf(bound) else UNITS["s"](bound, None))
            for at, total in points.items():
                count = total - below.get(at, 0.0)
                if count > 1e-9:
                    boxes.append([(at - step, row), (at, row), (at, row + 1), (at - step, row + 1)])
                    counts.append(count**0.5)
        cells = PolyCollection(boxes, array=counts, cmap="viridis", linewidths=0)
        axes.add_collection(cells)
        for each in answers[0].exemplars or []:
            took = float(each["value"])
            row = next(at for at, (bound, _) in enumerate(buckets) if took <= bound)
            low = buckets[row - 1][0] if row else 0.0
            high = buckets[row][0]
            within = 0.5 if math.isinf(high) else (took - low) / (high - low)
            axes.plot(float(each["timestamp"]), row + within, "D", markersize=3, color="#FFFFFFAA")
        axes.set_ylim(0, len(buckets))
        axes.set_yticks(range(1, len(buckets) + 1), tops)
        self._time_axis(axes)

    # -- what several kinds share ------------------------------------------------------------------

    def _plot(self, place: Place) -> Axes:
        left, top, width, height = place
        return self._axes(left + 62, top + TITLE + 10, width - 76, height - TITLE - 62)

    def _time_axis(self, axes: Axes) -> None:
        axes.set_xlim(self._screen.start, self._screen.end)
        axes.xaxis.set_major_locator(MaxNLocator(7, integer=True, steps=[1, 1.5, 3, 5, 6, 10]))
        axes.xaxis.set_major_formatter(
            FuncFormatter(lambda at, _: f"{datetime.fromtimestamp(at, tz=UTC):%H:%M:%S}")
        )

    def _limits(self, panel: Json, axes: Axes) -> None:
        defaults = panel["fieldConfig"]["defaults"]
        if "thresholdsStyle" in defaults["custom"]:
            for step in defaults["thresholds"]["steps"][1:]:
                axes.axhline(step["value"], color=step["color"], linestyle=(0, (6, 4)), linewidth=1)

    def _finish(
        self, panel: Json, axes: Axes, place: Place, names: Sequence[tuple[str, str]]
    ) -> None:
        defaults = panel["fieldConfig"]["defaults"]
        for _, at, colour in self._marks:
            axes.axvline(at, color=colour, linewidth=0.9, linestyle=":", alpha=0.9, zorder=0)
        top = axes.get_ylim()[1]
        soft = defaults["custom"].get("axisSoftMax", 0)
        axes.set_ylim(defaults.get("min", 0), defaults.get("max", max(top, soft, 1e-3)))
        axes.set_axisbelow(True)
        axes.grid(axis="y", color=EDGE, linewidth=0.7)
        axes.yaxis.set_major_locator(MaxNLocator(5))
        look = Look.of(panel)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: look.text(value)))
        self._time_axis(axes)
        self._legend(place, names)

    def _legend(self, place: Place, names: Sequence[tuple[str, str]]) -> None:
        left, top, width, height = place
        axes = self._axes(left + 8, top + height - 30, width - 16, 26)
        axes.set_axis_off()
        room = int(width / 8.8)
        shown: list[Patch] = []
        used = 0
        for name, colour in names:
            used += len(name) + 6
            if used > room:
                shown.append(Patch(color="none", label=f"and {len(names) - len(shown)} more"))
                break
            shown.append(Patch(color=colour, label=name))
        legend = axes.legend(
            handles=shown, loc="center left", ncols=max(len(shown), 1), frameon=False, fontsize=8.5,
            handlelength=1.0, handleheight=0.6, columnspacing=1.4, labelcolor=TEXT,
        )  # fmt: skip
        for text in legend.get_texts():
            text.set_parse_math(False)


Place = tuple[float, float, float, float]
"""Left, top, width and height, in pixels."""

KINDS: Mapping[str, Callable[[Picture, Json, Sequence[Answer], Place], None]] = {
    "stat": Picture.stat,
    "alertlist": Picture.alertlist,
    "timeseries": Picture.timeseries,
    "state-timeline": Picture.state_timeline,
    "table": Picture.table,
    "bargauge": Picture.bargauge,
    "heatmap": Picture.heatmap,
}

Line = tuple[str, str, Series, Look]


def _lines(panel: Json, answers: Sequence[Answer]) -> list[Line]:
    found: list[Line] = []
    for answer in answers:
        for series in sorted(answer.series, key=lambda each: name_of(answer, each)):
            name = name_of(answer, series)
            look = Look.of(panel, name)
            colour = look.settings["color"].get("fixedColor") or PALETTE[len(found) % len(PALETTE)]
            if series.known:
                found.append((name, NAMED.get(colour, colour), series, look))
    return found


def _with_gaps(series: Series, step: float) -> tuple[list[float], list[float]]:
    """The points, with a hole where there was no value."""
    times: list[float] = []
    values: list[float] = []
    for at, value in series.points:
        if times and at - times[-1] > 1.5 * step:
            times.append(times[-1] + step)
            values.append(math.nan)
        times.append(at)
        values.append(value)
    return times, values


def _stack(axes: Axes, lines: Sequence[Line], *, bars: bool, step: float) -> None:
    times = sorted({at for _, _, series, _ in lines for at, _ in series.known})
    floor = dict.fromkeys(times, 0.0)
    for _, colour, series, _ in lines:
        values = dict(series.known)
        low = [floor[at] for at in times]
        high = [floor[at] + values.get(at, 0.0) for at in times]
        if bars:
            heights = [b - a for a, b in zip(low, high, strict=True)]
            axes.bar(times, heights, step * 0.9, bottom=low, color=colour, linewidth=0)
        else:
            axes.fill_between(times, low, high, color=colour, alpha=0.65, linewidth=0)
            axes.plot(times, high, color=colour, linewidth=0.8)
        floor = dict(zip(times, high, strict=True))


def _runs(series: Series, step: float) -> list[tuple[float, float, float]]:
    """Equal values in a row, as value, begin and end."""
    found: list[tuple[float, float, float]] = []
    for at, value in series.known:
        if found and found[-1][0] == value and at - found[-1][2] <= 0.5 * step:
            found[-1] = (value, found[-1][1], at + step)
        else:
            found.append((value, at, at + step))
    return found


def _starts(answer: Answer) -> list[float]:
    """Where marks begin: points in a row are one mark."""
    times = sorted({at for series in answer.series for at, _ in series.points})
    step = min((b - a for a, b in pairwise(times)), default=0.0)
    found: list[float] = []
    for series in answer.series:
        before = -math.inf
        for at, _ in series.points:
            if at - before > 1.5 * step:
                found.append(at)
            before = at
    return found
