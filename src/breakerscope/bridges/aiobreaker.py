"""Breakers of aiobreaker join: `attach`."""

from __future__ import annotations

from typing import Any, Unpack

from breakerscope.bridges.foreign import BLIND, Look, policy_of
from breakerscope.bridges.handle import Bridge, BridgeOptions, Shop, lock, same
from breakerscope.bridges.libraries import AIOBREAKER
from breakerscope.bridges.listening import Listener, joined
from breakerscope.core.events import State


def attach(breaker: Any, /, name: str, **options: Unpack[BridgeOptions]) -> Bridge:
    """Show an `aiobreaker.CircuitBreaker` under this name, from now on.

    Everything else is as in `bridges.pybreaker.attach`.
    """
    library = AIOBREAKER.require()
    AIOBREAKER.check(breaker, (library.CircuitBreaker,), "add_listener", "_state", "call_async")

    def look(breaker: Any) -> Look:
        if breaker is None:
            return BLIND
        storage = breaker._state_storage
        # Of a shared storage nobody asks: that is a question to a server.
        local = type(storage).__name__ == "CircuitMemoryStorage"
        return Look(
            open_wait=breaker.timeout_duration.total_seconds(),
            consecutive_failures=storage.counter if local else None,
            policy=policy_of(AIOBREAKER.name, breaker.fail_max, breaker.timeout_duration),
        )

    with lock:
        if (there := joined(breaker.listeners)) is not None:
            return same(there, name)
        made = Listener(
            Shop(AIOBREAKER, options),
            breaker,
            name,
            refusal=library.CircuitBreakerError,
            state_of=_state_of,
            look=look,
        )
        return made.handle


def _state_of(state: Any) -> State:
    return State(state.state.name.lower())
