"""Calls that are not one function: a block of code, and an exchange in several steps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from breakerscope.core.events import Outcome
from breakerscope.core.permits import AnyPermit, enter_probe, leave_probe

if TYPE_CHECKING:
    from breakerscope.core.executor import Executor


class Guard:
    """One protected block: `with breaker.guard() as g`, or `async with`. To be used once.

    A block that ends is a success, one that raises is sorted like any call. `fail`, `ignore` and
    `success` say otherwise; the last word counts, and after the block it is too late for one.
    Entering raises CircuitBreakerOpenError if the
    breaker rejects. One guard belongs to one thread or task; ask the breaker for another.
    """

    __slots__ = ("_ended", "_executor", "_outcome", "_permit", "_start")

    _ended: bool
    _executor: Executor
    _permit: AnyPermit | None
    _outcome: tuple[Outcome, str | None] | None
    _start: float

    def fail(self, why: str = "fail") -> None:
        """The block is a failure. `why` goes into the event as its error; no user data, please."""
        self._say(Outcome.FAILURE, why)

    def ignore(self) -> None:
        """The block says nothing about the dependency."""
        self._say(Outcome.IGNORED)

    def success(self) -> None:
        """The block is a success, even if it raises."""
        self._say(Outcome.SUCCESS)

    def _say(self, outcome: Outcome, error: str | None = None) -> None:
        if self._ended:
            raise RuntimeError("the block has ended: say inside of it how it ends")
        self._outcome = (outcome, error)

    def __enter__(self) -> Self:
        if self._permit is not None:
            raise RuntimeError("a guard is for one block: ask the breaker for a new one")
        executor = self._executor
        try:
            self._permit = executor._machine.permit.take()
        except IndexError:
            self._permit = executor._controller.admit()
        self._start = executor._now()
        return self

    def __exit__(self, cls: object, error: BaseException | None, traceback: object) -> None:
        permit, executor = self._permit, self._executor
        if permit is None:
            raise RuntimeError("a guard that was not entered cannot be left")
        end = executor._now()
        duration = end - self._start
        self._ended = True
        if self._outcome is not None:
            executor._controller.settle(permit, duration, *self._outcome)
        elif error is not None:
            executor._failed(permit, self._start, end, error)
        elif duration >= executor._slow_from or permit.watched():
            executor._succeeded(permit, duration, None)
        else:
            permit.entries.append((end, duration) if executor._timed else duration)

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

    __slots__ = ("_executor", "_open", "_permit", "_spent", "_start")

    def __init__(self, executor: Executor, permit: AnyPermit) -> None:
        self._executor = executor
        self._permit = permit
        self._spent = self._start = 0.0
        # The last of all: from here on the end of the exchange settles the call.
        self._open = [permit]
        # Only the steps are inside the call.
        leave_probe(permit)

    def _take(self) -> AnyPermit | None:
        """Who takes the permit out settles the call: `list.pop` is atomic. None if somebody has, or
        if an interrupt kept the call from being begun.
        """
        try:
            return self._open.pop()
        except (IndexError, AttributeError):
            return None

    def end(self, result: object = None) -> None:
        """The call returned `result`."""
        if (permit := self._take()) is not None:
            self._executor._succeeded(permit, self._spent, result)

    def fail(self, error: BaseException) -> None:
        """The call raised `error`."""
        if (permit := self._take()) is not None:
            end = self._executor._now()
            self._executor._failed(permit, end - self._spent, end, error)

    def __enter__(self) -> Self:
        enter_probe(self._permit)
        self._start = self._executor._now()
        return self

    def __exit__(self, cls: object, error: BaseException | None, traceback: object) -> None:
        self._spent += self._executor._now() - self._start
        leave_probe(self._permit)
        if error is not None:
            self.fail(error)

    def __del__(self) -> None:
        if (permit := self._take()) is not None:
            controller = self._executor._controller
            controller.abandon(permit, self._spent, Outcome.CANCELLED, GeneratorExit())
