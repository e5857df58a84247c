"""Name -> breaker: the same name is the same breaker, in the whole process.

Beside the breakers of this library it knows those of others that were bridged: they have series,
and their names are taken, and that is all. They go when their owners are gone.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any, cast
from weakref import ref

from breakerscope.breaker import CircuitBreaker, Requested
from breakerscope.core.policy import Policy
from breakerscope.core.reading import WatchedBreaker


class ContradictionError(ValueError):
    """A breaker with this name exists, and it is not what was asked for. The message shows both."""


class Registry:
    """The breakers of a process. Thread-safe; iterating goes over a copy, so others may add
    meanwhile.
    """

    def __init__(self) -> None:
        # A finaliser or a signal handler may come here in the middle of any of these methods.
        self._lock = threading.RLock()
        self._breakers: dict[str, CircuitBreaker] = {}
        self._bridged: dict[str, tuple[WatchedBreaker, ref[object]]] = {}

    def get(self, name: str) -> CircuitBreaker | None:
        """The breaker with this name, or None."""
        return self._breakers.get(name)

    def add(self, breaker: CircuitBreaker) -> CircuitBreaker:
        """Add a breaker, and return the one that now has this name.

        If one with the same policy, classification, buckets and labels was there before, it stays.
        Raises ContradictionError if it differs, or if a bridged breaker has the name.
        """
        with self._lock:
            if breaker.name in self._still_bridged():
                raise _taken(breaker.name, "a bridged breaker of another library")
            existing = self._breakers.setdefault(breaker.name, breaker)
        if existing is not breaker:
            check_same(existing, breaker)
        return existing

    def remove(self, name: str) -> CircuitBreaker | None:
        """Forget a breaker, and with it its series in the metrics. Returns it, or None."""
        with self._lock:
            return self._breakers.pop(name, None)

    def clear(self) -> None:
        """Forget all breakers."""
        with self._lock:
            self._breakers.clear()

    def bridge(self, source: WatchedBreaker, owner: object) -> None:
        """Show a breaker of another library, as long as somebody keeps its owner. Raises
        ContradictionError if its name is taken.
        """
        with self._lock:
            if source.name in self._breakers:
                raise _taken(source.name, "a breaker of breakerscope")
            if source.name in self._still_bridged():
                raise _taken(source.name, "another bridged breaker")
            self._bridged = {**self._bridged, source.name: (source, ref(owner))}

    def unbridge(self, source: WatchedBreaker) -> None:
        """Forget a bridged breaker, and with it its series in the metrics."""
        with self._lock:
            kept = {n: pair for n, pair in self._bridged.items() if pair[0] is not source}
            self._bridged = kept

    def shown(self) -> list[WatchedBreaker]:
        """All that have series in the metrics: the breakers, and the bridged ones."""
        with self._lock:
            return [*self, *self._still_bridged().values()]

    def _still_bridged(self) -> dict[str, WatchedBreaker]:
        """Looked through when asked: an owner may go at any moment, also under this lock. The
        dictionary is replaced and never changed, so it can be gone through at any moment.
        """
        bridged = self._bridged
        if bridged:
            self._bridged = bridged = {n: p for n, p in bridged.items() if p[1]() is not None}
        return {name: source for name, (source, _) in bridged.items()}

    def __iter__(self) -> Iterator[CircuitBreaker]:
        # `copy` is one step in C: a finaliser that adds a breaker cannot come in between.
        return iter(list(self._breakers.copy().values()))

    def __len__(self) -> int:
        return len(self._breakers)


def _taken(name: str, by: str) -> ContradictionError:
    return ContradictionError(f"breaker {name!r}: {by} has this name already; give another one")


def differences(existing: Any, wanted: Any) -> list[str]:
    """In what two requests for a breaker differ, or a request and a breaker."""
    found: list[str] = _requested(existing).differences(_requested(wanted))
    found += existing.classifier.differences(wanted.classifier)
    for part in ("buckets", "labels"):
        old, new = getattr(existing, part), getattr(wanted, part)
        if old != new:
            found.append(f"{part}: {old!r} and {new!r}")
    return found


def _requested(source: Any) -> Policy:
    requested: Requested | None = getattr(source, "requested", None)
    return cast("Policy", source.policy if requested is None else requested.policy)


def check_same(existing: CircuitBreaker, wanted: object) -> None:
    """Raises ContradictionError if the code asks for another breaker than it did before."""
    if found := differences(existing, wanted):
        raise ContradictionError(
            f"breaker {existing.name!r} exists with another policy;"
            f" what it has and what this call asks for: {'; '.join(found)}."
            f" To have another one on purpose, call remove_breaker({existing.name!r}) first,"
            " or pass replace=True"
        )


default_registry = Registry()
