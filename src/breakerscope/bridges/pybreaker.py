"""Breakers of pybreaker join: `attach`."""

from __future__ import annotations

from typing import Any, Unpack

from breakerscope.bridges.foreign import BLIND, Look, policy_of
from breakerscope.bridges.handle import Bridge, BridgeOptions, Shop, lock, same
from breakerscope.bridges.libraries import PYBREAKER
from breakerscope.bridges.listening import Listener, joined
from breakerscope.core.events import State


def attach(breaker: Any, /, name: str, **options: Unpack[BridgeOptions]) -> Bridge:
    """Show a `pybreaker.CircuitBreaker` under this name, from now on.

    Functions that it protects already are seen too. Attached again under the same name, it gives
    the same handle. Raises BridgeError for another object, another name for the same breaker or an
    unsupported version, ContradictionError if the name is taken, MissingExtraError, LabelError,
    BucketsError or BreakerNameError. Thread-safe.
    """
    library = PYBREAKER.require()
    PYBREAKER.check(breaker, (library.CircuitBreaker,), "add_listener", "_state", "_state_storage")

    def look(breaker: Any) -> Look:
        if breaker is None:
            return BLIND
        storage = breaker._state_storage
        # Of a shared storage nobody asks: that is a question to a server.
        local = isinstance(storage, library.CircuitMemoryStorage)
        return Look(
            open_wait=float(breaker.reset_timeout),
            consecutive_failures=storage.counter if local else None,
            policy=policy_of(PYBREAKER.name, breaker.fail_max, breaker.reset_timeout),
        )

    with lock:
        if (there := joined(breaker.listeners)) is not None:
            return same(there, name)
        made = Listener(
            Shop(PYBREAKER, options),
            breaker,
            name,
            refusal=library.CircuitBreakerError,
            state_of=_state_of,
            look=look,
        )
        return made.handle


def _state_of(state: Any) -> State:
    return State(state.name.replace("-", "_"))
