"""Permits: what a call holds from its admission to its end.

A `SharedPermit` serves all calls of one stay in a state, as far as nothing depends on them one by
one: its tokens admit without the lock, and its journal takes what the calls were. A probe gets a
`Permit` of its own, and so does whatever must be told apart.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextvars import ContextVar
from math import inf
from typing import NamedTuple, cast
from weakref import ref

from breakerscope.core.checks import NEVER, SLOW_PATH, Check
from breakerscope.core.events import State
from breakerscope.core.journal import MOST_TOKENS, Entry, Journal, Tokens

OUTSIDE = -1
"""The generation of calls that the machine did not admit and that are made all the same."""


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


class _Unwatched(SharedPermit):
    """Permission for calls that nobody counts and nobody hears of."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(OUTSIDE, State.CLOSED)
        self.entries = cast("list[Entry]", deque[Entry](maxlen=0))
        self.watched = NEVER


UNWATCHED = _Unwatched()
"""For all calls while breakers are not active."""


class Admission(NamedTuple):
    """The answer to a call that asks: a permit, or None and the seconds until asking is worth
    it.
    """

    permit: AnyPermit | None
    retry_after: float | None = None


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
