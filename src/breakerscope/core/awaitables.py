"""What a function returns before its work is done: the call ends when the awaitable ends.

A coroutine is awaited inside another one. A future (a task too) is given back itself: it tells when
it is done. Any other awaitable is given back in a thin cover that watches the first time it is
awaited or entered; all else goes to the awaitable.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable, Coroutine, Generator
from types import CoroutineType, FunctionType
from typing import TYPE_CHECKING, Any

from breakerscope.core.events import Outcome
from breakerscope.core.permits import AnyPermit, enter_probe, leave_probe

if TYPE_CHECKING:
    from breakerscope.core.executor import Executor

_PLAIN = re.compile(
    r"(None|bool|int|float|complex|str|bytes|list|dict|tuple|set|frozenset|[\[\],| ]|\.\.\.)+"
)


def returns_plainly(fn: Callable[..., Any]) -> bool:
    """Whether a function says of its result that it is no awaitable. It is believed: to look at
    each result would take a twentieth of a call.
    """
    if not isinstance(fn, FunctionType) or "return" not in fn.__annotations__:
        return False
    annotation: Any = fn.__annotations__["return"]
    if isinstance(annotation, str):
        if _PLAIN.fullmatch(annotation):
            return True
        annotation = fn.__globals__.get(annotation)
    if not isinstance(annotation, type):
        return annotation is None and fn.__annotations__["return"] is None
    is_abstract = annotation in (object, Any) or getattr(annotation, "_is_protocol", False)
    return not (is_abstract or ends_later(annotation))


def ends_later(kind: type[Any]) -> bool:
    """Whether the results of this type are not yet the end of a call."""
    return hasattr(kind, "__await__") or (
        hasattr(kind, "add_done_callback") and hasattr(kind, "cancelled")
    )


def hand_out(executor: Executor, permit: AnyPermit, start: float, result: Any) -> Any:
    """What the caller gets in place of a result that ends later. It settles the call."""
    # The caller is not inside the call any more.
    leave_probe(permit)
    if hasattr(result, "add_done_callback"):
        result.add_done_callback(_FutureEnd(executor, permit, start))
        return result
    pending = Pending(executor, permit)
    if hasattr(result, "__aenter__"):
        return _Context(pending, result)
    return awaited(pending, result) if _is_coroutine(result) else _Cover(pending, result)


def _is_coroutine(result: Any) -> bool:
    return isinstance(result, CoroutineType | Coroutine)


class Pending:
    """An admitted call whose awaitable nobody has awaited yet; cancelled if nobody ever does."""

    __slots__ = ("_permit", "executor")

    def __init__(self, executor: Executor, permit: AnyPermit) -> None:
        self.executor = executor
        self._permit = [permit]

    def begin(self) -> AnyPermit | None:
        """The call is awaited: whoever gets the permit settles it, once."""
        try:
            return self._permit.pop()
        except IndexError:
            return None

    def __del__(self) -> None:
        # There is none if an interrupt kept it from being begun.
        for permit in getattr(self, "_permit", ()):
            controller = self.executor._controller
            controller.abandon(permit, 0.0, Outcome.CANCELLED, GeneratorExit())


async def awaited(pending: Pending, awaitable: Awaitable[Any]) -> Any:
    """Await it, and settle the call by how it ends."""
    if (permit := pending.begin()) is None:
        return await awaitable
    executor = pending.executor
    enter_probe(permit)
    start = executor._now()
    try:
        result = await awaitable
    except BaseException as error:
        executor._failed(permit, start, executor._now(), error)
        raise
    finally:
        leave_probe(permit)
    executor._succeeded(permit, executor._now() - start, result)
    return result


class _FutureEnd:
    """What a future calls when it is done. A future that is forgotten was cancelled."""

    __slots__ = ("_executor", "_permit", "_start")

    def __init__(self, executor: Executor, permit: AnyPermit, start: float) -> None:
        self._executor = executor
        self._start = start
        self._permit = [permit]

    def __call__(self, future: Any) -> None:
        executor = self._executor
        end = executor._now()
        permit = self._permit.pop()
        if future.cancelled():
            executor._controller.settle(permit, end - self._start, Outcome.CANCELLED, "cancelled")
            return
        # To ask `exception()` would keep asyncio from telling of one that nobody retrieves.
        error = future._exception if hasattr(future, "_exception") else future.exception()
        if error is not None:
            executor._failed(permit, self._start, end, error)
        else:
            executor._succeeded(permit, end - self._start, future.result())

    def __del__(self) -> None:
        for permit in getattr(self, "_permit", ()):
            controller = self._executor._controller
            controller.abandon(permit, 0.0, Outcome.CANCELLED, GeneratorExit())


class _Cover:
    """Behaves as the awaitable that it covers."""

    def __init__(self, pending: Pending, awaitable: Any) -> None:
        self._pending = pending
        self._awaitable = awaitable

    def __await__(self) -> Generator[Any, Any, Any]:
        return awaited(self._pending, self._awaitable).__await__()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._awaitable, name)

    def __repr__(self) -> str:
        return repr(self._awaitable)


class _Context(_Cover):
    """The same for one that can be entered, as the requests of aiohttp can."""

    async def __aenter__(self) -> Any:
        return await awaited(self._pending, self._awaitable.__aenter__())

    async def __aexit__(self, *exc_info: object) -> Any:
        return await self._awaitable.__aexit__(*exc_info)


def is_misfit(
    error: BaseException, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> bool:
    """Whether a call could not be, since these arguments do not fit the function: a mistake of the
    caller, before anything of the function ran.
    """
    if type(error) is not TypeError or not _raised_by_the_call(error):
        return False
    try:
        inspect.signature(fn).bind(*args, **kwargs)
    except TypeError:
        # Perhaps it is nothing that can be called at all.
        return True
    except ValueError:
        # It has no signature: some of C's.
        pass
    return False


def _raised_by_the_call(error: BaseException) -> bool:
    """Whether no frame but ours was entered, or one of C's."""
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    if last is None:
        return False
    frame = last.tb_frame
    module = str(frame.f_globals.get("__name__", ""))
    return module.startswith("breakerscope.") or frame.f_code.co_filename.startswith(
        "<breakerscope"
    )
