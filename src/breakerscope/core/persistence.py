"""The state of a state machine as plain data, and back. What `snapshots` keeps and hands on.

Times are durations, so another process can use them.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import Any

from breakerscope.core.events import State
from breakerscope.core.manual_control import ControlledStateMachine


def dump(machine: ControlledStateMachine, now: float) -> dict[str, Any]:
    """The whole state."""
    now = machine.advance(now)
    return {
        "state": machine.state.value,
        "rows": machine.window.dump(),
        "consecutive_failures": machine.consecutive_failures,
        "wait": machine.wait,
        "base_wait": machine._base_wait,
        "open_for": max(machine._open_until - now, 0.0) if machine.state is State.OPEN else None,
        "closed_for": None if machine._closed_at == -inf else now - machine._closed_at,
        "ramp_for": max(machine._ramp_until - now, 0.0),
        "probe_successes": machine.probe_successes,
        "probe_failures": machine._probe_failures,
        "openings": machine._openings,
    }


def load(machine: ControlledStateMachine, data: Mapping[str, Any], now: float) -> None:
    """Take over a dumped state. Leases stay with those who hold them: they are not taken over."""
    now = machine.advance(now)
    machine.adopt(State(data["state"]), data["open_for"], now)
    machine.window.load(data["rows"])
    machine.consecutive_failures = data["consecutive_failures"]
    machine.wait = data["wait"]
    machine._base_wait = data["base_wait"]
    machine._open_until = now + (data["open_for"] or 0.0)
    machine._closed_at = -inf if data["closed_for"] is None else now - data["closed_for"]
    machine._ramp_until = now + min(data["ramp_for"], machine.policy.ramp_up)
    machine.probe_successes = data["probe_successes"]
    # Those of 0.1.0 do not have these.
    machine._probe_failures = data.get("probe_failures", 0)
    machine._openings = data.get("openings", int(data["wait"] > 0))
