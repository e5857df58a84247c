"""Renders what the documents say about the code: run by `make docs-parts`, checked by a test."""

from __future__ import annotations

import json
import re
import sys
from collections import defaultdict
from pathlib import Path

from breakerscope.bridges.libraries import LIBRARIES, Library
from breakerscope.catalogue import BREAKER
from breakerscope.catalogue import METRICS as ALL_METRICS
from breakerscope.codec import event_schema
from breakerscope.core.events import Cause, State
from breakerscope.core.transitions import TRANSITIONS, TRIPS
from breakerscope.reference import (
    as_json,
    differences,
    events_page,
    metrics_page,
    read_catalogue,
)

ROOT = Path(__file__).resolve().parent.parent
SEMANTICS = ROOT / "docs" / "semantics.md"
BRIDGES = ROOT / "docs" / "bridges.md"
METRICS = ROOT / "docs" / "metrics.md"
EVENTS = ROOT / "docs" / "events.md"
LOCK = ROOT / "docs" / "catalogue.lock.json"
CHANGES = ROOT / "CHANGELOG.md"
DIAGRAM = ROOT / "docs" / "images" / "states.svg"
SCHEMA = ROOT / "src" / "breakerscope" / "events.schema.json"
METRICS_OF_BREAKERS = [metric for metric in ALL_METRICS if BREAKER in metric.labels]
BY_HAND = {Cause.FORCE_OPEN, Cause.DISABLE, Cause.RESET, Cause.RELEASE, Cause.ADOPT}


def diagram() -> str:
    """The changes that a breaker makes by itself, as a picture (SVG)."""
    causes: defaultdict[tuple[State, State], list[str]] = defaultdict(list)
    for old, new, cause in sorted(TRANSITIONS):
        if cause not in BY_HAND:
            causes[old, new].append(cause.value)
    if set(causes) != set(ARROWS):
        raise SystemExit(f"the picture of the states knows {set(ARROWS)}, the code {set(causes)}")
    shapes = [
        f'<rect x="{x - 60}" y="{y - 20}" width="120" height="40" rx="8"/>'
        f'<text x="{x}" y="{y + 5}" class="state">{state.value}</text>'
        for state, (x, y) in PLACES.items()
    ]
    for change, (path, x, y) in ARROWS.items():
        shapes.append(f'<path d="{path}" marker-end="url(#arrow)"/>')
        shapes += [
            f'<text x="{x}" y="{y + 17 * line}">{cause}</text>'
            for line, cause in enumerate(causes[change])
        ]
    return "\n".join([SVG_HEAD, *shapes, "</svg>", ""])


PLACES = {State.CLOSED: (90, 90), State.OPEN: (510, 90), State.HALF_OPEN: (300, 230)}
ARROWS = {
    (State.CLOSED, State.OPEN): ("M150 90 H444", 300, 28),
    (State.OPEN, State.HALF_OPEN): ("M530 110 C530 180 470 235 366 235", 565, 190),
    (State.HALF_OPEN, State.OPEN): ("M340 210 C380 155 430 130 472 114", 345, 160),
    (State.HALF_OPEN, State.CLOSED): ("M240 230 C150 225 90 190 90 116", 60, 200),
}
"""Of each change: its line, and where the first of its causes stands."""
SVG_HEAD = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="-20 0 660 265" width="660" height="265" \
font-family="sans-serif" font-size="13" role="img">
<title>closed, open, half_open, and the causes of each change</title>
<defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" \
orient="auto"><path d="M0 0 L8 4 L0 8 z" fill="#6b7280" stroke="none"/></marker></defs>
<style>rect { fill: #eef2ff; stroke: #4f46e5; stroke-width: 1.5 }
path { fill: none; stroke: #6b7280; stroke-width: 1.5 }
text { fill: #6b7280; text-anchor: middle } .state { fill: #1e1b4b; font-weight: bold }</style>"""


def table() -> str:
    """All legal changes, with those by hand."""
    causes: defaultdict[Cause, list[str]] = defaultdict(list)
    for old, new, cause in sorted(TRANSITIONS):
        causes[cause].append(f"{old.value} → {new.value}")
    rows = [f"| `{cause.value}` | {', '.join(causes[cause])} |" for cause in Cause]
    return "\n".join(["| cause | changes |", "| --- | --- |", *rows])


def bridges() -> str:
    """What the breakers of other libraries can tell."""
    untold = [m for m in METRICS_OF_BREAKERS if any(m in each.untold for each in LIBRARIES)]
    rows = [
        ["versions from", *(each.oldest for each in LIBRARIES)],
        *(
            [f"`{m.name}`", *("absent" if m in each.untold else "yes" for each in LIBRARIES)]
            for m in untold
        ),
        ["all other metrics of a breaker", *("yes" for _ in LIBRARIES)],
        ["causes of opening", *(_trips(each) for each in LIBRARIES)],
    ]
    head = ["", *(each.name for each in LIBRARIES)]
    lines = [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]
    limits = [f"- {each.name}: {limit}" for each in LIBRARIES for limit in each.limits]
    return "\n".join([*lines, "", *limits])


def _trips(library: Library) -> str:
    trips = sorted({c.value for old, new, c in library.changes if c in TRIPS and new is State.OPEN})
    return ", ".join(f"`{trip}`" for trip in trips)


PARTS = {"transitions": table, "bridges": bridges}


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
        SEMANTICS: rendered(SEMANTICS.read_text(encoding="utf-8")),
        DIAGRAM: diagram(),
        BRIDGES: rendered(BRIDGES.read_text(encoding="utf-8")),
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
