"""Calls back later: one daemon thread for the whole process, started with the first callback.

Whoever asks holds a breaker's lock perhaps, so asking never blocks: it appends to a deque and wakes
the thread, both single steps in C.
"""

from __future__ import annotations

import logging
import threading
import time
from _thread import start_new_thread
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from heapq import heappop, heappush
from itertools import count
from weakref import WeakMethod

Callback = WeakMethod[Callable[[], object]]

_log = logging.getLogger("breakerscope")


class Timer:
    """Thread-safe; may be asked from a finaliser or a signal handler. Times are seconds."""

    def __init__(self) -> None:
        self.start_over_after_fork()

    def start_over_after_fork(self) -> None:
        """Nothing waits, and no thread runs."""
        self._ids = count()
        self._asked: deque[tuple[float, int, Callback]] = deque()
        self._waiting: list[tuple[float, int, Callback]] = []
        self._woken = threading.Lock()
        self._may_work: list[None] = [None]

    def call_later(self, seconds: float, callback: Callable[[], object]) -> None:
        """Call this bound method in so many seconds, in the thread of the timer. It is held weakly:
        where its object has gone by then, nothing is called.
        """
        self._asked.append((time.monotonic() + seconds, next(self._ids), WeakMethod(callback)))
        if self._may_work:
            try:
                start_new_thread(self._work, (self._may_work,))
            except RuntimeError:
                # The interpreter is about to end, and starts no threads any more.
                return
        with suppress(RuntimeError):
            # It may be awake already.
            self._woken.release()

    def _work(self, may_work: list[None]) -> None:
        try:
            may_work.pop()
        except IndexError:
            # It was started twice.
            return
        timeout = -1.0
        while self._may_work is may_work:
            self._woken.acquire(timeout=timeout)
            timeout = self._call_due()

    def _call_due(self) -> float:
        """Make the calls that are due; the seconds until the next one, or -1."""
        while self._asked:
            heappush(self._waiting, self._asked.popleft())
        while self._waiting:
            left = self._waiting[0][0] - time.monotonic()
            if left > 0:
                return min(left, threading.TIMEOUT_MAX)
            callback = heappop(self._waiting)[2]()
            try:
                if callback is not None:
                    callback()
            except Exception:
                _log.exception("a timed callback of breakerscope raised")
        return -1.0


default_timer = Timer()
