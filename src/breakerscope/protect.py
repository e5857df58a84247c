"""How a call is put through the gate: one form for each kind of callable.

Each form does the same: take a pass or go the long way in, run the function outside every lock,
measure it, and settle. Nothing of a call is kept on a shared object, so that one protected function
may run in many threads and tasks at once, and inside itself. The few lines stand again in `call`
and in the text of `tailor.py`, since a call of a helper would cost as much as all the rest.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator
from datetime import timedelta
from math import inf
from types import CoroutineType
from typing import Any, ParamSpec, Self, TypeVar, cast

from breakerscope.classify import Classifier
from breakerscope.events import Outcome
from breakerscope.gate import Clock, Gate
from breakerscope.hub import Hub
from breakerscope.passes import Pass, SharedPass
from breakerscope.tailor import tailored

P = ParamSpec("P")
R = TypeVar("R")

_NO_CODE = compile("", "", "exec")


class Protector:
    """The calls of a breaker: each is put through its gate. Thread-safe, as the gate is."""

    __slots__ = (
        "_await_call_made",
        "_classifier",
        "_every_exception_fails",
        "_gate",
        "_hub",
        "_now",
        "_passes",
        "_slow_from",
    )

    def __init__(self, gate: Gate, classifier: Classifier, clock: Clock, hub: Hub) -> None:
        self._gate = gate
        self._classifier = classifier
        self._hub = hub
        self._now = clock.monotonic
        self._passes = gate.passes
        # A result that has to be looked at never leaves through the journal.
        self._slow_from = gate.slow_from if classifier.ignores_results else -inf
        self._every_exception_fails = classifier.ignores_no_exception
        self._await_call_made: Callable[..., Any] | None = None

    # -- the end of a call -------------------------------------------------------------------------

    def _succeeded(self, given: Pass, duration: float, result: object) -> None:
        """The function returned, and it was not the usual plain success, or that is to be seen."""
        classifier = self._classifier
        if classifier.ignores_results:
            self._gate.succeed(given, duration)
            return
        outcome = classifier.of_result(result, self._hub.count_error)
        if outcome is Outcome.SUCCESS:
            self._gate.succeed(given, duration)
        else:
            hint = classifier.hint(result, self._hub.count_error)
            self._gate.leave(given, duration, outcome, "failure_if", hint)

    def _failed(self, given: Pass, duration: float, error: BaseException) -> None:
        """The function raised."""
        if (
            given.slips
            and self._every_exception_fails
            and isinstance(error, Exception)
            and duration < self._gate.slow_from
            and not given.watch_failures()
            and not isinstance(error, BaseExceptionGroup)
            and not (given.fence < inf and self._now() >= given.fence)
        ):
            try:
                given.slips.pop()
            except IndexError:
                # Another call took the last one: the long way.
                pass
            else:
                given.journal.append((duration,))
                return
        if isinstance(error, GeneratorExit):
            # Possibly the garbage collector at work, in a thread that holds the lock of the gate.
            self._gate.abandon(given, duration, Outcome.CANCELLED, error)
            return
        classifier = self._classifier
        outcome = classifier.of_error(error, self._hub.count_error)
        hint = 0.0
        if outcome is Outcome.FAILURE and classifier.retry_after_from is not None:
            hint = classifier.hint(error, self._hub.count_error)
        self._gate.leave(given, duration, outcome, error, hint)

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
            return cast("Callable[P, R]", self._async_generator(anything))
        if inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(of_object):
            return cast("Callable[P, R]", self._tailored(fn, is_coroutine=True))
        if inspect.isgeneratorfunction(fn) or inspect.isgeneratorfunction(of_object):
            return cast("Callable[P, R]", self._generator(anything))
        return cast("Callable[P, R]", self._tailored(fn, is_coroutine=False))

    def _tailored(self, fn: Callable[..., Any], *, is_coroutine: bool) -> Callable[..., Any]:
        gate = self._gate
        asks_slow, asks_fence = self._slow_from < inf, isinstance(gate.policy.window, timedelta)
        succeeded: Callable[..., None] = self._succeeded
        if self._classifier.ignores_results:
            succeeded = gate.succeed if asks_slow or asks_fence else gate.tell
        names = {
            "_passes": gate.passes,
            "_take": gate.passes.pop,
            "_enter": gate.enter,
            "_now": self._now,
            "_slow_from": self._slow_from,
            "_failed": self._failed,
            "_succeeded": succeeded,
        }
        return tailored(
            fn,
            names,
            is_coroutine=is_coroutine,
            asks_slow=asks_slow,
            asks_fence=asks_fence,
        )

    @property
    def _await_call(self) -> Callable[..., Any]:
        """Awaits any coroutine function; made when first needed, since most breakers never do."""
        if self._await_call_made is None:
            self._await_call_made = self._tailored(_call_and_await, is_coroutine=True)
        return self._await_call_made

    def call(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call `fn` through the breaker. For a coroutine function, returns an awaitable.

        All keywords go to `fn`. Returns and raises what `fn` does; raises CircuitBreakerOpenError
        if the breaker refuses, and then `fn` is not called. Thread-safe and task-safe.
        """
        try:
            given = self._passes.pop() if self._passes else None
        except IndexError:
            given = None
        if given is None:
            if getattr(fn, "__code__", _NO_CODE).co_flags & inspect.CO_COROUTINE:
                # Where the answer may be no, it belongs to the one who awaits.
                return cast("R", self._await_call(fn, *args, **kwargs))
            given = self._gate.enter()
        now = self._now
        start = now()
        try:
            result = fn(*args, **kwargs)
        except BaseException as error:
            self._failed(given, now() - start, error)
            raise
        end = now()
        if type(result) is CoroutineType:
            return cast("R", self._yet_to_be_made(given, cast("Any", result)))
        duration = end - start
        if duration >= self._slow_from or end >= given.fence or given.watch():
            self._succeeded(given, duration, result)
        else:
            given.journal.append(duration)
        return result

    def _yet_to_be_made(self, given: Pass, coroutine: Coroutine[Any, Any, R]) -> Awaitable[R]:
        """The call of a coroutine function, or of a callable that hides one (a partial, a lambda).

        A coroutine asks when it is awaited; where the answer has been counted, not once more.
        """
        if isinstance(given, SharedPass):
            self._gate.give_back(given)
            return self._ask_and_await(coroutine)
        return self._await(_Begun(self._gate, given), coroutine)

    async def _ask_and_await(self, coroutine: Coroutine[Any, Any, R]) -> R:
        try:
            return cast("R", await self._await_call(_identity, coroutine))
        finally:
            # A refused call must not leave a coroutine behind that nobody awaits.
            coroutine.close()

    async def _await(self, begun: _Begun, coroutine: Coroutine[Any, Any, R]) -> R:
        given, now = begun.go_on(), self._now
        start = now()
        try:
            result = await coroutine
        except BaseException as error:
            self._failed(given, now() - start, error)
            raise
        self._succeeded(given, now() - start, result)
        return result

    def _generator(
        self, fn: Callable[P, Generator[Any, Any, R]]
    ) -> Callable[P, Generator[Any, Any, R]]:
        """One call for the whole stream, timed while the stream works, not while it is read."""
        enter, now = self._enter, self._now

        @functools.wraps(fn)
        def protected(*args: P.args, **kwargs: P.kwargs) -> Generator[Any, Any, R]:
            # First the stream, which does nothing yet: arguments that do not fit are no call.
            stream = fn(*args, **kwargs)
            given = enter()
            spent = 0.0
            resume: Callable[[], Any] = functools.partial(next, stream)
            while True:
                start = now()
                try:
                    item = resume()
                except StopIteration as stop:
                    self._succeeded(given, spent + now() - start, stop.value)
                    return cast("R", stop.value)
                except BaseException as error:
                    self._failed(given, spent + now() - start, error)
                    raise
                spent += now() - start
                try:
                    sent = yield item
                except GeneratorExit:
                    resume = functools.partial(_close, stream)
                except BaseException as thrown:
                    resume = functools.partial(stream.throw, thrown)
                else:
                    resume = functools.partial(stream.send, sent)

        return protected

    def _async_generator(
        self, fn: Callable[P, AsyncGenerator[Any, Any]]
    ) -> Callable[P, AsyncGenerator[Any, Any]]:
        """As `_generator`."""
        enter, now = self._enter, self._now

        @functools.wraps(fn)
        async def protected(*args: P.args, **kwargs: P.kwargs) -> AsyncGenerator[Any, Any]:
            # First the stream, which does nothing yet: arguments that do not fit are no call.
            stream = fn(*args, **kwargs)
            given = enter()
            spent = 0.0
            resume: Callable[[], Any] = stream.__anext__
            while True:
                start = now()
                try:
                    item = await resume()
                except StopAsyncIteration:
                    self._succeeded(given, spent + now() - start, None)
                    return
                except BaseException as error:
                    self._failed(given, spent + now() - start, error)
                    raise
                spent += now() - start
                try:
                    sent = yield item
                except GeneratorExit:
                    resume = functools.partial(_aclose, stream)
                except BaseException as thrown:
                    resume = functools.partial(stream.athrow, thrown)
                else:
                    resume = functools.partial(stream.asend, sent)

        return protected

    def guard(self) -> Guard:
        """One protected block, for `with` and `async with`; see `Guard`."""
        # An `__init__` in Python would take a fifth of the whole block.
        guard = Guard()
        guard._protector = self
        guard._given = guard._verdict = None
        return guard

    def exchange(self) -> Exchange:
        """One call in several steps, begun now; see `Exchange`.

        Raises CircuitBreakerOpenError if the breaker refuses.
        """
        return Exchange(self, self._enter())

    def _enter(self) -> Pass:
        """The way in for a block."""
        try:
            return self._passes.pop() if self._passes else self._gate.enter()
        except IndexError:
            return self._gate.enter()


