"""A caller's own count of what he asked and what he got. Knows nothing of the breaker's data."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from types import TracebackType
from typing import Self

import httpx

from breakerscope import CircuitBreakerOpenError, Outcome
from breakerscope.demo.report import ASKED, Tally


class Declined(Exception):  # noqa: N818 - an answer, not an error
    """The service works and says no: card declined, nothing found. The caller's problem."""


class UpstreamError(Exception):
    """The service answered that it is broken."""


class Caller:
    """One user's tally. Used by one thread or one event loop, so it needs no lock."""

    def __init__(self) -> None:
        self.tally: defaultdict[str, Counter[str]] = defaultdict(Counter)

    def asks(self, breaker: str) -> Asked:
        """Around each call: `with caller.asks("search"): ...`."""
        return Asked(self.tally[breaker])


class Asked:
    """One call as its caller sees it. The user gets his page without it, so errors end here."""

    def __init__(self, counts: Counter[str]) -> None:
        self._counts = counts
        self._outcome = Outcome.SUCCESS

    def was_useless(self) -> None:
        """The call came back, and the caller told the breaker that it had failed all the same."""
        self._outcome = Outcome.FAILURE

    def __enter__(self) -> Self:
        self._counts[ASKED] += 1
        return self

    def __exit__(
        self,
        cls: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        if isinstance(error, CircuitBreakerOpenError):
            self._outcome = Outcome.REJECTED
        elif isinstance(error, Declined):
            self._outcome = Outcome.IGNORED
        elif isinstance(error, Exception):
            self._outcome = Outcome.FAILURE
        elif error is not None:
            self._outcome = Outcome.CANCELLED
        self._counts[self._outcome.value] += 1
        return isinstance(
            error, CircuitBreakerOpenError | Declined | UpstreamError | httpx.HTTPError
        )


def total(callers: Iterable[Caller]) -> Tally:
    """All callers together."""
    sums: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for caller in callers:
        for breaker, counts in caller.tally.items():
            sums[breaker].update(counts)
    return sums
