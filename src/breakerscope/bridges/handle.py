"""What every bridge does alike: name it, show it, keep it once, and undo it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, Self, TypedDict
from weakref import ref

from breakerscope.bridges.foreign import ForeignBreaker, Look
from breakerscope.bridges.libraries import BridgeError, Library
from breakerscope.core.counters import DEFAULT_BUCKETS, checked_buckets
from breakerscope.core.events import State
from breakerscope.event_bus import EventBus, default_bus
from breakerscope.names import checked_name
from breakerscope.registry import Registry, default_registry
from breakerscope.setup import check_labels, set_up_once
from breakerscope.telemetry.settings import checked_labels


class BridgeOptions(TypedDict, total=False):
    """The options of every `attach`."""

    buckets: Sequence[float]
    """Upper bounds of the duration histogram, in seconds."""
    labels: Mapping[str, str]
    """Values for the labels that `setup_telemetry` named."""
    registry: Registry
    """Where the breaker is shown; by default with all others."""
    bus: EventBus
    """Who hears of it; for tests."""


class Hook(Protocol):
    """What a bridge leaves at a breaker of its library. The breaker keeps it alive."""

    handle: Bridge
    closed: bool

    def undo(self) -> None:
        """Leave the breaker as it was."""
        ...


class Shop:
    """Where the foreign breakers of one `attach` are shown, and with which options."""

    def __init__(self, library: Library, options: BridgeOptions) -> None:
        self.library = library
        self.bus = options.get("bus", default_bus)
        self.registry = options.get("registry", default_registry)
        self._buckets = checked_buckets(options.get("buckets", DEFAULT_BUCKETS))
        self._labels = checked_labels(options.get("labels", {}))
        if self.registry is default_registry:
            set_up_once()

    def show(
        self, owner: Hook, name: Any, state: State, look: Callable[[], Look]
    ) -> ForeignBreaker:
        """A foreign breaker of this name, shown as long as its owner lives; so `look` must not keep
        that alive. Raises BreakerNameError, LabelError or, if the name is
        taken, ContradictionError.
        """
        checked_name(name)
        check_labels(name, self._labels)
        foreign = ForeignBreaker(
            name,
            self.library,
            bus=self.bus,
            state=state,
            buckets=self._buckets,
            labels=self._labels,
            look=look,
        )
        self.registry.bridge(foreign, owner)
        return foreign


class Bridge:
    """A breaker of another library that joined. Undo it with `close()` or by leaving it as a
    context manager. Thread-safe.
    """

    def __init__(self, name: str, hook: Hook) -> None:
        self.name = name
        self._hook = ref(hook)

    def close(self) -> None:
        """Leave the breaker as it was, and forget it with its series. Closing twice is harmless."""
        with lock:
            hook = self._hook()
            if hook is not None and not hook.closed:
                hook.closed = True
                hook.undo()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __repr__(self) -> str:
        hook = self._hook()
        there = "closed" if hook is None or hook.closed else "open"
        return f"<Bridge {self.name!r} {there}>"


lock = threading.RLock()
"""Around each `attach` and `close`."""


def same(hook: Hook, name: str) -> Bridge:
    """The bridge that is there already. Raises BridgeError if it has another name."""
    if hook.handle.name != name:
        raise BridgeError(
            f"this breaker is attached already, as {hook.handle.name!r}: close that bridge first"
        )
    return hook.handle
