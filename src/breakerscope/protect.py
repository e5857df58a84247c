"""How a call is put through the gate: one form for each kind of callable.

Each form does the same: take a pass or go the long way in, run the function outside every lock,
measure it, and settle. Nothing of a call is kept on a shared object, so that one protected function
may run in many threads and tasks at once, and inside itself. The few lines stand in each form
again, since a call of a helper would cost as much as all the rest.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from types import CoroutineType
from typing import Any, ParamSpec, Self, TypeVar, cast

from breakerscope.classify import Classifier
from breakerscope.events import Outcome
from breakerscope.gate import Clock, Gate
from breakerscope.hub import Hub
from breakerscope.passes import Pass

P = ParamSpec("P")
R = TypeVar("R")

_NO_CODE = compile("", "", "exec")


class Protector:
    """Puts calls through one gate and sorts their outcomes. Thread-safe, as the gate is."""

    __slots__ = ("_classifier", "_gate", "_hub", "_now", "_slow_from", "_take")

    def __init__(self, gate: Gate, classifier: Classifier, clock: Clock, hub: Hub) -> None:
        self._gate = gate
        self._classifier = classifier
        self._hub = hub
        self._now = clock.monotonic
        self._take = gate.passes.pop
        # A result that has to be looked at never leaves through the journal.
        self._slow_from = gate.slow_from if classifier.ignores_results else float("-inf")

    # -- the end of a call -------------------------------------------------------------------------

    def succeeded(self, given: Pass, duration: float, result: object) -> None:
        """The function returned."""
        classifier = self._classifier
        outcome = classifier.of_result(result, self._hub.count_error)
        if outcome is Outcome.SUCCESS:
            self._gate.leave(given, duration, outcome)
        else:
            hint = classifier.hint(result, self._hub.count_error)
            self._gate.leave(given, duration, outcome, "failure_if", hint)

    def failed(self, given: Pass, duration: float, error: BaseException) -> None:
        """The function raised."""
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

    def wrap(self, fn: Callable[P, R]) -> Callable[P, R]:
        """The same function, protected. The kind of function decides the form."""
        anything: Any = fn
        if isinstance(fn, classmethod | staticmethod):
            return cast("Callable[P, R]", type(anything)(self.wrap(anything.__func__)))
        if not callable(fn):
            raise TypeError(f"cannot protect {fn!r}: allowed is a callable")
        of_object = getattr(type(fn), "__call__", None)  # noqa: B004 - asks what a call of it runs
        if inspect.isasyncgenfunction(fn) or inspect.isasyncgenfunction(of_object):
            return cast("Callable[P, R]", self._async_generator(anything))
        if inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(of_object):
            return cast("Callable[P, R]", self._coroutine(anything))
        if inspect.isgeneratorfunction(fn) or inspect.isgeneratorfunction(of_object):
            return cast("Callable[P, R]", self._generator(anything))
        return self._function(fn)

    def _function(self, fn: Callable[P, R]) -> Callable[P, R]:
        take, enter, now, slow_from = self._take, self._gate.enter, self._now, self._slow_from
        succeeded, failed = self.succeeded, self.failed

        @functools.wraps(fn)
        def protected(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                given = take()
            except IndexError:
                given = enter()
            start = now()
            try:
                result = fn(*args, **kwargs)
            except BaseException as error:
                failed(given, now() - start, error)
                raise
            end = now()
            if end - start >= slow_from or end >= given.fence or given.watch():
                succeeded(given, end - start, result)
            else:
                given.append(end - start)
            return result

        return protected

    def _coroutine(
        self, fn: Callable[P, Coroutine[Any, Any, R]]
    ) -> Callable[P, Coroutine[Any, Any, R]]:
        take, enter, now, slow_from = self._take, self._gate.enter, self._now, self._slow_from
        succeeded, failed = self.succeeded, self.failed

        @functools.wraps(fn)
        async def protected(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                given = take()
            except IndexError:
                given = enter()
            start = now()
            try:
                result = await fn(*args, **kwargs)
            except BaseException as error:
                failed(given, now() - start, error)
                raise
            end = now()
            if end - start >= slow_from or end >= given.fence or given.watch():
                succeeded(given, end - start, result)
            else:
                given.append(end - start)
            return result

        return protected

    def call(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run `fn` now; if it is a coroutine function, return a coroutine that asks when
        awaited.
        """
        if getattr(fn, "__code__", _NO_CODE).co_flags & inspect.CO_COROUTINE:
            return cast("R", self._coroutine(cast("Any", fn))(*args, **kwargs))
        try:
            given = self._take()
        except IndexError:
            given = self._gate.enter()
        now = self._now
        start = now()
        try:
            result = fn(*args, **kwargs)
        except BaseException as error:
            self.failed(given, now() - start, error)
            raise
        end = now()
        if type(result) is CoroutineType:
            # A callable that hides its kind (a partial, a lambda): the call is yet to be made.
            self._gate.give_back(given)
            return cast("R", self._await(cast("Any", result)))
        if end - start >= self._slow_from or end >= given.fence or given.watch():
            self.succeeded(given, end - start, result)
        else:
            given.append(end - start)
        return result

    async def _await(self, coroutine: Coroutine[Any, Any, R]) -> R:
        try:
            return await self._coroutine(_identity)(coroutine)
        finally:
            # A refused call must not leave a coroutine behind that nobody awaits.
            coroutine.close()

    def _generator(
        self, fn: Callable[P, Generator[Any, Any, R]]
    ) -> Callable[P, Generator[Any, Any, R]]:
        """One call for the whole stream. Time counts while the stream works, not while it is
        read.
        """
        take, enter, now = self._take, self._gate.enter, self._now

        @functools.wraps(fn)
        def protected(*args: P.args, **kwargs: P.kwargs) -> Generator[Any, Any, R]:
            try:
                given = take()
            except IndexError:
                given = enter()
            spent = 0.0
            stream = fn(*args, **kwargs)
            resume: Callable[[], Any] = functools.partial(next, stream)
            while True:
                start = now()
                try:
                    item = resume()
                except StopIteration as stop:
                    self.succeeded(given, spent + now() - start, stop.value)
                    return cast("R", stop.value)
                except BaseException as error:
                    self.failed(given, spent + now() - start, error)
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
        take, enter, now = self._take, self._gate.enter, self._now

        @functools.wraps(fn)
        async def protected(*args: P.args, **kwargs: P.kwargs) -> AsyncGenerator[Any, Any]:
            try:
                given = take()
            except IndexError:
                given = enter()
            spent = 0.0
            stream = fn(*args, **kwargs)
            resume: Callable[[], Any] = stream.__anext__
            while True:
                start = now()
                try:
                    item = await resume()
                except StopAsyncIteration:
                    self.succeeded(given, spent + now() - start, None)
                    return
                except BaseException as error:
                    self.failed(given, spent + now() - start, error)
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
        """One call as a block."""
        return Guard(self)

    def enter(self) -> Pass:
        """The way in for a block."""
        try:
            return self._take()
        except IndexError:
            return self._gate.enter()

    def exit(
        self,
        given: Pass,
        start: float,
        error: BaseException | None,
        verdict: tuple[Outcome, str | None] | None,
    ) -> None:
        """The way out for a block."""
        end = self._now()
        duration = end - start
        if verdict is not None:
            self._gate.leave(given, duration, *verdict)
        elif error is not None:
            self.failed(given, duration, error)
        elif duration >= self._slow_from or end >= given.fence or given.watch():
            self.succeeded(given, duration, None)
        else:
            given.append(duration)

    def now(self) -> float:
        """The monotonic time in seconds."""
        return self._now()


