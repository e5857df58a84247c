"""The table at the end, and the comparison: pure functions, tallies in, text out.

A source is one independent answer to the question how many calls of each breaker ended in which
way. All sources must agree in every cell, and in each of them the outcomes must add up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from breakerscope.core.events import Outcome

ASKED, TRANSITIONS = "asked", "transitions"
OUTCOMES = tuple(outcome.value for outcome in Outcome)
COLUMNS = (ASKED, *OUTCOMES, TRANSITIONS)

Tally = Mapping[str, Counter[str]]
"""Breaker -> column -> number. What is not there is 0."""


@dataclass(frozen=True, slots=True)
class Source:
    """What one source says. `columns` are those that it can know."""

    name: str
    tally: Tally
    columns: Sequence[str] = COLUMNS

    def cell(self, breaker: str, column: str) -> int | None:
        """The number, or None if this source cannot know it."""
        if column not in self.columns:
            return None
        return self.tally[breaker][column] if breaker in self.tally else 0


@dataclass(frozen=True, slots=True)
class Difference:
    """A cell in which the sources do not agree, or a row that does not add up."""

    breaker: str
    column: str
    values: Mapping[str, int]

    def __str__(self) -> str:
        values = ", ".join(f"{name} {value}" for name, value in self.values.items())
        return f"difference: {self.breaker}, {self.column}: {values}"


def breakers_of(sources: Iterable[Source]) -> list[str]:
    """The names of all breakers that any source knows, sorted."""
    return sorted({breaker for source in sources for breaker in source.tally})


def differences(sources: Sequence[Source]) -> list[Difference]:
    """Everything that is not as it must be."""
    return [*_unequal_cells(sources), *_wrong_sums(sources)]


def _unequal_cells(sources: Sequence[Source]) -> Iterator[Difference]:
    for breaker in breakers_of(sources):
        for column in COLUMNS:
            cells = {source.name: source.cell(breaker, column) for source in sources}
            known = {name: value for name, value in cells.items() if value is not None}
            if len(set(known.values())) > 1:
                yield Difference(breaker, column, known)


def _wrong_sums(sources: Sequence[Source]) -> Iterator[Difference]:
    for breaker in breakers_of(sources):
        for source in sources:
            asked = source.cell(breaker, ASKED)
            cells = [source.cell(breaker, outcome) for outcome in OUTCOMES]
            total = sum(cell for cell in cells if cell is not None)
            if asked is not None and None not in cells and asked != total:
                values = {ASKED: asked, "sum of outcomes": total}
                yield Difference(breaker, f"{ASKED} ({source.name})", values)


def table(sources: Sequence[Source]) -> str:
    """All sources of all breakers, and the totals. A dash is what a source cannot know."""
    first = max((len(source.name) for source in sources), default=0) + 2
    lines = [" " * first + "".join(f"  {column}" for column in COLUMNS)]
    for breaker in breakers_of(sources):
        lines.append(breaker)
        lines += [_row(source, [breaker], first) for source in sources]
    lines.append("total")
    lines += [_row(source, breakers_of(sources), first) for source in sources]
    return "\n".join(line.rstrip() for line in lines)


def _row(source: Source, breakers: Iterable[str], first: int) -> str:
    breakers = list(breakers)
    text = f"  {source.name}".ljust(first)
    for column in COLUMNS:
        cells = [source.cell(breaker, column) for breaker in breakers]
        known = [cell for cell in cells if cell is not None]
        shown = "-" if len(known) < len(cells) else str(sum(known))
        text += "  " + shown.rjust(len(column))
    return text


def verdict(found: Sequence[Difference], losses: Mapping[str, int]) -> str:
    """The last lines: `conservation: ok`, or what differs and what was lost on the way.

    `losses` counts what should be 0, such as dropped events, by a name for people.
    """
    lines = [str(difference) for difference in found]
    lines += [f"lost: {name}: {count}" for name, count in losses.items() if count]
    if not lines:
        return "conservation: ok"
    return "\n".join([*lines, f"conservation: violated in {len(lines)} places"])
