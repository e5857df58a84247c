"""Breakers of other libraries, made alike: they open after three failures (or three of four)."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

from breakerscope import bridges
from breakerscope.bridges.libraries import (
    AIOBREAKER,
    CIRCUITBREAKER,
    INTERLOCK,
    NOPANIC,
    PURGATORY,
    PYBREAKER,
    Library,
)

Fn = Callable[[], Any]
CIRCUIT = "payments"


@dataclass(frozen=True)
class Kind:
    """`make(wait)` is what is attached; `protect` makes a function that it protects."""

    library: Library
    attach: Callable[..., bridges.Bridge]
    make: Callable[[float], Any]
    protect: Callable[[Any, Fn], Fn]
    refusal: Callable[[], type[BaseException]]
    block: Callable[[Any], AbstractContextManager[Any]] | None = None
    watched: Callable[[Any], Any] = lambda target: target
    """The object that a bridge changes."""
    name: str = CIRCUIT

    def __str__(self) -> str:
        return self.library.name

    def join(self, target: Any, **options: Any) -> bridges.Bridge:
        """Attach under the name that the tests know."""
        if self.library is not PURGATORY:
            options["name"] = CIRCUIT
        return self.attach(target, **options)


def _pybreaker(wait: float) -> Any:
    import pybreaker

    return pybreaker.CircuitBreaker(fail_max=3, reset_timeout=wait, exclude=[KeyError])


def _circuitbreaker(wait: float) -> Any:
    import circuitbreaker

    return circuitbreaker.CircuitBreaker(
        failure_threshold=3,
        recovery_timeout=wait,  # type: ignore[arg-type, unused-ignore]
        expected_exception=lambda kind, _: issubclass(kind, Exception) and kind is not KeyError,
        name=CIRCUIT,
    )


def _aiobreaker(wait: float) -> Any:
    import aiobreaker  # type: ignore[import-untyped, unused-ignore]

    return aiobreaker.CircuitBreaker(
        fail_max=3, timeout_duration=timedelta(seconds=wait), exclude=[KeyError]
    )


def _purgatory(wait: float) -> Any:
    import purgatory

    return purgatory.SyncCircuitBreakerFactory(
        default_threshold=3, default_ttl=wait, exclude=[KeyError]
    )


def _nopanic(wait: float) -> Any:
    import nopanic

    return nopanic.CircuitBreaker(
        failure_threshold=0.75,
        min_calls=4,
        reset_timeout=wait,
        on=lambda error: not isinstance(error, KeyError),
    )


def _interlock(wait: float) -> Any:
    import interlock

    class Classifier:
        def is_failure(self, *, result: object, exception: Exception | None) -> bool:
            return exception is not None and not isinstance(exception, KeyError)

    return interlock.CircuitBreaker(
        name=CIRCUIT,
        config=interlock.Config(
            failure_rate_threshold=0.75,
            minimum_number_of_calls=4,
            wait_duration_in_open=wait,
            permitted_calls_in_half_open=1,
        ),
        classifier=Classifier(),
    )


def _error(module: str, name: str) -> type[BaseException]:
    found: type[BaseException] = getattr(__import__(module, fromlist=["_"]), name)
    return found


def _decorated(target: Any, fn: Fn) -> Fn:
    decorated: Fn = target(fn)
    return decorated


def _run(call: Callable[[], Any]) -> Any:
    async def awaited() -> Any:
        return await call()

    return asyncio.run(awaited())


def _as_task(protect: Callable[[Any, Fn], Fn]) -> Callable[[Any, Fn], Fn]:
    """The same for a coroutine function, of which each call has a loop of its own."""

    def protected(target: Any, fn: Fn) -> Fn:
        async def work() -> Any:
            return fn()

        call = protect(target, work)
        assert inspect.iscoroutinefunction(call)
        return lambda: _run(call)

    return protected


def _in_circuit(target: Any, fn: Fn) -> Fn:
    decorated: Fn = target(CIRCUIT)(fn)
    return decorated


def _async_purgatory(wait: float) -> Any:
    import purgatory

    return purgatory.AsyncCircuitBreakerFactory(
        default_threshold=3, default_ttl=wait, exclude=[KeyError]
    )


KINDS = (
    Kind(
        PYBREAKER,
        bridges.pybreaker.attach,
        _pybreaker,
        _decorated,
        partial(_error, "pybreaker", "CircuitBreakerError"),
        block=lambda breaker: breaker.calling(),
    ),
    Kind(
        CIRCUITBREAKER,
        bridges.circuitbreaker.attach,
        _circuitbreaker,
        _decorated,
        partial(_error, "circuitbreaker", "CircuitBreakerError"),
        block=lambda breaker: breaker,
    ),
    Kind(
        AIOBREAKER,
        bridges.aiobreaker.attach,
        _aiobreaker,
        _decorated,
        partial(_error, "aiobreaker", "CircuitBreakerError"),
    ),
    Kind(
        PURGATORY,
        bridges.purgatory.attach,
        _purgatory,
        _in_circuit,
        partial(_error, "purgatory.domain.model", "OpenedState"),
        block=lambda factory: factory.get_breaker(CIRCUIT),
    ),
    Kind(
        NOPANIC,
        bridges.nopanic.attach,
        _nopanic,
        _decorated,
        partial(_error, "nopanic", "CircuitOpen"),
        block=lambda breaker: breaker.guard(),
    ),
    Kind(
        INTERLOCK,
        bridges.interlock.attach,
        _interlock,
        _decorated,
        partial(_error, "interlock", "CircuitOpenError"),
        block=lambda breaker: breaker,
        watched=lambda breaker: breaker._engine,
    ),
)

_ASYNC = {
    CIRCUITBREAKER: (_circuitbreaker, _decorated),
    AIOBREAKER: (_aiobreaker, _decorated),
    PURGATORY: (_async_purgatory, _in_circuit),
    NOPANIC: (_nopanic, _decorated),
    INTERLOCK: (_interlock, _decorated),
}

ASYNC_KINDS = tuple(
    Kind(kind.library, kind.attach, make, protect, kind.refusal, name=f"{kind} async")
    for kind in KINDS
    if kind.library in _ASYNC
    for make, protect in [_ASYNC[kind.library]]
)
TASK_KINDS = tuple(
    Kind(kind.library, kind.attach, kind.make, _as_task(kind.protect), kind.refusal)
    for kind in ASYNC_KINDS
)
