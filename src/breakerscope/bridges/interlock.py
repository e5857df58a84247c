"""Breakers of interlock-cb join: `attach`.

Its listener is told of calls with their durations, of rejections and of changes of state, but not
of cancelled calls nor of calls in flight. So the engine of the one breaker gets a class of its own,
a child of the class that it had, which follows each call; and it gets a listener in front of the
one it had.
"""

# What the class above ours is, is known when a breaker comes.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUntypedBaseClass=false

from __future__ import annotations

from typing import Any, Unpack
from weakref import ref

from breakerscope.bridges.foreign import BLIND, Call, Look, current, policy_of
from breakerscope.bridges.handle import Bridge, BridgeOptions, Shop, lock, same
from breakerscope.bridges.libraries import INTERLOCK
from breakerscope.core.events import Cause, Outcome, State
from breakerscope.core.policy import Policy

_PARTS = ("_admit", "_admit_async", "_settle", "_release", "_listener", "_config")
_STATES = {state.value: state for state in State} | {"metrics_only": State.DISABLED}


def attach(breaker: Any, /, name: str, **options: Unpack[BridgeOptions]) -> Bridge:
    """Show an `interlock.CircuitBreaker` under this name, from now on.

    Everything else is as in `bridges.pybreaker.attach`.
    """
    library = INTERLOCK.require()
    INTERLOCK.check(breaker, (library.CircuitBreaker,), "_engine")
    engine = breaker._engine
    INTERLOCK.check(engine, (object,), *_PARTS)
    with lock:
        hook = getattr(type(engine), "_breakerscope_hook", None)
        if hook is not None:
            return same(hook, name)
        return _Hook(Shop(INTERLOCK, options), engine, name, library.CircuitOpenError).handle


class _Hook:
    def __init__(self, shop: Shop, engine: Any, name: str, refusal: type[Exception]) -> None:
        self.closed = False
        self.refusal = refusal
        self._shop = shop
        self._engine = engine
        self._before: type = type(engine)
        self.calls: dict[int, Call] = {}
        config = engine._config
        policy = policy_of(
            INTERLOCK.name,
            repr(config),
            failure_rate=config.failure_rate_threshold,
            slow_call=config.slow_call_duration_threshold,
            slow_call_rate=config.slow_call_rate_threshold,
        )
        known = ref(self)

        def look() -> Look:
            hook = known()
            return BLIND if hook is None else _look(hook._engine, policy)

        self.foreign = shop.show(self, name, _state(engine.state), look)
        self.handle = Bridge(name, self)
        self._watched = _watched(self._before, self)
        self.ears = _Ears(self, engine._listener)
        engine.__class__ = self._watched
        engine._listener = self.ears

    def undo(self) -> None:
        self._shop.registry.unbridge(self.foreign)
        engine = self._engine
        if type(engine) is self._watched:
            engine.__class__ = self._before
        if engine._listener is self.ears:
            engine._listener = self.ears.inner

    def trip(self) -> Cause:
        """Which of the two rules opened it just now."""
        look = self.foreign.look()
        ratio, limit = look.failure_ratio, look.policy.failure_rate
        if ratio is not None and limit is not None and ratio >= limit:
            return Cause.FAILURE_RATE
        return Cause.SLOW_CALL_RATE


def _state(state: Any) -> State:
    return _STATES[str(state.value).lower()]


def _look(engine: Any, policy: Policy) -> Look:
    config, window = engine._config, engine.snapshot()
    judged = window.total_calls >= config.minimum_number_of_calls
    return Look(
        open_wait=config.wait_duration_in_open,
        calls=window.total_calls,
        failures=window.failed_calls,
        slow_calls=window.slow_calls,
        failure_ratio=window.failure_rate if judged else None,
        slow_call_ratio=window.slow_call_rate if judged else None,
        policy=policy,
    )


class _Ears:
    """A listener in front of the user's own, which hears all that it heard before."""

    def __init__(self, hook: _Hook, inner: Any) -> None:
        self._hook = hook
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def on_call(self, **told: Any) -> None:
        """The library judged a call."""
        call = current.get()
        if call is not None and call.foreign is self._hook.foreign:
            outcome, error = told["outcome"], call.error
            if outcome.is_failure:
                call.fail(error, slow=outcome.is_slow)
            else:
                call.settle(Outcome.IGNORED if error else Outcome.SUCCESS, slow=outcome.is_slow)
        self._forward("on_call", told)

    def on_state_change(self, **told: Any) -> None:
        """The state changed."""
        hook = self._hook
        if not hook.closed and (new := _STATES.get(str(told["new"].value).lower())) is not None:
            hook.foreign.saw(new, hook.trip())
            # Told outside the library's lock: threads may come in another order.
            hook.foreign.saw(_state(hook._engine.state))
        self._forward("on_state_change", told)

    def _forward(self, hook: str, told: dict[str, Any]) -> None:
        method = getattr(self.inner, hook, None)
        if callable(method):
            method(**told)


def _watched(kind: Any, hook: _Hook) -> type:
    """A child of the engine's class that tells the hook."""
    foreign, calls = hook.foreign, hook.calls

    def refused(call: Call, error: BaseException) -> None:
        if isinstance(error, hook.refusal):
            call.reject(getattr(error, "retry_after", None))
        call.end(error)

    def admitted(call: Call, admission: Any) -> None:
        call.admit()
        if call.outbox:
            call.deliver()
        calls[id(admission)] = call

    class Watched(kind):  # type: ignore[misc]
        _breakerscope_hook = hook

        def _admit(self) -> Any:
            if hook.closed:
                return super()._admit()
            call, outer = foreign.ask(), current.get()
            current.set(call)
            try:
                admission = super()._admit()
            except BaseException as error:
                refused(call, error)
                raise
            finally:
                current.set(outer)
            admitted(call, admission)
            return admission

        async def _admit_async(self) -> Any:
            if hook.closed:
                return await super()._admit_async()
            call, outer = foreign.ask(), current.get()
            current.set(call)
            try:
                admission = await super()._admit_async()
            except BaseException as error:
                refused(call, error)
                raise
            finally:
                current.set(outer)
            admitted(call, admission)
            return admission

        def _settle(self, *, admission: Any, exception: Any, **told: Any) -> Any:
            call = calls.pop(id(admission), None)
            if call is None:
                return super()._settle(admission=admission, exception=exception, **told)
            outer = current.get()
            current.set(call)
            call.error = exception
            try:
                return super()._settle(admission=admission, exception=exception, **told)
            finally:
                current.set(outer)
                call.end()

        def _release(self, admission: Any) -> Any:
            call = calls.pop(id(admission), None)
            if call is not None:
                call.end()
            return super()._release(admission)

    Watched.__name__, Watched.__qualname__ = kind.__name__, kind.__qualname__
    Watched.__module__, Watched.__doc__ = kind.__module__, kind.__doc__
    return Watched
