"""How calls are put through the controller: one form for each kind of callable.

Each form does the same: be admitted, run the function outside every lock, measure it, and settle.
Nothing of a call is kept on a shared object, so one protected function may run in many threads and
tasks at once, and inside itself. The few lines stand again in `call`, in `Guard` and in the text of
`wrapper`, since a call of a helper would cost as much as all the rest.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
from datetime import timedelta
from functools import partial
from math import inf
from types import CoroutineType
from typing import Any, ParamSpec, TypeVar, cast

from breakerscope.core.awaitables import ends_later, hand_out, is_misfit, returns_plainly
from breakerscope.core.classification import Classifier, result_name
from breakerscope.core.clock import Clock
from breakerscope.core.controller import Controller
from breakerscope.core.errors import CircuitBreakerOpenError
from breakerscope.core.events import Outcome
from breakerscope.core.guard import Exchange, Guard
from breakerscope.core.permits import UNWATCHED, AnyPermit, SharedPermit
from breakerscope.core.streams import protect_async_generator, protect_generator
from breakerscope.core.subscribers import Bus
from breakerscope.core.wrapper import wrapper_of

P = ParamSpec("P")
R = TypeVar("R")

_NOT_PLAIN = (BaseExceptionGroup, CircuitBreakerOpenError)
"""What may be no failure, though every exception is one."""
_NO_CODE = compile("", "", "exec")


class Executor:
    """The calls of a breaker: each is put through its controller. Thread-safe, as that is."""

    __slots__ = (
        "_await_any_made",
        "_bus",
        "_classifier",
        "_controller",
        "_every_exception_fails",
        "_machine",
        "_now",
        "_plain",
        "_slow_from",
        "_timed",
    )

    def __init__(
        self, controller: Controller, classifier: Classifier, clock: Clock, bus: Bus
    ) -> None:
        self._controller = controller
        self._machine = controller.machine
        self._classifier = classifier
        self._bus = bus
        self._now = clock.monotonic
        self._timed = isinstance(controller.policy.window, timedelta)
        # A result that has to be looked at never settles without the lock.
        self._slow_from = self._machine.slow_from if classifier.ignores_results else -inf
        self._every_exception_fails = classifier.ignores_no_exception
        self._await_any_made: Callable[..., Any] | None = None
        self._plain: type | None = None

    def _admit(self) -> AnyPermit:
        """Admit a call. Raises CircuitBreakerOpenError if it is rejected."""
        try:
            return self._machine.permit.take()
        except IndexError:
            return self._controller.admit()

    # -- the end of a call -------------------------------------------------------------------------

    def _succeeded(self, permit: AnyPermit, duration: float, result: object) -> None:
        """The function returned, and it was not the usual plain success, or that is to be seen."""
        if permit is UNWATCHED:
            return
        classifier = self._classifier
        if classifier.ignores_results:
            self._controller.succeed(permit, duration)
            return
        outcome = classifier.of_result(result, self._bus.count_error)
        if outcome is Outcome.SUCCESS:
            self._controller.succeed(permit, duration)
        else:
            hint = classifier.hint(result, self._bus.count_error)
            self._controller.settle(permit, duration, outcome, result_name(result), hint)

    def _failed(self, permit: AnyPermit, start: float, end: float, error: BaseException) -> None:
        """The function raised."""
        duration = end - start
        if (
            self._every_exception_fails
            and isinstance(permit, SharedPermit)
            and isinstance(error, Exception)
            and duration < self._machine.slow_from
            and not permit.watched_failures()
            and error.__cause__ is None
            and not isinstance(error, _NOT_PLAIN)
        ):
            try:
                permit.failure_tokens.take()
            except IndexError:
                # It might open the circuit: under the lock.
                pass
            else:
                permit.entries.append((end, duration, True) if self._timed else (duration,))
                return
        if permit is UNWATCHED:
            return
        if isinstance(error, GeneratorExit):
            self._controller.abandon(permit, duration, Outcome.CANCELLED, error)
            return
        classifier = self._classifier
        outcome = classifier.of_error(error, self._bus.count_error)
        hint = 0.0
        if outcome is Outcome.FAILURE and classifier.retry_after_from is not None:
            hint = classifier.hint(error, self._bus.count_error)
        self._controller.settle(permit, duration, outcome, error, hint)

    def _failed_awaiting(
        self, permit: AnyPermit, start: float, end: float, error: BaseException
    ) -> None:
        last = error.__traceback__
        while last is not None and last.tb_next is not None:
            last = last.tb_next
        if last is not None and last.tb_frame.f_code is _call_and_await.__code__:
            # The coroutine function could not be called so: a mistake of the caller, and no call.
            self._controller.withdraw(permit)
        else:
            self._failed(permit, start, end, error)

    # -- the forms ---------------------------------------------------------------------------------

    def _wrap(self, fn: Callable[P, R]) -> Callable[P, R]:
        """The same function, protected. The kind of function decides the form."""
        anything: Any = fn
        if isinstance(fn, classmethod | staticmethod):
            return cast("Callable[P, R]", type(anything)(self._wrap(anything.__func__)))
        if not callable(fn):
            raise TypeError(f"cannot protect {fn!r}: allowed is a callable")
        of_object = getattr(type(fn), "__call__", None)  # noqa: B004 - asks what a call of it runs
        if inspect.isasyncgenfunction(fn) or inspect.isasyncgenfunction(of_object):
            return cast("Callable[P, R]", protect_async_generator(self, anything))
        if inspect.isgeneratorfunction(fn) or inspect.isgeneratorfunction(of_object):
            return cast("Callable[P, R]", protect_generator(self, anything))
        is_coroutine = inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(of_object)
        return cast("Callable[P, R]", self._wrap_call(fn, is_coroutine=is_coroutine))

    def _wrap_call(self, fn: Callable[..., Any], *, is_coroutine: bool) -> Callable[..., Any]:
        names = {
            "_machine": self._machine,
            "_admit": self._controller.admit,
            "_now": self._now,
            "_slow_from": self._slow_from,
            "_failed": self._failed_awaiting if fn is _call_and_await else self._failed,
            "_succeeded": self._succeeded,
            "_ends_later": ends_later,
            "_hand_out": partial(hand_out, self),
            "_is_misfit": is_misfit,
            "_withdraw": self._controller.withdraw,
        }
        return wrapper_of(
            fn,
            names,
            is_coroutine=is_coroutine,
            looks=not is_coroutine and not returns_plainly(fn),
            asks_slow=self._slow_from < inf,
            timed=self._timed,
        )

    @property
    def _await_any(self) -> Callable[..., Any]:
        """Awaits any coroutine function; made when first needed, since most breakers never do."""
        if self._await_any_made is None:
            self._await_any_made = self._wrap_call(_call_and_await, is_coroutine=True)
        return self._await_any_made

    def call(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call `fn` through the breaker. For a coroutine function, returns an awaitable.

        All keywords go to `fn`. Returns and raises what `fn` does; raises CircuitBreakerOpenError
        if the breaker rejects, and then `fn` is not called. Where `fn` returns an awaitable, the
        call ends when that ends. A TypeError because `fn` cannot be called so is the caller's, and
        no call. Thread-safe and task-safe.
        """
        permit: AnyPermit | None
        try:
            permit = self._machine.permit.tokens.take()
        except IndexError:
            # Nothing more in here: a rejection would have this error behind it.
            permit = None
        if permit is None:
            if getattr(fn, "__code__", _NO_CODE).co_flags & inspect.CO_COROUTINE:
                # Where the answer may be no, it belongs to the one who awaits.
                return cast("R", self._await_any(fn, *args, **kwargs))
            permit = self._admit()
        now = self._now
        start = now()
        try:
            result = fn(*args, **kwargs)
        except BaseException as error:
            if type(error) is TypeError and is_misfit(error, fn, args, kwargs):
                # A mistake of the caller: it was no call.
                self._controller.withdraw(permit)
            else:
                self._failed(permit, start, now(), error)
            raise
        if type(result) is not self._plain:
            if ends_later(type(result)):
                return cast("R", self._ends_later(permit, start, result))
            self._plain = type(result)
        end = now()
        duration = end - start
        if duration >= self._slow_from or permit.watched():
            self._succeeded(permit, duration, result)
        else:
            permit.entries.append((end, duration) if self._timed else duration)
        return result

    def _ends_later(self, permit: AnyPermit, start: float, result: Any) -> Any:
        if type(result) is CoroutineType and isinstance(permit, SharedPermit):
            # It asks when it is awaited. What has asked under the lock must not do so twice.
            self._controller.withdraw(permit)
            return self._admit_and_await(cast("Any", result))
        return hand_out(self, permit, start, result)

    async def _admit_and_await(self, coroutine: Coroutine[Any, Any, R]) -> R:
        try:
            return cast("R", await self._await_any(_identity, coroutine))
        finally:
            # A rejected call must not leave a coroutine behind that nobody awaits.
            coroutine.close()

    def guard(self) -> Guard:
        """One protected block, for `with` and `async with`; see `Guard`."""
        # An `__init__` in Python would take a fifth of the whole block.
        guard = Guard()
        guard._executor = self
        guard._permit = guard._outcome = None
        guard._ended = False
        return guard

    def exchange(self) -> Exchange:
        """One call in several steps, begun now; see `Exchange`.

        Raises CircuitBreakerOpenError if the breaker rejects.
        """
        return Exchange(self, self._admit())


async def _call_and_await(fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    return await fn(*args, **kwargs)


async def _identity(coroutine: Coroutine[Any, Any, R]) -> R:
    return await coroutine
