"""Generators: one call for the whole stream, timed while the stream works, not while it is read."""

from __future__ import annotations

import functools
from collections.abc import AsyncGenerator, Callable, Generator
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

from breakerscope.core.permits import enter_probe, leave_probe

if TYPE_CHECKING:
    from breakerscope.core.executor import Executor

P = ParamSpec("P")
R = TypeVar("R")


def protect_generator(
    executor: Executor, fn: Callable[P, Generator[Any, Any, R]]
) -> Callable[P, Generator[Any, Any, R]]:
    """The same generator function, protected."""
    now = executor._now

    @functools.wraps(fn)
    def protected(*args: P.args, **kwargs: P.kwargs) -> Generator[Any, Any, R]:
        # First the stream, which does nothing yet: arguments that do not fit are no call.
        stream = fn(*args, **kwargs)
        permit = executor._admit()
        spent = 0.0
        resume: Callable[[], Any] = functools.partial(next, stream)
        while True:
            start = now()
            try:
                item = resume()
            except StopIteration as stop:
                executor._succeeded(permit, spent + now() - start, stop.value)
                return cast("R", stop.value)
            except BaseException as error:
                executor._failed(permit, start - spent, now(), error)
                raise
            spent += now() - start
            # The reader of the stream is not inside the call.
            leave_probe(permit)
            try:
                sent = yield item
            except GeneratorExit:
                resume = functools.partial(_close, stream)
            except BaseException as thrown:
                resume = functools.partial(stream.throw, thrown)
            else:
                resume = functools.partial(stream.send, sent)
            enter_probe(permit)

    return protected


def protect_async_generator(
    executor: Executor, fn: Callable[P, AsyncGenerator[Any, Any]]
) -> Callable[P, AsyncGenerator[Any, Any]]:
    """As `protect_generator`; the language has no way to share the lines."""
    now = executor._now

    @functools.wraps(fn)
    async def protected(*args: P.args, **kwargs: P.kwargs) -> AsyncGenerator[Any, Any]:
        stream = fn(*args, **kwargs)
        permit = executor._admit()
        spent = 0.0
        resume: Callable[[], Any] = stream.__anext__
        while True:
            start = now()
            try:
                item = await resume()
            except StopAsyncIteration:
                executor._succeeded(permit, spent + now() - start, None)
                return
            except BaseException as error:
                executor._failed(permit, start - spent, now(), error)
                raise
            spent += now() - start
            leave_probe(permit)
            try:
                sent = yield item
            except GeneratorExit:
                resume = functools.partial(_aclose, stream)
            except BaseException as thrown:
                resume = functools.partial(stream.athrow, thrown)
            else:
                resume = functools.partial(stream.asend, sent)
            enter_probe(permit)

    return protected


def _close(stream: Generator[Any, Any, Any]) -> None:
    """The reader has gone. If the stream ends in peace, that is the reader's doing."""
    stream.close()
    raise GeneratorExit


async def _aclose(stream: AsyncGenerator[Any, Any]) -> None:
    await stream.aclose()
    raise GeneratorExit
