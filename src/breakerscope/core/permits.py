"""Permits: what a call holds from its admission to its end.

A `SharedPermit` serves all calls of one stay in a state, as far as nothing depends on them one by
one. Its permission is laid out as tokens under the breaker's lock. A call takes one by a single
atomic `list.pop`, and a plain success leaves its duration by a single atomic `list.append`: neither
takes the lock. A probe gets a `Permit` of its own, and so does whatever must be told apart.

An interrupt (an exception raised by a signal handler or set by another thread) strikes at calls,
jumps back and function entries only. So whatever belongs together is changed by one statement that
contains no call.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from math import inf
from typing import Any
from weakref import ref

from breakerscope.core.events import State

MOST_TOKENS = 1024
FEWEST_TOKENS = 16

Check = Callable[[], object]
"""A question that is answered by a true or a false value."""
NEVER: Check = ().__len__
"""Says no, at the cost of one C call."""
ALWAYS: Check = (None,).__len__
"""Says yes, at the cost of one C call."""
SLOW_PATH: Check = (None, None).__len__
"""Says yes, for permits whose calls must settle under the lock."""

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


def batch_size(calls: int) -> int:
    """How many tokens to lay out for a breaker that has had so many calls: the lock is taken about
    once for so many. A breaker with few calls keeps a short journal.
    """
    return min(max(calls >> 4, FEWEST_TOKENS), MOST_TOKENS)


class Tokens:
    """Laid out under the lock, taken one by one without it."""

    __slots__ = ("_laid_out", "_left", "_withdrawn", "take")

    def __init__(self) -> None:
        self._laid_out = 0
        self._left: list[Any] = []
        self._withdrawn: list[Any] = []
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


class Permit:
    """Permission for one call. `shared` is the permit of the stay in which it was given.

    A nested call was made inside a probe: it is admitted and counted, and has no say.
    """

    __slots__ = ("__weakref__", "generation", "lease_ends", "nested", "shared", "state")

    watched: Check = SLOW_PATH
    """Says whether a success must settle under the lock, or be told to somebody."""
    watched_failures: Check = SLOW_PATH
    """The same for a failure."""
    failure_tokens: Tokens = Tokens()
    """A failure that takes one of them may settle through the journal; here there are none."""

    def __init__(
        self,
        generation: int,
        state: State,
        shared: SharedPermit,
        lease_ends: float = inf,
        *,
        nested: bool = False,
    ) -> None:
        self.generation = generation
        self.state = state
        self.shared = shared
        self.lease_ends = lease_ends
        self.nested = nested

    @property
    def entries(self) -> list[Entry]:
        """As of a shared permit."""
        return self.journal.entries

    @property
    def journal(self) -> Journal:
        """That of the stay in which the call was admitted."""
        return self.shared.journal

    @property
    def is_probe(self) -> bool:
        """Whether the breaker's state depends on this call."""
        return self.lease_ends < inf


class SharedPermit:
    """Permission for the calls of one stay in a state, and what they leave without the lock."""

    __slots__ = (
        "__weakref__",
        "entries",
        "failure_tokens",
        "generation",
        "journal",
        "state",
        "take",
        "tokens",
        "watched",
        "watched_failures",
    )

    nested = False
    is_probe = False
    lease_ends = inf

    def __init__(self, generation: int, state: State) -> None:
        self.generation = generation
        self.state = state
        self.journal = Journal()
        self.entries = self.journal.entries
        """To append to it settles a call without the lock."""
        self.tokens = self.journal.tokens
        self.failure_tokens = self.journal.failure_tokens
        self.watched = self.watched_failures = SLOW_PATH
        self.take: Callable[[], AnyPermit] = self.tokens.take
        """Admits a call without the lock. Raises IndexError where the lock is needed, and
        CircuitBreakerOpenError where the call is rejected.
        """

    @property
    def shared(self) -> SharedPermit:
        """As of a single permit."""
        return self

    @property
    def failures_out(self) -> int:
        """Failure tokens that are left, or taken by failures that are not drained yet."""
        tokens = self.failure_tokens
        return len(tokens) + tokens.taken - self.journal.failures

    def allow_failures(self, room: float, at_once: int) -> bool:
        """Make the failure tokens fit the room. False if more are out than there is room."""
        out = self.failures_out
        if out > room:
            self.failure_tokens.withdraw()
            return self.failures_out <= room
        if not len(self.failure_tokens):
            more = min(int(min(room, MOST_TOKENS)) - out, at_once)
            if more > 0:
                self.failure_tokens.lay_out([None] * more)
        return True

    def retire(self) -> None:
        """Admit nobody any more. Its own tokens would keep the permit alive."""
        self.tokens.withdraw()
        self.failure_tokens.withdraw()
        self.take = self.tokens.take


AnyPermit = Permit | SharedPermit


class RejectionTokens(Tokens):
    """Tokens for calls that are rejected until a time, unless somebody wants to hear of them.

    `latest` is the latest time that a rejected call has seen: a clock that runs back stands still.
    """

    __slots__ = ("counted", "ends", "latest", "state", "until", "watched")

    AT_ONCE = 256

    def __init__(
        self, state: State, ends: float | None, until: float, watched: Check, now: float
    ) -> None:
        super().__init__()
        self.latest = now
        self.state = state
        self.ends = ends
        self.until = until
        self.watched = watched
        self.counted = 0
        self.lay_out([None] * self.AT_ONCE)


_probes: ContextVar[tuple[ref[Permit], ...]] = ContextVar("breakerscope_probes", default=())
"""The probes inside which this code runs. Those that have settled may linger here: they are no
leases any more.
"""


def enter_probe(permit: AnyPermit) -> None:
    """If this is a probe: from here on this context, and every task made in it, is inside it."""
    if isinstance(permit, Permit) and permit.is_probe:
        _probes.set((*_others(permit), ref(permit)))


def leave_probe(permit: AnyPermit) -> None:
    """If this is a probe: this context goes on outside of it."""
    if isinstance(permit, Permit) and permit.is_probe:
        _probes.set(_others(permit))


def _others(probe: Permit) -> tuple[ref[Permit], ...]:
    return tuple(held for held in _probes.get() if held() not in (None, probe))


def surrounding_probes() -> list[Permit]:
    """The probes that this code runs inside of, of any breaker."""
    return [probe for r in _probes.get() if (probe := r()) is not None]
