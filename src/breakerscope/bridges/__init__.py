"""Breakers of other libraries join: their calls become our events, metrics, span events and logs.

`bridges.pybreaker.attach(breaker, name="payments")`, and so for circuitbreaker, aiobreaker,
purgatory, nopanic and interlock. The library goes on deciding; its exceptions, results and states
pass through untouched. What a library cannot tell is absent in the metrics, never a zero.
"""

from __future__ import annotations

from breakerscope.bridges import (
    aiobreaker,
    circuitbreaker,
    interlock,
    nopanic,
    purgatory,
    pybreaker,
)
from breakerscope.bridges.handle import Bridge, BridgeOptions
from breakerscope.bridges.libraries import BridgeError

__all__ = [
    "Bridge",
    "BridgeError",
    "BridgeOptions",
    "aiobreaker",
    "circuitbreaker",
    "interlock",
    "nopanic",
    "purgatory",
    "pybreaker",
]
