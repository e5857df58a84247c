"""Renders what the documents say about the code: run by `make docs-parts`, checked by a test."""

from __future__ import annotations

import json
import re
import sys
from collections import defaultdict
from pathlib import Path

from breakerscope.codec import event_schema
from breakerscope.events import Cause, State
from breakerscope.machine import TRANSITIONS
from breakerscope.reference import (
    as_json,
    differences,
    events_page,
    metrics_page,
    read_catalogue,
)

ROOT = Path(__file__).resolve().parent.parent
SEMANTICS = ROOT / "docs" / "semantics.md"
STATES = ROOT / "docs" / "images" / "states.svg"
METRICS = ROOT / "docs" / "metrics.md"
EVENTS = ROOT / "docs" / "events.md"
LOCK = ROOT / "docs" / "catalogue.lock.json"
CHANGES = ROOT / "CHANGELOG.md"
SCHEMA = ROOT / "src" / "breakerscope" / "events.schema.json"
BY_HAND = {Cause.FORCE_OPEN, Cause.DISABLE, Cause.RESET, Cause.RELEASE, Cause.ADOPT}


def diagram() -> str:
    """The changes that a breaker makes by itself, as a picture that needs nothing to be shown."""
    causes: defaultdict[tuple[State, State], list[str]] = defaultdict(list)
    for old, new, cause in sorted(TRANSITIONS):
        if cause not in BY_HAND:
            causes[old, new].append(cause.value)
    parts = [START, *(arrow(*change, why) for change, why in causes.items()), *map(box, BOXES)]
    return "\n".join([HEAD, *parts, "</svg>", ""])


BOXES = {State.CLOSED: (110, 90), State.OPEN: (610, 90), State.HALF_OPEN: (360, 270)}
"""The middle of each state."""
LABELS = {
    (State.CLOSED, State.OPEN): (360, 54, "middle"),
    (State.OPEN, State.HALF_OPEN): (592, 185, "end"),
    (State.HALF_OPEN, State.OPEN): (432, 160, "end"),
    (State.HALF_OPEN, State.CLOSED): (136, 190, "start"),
}
"""Where the causes of a change stand."""
ARROWS = {
    (State.CLOSED, State.OPEN): "M180 90 H532",
    (State.OPEN, State.HALF_OPEN): "M625 118 C620 200 560 270 438 270",
    (State.HALF_OPEN, State.OPEN): "M400 242 C420 170 470 130 534 106",
    (State.HALF_OPEN, State.CLOSED): "M290 270 C170 270 100 200 104 126",
}
"""A change that has no place here is an error: the picture would hide it."""
HEAD = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 720 320" width="720" role="img"
  aria-label="closed, open, half-open: the states and what changes them">
<style>
  text { font: 13px ui-monospace, monospace; fill: #333 }
  .state { font: bold 17px system-ui, sans-serif; fill: #fff; text-anchor: middle }
  path { fill: none; stroke: #555; stroke-width: 1.6; marker-end: url(#tip) }
</style>
<defs><marker id="tip" viewBox="0 0 10 10" refX="8" refY="5" markerWidth="8" markerHeight="8"
  orient="auto"><path d="M0 0 L10 5 L0 10 z" style="fill: #555; marker-end: none" /></marker></defs>
<rect width="720" height="320" rx="10" fill="#fff" stroke="#ddd" />"""
START = '<circle cx="110" cy="26" r="6" fill="#555" /><path d="M110 32 V56" />'
COLOURS = {State.CLOSED: "#1a7f4b", State.OPEN: "#c0392b", State.HALF_OPEN: "#b7791f"}


def box(state: State) -> str:
    """A state."""
    x, y = BOXES[state]
    return (
        f'<rect x="{x - 70}" y="{y - 28}" width="140" height="56" rx="8" fill="{COLOURS[state]}" />'
        f'<text class="state" x="{x}" y="{y + 6}">{state.value}</text>'
    )


def arrow(old: State, new: State, causes: list[str]) -> str:
    """A change, with its causes two to a line."""
    x, y, anchor = LABELS[old, new]
    lines = [" / ".join(causes[at : at + 2]) for at in range(0, len(causes), 2)]
    text = "".join(
        f'<text x="{x}" y="{y + 20 * row}" text-anchor="{anchor}">{line}</text>'
        for row, line in enumerate(lines)
    )
    return f'<path d="{ARROWS[old, new]}" />{text}'


def table() -> str:
    """All legal changes, with those by hand."""
    causes: defaultdict[Cause, list[str]] = defaultdict(list)
    for old, new, cause in sorted(TRANSITIONS):
        causes[cause].append(f"{old.value} → {new.value}")
    rows = [f"| `{cause.value}` | {', '.join(causes[cause])} |" for cause in Cause]
    return "\n".join(["| cause | changes |", "| --- | --- |", *rows])


PARTS = {"transitions": table}


def rendered(text: str) -> str:
    """The text with each part between its markers made anew."""
    for name, render in PARTS.items():
        text = re.sub(
            rf"(<!-- rendered: {name} -->\n).*?(\n<!-- end -->)",
            lambda found, render=render: found[1] + render() + found[2],  # type: ignore[misc]
            text,
            flags=re.DOTALL,
        )
    return text


def as_text(data: object) -> str:
    """JSON as a file has it."""
    return json.dumps(data, indent=2) + "\n"


def files() -> dict[Path, str]:
    """Each rendered file, and what it should hold."""
    return {
        STATES: diagram(),
        SEMANTICS: rendered(SEMANTICS.read_text(encoding="utf-8")),
        METRICS: metrics_page(),
        EVENTS: events_page(),
        LOCK: as_text(as_json()),
        SCHEMA: as_text(event_schema()),
    }


def unannounced() -> list[str]:
    """Public names that went or changed since the lock file, without a word in the changelog."""
    if not LOCK.exists():
        return []
    unreleased = CHANGES.read_text(encoding="utf-8").partition("\n## Unreleased")[2]
    unreleased = unreleased.partition("\n## ")[0]
    return [
        str(difference)
        for difference in differences(read_catalogue(LOCK), as_json())
        if difference.breaks and difference.name not in unreleased
    ]


def main() -> int:
    """Write the files; with --check only name those that would change."""
    stale = {
        path: text
        for path, text in files().items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    }
    if "--check" in sys.argv:
        for path in stale:
            print(f"{path.relative_to(ROOT)} is not what the code says", file=sys.stderr)
        return int(bool(stale))
    if silent := unannounced():
        print("these are public, and CHANGELOG.md does not name them:", *silent, sep="\n  ",
              file=sys.stderr)  # fmt: skip
        return 1
    for path, text in stale.items():
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