class Guard:
    """One protected block: `with breaker.guard() as g`, or `async with`. To be used once.

    A block that ends is a success, one that raises is sorted like any call. `fail`, `ignore` and
    `success` say otherwise; the last word counts. Entering raises CircuitBreakerOpenError if the
    breaker refuses. One guard belongs to one thread or task; ask the breaker for another.
    """

    __slots__ = ("_given", "_protector", "_start", "_verdict")

    _protector: Protector
    _given: Pass | None
    _verdict: tuple[Outcome, str | None] | None
    _start: float

    def fail(self, why: str = "fail") -> None:
        """The block is a failure. `why` goes into the event as its error; no user data, please."""
        self._verdict = (Outcome.FAILURE, why)

    def ignore(self) -> None:
        """The block says nothing about the dependency."""
        self._verdict = (Outcome.IGNORED, None)

    def success(self) -> None:
        """The block is a success, even if it raises."""
        self._verdict = (Outcome.SUCCESS, None)

    def __enter__(self) -> Self:
        if self._given is not None:
            raise RuntimeError("a guard is for one block: ask the breaker for a new one")
        protector = self._protector
        try:
            self._given = protector._passes.pop() if protector._passes else protector._gate.enter()
        except IndexError:
            self._given = protector._gate.enter()
        self._start = protector._now()
        return self

    def __exit__(self, cls: object, error: BaseException | None, traceback: object) -> None:
        given, protector = self._given, self._protector
        if given is None:
            raise RuntimeError("a guard that was not entered cannot be left")
        end = protector._now()
        duration = end - self._start
        if self._verdict is not None:
            protector._gate.leave(given, duration, *self._verdict)
        elif error is not None:
            protector._failed(given, duration, error)
        elif duration >= protector._slow_from or end >= given.fence or given.watch():
            protector._succeeded(given, duration, None)
        else:
            given.journal.append(duration)

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(self, cls: object, error: BaseException | None, traceback: object) -> None:
        self.__exit__(cls, error, traceback)


