"""What a bridge costs a call: each library alone and bridged. Prints the table of
`docs/performance.md`.

`python -m benchmarks.run_bridges ROUNDS`. "Bridged": joined, with the metrics read by a collector
and no listener. "Heard": an inline listener of every event besides.
"""

from __future__ import annotations

import sys
from importlib.metadata import version
from typing import Any

from tests.unit.bridged import KINDS, Kind

from benchmarks.loops import Body, Loop, broken, calls, catching, empty
from benchmarks.rounds import Subject, Timing, measure
from breakerscope.core.events import Outcome
from breakerscope.event_bus import EventBus
from breakerscope.registry import Registry

HOUR = 3600.0


class Way:
    """A library in one of the three ways."""

    def __init__(self, kind: Kind, way: str, *, refused: bool) -> None:
        self.kind, self.way, self.refused = kind, way, refused
        self.registry = Registry()

    def subject(self) -> Subject:
        alone = self.way == "alone"
        return Subject(
            self.way,
            "baseline" if alone else "with metrics",
            self.build,
            None if alone else self.counted,
        )

    def build(self, body: Body) -> Loop:
        target = self.kind.make(HOUR)
        bus, self.registry = EventBus(), Registry()
        fn = self.kind.protect(target, body)
        if self.refused:
            fail = self.kind.protect(target, broken)
            for _ in range(10):
                try:
                    fail()
                except Exception:
                    continue
        if self.way != "alone":
            # The target and its series live as long as the loop.
            handle = self.kind.join(target, bus=bus, registry=self.registry)
            if self.way == "heard":
                bus.subscribe(_nothing, inline=True)
            self.kept: Any = target, handle, bus
        return catching(fn, self.kind.refusal()) if self.refused else calls(fn)

    def counted(self) -> float:
        outcome = Outcome.REJECTED if self.refused else Outcome.SUCCESS
        return sum(source.read().calls[outcome] for source in self.registry.shown())


def _nothing(_event: object) -> None:
    """Listen."""


WAYS = ("alone", "bridged", "heard")


def row(kind: Kind, rounds: int, *, refused: bool) -> list[Timing]:
    """The three ways, in turn within the same rounds."""
    subjects = [Way(kind, way, refused=refused).subject() for way in WAYS]
    return measure(subjects, empty, rounds=rounds)


def cells(timings: list[Timing]) -> str:
    """Nanoseconds alone, and what the other two add."""
    alone, *others = (timing.median for timing in timings)
    return " | ".join([f"{alone:,.0f}", *(f"+{each - alone:,.0f}" for each in others)])


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    print("| library | success: alone | bridged | heard | rejected: alone | bridged | heard |")
    print("| --- " + "| ---: " * 6 + "|")
    for kind in KINDS:
        name = f"{kind.library.name} {version(kind.library.name)}"
        success, rejected = (row(kind, rounds, refused=refused) for refused in (False, True))
        print(f"| {name} | {cells(success)} | {cells(rejected)} |")


if __name__ == "__main__":
    main()
