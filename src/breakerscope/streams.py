"""Events for a reader who asks for them: the last ones, or one after the other as they happen.

All three cost nothing until they are made, and stop costing when they are closed. None is for use
across a fork: a child makes its own.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, Self, Unpack

from breakerscope.core.events import Event, EventType
from breakerscope.event_bus import EventBus, default_bus
from breakerscope.subscription_options import DEFAULT_QUEUE_SIZE, SubscribeFilter, SubscriptionError

CLOSE_SECONDS = 1.0
"""How long closing a stream waits for events that are on their way to it."""

Wake = Callable[[], object]


class Recent:
    """The last events, oldest first, in a ring of fixed size. Thread-safe.

    An event is there when its call returns. `len()`, iterating and `events()` go over a copy. After
    `close()` the ring keeps what it has.
    """

    def __init__(
        self, bus: EventBus, size: int, *types: EventType, **options: Unpack[SubscribeFilter]
    ) -> None:
        if size < 1:
            raise SubscriptionError(f"size={size!r}: allowed is 1 or more")
        self._ring: deque[Event] = deque(maxlen=size)
        options.setdefault("name", "recent")
        self._subscription = bus.subscribe(self._ring.append, *types, inline=True, **options)

    def events(self) -> list[Event]:
        """The events in the ring, oldest first."""
        return list(self._ring.copy())

    def __iter__(self) -> Iterator[Event]:
        return iter(self.events())

    def __len__(self) -> int:
        return len(self._ring)

    def close(self) -> None:
        """Stop listening. Closing twice is harmless."""
        self._subscription.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class _Arrivals:
    """A bounded queue between a listener and a reader. The end is None, and stays there."""

    def __init__(
        self,
        bus: EventBus,
        types: tuple[EventType, ...],
        queue_size: int,
        name: str,
        options: SubscribeFilter,
    ) -> None:
        self._bus = bus
        self._queue_size = queue_size
        self._arrived: SimpleQueue[Event | None] = SimpleQueue()
        options.setdefault("name", name)
        self._subscription = bus.subscribe(
            self._arrive, *types, inline=False, queue_size=queue_size, **options
        )
        self._missed_before = self._missed()

    def _arrive(self, event: Event) -> None:
        if self._arrived.qsize() >= self._queue_size:
            self._bus.count_dropped(self._subscription.name)
        else:
            self._put(event)

    def _put(self, event: Event | None) -> None:
        self._arrived.put(event)

    def _or_end(self, event: Event | None) -> Event | None:
        if event is None:
            self._put(None)
        return event

    @property
    def dropped(self) -> int:
        """How many events found no room. Streams with the same name that are open at the same time
        are counted together.
        """
        return self._missed() - self._missed_before

    def _missed(self) -> int:
        return self._bus.dropped().get(self._subscription.name, 0)

    def close(self) -> None:
        """Stop listening. The reader gets what has happened so far, and then the end.

        Closing twice is harmless. May be called by any thread, also while another one reads.
        """
        self._subscription.close(CLOSE_SECONDS)
        self._put(None)


class Stream(_Arrivals):
    """Iterates over events as they happen; waits for the next one. Thread-safe.

    Several threads may read: each event goes to one of them. `close()` ends the iteration.
    """

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Event:
        event = self._or_end(self._arrived.get())
        if event is None:
            raise StopIteration
        return event

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class AsyncStream(_Arrivals):
    """Iterates over events as they happen, under asyncio or Trio; waits for the next one.

    Several tasks may read: each event goes to one of them. `close()` ends the iteration; it is no
    coroutine, and any thread may call it. A task that is cancelled while it waits loses no event.
    """

    def __init__(
        self,
        bus: EventBus,
        types: tuple[EventType, ...],
        queue_size: int,
        name: str,
        options: SubscribeFilter,
    ) -> None:
        self._wakes: deque[Wake] = deque()
        super().__init__(bus, types, queue_size, name, options)

    def _put(self, event: Event | None) -> None:
        super()._put(event)
        while self._wakes:
            # Another thread may take the last one; an event loop may have ended.
            with suppress(IndexError, RuntimeError):
                self._wakes.popleft()()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        while True:
            with suppress(Empty):
                event = self._or_end(self._arrived.get_nowait())
                if event is None:
                    raise StopAsyncIteration
                return event
            wait, wake = _alarm()
            # The alarm is set before the last look, or an event could slip in between.
            self._wakes.append(wake)
            try:
                if self._arrived.empty():
                    await wait()
            finally:
                with suppress(ValueError):
                    self._wakes.remove(wake)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.close()


def _alarm() -> tuple[Callable[[], Awaitable[Any]], Wake]:
    """How a task waits, and how any thread wakes it, in the library that runs this task."""
    trio: Any = sys.modules.get("trio")
    if trio is not None and trio.lowlevel.in_trio_run():
        rung = trio.Event()
        token = trio.lowlevel.current_trio_token()
        return rung.wait, lambda: token.run_sync_soon(rung.set)
    import asyncio

    loop, event = asyncio.get_running_loop(), asyncio.Event()
    return event.wait, lambda: loop.call_soon_threadsafe(event.set)


def recent(size: int = 100, /, *types: EventType, **options: Unpack[SubscribeFilter]) -> Recent:
    """Keep the last `size` events of these types (none named: all) from now on.

    They are delivered in the thread of the call. Undo it with `close()`. Raises SubscriptionError.
    """
    return Recent(default_bus, size, *types, **options)


def stream(
    *types: EventType, queue_size: int = DEFAULT_QUEUE_SIZE, **options: Unpack[SubscribeFilter]
) -> Stream:
    """Iterate over the events of these types (none named: all) from now on, waiting for each.

    Those of each breaker come in the order of `seq`. A reader who is slower than the events misses
    some: when `queue_size` of them wait, further ones are dropped and counted in `dropped`. Undo it
    with `close()`. Raises SubscriptionError.
    """
    return Stream(default_bus, types, queue_size, "stream", options)


def astream(
    *types: EventType, queue_size: int = DEFAULT_QUEUE_SIZE, **options: Unpack[SubscribeFilter]
) -> AsyncStream:
    """The same as `stream` for `async for`, under asyncio and Trio."""
    return AsyncStream(default_bus, types, queue_size, "astream", options)
