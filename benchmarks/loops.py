"""What is timed: many calls of one kind in a plain loop. Each loop returns its seconds."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from itertools import repeat
from time import perf_counter
from typing import Any

Body = Callable[[], Any]
Loop = Callable[[int], float]


class Broken(Exception):  # noqa: N818 - a thing that happens, in one word
    """What a failing body raises."""


def empty() -> None:
    """The body of every timed call."""


async def empty_async() -> None:
    """The body of every timed asynchronous call."""


def broken() -> None:
    """The body of every failing call."""
    raise Broken


def calls(fn: Body) -> Loop:
    """Calls that return."""

    def loop(n: int) -> float:
        start = perf_counter()
        for _ in repeat(None, n):
            fn()
        return perf_counter() - start

    return loop


def calls_through(call: Callable[[Body], Any], fn: Body) -> Loop:
    """Calls by `breaker.call(fn)`."""

    def loop(n: int) -> float:
        start = perf_counter()
        for _ in repeat(None, n):
            call(fn)
        return perf_counter() - start

    return loop


def blocks(block: Callable[[], AbstractContextManager[Any]], fn: Body) -> Loop:
    """The body in a `with` block."""

    def loop(n: int) -> float:
        start = perf_counter()
        for _ in repeat(None, n):
            with block():
                fn()
        return perf_counter() - start

    return loop


def catching(fn: Body, error: type[BaseException]) -> Loop:
    """Calls that all raise this error. One that does not raise is a mistake of the benchmark."""

    def loop(n: int) -> float:
        start = perf_counter()
        for _ in repeat(None, n):
            try:
                fn()
            except error:
                continue
            raise AssertionError("a call that had to raise has returned")
        return perf_counter() - start

    return loop


@functools.cache
def _event_loop() -> asyncio.AbstractEventLoop:
    return asyncio.new_event_loop()


def awaits(fn: Body) -> Loop:
    """Awaited calls, in one task of one running event loop; starting it is not timed."""

    async def run(n: int) -> float:
        start = perf_counter()
        for _ in repeat(None, n):
            await fn()
        return perf_counter() - start

    def loop(n: int) -> float:
        return _event_loop().run_until_complete(run(n))

    return loop
