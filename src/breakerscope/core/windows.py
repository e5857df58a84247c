"""What the last calls were: a window over the last N calls, or over the last T seconds.

Both keep three figures (calls, failures, slow calls) up to date at a constant cost per call.
Neither reads a clock: time comes in as an argument, in seconds of any monotonic clock.

Each change is made by one statement without a call, so no interrupt can leave half of it behind.
"""

from __future__ import annotations

from math import floor
from typing import Protocol

from breakerscope.core.policy import Policy

FAILED = 1
SLOW = 2


class Window(Protocol):
    """What the state machine needs of a window."""

    calls: int
    failures: int
    slow_calls: int

    def advance(self, now: float) -> None:
        """Forget what is too old at `now`. Time that stands still or runs backwards changes
        nothing.
        """
        ...

    def add(self, *, failed: bool, slow: bool) -> None:
        """Count one call that ended now."""
        ...

    def add_batch(self, n: int, *, failed: bool = ...) -> None:
        """Count `n` calls that ended now and were not slow."""
        ...

    def bucket(self, at: float) -> int:
        """Calls that ended in the same bucket are forgotten together."""
        ...

    def clear(self) -> None:
        """Forget everything."""
        ...

    def dump(self) -> list[list[int]]:
        """What it holds as plain data, oldest first. The meaning of a row is the window's own."""
        ...

    def load(self, rows: list[list[int]]) -> None:
        """Hold what a window of the same kind and size dumped."""
        ...


class CountWindow:
    """The last `size` calls, one byte a call in a ring."""

    __slots__ = ("_next", "_ring", "calls", "failures", "slow_calls")

    def __init__(self, size: int) -> None:
        self._ring = bytearray(size)
        self.clear()

    def clear(self) -> None:
        empty = bytes(len(self._ring))
        self._ring[:], self._next, self.calls, self.failures, self.slow_calls = empty, 0, 0, 0, 0

    def advance(self, now: float) -> None:
        pass

    def bucket(self, at: float) -> int:
        return 0

    def add(self, *, failed: bool, slow: bool) -> None:
        ring, at, size = self._ring, self._next, len(self._ring)
        old, mark = ring[at], failed | slow << 1
        failures = self.failures - (old & FAILED) + failed
        slow_calls = self.slow_calls - (old >> 1) + slow
        calls = self.calls + (self.calls < size)
        # fmt: off
        ring[at], self._next, self.calls, self.failures, self.slow_calls = mark, (at + 1) % size, calls, failures, slow_calls  # noqa: E501
        # fmt: on

    def add_batch(self, n: int, *, failed: bool = False) -> None:
        ring, size = self._ring, len(self._ring)
        following, calls = (self._next + n) % size, min(self.calls + n, size)
        if not failed and not self.failures and not self.slow_calls:
            self._next, self.calls = following, calls
            return
        # The ring from the oldest slot on; what is too old leaves at its front.
        kept = (ring[self._next :] + ring[: self._next])[min(n, size) :]
        kept += bytes([failed]) * min(n, size)
        both = kept.count(FAILED | SLOW)
        failures, slow_calls = kept.count(FAILED) + both, kept.count(SLOW) + both
        turned = kept[size - following :] + kept[: size - following]
        # fmt: off
        ring[:], self._next, self.calls, self.failures, self.slow_calls = turned, following, calls, failures, slow_calls  # noqa: E501
        # fmt: on

    def dump(self) -> list[list[int]]:
        """One row a call: [failed, slow]."""
        first = self._next - self.calls
        marks = [self._ring[at % len(self._ring)] for at in range(first, self._next)]
        return [[mark & FAILED, mark >> 1] for mark in marks]

    def load(self, rows: list[list[int]]) -> None:
        self.clear()
        for failed, slow in rows:
            self.add(failed=bool(failed), slow=bool(slow))


class TimeWindow:
    """The last `seconds`, in a ring of buckets: a call is forgotten with the bucket it ended in.

    With 10 buckets a call counts for at least nine tenths of the window and at most for all of it.
    """

    BUCKETS = 10

    __slots__ = ("_at", "_buckets", "_width", "calls", "failures", "slow_calls")

    def __init__(self, seconds: float) -> None:
        self._width = seconds / self.BUCKETS
        self._at: int | None = None
        self.clear()

    def clear(self) -> None:
        self._replace([(0, 0, 0)] * self.BUCKETS, self._at)

    def _replace(self, buckets: list[tuple[int, int, int]], at: int | None) -> None:
        calls, failures, slow_calls = (sum(column) for column in zip(*buckets, strict=True))
        # fmt: off
        self._buckets, self._at, self.calls, self.failures, self.slow_calls = buckets, at, calls, failures, slow_calls  # noqa: E501
        # fmt: on

    def bucket(self, at: float) -> int:
        return floor(at / self._width)

    def advance(self, now: float) -> None:
        at = self.bucket(now)
        if self._at is None:
            self._at = at
        steps = at - self._at
        if steps <= 0:
            return
        if not self.calls:
            self._at = at
            return
        buckets = self._buckets.copy()
        for passed in range(max(self._at, at - self.BUCKETS) + 1, at + 1):
            buckets[passed % self.BUCKETS] = (0, 0, 0)
        self._replace(buckets, at)

    def add(self, *, failed: bool, slow: bool) -> None:
        self._add(1, int(failed), int(slow))

    def add_batch(self, n: int, *, failed: bool = False) -> None:
        self._add(n, n if failed else 0, 0)

    def _add(self, calls: int, failures: int, slow: int) -> None:
        buckets, slot = self._buckets, (self._at or 0) % self.BUCKETS
        old = buckets[slot]
        new = (old[0] + calls, old[1] + failures, old[2] + slow)
        calls, failures, slow = self.calls + calls, self.failures + failures, self.slow_calls + slow
        buckets[slot], self.calls, self.failures, self.slow_calls = new, calls, failures, slow

    def dump(self) -> list[list[int]]:
        """One row a bucket: [calls, failures, slow calls]; the last row is the current bucket."""
        first = (self._at or 0) + 1
        return [list(self._buckets[at % self.BUCKETS]) for at in range(first, first + self.BUCKETS)]

    def load(self, rows: list[list[int]]) -> None:
        first = (self._at or 0) + 1
        buckets = [(0, 0, 0)] * self.BUCKETS
        for at, (calls, failures, slow_calls) in enumerate(rows, first):
            buckets[at % self.BUCKETS] = (calls, failures, slow_calls)
        self._replace(buckets, self._at)


def window_of(policy: Policy) -> Window:
    """An empty window of the kind and size that the policy names."""
    if isinstance(policy.window, int):
        return CountWindow(policy.window)
    return TimeWindow(policy.window.total_seconds())
