"""The board as a picture: on a terminal while the demo runs, and as SVG.

States are told apart by colour, by sign and by height, so that no reader has to rely on colours.
The colours are those of Okabe and Ito, made to differ for every kind of colour vision.
"""

from __future__ import annotations

import io
import re
from typing import Self

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from breakerscope.core.events import Outcome, State, StateChanged
from breakerscope.demo.board import EVENTS, RECENT_SECONDS, Moment, Row

GREEN, ORANGE, VERMILION = "#009E73", "#E69F00", "#D55E00"
SKY, PURPLE, GREY = "#56B4E9", "#CC79A7", "#999999"

LOOK = {
    State.CLOSED: ("●", "▁", GREEN),
    State.HALF_OPEN: ("◐", "▄", ORANGE),
    State.OPEN: ("○", "█", VERMILION),
    State.FORCED_OPEN: ("■", "█", PURPLE),
    State.DISABLED: ("-", "▔", GREY),
}
"""State -> its sign, its piece of a strip, its colour."""

OUTCOMES = (
    (Outcome.SUCCESS, "ok", GREEN),
    (Outcome.FAILURE, "err", VERMILION),
    (Outcome.IGNORED, "ign", SKY),
    (Outcome.CANCELLED, "can", GREY),
    (Outcome.REJECTED, "rej", PURPLE),
)
WIDE = 110
PICTURE_WIDTH = 100
NAME_WIDTH, STATE_WIDTH, RATIO_WIDTH, LATENCY_WIDTH = 15, 11, 8, 8
FRAME = 4
LEGEND = f"calls/s and latency of the last {RECENT_SECONDS:g} s, failures of the breaker's window"


class View:
    """One moment, drawn as wide as there is room. From 80 columns on, nothing is cut."""

    def __init__(self, moment: Moment) -> None:
        self._moment = moment

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = options.max_width
        yield Panel(
            Group(
                _breakers(self._moment, width - FRAME),
                Text(),
                *_events(self._moment),
                Text(),
                _progress(self._moment, width - FRAME),
            ),
            title="circuit breakers",
            subtitle=LEGEND,
            box=box.ROUNDED,
            border_style=GREY,
        )


def _breakers(moment: Moment, width: int) -> Table:
    wide = width >= WIDE
    rate_widths = [len(outcome) if wide else 3 for outcome, _, _ in OUTCOMES]
    fixed = NAME_WIDTH + STATE_WIDTH + RATIO_WIDTH + LATENCY_WIDTH + sum(rate_widths)
    gaps = len(OUTCOMES) + 4
    strip_width = max(width - fixed - gaps, 4)
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim")
    table.add_column("breaker", width=NAME_WIDTH, no_wrap=True)
    table.add_column("state", width=STATE_WIDTH, no_wrap=True)
    table.add_column("history", width=strip_width, no_wrap=True)
    for (outcome, short, _), rate_width in zip(OUTCOMES, rate_widths, strict=True):
        name = outcome.value if wide else short
        table.add_column(name, width=rate_width, justify="right", no_wrap=True)
    table.add_column("fail/lim", width=RATIO_WIDTH, justify="right", no_wrap=True)
    table.add_column("p50/99ms", width=LATENCY_WIDTH, justify="right", no_wrap=True)
    for row in moment.rows:
        table.add_row(
            Text(row.name, style="bold"),
            _state(row.state),
            _strip(row, strip_width),
            *(_rate(row.rates[outcome], colour) for outcome, _, colour in OUTCOMES),
            _ratio(row),
            _latency(row),
        )
    return table


def _state(state: State) -> Text:
    sign, _, colour = LOOK[state]
    return Text(f"{sign} {state.value}", style=f"bold {colour}")


def _strip(row: Row, width: int) -> Text:
    strip = Text()
    for state in row.strip[-width:]:
        _, piece, colour = LOOK[state]
        strip.append(piece, style=colour)
    return strip


def _rate(rate: float, colour: str) -> Text:
    if rate == 0:
        return Text("·", style="dim")
    return Text(f"{rate:.0f}" if rate >= 1 else "<1", style=colour)


def _ratio(row: Row) -> Text:
    limit = "-" if row.threshold is None else f"{row.threshold:.0%}"
    if row.failure_ratio is None:
        return Text(f"-/{limit}", style="dim")
    if row.state is not State.CLOSED:
        style = "dim"
    elif row.threshold is not None and row.failure_ratio >= row.threshold:
        style = VERMILION
    else:
        style = ""
    return Text(f"{row.failure_ratio * 100:.0f}/{limit}", style=style)


def _latency(row: Row) -> Text:
    if row.p50 is None or row.p99 is None:
        return Text("-", style="dim")
    return Text(f"{row.p50 * 1000:.0f}/{row.p99 * 1000:.0f}")


def _events(moment: Moment) -> list[Text]:
    lines = [_event(at, event) for at, event in moment.events]
    # The picture keeps its height, or the terminal would jump.
    return lines + [Text()] * (EVENTS - len(lines))


def _event(at: float, event: StateChanged) -> Text:
    line = Text(f"{at:6.1f} s  ", style="dim", no_wrap=True, overflow="ellipsis")
    line.append(event.breaker.ljust(NAME_WIDTH), style="not dim")
    line.append(f"  {LOOK[event.old][0]} → ", style=f"not dim {LOOK[event.old][2]}")
    sign, _, colour = LOOK[event.new]
    line.append(f"{sign} {event.new.value}".ljust(STATE_WIDTH), style=f"not dim bold {colour}")
    line.append(f"  {event.cause.value.replace('_', ' ')}", style="not dim")
    if event.open_for is not None:
        line.append(f", for {event.open_for:.1f} s")
    return line


def _progress(moment: Moment, width: int) -> Group:
    share = min(moment.elapsed / moment.duration, 1.0)
    clock = f" {moment.elapsed:3.0f} of {moment.duration:.0f} s"
    room = width - len(clock)
    done = round(share * room)
    bar = Text("━" * done, style=SKY)
    bar.append("─" * (room - done), style="dim")
    bar.append(clock)
    phases = Text("services: ", style="dim", no_wrap=True, overflow="ellipsis")
    for number, row in enumerate(moment.rows):
        phases.append(("" if number == 0 else ", ") + f"{row.name} ")
        phases.append(row.phase, style="not dim bold")
    return Group(bar, phases)


class LiveView:
    """The view on a terminal. A context manager; what others print meanwhile appears above it."""

    def __init__(self) -> None:
        self._live = Live(auto_refresh=False)

    def update(self, moment: Moment) -> None:
        """Draw this moment."""
        self._live.update(View(moment), refresh=True)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._live.stop()


def picture(moment: Moment, *, width: int = PICTURE_WIDTH) -> str:
    """The view as SVG."""
    console = Console(
        record=True, width=width, file=io.StringIO(), force_terminal=True, color_system="truecolor"
    )
    console.print(View(moment))
    svg = console.export_svg(title="$ breakerscope demo", unique_id="breakerscope")
    # Rich would load its fonts from the internet. The reader's own monospace font will do.
    return re.sub(r"\s*@font-face \{.*?\}", "", svg, flags=re.DOTALL)
