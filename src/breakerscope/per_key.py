"""One breaker for each host, tenant or model: bounded, since keys often come from outside."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable

from breakerscope.breaker import CircuitBreaker
from breakerscope.names import LONGEST, as_text, escaped
from breakerscope.registry import Registry

DEFAULT_LIMIT = 100
MAX_LIMIT = 10_000


class LimitError(ValueError):
    """A limit cannot be. The message says what is allowed."""


class BreakersPer:
    """Breakers by key, at most `limit` of them. Thread-safe.

    `per_host("api.example.com")` gives the breaker of that key, made when it is first asked for,
    under the name `prefix:key`. When there are too many, the one that was not asked for longest is
    forgotten, its series in the metrics with it; calls in flight through it end as usual.

    A key may be any text, also an empty one. What cannot be in a name is escaped, and a very long
    key shortened (`escaped` in `names.py`): usual keys stay as they are, and no two share a
    breaker. A key that is no text is taken as `str()` says it: 7 and "7" are one key.
    """

    def __init__(
        self, prefix: str, make: Callable[[str], CircuitBreaker], registry: Registry, limit: int
    ) -> None:
        if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= MAX_LIMIT:
            raise LimitError(f"limit={limit!r}: allowed is a whole number from 1 to {MAX_LIMIT}")
        self._prefix = prefix
        self._make = make
        self._registry = registry
        self._limit = limit
        self._lock = threading.RLock()
        self._recent: OrderedDict[str, CircuitBreaker] = OrderedDict()

    def __call__(self, key: str) -> CircuitBreaker:
        """The breaker of this key."""
        if type(key) is not str:
            key = as_text(key)
        # A long key is not kept: it may be as long as somebody outside wants.
        known = key if len(key) < LONGEST else escaped(key)
        with self._lock:
            breaker = self._recent.get(known)
            if breaker is None or self._registry.get(breaker.name) is not breaker:
                # It is new, or somebody removed it: it would go on without series.
                breaker = self._recent[known] = self._make(f"{self._prefix}:{escaped(key)}")
            if known in self._recent:
                self._recent.move_to_end(known)
            self._forget_oldest_locked()
            return breaker

    def _forget_oldest_locked(self) -> None:
        # Not a loop in the block of the `with`: CPython 3.13 looks for signals where it jumps back,
        # and that is outside of the block.
        while len(self._recent) > self._limit:
            _, oldest = self._recent.popitem(last=False)
            self._registry.remove(oldest.name)

    def __len__(self) -> int:
        return len(self._recent)
