"""A lock that no interrupt can lose, and that a thread cannot wait for in vain.

The lock is made in C and taken in one place, by a `with` whose block is on the same line: there is
no instruction between at which CPython looks for signals, neither on the way in nor on the way out.
It is re-entrant, and it knows who holds it; a flag of our own could be left behind by an interrupt.

A finaliser or a signal handler can run in the middle of this thread's own locked part. What it
wants to change is put down, and done by the frame below when its own work is complete. What an
exception can tear apart is changed by single statements without a call.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from breakerscope.core.publisher import Deliveries, deliver


class Reentrant:
    """What has a lock, and inline deliveries to make when it is released."""

    __slots__ = ("_deferred", "_deliveries", "_lock")

    def _start_over(self) -> None:
        self._lock: Any = threading.RLock()
        # A list: an empty deque has 700 bytes, and nearly all stay empty.
        self._deferred: list[Callable[[], object]] = []
        self._deliveries: Deliveries = []

    @property
    def _is_inside(self) -> bool:
        """Whether this thread is in the locked part, so that this is a finaliser or a handler."""
        return bool(self._lock._is_owned())

    def _run(self, work: Callable[..., Any], *args: Any) -> Any:
        """Do this under the lock, and deliver what happened. In a frame that interrupted this
        thread's own locked part: put it down, and return None.
        """
        if self._lock._is_owned():
            self._deferred.append(partial(work, *args))
            return None
        with self._lock: result, deliveries = self._work_locked(work, args)  # fmt: skip # noqa: E701
        if deliveries:
            deliver(deliveries)
        return result

    def _work_locked(
        self, work: Callable[..., Any], args: tuple[Any, ...]
    ) -> tuple[Any, Deliveries | None]:
        self._catch_up_locked()
        result = work(*args)
        self._complete_locked()
        while self._deferred:
            self._deferred.pop(0)()
            self._complete_locked()
        if not self._deliveries:
            return result, None
        deliveries, self._deliveries = self._deliveries, []
        return result, deliveries

    def _catch_up_locked(self) -> None:
        """What has to be done before any work."""

    def _complete_locked(self) -> None:
        """What has to be done after any work."""