class Exchange:
    """One protected call in several steps: an answer that comes first, a body that comes later.

    `with exchange:` is a step, as often as it takes, around sync or awaited work. What a step
    raises ends the call and is sorted like any exception; `end` settles it by its result. The
    duration is that of the steps, and the time between them is the reader's. An exchange that is
    forgotten without an end was cancelled. After the end, steps and further ends do nothing. One
    step at a time; `end` and `fail` may come from any thread.
    """

    __slots__ = ("_open", "_protector", "_spent", "_start")

    def __init__(self, protector: Protector, given: Pass) -> None:
        self._protector = protector
        self._open = [given]
        self._spent = self._start = 0.0

    def _take(self) -> Pass | None:
        """Who takes the pass out settles the call: `list.pop` is atomic."""
        try:
            return self._open.pop()
        except IndexError:
            return None

    def end(self, result: object = None) -> None:
        """The call returned `result`."""
        if (given := self._take()) is not None:
            self._protector._succeeded(given, self._spent, result)

    def fail(self, error: BaseException) -> None:
        """The call raised `error`."""
        if (given := self._take()) is not None:
            self._protector._failed(given, self._spent, error)

    def __enter__(self) -> Self:
        self._start = self._protector._now()
        return self

    def __exit__(self, cls: object, error: BaseException | None, traceback: object) -> None:
        self._spent += self._protector._now() - self._start
        if error is not None:
            self.fail(error)

    def __del__(self) -> None:
        if (given := self._take()) is not None:
            self._protector._failed(given, self._spent, GeneratorExit())


async def _call_and_await(fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    return await fn(*args, **kwargs)


async def _identity(coroutine: Coroutine[Any, Any, R]) -> R:
    return await coroutine


class _Begun:
    """A call that was admitted before anybody awaits it. If nobody ever does, it was cancelled."""

    __slots__ = ("_gate", "_given")

    def __init__(self, gate: Gate, given: Pass) -> None:
        self._gate = gate
        self._given: Pass | None = given

    def go_on(self) -> Pass:
        """The call is awaited: whoever does so settles it."""
        given = cast("Pass", self._given)
        self._given = None
        return given

    def __del__(self) -> None:
        if self._given is not None:
            self._gate.abandon(self._given, 0.0, Outcome.CANCELLED, GeneratorExit())


def _close(stream: Generator[Any, Any, Any]) -> None:
    """The reader has gone. If the stream ends in peace, that is the reader's doing."""
    stream.close()
    raise GeneratorExit


async def _aclose(stream: AsyncGenerator[Any, Any]) -> None:
    await stream.aclose()
    raise GeneratorExit