class Guard:
    """One protected block: `with breaker.guard() as g`, or `async with`. To be used once.

    A block that ends is a success, one that raises is sorted like any call. `fail`, `ignore` and
    `success` say otherwise; the last word counts. Entering raises CircuitBreakerOpenError if the
    breaker refuses.
    """

    __slots__ = ("_given", "_protector", "_start", "_verdict")

    def __init__(self, protector: Protector) -> None:
        self._protector = protector
        self._given: Pass | None = None
        self._verdict: tuple[Outcome, str | None] | None = None
        self._start = 0.0

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
        self._given = self._protector.enter()
        self._start = self._protector.now()
        return self

    def __exit__(self, cls: object, error: BaseException | None, traceback: object) -> None:
        if self._given is None:
            raise RuntimeError("a guard that was not entered cannot be left")
        self._protector.exit(self._given, self._start, error, self._verdict)

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(self, cls: object, error: BaseException | None, traceback: object) -> None:
        self.__exit__(cls, error, traceback)


async def _identity(coroutine: Coroutine[Any, Any, R]) -> R:
    return await coroutine


def _close(stream: Generator[Any, Any, Any]) -> None:
    """The reader has gone. If the stream ends in peace, that is the reader's doing."""
    stream.close()
    raise GeneratorExit


async def _aclose(stream: AsyncGenerator[Any, Any]) -> None:
    await stream.aclose()
    raise GeneratorExit
