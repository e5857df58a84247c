"""What the last calls were: a window over the last N calls, or over the last T seconds.

Both keep three figures (calls, failures, slow calls) up to date at a constant cost per call.
Neither reads a clock: time comes in as an argument, in seconds of any monotonic clock.

`fence()` is the time until which calls may be added in a batch without saying when each of them
happened. A count window does not care about time. A time window forgets by whole buckets, so every
call before the end of the current bucket is worth the same.
"""

from __future__ import annotations

from math import floor, inf
from typing import Protocol

FAILED = 1
SLOW = 2


class Window(Protocol):
    """What the machine needs of a window."""

    calls: int
    failures: int
    slow_calls: int

    def advance(self, now: float) -> None:
        """Forget what is too old at `now`. Time that stands still or runs backwards does
        nothing.
        """
        ...

    def add_batch(self, n: int, *, failed: bool = ...) -> None:
        """Count `n` calls that were not slow and that ended before the fence."""
        ...

    def add(self, *, failed: bool, slow: bool) -> None:
        """Count one call that ended now."""
        ...

    def fence(self) -> float:
        """The time until which `add_batch` is exact."""
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
        self.calls = self.failures = self.slow_calls = self._next = 0
        self._ring[:] = bytes(len(self._ring))

    def advance(self, now: float) -> None:
        pass

    def fence(self) -> float:
        return inf

    def add_batch(self, n: int, *, failed: bool = False) -> None:
        size = len(self._ring)
        if failed or self.failures or self.slow_calls:
            end = self._next + min(n, size)
            self._write(self._next, min(end, size), failed=failed)
            self._write(0, max(end - size, 0), failed=failed)
        self._next = (self._next + n) % size
        self.calls = min(self.calls + n, size)

    def _write(self, start: int, end: int, *, failed: bool) -> None:
        """Put calls into these slots, and take out the figures of those that stood there."""
        old = self._ring[start:end]
        both = old.count(FAILED | SLOW)
        self.failures += failed * (end - start) - old.count(FAILED) - both
        self.slow_calls -= old.count(SLOW) + both
        self._ring[start:end] = bytes([failed]) * (end - start)

    def add(self, *, failed: bool, slow: bool) -> None:
        ring, at = self._ring, self._next
        old = ring[at]
        if old:
            self.failures -= old & FAILED
            self.slow_calls -= old >> 1
        ring[at] = failed | slow << 1
        self.failures += failed
        self.slow_calls += slow
        self._next = (at + 1) % len(ring)
        if self.calls < len(ring):
            self.calls += 1

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

    __slots__ = ("_at", "_calls", "_failures", "_slow", "_width", "calls", "failures", "slow_calls")

    def __init__(self, seconds: float) -> None:
        self._width = seconds / self.BUCKETS
        self._at: int | None = None
        self.clear()

    def clear(self) -> None:
        self.calls = self.failures = self.slow_calls = 0
        self._calls = [0] * self.BUCKETS
        self._failures = [0] * self.BUCKETS
        self._slow = [0] * self.BUCKETS

    def advance(self, now: float) -> None:
        bucket = floor(now / self._width)
        if self._at is None:
            self._at = bucket
        steps = bucket - self._at
        if steps <= 0:
            return
        if steps >= self.BUCKETS:
            self.clear()
        elif self.calls:
            for passed in range(self._at + 1, bucket + 1):
                self._drop(passed % self.BUCKETS)
        self._at = bucket

    def _drop(self, slot: int) -> None:
        self.calls -= self._calls[slot]
        self.failures -= self._failures[slot]
        self.slow_calls -= self._slow[slot]
        self._calls[slot] = self._failures[slot] = self._slow[slot] = 0

    def fence(self) -> float:
        return inf if self._at is None else (self._at + 1) * self._width

    def add_batch(self, n: int, *, failed: bool = False) -> None:
        slot = self._slot()
        self.calls += n
        self._calls[slot] += n
        if failed:
            self.failures += n
            self._failures[slot] += n

    def add(self, *, failed: bool, slow: bool) -> None:
        slot = self._slot()
        self.calls += 1
        self.failures += failed
        self.slow_calls += slow
        self._calls[slot] += 1
        self._failures[slot] += failed
        self._slow[slot] += slow

    def _slot(self) -> int:
        return (self._at or 0) % self.BUCKETS

    def dump(self) -> list[list[int]]:
        """One row a bucket: [calls, failures, slow calls]; the last row is the current bucket."""
        first = (self._at or 0) + 1
        slots = [at % self.BUCKETS for at in range(first, first + self.BUCKETS)]
        return [[self._calls[at], self._failures[at], self._slow[at]] for at in slots]

    def load(self, rows: list[list[int]]) -> None:
        self.clear()
        first = (self._at or 0) + 1
        for at, (calls, failures, slow_calls) in enumerate(rows, first):
            slot = at % self.BUCKETS
            self._calls[slot], self._failures[slot], self._slow[slot] = calls, failures, slow_calls
            self.calls += calls
            self.failures += failures
            self.slow_calls += slow_calls
