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
"""How many passes or slips are laid out at once: the lock is taken about once in so many calls."""


LONG_WAY: Guard = (None, None).__len__
"""The guard of a pass whose calls must not leave by the journal. It always says yes."""


class Pass:
    """Leave to make calls in one generation, and the journal of those that were plain successes.

    `watch` says whether a success must not leave by the journal, and so does a `fence` that has
    passed. A call that came in the long way has a pass of its own, which sends it out the same way.
    `given` and `settled` count the calls of a pass that is shared.
    """

    __slots__ = ("append", "fence", "given", "journal", "permit", "settled", "watch")

    def __init__(self, permit: Permit) -> None:
        self.permit = permit
        self.watch = LONG_WAY
        self.fence = inf
        self.journal: list[float] = []
        self.append = self.journal.append
        self.given = 0
        self.settled = 0

    def fold(self) -> list[float]:
        """Take the durations that are in the journal by now, and count their calls as settled."""
        n = len(self.journal)
        durations = self.journal[:n]
        del self.journal[:n]
        self.settled += n
        return durations


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
