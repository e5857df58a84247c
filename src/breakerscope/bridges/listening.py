"""pybreaker and aiobreaker, which is a fork of it: a listener, and a wrapper around the way in.

The listener is told of calls that begin, succeed and fail, and of changes of state; of a rejection
nobody is told. So `call` and `call_async` of the one breaker are wrapped: a call that raised the
library's own error before it began was rejected. Calls by functions that were decorated before go
through these too. What the listener is told goes to the call in whose name the library works.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from functools import wraps
from typing import Any
from weakref import ref

from breakerscope.bridges.foreign import Call, DroppableCall, Look, current
from breakerscope.bridges.handle import Bridge, Shop
from breakerscope.core.events import State


class Listener:
    """The listener of one breaker, in the words of both libraries. None of its methods raises."""

    def __init__(
        self,
        shop: Shop,
        breaker: Any,
        name: str,
        *,
        refusal: type[Exception],
        state_of: Callable[[Any], State],
        look: Callable[[Any], Look],
    ) -> None:
        known = ref(breaker)
        self.closed = False
        self.refusal = refusal
        self._shop = shop
        self._breaker = known
        self._state_of = state_of
        self.foreign = shop.show(self, name, state_of(breaker._state), lambda: look(known()))
        self.handle = Bridge(name, self)
        self._doors = {"call": _door(self, breaker)}
        if shop.library.name != "pybreaker":
            # That one's is of Tornado's kind: nothing that a wrapper could wait for.
            self._doors["call_async"] = _adoor(self, breaker)
        breaker.add_listener(self)
        breaker.__dict__.update(self._doors)

    def undo(self) -> None:
        """What others put around the wrappers stays, and passes through them."""
        self._shop.registry.unbridge(self.foreign)
        breaker = self._breaker()
        if breaker is None:
            return
        if self in breaker.listeners:
            breaker.remove_listener(self)
        for name, door in self._doors.items():
            if breaker.__dict__.get(name) is door:
                del breaker.__dict__[name]

    # -- what the library tells -------------------------------------------------------------------

    def _call(self) -> Call | None:
        call = current.get()
        return call if call is not None and call.foreign is self.foreign else None

    def before_call(self, *_told: Any, **_more: Any) -> None:
        """The function is about to run."""
        if (call := self._call()) is not None:
            call.admit()

    def success(self, _breaker: Any) -> None:
        """It succeeded, or raised what does not count: its end will show."""
        if (call := self._call()) is not None:
            call.passed = True

    def failure(self, _breaker: Any, error: BaseException) -> None:
        """It failed."""
        if (call := self._call()) is not None:
            call.fail(error)

    def state_change(self, _breaker: Any, _old: Any, new: Any) -> None:
        """The state changed, by a call, by hand or in the shared storage."""
        try:
            state = self._state_of(new)
        except Exception as error:
            self.foreign.bus.count_error("bridges", error)
            return
        self.foreign.saw(state)

    def is_on_its_way(self) -> bool:
        """Whether the library calls itself, as it does when an open breaker lets a probe in."""
        call = self._call()
        return call is not None and not call.admitted and not call.over

    def leave(self, call: Call, error: BaseException) -> None:
        """The library raised this."""
        if isinstance(error, self.refusal) and not call.admitted:
            call.reject()
        call.end(error)


def _door(listener: Listener, breaker: Any) -> Callable[..., Any]:
    inner = breaker.call

    @wraps(inner)
    def call(func: Any, *args: Any, **kwargs: Any) -> Any:
        if listener.closed or listener.is_on_its_way():
            return inner(func, *args, **kwargs)
        outer, asked = current.get(), listener.foreign.ask()
        current.set(asked)
        try:
            result = inner(func, *args, **kwargs)
        except BaseException as error:
            current.set(outer)
            listener.leave(asked, error)
            raise
        current.set(outer)
        if asked.admitted and not asked.over and not asked.passed:
            # The library answers with a generator, and will judge the call when that ends.
            asked.__class__ = DroppableCall
            return _steps(listener, asked, result)
        asked.end()
        return result

    return call


def _adoor(listener: Listener, breaker: Any) -> Callable[..., Any]:
    inner = breaker.call_async

    @wraps(inner)
    async def call_async(func: Any, *args: Any, **kwargs: Any) -> Any:
        if listener.closed or listener.is_on_its_way():
            return await inner(func, *args, **kwargs)
        outer, asked = current.get(), listener.foreign.ask()
        current.set(asked)
        try:
            result = await inner(func, *args, **kwargs)
        except BaseException as error:
            current.set(outer)
            listener.leave(asked, error)
            raise
        current.set(outer)
        asked.end()
        return result

    return call_async


def _steps(
    listener: Listener, call: Call, steps: Generator[Any, Any, Any]
) -> Generator[Any, Any, Any]:
    """The library's own generator; while it runs, it works for this call."""

    def step(move: Callable[..., Any], *given: Any) -> Any:
        outer = current.get()
        current.set(call)
        try:
            return move(*given)
        finally:
            current.set(outer)

    try:
        item = step(next, steps)
        while True:
            try:
                sent = yield item
            except GeneratorExit:
                step(steps.close)
                raise
            except BaseException as error:
                item = step(steps.throw, error)
            else:
                item = step(steps.send, sent)
    except StopIteration as stop:
        call.end()
        return stop.value
    except BaseException as error:
        listener.leave(call, error)
        raise


def joined(listeners: Iterable[object]) -> Listener | None:
    """The one of ours among the listeners of a breaker, if it has joined already."""
    return next((each for each in listeners if isinstance(each, Listener)), None)
