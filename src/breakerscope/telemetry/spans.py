"""OpenTelemetry: a span of its own for a protected call, for those who ask for it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Generator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any, ParamSpec, TypeVar, cast

from breakerscope.breaker import CircuitBreaker
from breakerscope.catalogue import Attribute, SpanName
from breakerscope.core.classification import error_name
from breakerscope.core.errors import CircuitBreakerOpenError
from breakerscope.core.events import Outcome
from breakerscope.names import encodable

P = ParamSpec("P")
R = TypeVar("R")


def internal_span(breaker: CircuitBreaker) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Run each call of a protected function in an INTERNAL span of its own.

    Put it above the breaker, `@internal_span(payments)` on `@payments`, or around a fallback: the
    span then begins before the breaker is asked, so refused calls have one too, and the events of
    the breaker land on it. What the function raises makes the status ERROR and names its class in
    `error.type`; the message of the exception is not recorded. A cancelled call leaves the status
    unset. For functions and coroutine functions; raises TypeError for generators, whose caller
    decides how long they run. Works through the global TracerProvider. Thread-safe.
    """

    def in_span(fn: Callable[P, R]) -> Callable[P, R]:
        if inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn):
            raise TypeError(f"{fn!r} is a generator: allowed are functions and coroutine functions")
        anything: Any = fn
        if inspect.iscoroutinefunction(fn):

            @functools.wraps(anything)
            async def awaited(*args: Any, **kwargs: Any) -> Any:
                with _span(breaker.name):
                    return await anything(*args, **kwargs)

            return cast("Callable[P, R]", awaited)

        @functools.wraps(fn)
        def called(*args: P.args, **kwargs: P.kwargs) -> R:
            with _span(breaker.name):
                return fn(*args, **kwargs)

        return called

    return in_span


@contextmanager
def _span(breaker: str) -> Generator[None, None, None]:
    from opentelemetry.trace import Status, StatusCode, get_tracer

    tracer = get_tracer("breakerscope", version("breakerscope"))
    with tracer.start_as_current_span(
        # A span whose name UTF-8 cannot hold would cost the exporter the whole batch.
        f"{SpanName.CALL.value} {encodable(breaker)}",
        attributes={Attribute.NAME.value: encodable(breaker)},
        record_exception=False,
        set_status_on_exception=False,
    ) as span:
        try:
            yield
        except Exception as error:
            span.set_attribute(Attribute.ERROR_TYPE.value, encodable(error_name(error)))
            if isinstance(error, CircuitBreakerOpenError) and error.breaker == breaker:
                span.set_attribute(Attribute.OUTCOME.value, Outcome.REJECTED.value)
            span.set_status(Status(StatusCode.ERROR))
            raise
