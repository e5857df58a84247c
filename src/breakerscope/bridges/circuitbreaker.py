"""Breakers of circuitbreaker join: `attach`.

The library tells nobody anything. So the one breaker gets a class of its own, a child of the class
that it had, which listens where the library goes: into and out of the call, `reset`, and `opened`,
which a protected function asks before each call.
"""

# What the class above ours is, is known when a breaker comes.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUntypedBaseClass=false

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any, Unpack
from weakref import ref

from breakerscope.bridges.foreign import BLIND, Blocks, Call, Look, current, policy_of
from breakerscope.bridges.handle import Bridge, BridgeOptions, Shop, lock, same
from breakerscope.bridges.libraries import CIRCUITBREAKER
from breakerscope.core.events import State


def attach(breaker: Any, /, name: str, **options: Unpack[BridgeOptions]) -> Bridge:
    """Show a `circuitbreaker.CircuitBreaker` under this name, from now on.

    `CircuitBreakerMonitor.get(...)` finds the one of a decorated function. Until the bridge is
    closed, the class of the breaker is a child of its own class. Everything else is as in
    `bridges.pybreaker.attach`.
    """
    library = CIRCUITBREAKER.require()
    CIRCUITBREAKER.check(breaker, (library.CircuitBreaker,), "_state", "_recovery_timeout", "reset")
    with lock:
        hook = getattr(type(breaker), "_breakerscope_hook", None)
        if hook is not None:
            return same(hook, name)
        return _Hook(Shop(CIRCUITBREAKER, options), breaker, name, vars(library)).handle


class _Hook:
    def __init__(self, shop: Shop, breaker: Any, name: str, library: dict[str, Any]) -> None:
        known = ref(breaker)
        self.closed = False
        self._shop = shop
        self._breaker = known
        self._before: type = type(breaker)
        # By frame where the library opens the block: generators come and go in any order.
        self.calls: dict[int, list[Call]] = {}
        self.blocks = Blocks()

        def look() -> Look:
            there: Any = known()
            if there is None:
                return BLIND
            wait = there._recovery_timeout
            return Look(
                open_wait=float(wait),
                consecutive_failures=there._failure_count,
                policy=policy_of(CIRCUITBREAKER.name, there._failure_threshold, wait),
            )

        self.foreign = shop.show(self, name, State(breaker._state), look)
        self.handle = Bridge(name, self)
        self._watched = _watched(self._before, self, library)
        breaker.__class__ = self._watched

    def undo(self) -> None:
        self._shop.registry.unbridge(self.foreign)
        breaker: Any = self._breaker()
        if breaker is not None and type(breaker) is self._watched:
            breaker.__class__ = self._before

    # -- a call -----------------------------------------------------------------------------------

    def enter(self, frame: int | None) -> None:
        call = self.foreign.ask()
        call.admit()
        if frame is not None:
            self.calls.setdefault(frame, []).append(call)
        else:
            self.blocks.enter(call)

    def left(self, frame: int | None) -> Call | None:
        if frame is not None:
            calls = self.calls.get(frame)
            if not calls:
                return None
            call = calls.pop()
            if not calls:
                del self.calls[frame]
            return call
        return self.blocks.leave()

    def asked(self, *, opened: bool, fallback: object) -> None:
        call = self.foreign.ask()
        outer = current.get()
        current.set(call)
        if opened:
            call.reject()
        else:
            self.foreign.saw(State.HALF_OPEN)
        current.set(outer)
        call.deliver()
        if opened and fallback:
            self.foreign.fallback_used("circuitbreaker.CircuitBreakerError")


def _watched(kind: Any, hook: _Hook, library: dict[str, Any]) -> type:
    """A child of the breaker's class that tells the hook."""

    def frame_of_library(depth: int) -> int | None:
        frame = sys._getframe(depth + 1)
        return id(frame) if frame.f_globals is library else None

    class Watched(kind):  # type: ignore[misc]
        __slots__ = ()
        _breakerscope_hook = hook

        @property
        def opened(self) -> Any:
            opened = super().opened
            if (opened or hook.foreign.state is State.OPEN) and not hook.closed:
                asking = sys._getframe(1)
                if asking.f_globals is library and asking.f_code.co_name.endswith("wrapper"):
                    hook.asked(opened=bool(opened), fallback=self._fallback_function)
            return opened

        def __enter__(self) -> Any:
            entered = super().__enter__()
            if not hook.closed:
                hook.enter(frame_of_library(1))
            return entered

        def __exit__(
            self,
            kind: type[BaseException] | None,
            error: BaseException | None,
            traceback: TracebackType | None,
        ) -> Any:
            call = hook.left(frame_of_library(1))
            if call is None:
                return super().__exit__(kind, error, traceback)
            outer = current.get()
            current.set(call)
            call.error = raised = error
            try:
                swallowed = super().__exit__(kind, error, traceback)
            except BaseException as unexpected:
                raised = unexpected
                raise
            else:
                call.passed = True
                hook.foreign.saw(self._state)
                return swallowed
            finally:
                current.set(outer)
                call.end(raised)

        def _CircuitBreaker__call_failed(self) -> Any:  # noqa: N802 - the library's private one
            call = current.get()
            if call is not None and call.foreign is hook.foreign:
                call.fail(call.error)
            return super()._CircuitBreaker__call_failed()

        def reset(self) -> Any:
            done = super().reset()
            if not hook.closed:
                hook.foreign.saw(State.CLOSED)
            return done

    Watched.__name__, Watched.__qualname__ = kind.__name__, kind.__qualname__
    Watched.__module__, Watched.__doc__ = kind.__module__, kind.__doc__
    return Watched
