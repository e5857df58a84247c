"""Fallbacks: another answer where the breaker refuses, or where the call fails and one asked for
it.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Collection, Coroutine
from typing import Any, Generic, ParamSpec, TypeVar, cast, overload

from breakerscope.core.awaitables import ends_later, is_misfit
from breakerscope.core.classification import Classifier, error_name, result_name
from breakerscope.core.controller import Controller
from breakerscope.core.errors import CircuitBreakerOpenError
from breakerscope.core.events import FALLBACK_OUTCOMES, Outcome

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


class FallbackError(ValueError):
    """A fallback cannot be. The message says what is allowed."""


class Fallback(Generic[P, R]):
    """A decorator that protects a function and puts a fallback behind it. Thread-safe."""

    def __init__(
        self,
        fallback: Callable[P, R],
        *,
        on: Collection[Outcome],
        protect: Callable[[Callable[..., Any]], Callable[..., Any]],
        controller: Controller,
        classifier: Classifier,
    ) -> None:
        if not callable(fallback):
            raise FallbackError(f"fallback={fallback!r}: allowed is a callable")
        if not on or not set(on) <= set(FALLBACK_OUTCOMES):
            allowed = ", ".join(FALLBACK_OUTCOMES)
            raise FallbackError(f"on={on!r}: allowed are one or more of {allowed}")
        self._fallback = fallback
        self._on = frozenset(on)
        self._protect = protect
        self._controller = controller
        self._classifier = classifier

    @overload
    def __call__(
        self, fn: Callable[P, Coroutine[Any, Any, T]]
    ) -> Callable[P, Coroutine[Any, Any, T | R]]: ...
    @overload
    def __call__(self, fn: Callable[P, T]) -> Callable[P, T | R]: ...
    def __call__(self, fn: Callable[P, Any]) -> Callable[P, Any]:
        """Protect `fn`. Raises FallbackError for a generator: half a stream has no other half."""
        if inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn):
            raise FallbackError(f"{fn!r} is a generator: allowed are functions and coroutines")
        protected = self._protect(fn)
        if inspect.iscoroutinefunction(protected):
            return self._async(protected, fn)
        return self._sync(protected, fn)

    def _sync(self, protected: Callable[P, Any], fn: Callable[P, Any]) -> Callable[P, Any]:
        is_awaited = False

        @functools.wraps(protected)
        def with_fallback(*args: P.args, **kwargs: P.kwargs) -> Any:
            nonlocal is_awaited
            try:
                result: object = protected(*args, **kwargs)
            except BaseException as error:
                if not self._steps_in_for(error, fn, args, kwargs):
                    raise
                # In here, so that what it raises has the original as its context.
                instead = self._fallback(*args, **kwargs)
                return _await_either(instead) if is_awaited else instead
            if ends_later(type(result)):
                is_awaited = True
                return _as_task(result, self._await(cast("Any", result), fn, args, kwargs))
            return self._fallback(*args, **kwargs) if self._steps_in_after(result) else result

        return with_fallback

    def _async(self, protected: Callable[P, Any], fn: Callable[P, Any]) -> Callable[P, Any]:
        @functools.wraps(protected)
        async def with_fallback(*args: P.args, **kwargs: P.kwargs) -> Any:
            return await self._await(protected(*args, **kwargs), fn, args, kwargs)

        return with_fallback

    async def _await(
        self,
        awaitable: Awaitable[Any],
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        try:
            result = await awaitable
        except BaseException as error:
            if not self._steps_in_for(error, fn, args, kwargs):
                raise
            return await _await_either(self._fallback(*args, **kwargs))
        if self._steps_in_after(result):
            return await _await_either(self._fallback(*args, **kwargs))
        return result

    def _steps_in_for(
        self,
        error: BaseException,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> bool:
        if is_misfit(error, fn, args, kwargs):
            return False
        name = self._controller.name
        refused = isinstance(error, CircuitBreakerOpenError) and error.breaker == name
        outcome = Outcome.REJECTED if refused else self._classifier.of_error(error)
        if outcome not in self._on:
            return False
        self._controller.fallback_used(outcome, error_name(error))
        return True

    def _steps_in_after(self, result: object) -> bool:
        if Outcome.FAILURE not in self._on:
            return False
        if self._classifier.of_result(result) is not Outcome.FAILURE:
            return False
        self._controller.fallback_used(Outcome.FAILURE, result_name(result))
        return True


async def _await_either(result: Any) -> Any:
    """A fallback may be of either kind."""
    return await result if inspect.isawaitable(result) else result


def _as_task(original: Any, coroutine: Coroutine[Any, Any, Any]) -> Awaitable[Any]:
    """Who was to get a task or another future of asyncio gets one, so that it can be cancelled."""
    get_loop = getattr(original, "get_loop", None)
    return coroutine if get_loop is None else get_loop().create_task(coroutine)
