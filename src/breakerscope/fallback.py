"""Fallbacks: another answer where the breaker refuses, or where the call fails and one asked for
it.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Coroutine
from typing import Any, Generic, ParamSpec, TypeVar, cast, overload

from breakerscope.core.classification import Classifier, error_name
from breakerscope.core.controller import Controller
from breakerscope.core.errors import CircuitBreakerOpenError
from breakerscope.core.events import FALLBACK_OUTCOMES, Outcome

P = ParamSpec("P")
R = TypeVar("R")


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
        self, fn: Callable[P, Coroutine[Any, Any, R]]
    ) -> Callable[P, Coroutine[Any, Any, R]]: ...
    @overload
    def __call__(self, fn: Callable[P, R]) -> Callable[P, R]: ...
    def __call__(self, fn: Callable[P, Any]) -> Callable[P, Any]:
        """Protect `fn`. Raises FallbackError for a generator: half a stream has no other half."""
        if inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn):
            raise FallbackError(f"{fn!r} is a generator: allowed are functions and coroutines")
        protected = self._protect(fn)
        if inspect.iscoroutinefunction(protected):
            return self._async(protected)
        return self._sync(protected)

    def _sync(self, protected: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(protected)
        def with_fallback(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                result = protected(*args, **kwargs)
            except Exception as error:
                if not self._steps_in_for(error):
                    raise
            else:
                if not self._steps_in_after(result):
                    return result
            return self._fallback(*args, **kwargs)

        return with_fallback

    def _async(
        self, protected: Callable[P, Coroutine[Any, Any, R]]
    ) -> Callable[P, Coroutine[Any, Any, R]]:
        @functools.wraps(protected)
        async def with_fallback(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                result = await protected(*args, **kwargs)
            except Exception as error:
                if not self._steps_in_for(error):
                    raise
            else:
                if not self._steps_in_after(result):
                    return result
            instead: Any = self._fallback(*args, **kwargs)
            return cast("R", await instead if inspect.isawaitable(instead) else instead)

        return with_fallback

    def _steps_in_for(self, error: Exception) -> bool:
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
        self._controller.fallback_used(Outcome.FAILURE, "failure_if")
        return True
