"""Passes and slips: what a gate lays out so that calls need no lock.

The theory stands at the top of `gate.py`. What a call does here is one atomic operation of a list:
`pop` or `append`. The interpreter's lock makes them atomic, and without that lock the list's own.
"""

from __future__ import annotations

from math import inf
from typing import Any

from breakerscope.events import State
from breakerscope.hub import Guard
from breakerscope.machine import Permit

LAID_OUT = 64
"""How many slips are laid out at once for refused calls."""

FEWEST, MOST = 16, 512


def batch_size(calls: int) -> int:
    """How many passes to lay out for a breaker that has had so many calls: the lock is taken about
    once for so many. A breaker with few calls keeps a short journal.
    """
    return min(max(calls >> 4, FEWEST), MOST)


LONG_WAY: Guard = (None, None).__len__
"""The guard of a pass whose calls must not leave by the journal. It always says yes."""

Entry = float | tuple[float]
"""A duration in seconds: of a success, or in a tuple that of a failure."""


class Pass:
    """Leave to make one call, which came in the long way and leaves the same way."""

    __slots__ = ("in_flight", "permit", "state")

    watch: Guard = LONG_WAY
    """Says whether a success must not leave by the journal."""
    watch_failures: Guard = LONG_WAY
    """The same for a failure."""
    fence = inf
    """The time from which on no call may leave by the journal."""
    slips: list[None] = []  # noqa: RUF012 - stays empty
    """A failure takes one of them to leave by the journal."""
    journal: list[Entry]
    permit: Permit
    in_flight: int

    def __init__(self, permit: Permit) -> None:
        self.permit = permit
        self.state = permit.state
        self.in_flight = 1


class SharedPass(Pass):
    """Leave to make calls in one generation, and the journal of those that changed nothing.

    Each slip is room for one failure. `slips_out` counts slips that are laid out, and failures that
    have taken one and are not yet out of the journal; `in_flight` does the same for passes.
    """

    __slots__ = (
        "fence",
        "journal",
        "slips",
        "slips_out",
        "watch",
        "watch_failures",
    )

    def __init__(self, permit: Permit) -> None:
        super().__init__(permit)
        self.in_flight = 0
        self.watch = self.watch_failures = LONG_WAY
        self.fence = inf
        self.journal: list[Entry] = []
        self.slips: list[None] = []
        self.slips_out = 0

    def fold(self) -> list[Entry]:
        """Take what is in the journal by now, and count its calls as settled."""
        n = len(self.journal)
        entries = self.journal[:n]
        del self.journal[:n]
        self.in_flight -= n
        return entries

    def lay_slips(self, room: float, at_once: int) -> bool:
        """Make the slips fit the room for failures. False if more are out than there is room."""
        if self.slips_out > room:
            self.slips_out -= take_all(self.slips)
        elif not self.slips:
            more = max(min(int(min(room, MOST)) - self.slips_out, at_once), 0)
            self.slips_out += more
            self.slips.extend([None] * more)
        return self.slips_out <= room


class Refusal:
    """Slips for calls that are refused until a time, unless somebody wants to hear of them.

    `latest` is the latest time that a refused call has seen: a clock that runs back stands still.
    """

    __slots__ = ("_slips", "ends", "laid", "latest", "state", "take", "until", "watch")

    def __init__(
        self, state: State, ends: float | None, until: float, watch: Guard, now: float
    ) -> None:
        self.latest = now
        self.state = state
        self.ends = ends
        self.until = until
        self.watch = watch
        self._slips: list[None] = [None] * LAID_OUT
        self.take = self._slips.pop
        self.laid = LAID_OUT

    def fold(self) -> int:
        """How many calls have taken a slip since this was asked before."""
        gone = self.laid - len(self._slips)
        self.laid -= gone
        return gone

    def end(self) -> int:
        """As `fold`, and from now on there are no slips."""
        return self.laid - take_all(self._slips)


def take_all(things: list[Any]) -> int:
    """Empty a list from which others take at the same time. Returns how many were left."""
    n = 0
    while things:
        try:
            things.pop()
        except IndexError:
            # Another thread took the last one between the question and the answer.
            break
        n += 1
    return n
