"""Rejections without the lock: what an open breaker does while nothing can change.

They hold until the wait is over, or until somebody is due to hear of a rejection.
"""

from __future__ import annotations

from collections.abc import Callable

from breakerscope.core.checks import Check
from breakerscope.core.counters import Counters
from breakerscope.core.errors import CircuitBreakerOpenError
from breakerscope.core.events import State
from breakerscope.core.journal import Tokens
from breakerscope.core.permits import AnyPermit, SharedPermit


class RejectionTokens(Tokens):
    """Tokens for calls that are rejected until a time, unless somebody wants to hear of them.

    `ends` is when the wait is over. `latest` is the latest time that a rejected call has seen: a
    clock that runs back stands still. Methods named `_locked` expect the breaker's lock.
    """

    __slots__ = ("_counted", "_permit", "ends", "latest", "state", "until", "watched")

    AT_ONCE = 256

    def __init__(
        self,
        permit: SharedPermit,
        *,
        ends: float | None,
        until: float,
        watched: Check,
        now: float,
    ) -> None:
        super().__init__()
        self._permit = permit
        self._counted = 0
        self.latest = now
        self.state: State = permit.state
        self.ends = ends
        self.until = until
        self.watched = watched
        self.lay_out([None] * self.AT_ONCE)

    def count_locked(self, counters: Counters) -> None:
        """Count what was rejected without the lock."""
        if (taken := self.taken) != self._counted:
            # fmt: off
            counters.rejected, self._counted = counters.rejected + taken - self._counted, taken
            # fmt: on

    def advance_locked(self, now: float) -> float:
        """The latest time that anybody has seen, also a call that was rejected."""
        self.latest = max(self.latest, now)
        return self.latest

    def end_locked(self, counters: Counters) -> None:
        """Who asks from now on takes the lock."""
        self.withdraw()
        self.count_locked(counters)
        self._permit.take = self._permit.tokens.take


def reject_or_admit(
    tokens: RejectionTokens,
    breaker: str,
    clock: Callable[[], float],
    admit: Callable[[], AnyPermit],
) -> Callable[[], AnyPermit]:
    """What a call does that asks an open breaker: raises CircuitBreakerOpenError."""
    take = tokens.take
    state, ends, until, watched = tokens.state, tokens.ends, tokens.until, tokens.watched

    def ask() -> AnyPermit:
        now = clock()
        if now < tokens.latest:  # noqa: PLR1730 - max() takes a tenth of a rejected call
            now = tokens.latest
        tokens.latest = now
        if now < until and not watched():
            try:
                take()
            except IndexError:
                # They are used up, or the state has changed just now.
                pass
            else:
                retry_after = None if ends is None else ends - now
                raise CircuitBreakerOpenError(breaker, state, retry_after)
        return admit()

    return ask
