"""The clockwork: every subject of a row in turn within the same rounds, in rotated order.

Only ratios of one row of one run mean something. A slice is short, so that whatever disturbs the
machine disturbs all subjects alike; there are many, so that the median says what is usual.
"""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

from benchmarks.loops import Body, Loop

SLICE_SECONDS = 0.003


@dataclass(frozen=True)
class Subject:
    """One thing that is timed.

    `build` makes a loop around a body; it is called twice, for the check with a body that counts
    and for the clock with one that does nothing. `counted` says how many calls its own metrics
    show for the loop that was built last. `around` is entered for each slice.
    """

    name: str
    group: str
    """"ours", "peer" (bare), "with metrics", "floor" or "baseline"."""
    build: Callable[[Body], Loop]
    counted: Callable[[], float] | None = None
    around: Callable[[], AbstractContextManager[object]] = field(default=nullcontext)


@dataclass(frozen=True)
class Timing:
    """Nanoseconds a call of one subject."""

    name: str
    group: str
    median: float
    minimum: float
    calls: int
    """How many calls were timed."""


def measure(
    subjects: Sequence[Subject],
    body: Body,
    *,
    rounds: int,
    slice_seconds: float = SLICE_SECONDS,
) -> list[Timing]:
    """Time the subjects. Afterwards the metrics of each must show exactly the calls made."""
    loops = [subject.build(body) for subject in subjects]
    sizes = [
        _size(subject, loop, slice_seconds) for subject, loop in zip(subjects, loops, strict=True)
    ]
    made = [size.spent for size in sizes]
    slices: list[list[float]] = [[] for _ in subjects]
    for turn in range(rounds):
        for step in range(len(subjects)):
            at = (turn + step) % len(subjects)
            n = sizes[at].calls
            with subjects[at].around():
                gc.collect(0)
                gc.disable()
                try:
                    seconds = loops[at](n)
                finally:
                    gc.enable()
            made[at] += n
            slices[at].append(seconds / n * 1e9)
    for subject, total in zip(subjects, made, strict=True):
        if subject.counted is not None and subject.counted() != total:
            raise AssertionError(
                f"{subject.name}: {total} calls were made, its metrics show {subject.counted()}"
            )
    return [
        Timing(subject.name, subject.group, statistics.median(each), min(each), sum(own))
        for subject, each, own in zip(
            subjects, slices, [[size.calls * rounds] for size in sizes], strict=True
        )
    ]


@dataclass(frozen=True)
class _Size:
    calls: int
    spent: int


def _size(subject: Subject, loop: Loop, slice_seconds: float) -> _Size:
    """How many calls fill a slice, and how many calls it took to find out."""
    spent, n = 0, 50
    with subject.around():
        while True:
            seconds = loop(n)
            spent += n
            if seconds >= slice_seconds / 4:
                return _Size(max(int(n * slice_seconds / seconds), 20), spent)
            n *= 2
