"""Name -> breaker: the same name is the same breaker, in the whole process."""

from __future__ import annotations

import threading
from collections.abc import Iterator

from breakerscope.breaker import CircuitBreaker


class ContradictionError(ValueError):
    """A breaker with this name exists, and it is not what was asked for. The message shows both."""


class Registry:
    """The breakers of a process. Thread-safe; iterating goes over a copy, so others may add
    meanwhile.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._breakers: dict[str, CircuitBreaker] = {}

    def get(self, name: str) -> CircuitBreaker | None:
        """The breaker with this name, or None."""
        return self._breakers.get(name)

    def add(self, breaker: CircuitBreaker) -> CircuitBreaker:
        """Add a breaker, and return the one that now has this name.

        If one with the same policy, classification, buckets and labels was there before, it stays.
        Raises ContradictionError if it differs.
        """
        with self._lock:
            existing = self._breakers.setdefault(breaker.name, breaker)
        if existing is not breaker:
            _check_same(existing, breaker)
        return existing

    def remove(self, name: str) -> CircuitBreaker | None:
        """Forget a breaker, and with it its series in the metrics. Returns it, or None."""
        with self._lock:
            return self._breakers.pop(name, None)

    def clear(self) -> None:
        """Forget all breakers."""
        with self._lock:
            self._breakers.clear()

    def __iter__(self) -> Iterator[CircuitBreaker]:
        with self._lock:
            return iter(list(self._breakers.values()))

    def __len__(self) -> int:
        return len(self._breakers)


def _check_same(existing: CircuitBreaker, asked: CircuitBreaker) -> None:
    differences = existing.policy.differences(asked.policy)
    for part in ("classifier", "buckets", "labels"):
        old, new = getattr(existing, part), getattr(asked, part)
        if old != new:
            differences.append(f"{part}: {old!r} and {new!r}")
    if differences:
        raise ContradictionError(
            f"breaker {existing.name!r} exists with another policy;"
            f" what it has and what this call asks for: {'; '.join(differences)}"
        )


default_registry = Registry()
