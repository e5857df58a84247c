"""Breakers of purgatory join: `attach`, once for a factory and all its circuits.

Its listeners are told of failures and changes of state, but of no success and no rejection. A
factory makes a breaker for each call, by `get_breaker`. So that is wrapped: the breaker it gives
works on a context that looks on, in front of the real one.
"""

# What the class above ours is, is known when a breaker comes.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUntypedBaseClass=false

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from importlib import import_module
from types import TracebackType
from typing import Any, Unpack
from weakref import ref

from breakerscope.bridges.foreign import Blocks, Call, ForeignBreaker, Look, current, policy_of
from breakerscope.bridges.handle import Bridge, BridgeOptions, Shop, lock, same
from breakerscope.bridges.libraries import PURGATORY
from breakerscope.core.events import State
from breakerscope.names import checked_name, escaped

_STATES = {"closed": State.CLOSED, "opened": State.OPEN, "half-opened": State.HALF_OPEN}


def attach(factory: Any, /, name: str = "", **options: Unpack[BridgeOptions]) -> Bridge:
    """Show all circuits of a purgatory factory, sync or async, from now on.

    A circuit has its own name; `name`, if given, comes before it with a colon: "shop:payments".
    What cannot be in the name of a breaker is escaped in that of a circuit, as in a key of
    `breakers_per`. Everything else is as in `bridges.pybreaker.attach`.
    """
    library = PURGATORY.require()
    if name:
        checked_name(name)
    kinds = (library.AsyncCircuitBreakerFactory, library.SyncCircuitBreakerFactory)
    PURGATORY.check(factory, kinds, "get_breaker")
    with lock:
        hook = getattr(factory.__dict__.get("get_breaker"), "_breakerscope_hook", None)
        if hook is not None:
            return same(hook, name)
        return _Hook(Shop(PURGATORY, options), factory, name).handle


class _Hook:
    def __init__(self, shop: Shop, factory: Any, name: str) -> None:
        self.closed = False
        # The state of an open circuit is itself the exception.
        self.refusal: type[Exception] = import_module("purgatory.domain.model").OpenedState
        self.bus = shop.bus
        self._shop = shop
        self._factory = ref(factory)
        self._circuits: dict[str, tuple[ForeignBreaker, _Last]] = {}
        self.handle = Bridge(name, self)
        self._door = _door(self, factory)
        factory.get_breaker = self._door

    def undo(self) -> None:
        for foreign, _ in self._circuits.values():
            self._shop.registry.unbridge(foreign)
        factory: Any = self._factory()
        if factory is not None and factory.__dict__.get("get_breaker") is self._door:
            del factory.get_breaker

    def watch(self, breaker: Any) -> Any:
        """The same breaker, looked at. A circuit whose name is taken goes without."""
        if not self.closed and not isinstance(breaker.context, _Watched):
            try:
                foreign, last = self._circuit(breaker.context)
            except Exception as error:
                self.bus.count_error("bridges", error)
            else:
                breaker.context = _Watched(self, breaker.context, foreign, last)
        return breaker

    def _circuit(self, context: Any) -> tuple[ForeignBreaker, _Last]:
        circuit = context.name
        if circuit not in self._circuits:
            with lock:
                if circuit not in self._circuits:
                    prefix, last = self.handle.name, _Last(context)
                    name = f"{prefix}:{escaped(circuit)}" if prefix else escaped(circuit)
                    foreign = self._shop.show(self, name, _STATES[context.state], last)
                    self._circuits[circuit] = foreign, last
        return self._circuits[circuit]


def _door(hook: _Hook, factory: Any) -> Callable[..., Any]:
    inner = factory.get_breaker
    if inspect.iscoroutinefunction(inner):

        @wraps(inner)
        async def get_breaker_async(*args: Any, **kwargs: Any) -> Any:
            return hook.watch(await inner(*args, **kwargs))

        get_breaker_async._breakerscope_hook = hook  # type: ignore[attr-defined]
        return get_breaker_async

    @wraps(inner)
    def get_breaker(*args: Any, **kwargs: Any) -> Any:
        return hook.watch(inner(*args, **kwargs))

    get_breaker._breakerscope_hook = hook  # type: ignore[attr-defined]
    return get_breaker


class _Last:
    """The context of a circuit that was used last: a shared store makes a new one for each call."""

    def __init__(self, context: Any) -> None:
        self.context = context

    def __call__(self) -> Look:
        context = self.context
        return Look(
            open_wait=float(context.ttl),
            consecutive_failures=context.failure_count,
            policy=policy_of(PURGATORY.name, context.threshold, context.ttl),
        )


class _Watched:
    """Stands in front of a context; what it does not know itself, the context knows."""

    def __init__(self, hook: _Hook, context: Any, foreign: ForeignBreaker, last: _Last) -> None:
        self._hook = hook
        self._context = context
        self._foreign = foreign
        self._blocks = Blocks()
        last.context = context

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    def __enter__(self) -> Any:
        context, foreign = self._context, self._foreign
        if self._hook.closed:
            context.__enter__()
            return self
        call = foreign.ask()
        outer = current.get()
        current.set(call)
        try:
            context.__enter__()
        except BaseException as error:
            self._saw()
            if isinstance(error, self._hook.refusal):
                call.reject()
            call.end(error)
            raise
        else:
            self._saw()
            call.admit()
        finally:
            current.set(outer)
        self._blocks.enter(call)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> Any:
        context = self._context
        call = self._blocks.leave()
        if call is None:
            return context.__exit__(kind, error, traceback)
        outer = current.get()
        current.set(call)
        raised = error
        try:
            if error is None:
                call.passed = True
                done = context.handle_end_request()
            else:
                # The rule is the context's own; the verdict passes by the state that we hand to it.
                done = type(context).handle_exception(_Judged(context, call), error)
            self._saw()
        except BaseException as unexpected:
            raised = unexpected
            raise
        else:
            return done
        finally:
            current.set(outer)
            call.end(raised)

    def _saw(self) -> None:
        state = _STATES.get(self._context.state)
        if state is not None:
            self._foreign.saw(state)


class _Judged:
    """A context whose state notes what it is told, before the real one is told."""

    def __init__(self, context: Any, call: Call) -> None:
        self._context = context
        self._call = call

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    @property
    def _state(self) -> Any:
        return self

    def handle_exception(self, _context: Any, error: BaseException) -> Any:
        self._call.fail(error)
        return self._context._state.handle_exception(self._context, error)

    def handle_end_request(self, _context: Any) -> Any:
        self._call.passed = True
        return self._context._state.handle_end_request(self._context)
