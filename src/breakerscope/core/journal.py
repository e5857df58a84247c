"""What calls do without the lock: take tokens, and leave what they were in a journal.

Tokens are laid out under the breaker's lock. A call takes one by a single atomic `list.pop`, and a
plain success leaves its duration by a single atomic `list.append`. Whoever holds the lock next
drains the journal.

An interrupt (an exception raised by a signal handler or set by another thread) strikes at calls,
jumps back and function entries only. So whatever belongs together is changed by one statement that
contains no call.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from math import inf
from typing import Any, cast

MOST_TOKENS = 1024
FEWEST_TOKENS = 16

Entry = float | tuple[float, ...]
"""A settled call in a journal: `duration` of a success or `(duration,)` of a failure; with a window
of time `(end, duration)` and `(end, duration, True)`. Seconds.
"""


Run = tuple[int, bool, float]
"""So many calls in a row ended alike: whether they failed, and when (for a window of time)."""


def failed(entry: Entry) -> bool:
    """Whether this is a failure."""
    return isinstance(entry, tuple) and len(entry) != 2


def durations_of(entries: list[Entry]) -> tuple[list[float], list[float]]:
    """The durations of the successes, and those of the failures."""
    successes: list[float] = []
    failures: list[float] = []
    for entry in entries:
        if not isinstance(entry, tuple):
            successes.append(entry)
        elif len(entry) == 2:
            successes.append(entry[1])
        else:
            failures.append(entry[0] if len(entry) == 1 else entry[1])
    return successes, failures


def runs_of(
    entries: list[Entry],
    mixed: bool,  # noqa: FBT001
    bucket: Callable[[float], int] | None = None,
) -> list[Run]:
    """The calls in a journal, in runs that ended alike. `mixed`: there may be failures among them.
    `bucket`, with a window of time: what ended in the same one is forgotten together.
    """
    if bucket is None:
        if not mixed:
            return [(len(entries), False, -inf)]
        return [(len(list(run)), bad, -inf) for bad, run in groupby(entries, failed)]
    timed = cast("list[tuple[float, ...]]", entries)
    if not mixed and bucket(timed[0][0]) == bucket(timed[-1][0]):
        return [(len(timed), False, timed[0][0])]
    runs: list[Run] = []
    for (bad, _), run in groupby(timed, lambda entry: (failed(entry), bucket(entry[0]))):
        ends = [entry[0] for entry in run]
        runs.append((len(ends), bad, ends[0]))
    return runs


def batch_size(calls: int) -> int:
    """How many tokens to lay out for a breaker that has had so many calls: the lock is taken about
    once for so many. A breaker with few calls keeps a short journal.
    """
    return min(max(calls >> 4, FEWEST_TOKENS), MOST_TOKENS)


_NONE: list[Any] = []
"""Shared by all that have withdrawn nothing. Stays empty."""


class Tokens:
    """Laid out under the lock, taken one by one without it."""

    __slots__ = ("_laid_out", "_left", "_withdrawn", "take")

    def __init__(self) -> None:
        self._laid_out = 0
        self._left: list[Any] = []
        self._withdrawn: list[Any] = _NONE
        self.take = self._left.pop
        """Takes one. Raises IndexError if none is left."""

    def __len__(self) -> int:
        return len(self._left)

    @property
    def taken(self) -> int:
        """How many have been taken so far."""
        return self._laid_out - len(self._left) - len(self._withdrawn)

    def lay_out(self, tokens: list[Any]) -> None:
        """Offer these too."""
        laid_out = self._laid_out + len(tokens)
        self._left[:0], self._laid_out = tokens, laid_out

    def withdraw(self) -> None:
        """Take back what is left: each was taken by a call, or by this."""
        if self._withdrawn is _NONE:
            self._withdrawn = []
        try:
            # One call into C: an interrupt comes before it or after it.
            self._withdrawn.extend(iter(self._left.pop, self))
        except IndexError:
            # None is left.
            laid_out = self._laid_out - len(self._withdrawn)
            self._laid_out, self._withdrawn = laid_out, []


class Journal:
    """What the calls of one stay in a state leave, and how many of them are in flight."""

    __slots__ = ("entries", "failure_tokens", "failures", "settled", "single", "tokens")

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        """Calls that have settled without the lock, and are not drained."""
        self.tokens = Tokens()
        """A call that takes one is admitted."""
        self.failure_tokens = Tokens()
        """A failure that takes one settles without the lock."""
        self.single = 0
        """How many calls were admitted without a token."""
        self.settled = 0
        """How many calls have settled, but for those in `entries`."""
        self.failures = 0
        """How many failures were drained that had settled without the lock."""

    @property
    def may_hold_failures(self) -> bool:
        """False if all entries are successes."""
        return self.failure_tokens.taken != self.failures

    @property
    def in_flight(self) -> int:
        """How many calls of this stay have been admitted and not settled."""
        return self.tokens.taken + self.single - self.settled - len(self.entries)
