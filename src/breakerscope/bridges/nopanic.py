"""Breakers of nopanic join: `attach`.

The library's events tell of rejections and changes of state, but of no call, and by name only. So
the one breaker gets a class of its own, a child of the class that it had. What lets a call in
returns a text that says in which state; it carries our call to where the library judges it.
"""

# What the class above ours is, is known when a breaker comes.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUntypedBaseClass=false

from __future__ import annotations

import sys
from typing import Any, Unpack
from weakref import ref

from breakerscope.bridges.foreign import BLIND, Call, Look, current, policy_of
from breakerscope.bridges.handle import Bridge, BridgeOptions, Shop, lock, same
from breakerscope.bridges.libraries import NO_SLOW_CALLS, NOPANIC
from breakerscope.core.events import Cause, State
from breakerscope.core.policy import Policy

_PARTS = ("_before_call", "_on_success", "_on_failure", "_on_ignored", "_fire", "_window")


def attach(breaker: Any, /, name: str, **options: Unpack[BridgeOptions]) -> Bridge:
    """Show a `nopanic.CircuitBreaker` under this name, from now on.

    Until the bridge is closed, the class of the breaker is a child of its own class. Everything
    else is as in `bridges.pybreaker.attach`.
    """
    library = NOPANIC.require()
    NOPANIC.check(breaker, (library.CircuitBreaker,), *_PARTS)
    with lock:
        hook = getattr(type(breaker), "_breakerscope_hook", None)
        if hook is not None:
            return same(hook, name)
        return _Hook(Shop(NOPANIC, options), breaker, name, library.CircuitOpen).handle


class _Hook:
    def __init__(self, shop: Shop, breaker: Any, name: str, refusal: type[Exception]) -> None:
        self.closed = False
        self._shop = shop
        self._breaker = breaker
        self._before: type = type(breaker)
        slow = breaker.slow_call_duration
        if slow is None:
            shop.library = shop.library.without(NO_SLOW_CALLS)
        policy = policy_of(
            NOPANIC.name,
            breaker.min_calls,
            breaker.window,
            breaker.reset_timeout,
            breaker.half_open_max_calls,
            failure_rate=breaker.failure_threshold,
            slow_call=slow,
            slow_call_rate=None if slow is None else breaker.slow_call_threshold,
        )
        known = ref(self)

        def look() -> Look:
            hook = known()
            return BLIND if hook is None else _look(hook._breaker, policy)

        self.foreign = shop.show(self, name, State(breaker._state), look)
        self.handle = Bridge(name, self)
        self._watched = _watched(self._before, self, refusal)
        breaker.__class__ = self._watched

    def undo(self) -> None:
        self._shop.registry.unbridge(self.foreign)
        if type(self._breaker) is self._watched:
            self._breaker.__class__ = self._before


def _look(breaker: Any, policy: Policy) -> Look:
    # Not by its `metrics`: to ask for these opens the way for a probe.
    with breaker._lock:
        calls, failures, slow = breaker._window.totals(breaker._clock())
    tracked = policy.slow_call is not None
    judged = calls >= breaker.min_calls
    return Look(
        open_wait=breaker.reset_timeout,
        calls=calls,
        failures=failures,
        slow_calls=slow if tracked else None,
        failure_ratio=failures / calls if judged else None,
        slow_call_ratio=slow / calls if judged and tracked else None,
        policy=policy,
    )


class _Admitted(str):
    """In which state a call was let in, and which call it is."""

    __slots__ = ("call",)
    call: Call


def _watched(kind: Any, hook: _Hook, refusal: type[Exception]) -> type:
    """A child of the breaker's class that tells the hook."""
    foreign = hook.foreign

    class Watched(kind):  # type: ignore[misc]
        __slots__ = ()
        _breakerscope_hook = hook

        def _before_call(self, *args: Any) -> Any:
            if hook.closed:
                return super()._before_call(*args)
            call, outer = foreign.ask(), current.get()
            current.set(call)
            try:
                admitted = _Admitted(super()._before_call(*args))
            except refusal as error:
                forced = self._state == State.FORCED_OPEN.value
                call.reject(None if forced else getattr(error, "retry_after", None))
                call.end(error)
                raise
            finally:
                current.set(outer)
            call.admit()
            if call.outbox:
                call.deliver()
            admitted.call = call
            return admitted

        def _on_success(self, admitted: str, *elapsed: Any) -> Any:
            return self._breakerscope_judge(super()._on_success, admitted, elapsed)

        def _on_failure(self, admitted: str, *elapsed: Any) -> Any:
            call = getattr(admitted, "call", None)
            if call is not None:
                call.fail(sys.exc_info()[1], slow=self._breakerscope_slow(elapsed))
            return self._breakerscope_judge(super()._on_failure, admitted, elapsed)

        def _on_ignored(self, admitted: str) -> Any:
            call = getattr(admitted, "call", None)
            if call is not None:
                call.passed = True
                call.end(sys.exc_info()[1])
            return super()._on_ignored(admitted)

        def _fire(self, events: Any, *args: Any) -> Any:
            if not hook.closed:
                for _, new in events:
                    foreign.saw(new, self._breakerscope_trip())
                if events:
                    # Told outside the library's lock: threads may come in another order.
                    foreign.saw(self._state)
            return super()._fire(events, *args)

        def _breakerscope_judge(self, judge: Any, admitted: str, elapsed: Any) -> Any:
            call = getattr(admitted, "call", None)
            if call is None:
                return judge(admitted, *elapsed)
            outer = current.get()
            current.set(call)
            try:
                return judge(admitted, *elapsed)
            finally:
                current.set(outer)
                call.passed = True
                call.end(slow=self._breakerscope_slow(elapsed))

        def _breakerscope_slow(self, elapsed: Any) -> bool:
            threshold = self.slow_call_duration
            return bool(elapsed and threshold is not None and elapsed[0] is not None) and (
                elapsed[0] >= threshold
            )

        def _breakerscope_trip(self) -> Cause:
            look = foreign.look()
            ratio = look.failure_ratio
            by_failures = ratio is not None and ratio >= self.failure_threshold
            slow = look.policy.slow_call is not None and not by_failures
            return Cause.SLOW_CALL_RATE if slow else Cause.FAILURE_RATE

    Watched.__name__, Watched.__qualname__ = kind.__name__, kind.__qualname__
    Watched.__module__, Watched.__doc__ = kind.__module__, kind.__doc__
    return Watched
