"""structlog: one line for each change of state and failed call, a summary for rejections.

An application that has configured structlog gets the lines through its own processors. In any other
the lines go to `logging.getLogger("breakerscope")`, which says nothing unless somebody listens.
Rejections: the first one at once, then one line for each interval. `rejections` says how many
calls a line stands for, so the lines of a breaker always add up to the calls it refused.
"""

from __future__ import annotations

import logging
from typing import Any

from breakerscope.catalogue import LogEvent
from breakerscope.events import (
    CallRejected,
    CallSettled,
    Event,
    FallbackUsed,
    Outcome,
    State,
    StateChanged,
)
from breakerscope.hub import Guard, Hub, Subscription
from breakerscope.telemetry.traces import trace_ids

REJECTION_INTERVAL = 10.0
"""Seconds between two lines about rejections of one breaker."""

LOGGED_OUTCOMES = frozenset({Outcome.FAILURE})

WARNING_STATES = frozenset({State.OPEN, State.FORCED_OPEN})


def attach(hub: Hub) -> Subscription:
    """Log the events of all breakers, from a thread of its own and in the context of the call."""
    return hub.subscribe(
        _Writer(),
        CallSettled,
        CallRejected,
        StateChanged,
        name="structlog",
        outcomes=LOGGED_OUTCOMES,
        every=REJECTION_INTERVAL,
        when={CallSettled: _failures_are_logged()},
    )


def _failures_are_logged() -> Guard:
    """Says whether a line about a failure would go anywhere; if not, its event is not made."""
    from structlog import is_configured

    enabled = _standard_logger.isEnabledFor
    return lambda: is_configured() or enabled(logging.INFO)


class _Writer:
    """Writes one line for one event. Called by one thread."""

    def __init__(self) -> None:
        self._structlog_logger = _structlog_logger()
        self._rejected_before: dict[str, int] = {}
        self._trace_ids = trace_ids(sampled_only=False)

    def __call__(self, event: Event) -> None:
        if isinstance(event, StateChanged):
            self._summarise_rejections(event)
        level, name, keys = self._line(event)
        self._write(level, name, keys)

    def _summarise_rejections(self, event: StateChanged) -> None:
        """The calls refused since the last line about them, before it is too late to say."""
        if unsaid := self._rejections_since_last_line(event):
            keys = _common(event) | {"state": event.old.value, "rejections": unsaid}
            self._write("warning", LogEvent.CALL_REJECTED, keys)

    def _rejections_since_last_line(self, event: CallRejected | StateChanged) -> int:
        before = self._rejected_before.get(event.breaker, 0)
        self._rejected_before[event.breaker] = event.rejected
        # A breaker that was made anew under the same name counts from the beginning.
        return event.rejected - before if event.rejected >= before else event.rejected

    def _line(self, event: Event) -> tuple[str, LogEvent, dict[str, Any]]:
        keys = _common(event)
        if isinstance(event, StateChanged):
            keys |= {
                "state": event.new.value,
                "previous_state": event.old.value,
                "cause": event.cause.value,
                "calls": event.calls,
                "failures": event.failures,
                "slow_calls": event.slow_calls,
                "consecutive_failures": event.consecutive_failures,
                "failure_ratio": event.failure_ratio,
                "open_for": event.open_for,
                "reason": event.reason,
            }
            level = "warning" if event.new in WARNING_STATES else "info"
            return level, LogEvent.STATE_CHANGED, keys
        if isinstance(event, FallbackUsed):
            keys |= {"outcome": event.outcome.value, "error": event.error}
            return "debug", LogEvent.FALLBACK_USED, keys
        keys["state"] = event.state.value
        if isinstance(event, CallRejected):
            keys["retry_after"] = event.retry_after
            keys["rejections"] = self._rejections_since_last_line(event)
            keys["enforced"] = None if event.enforced else False
            return "warning", LogEvent.CALL_REJECTED, keys
        keys |= {
            "outcome": event.outcome.value,
            "duration": event.duration,
            "error": event.error,
            "slow": event.slow,
            "late": event.late,
        }
        if event.outcome is Outcome.SUCCESS:
            return "debug", LogEvent.CALL_SUCCEEDED, keys
        return "info", LogEvent.CALL_FAILED, keys

    def _write(self, level: str, name: LogEvent, keys: dict[str, Any]) -> None:
        import structlog

        told = {key: value for key, value in keys.items() if value is not None}
        told |= self._trace_ids() or {}
        if structlog.is_configured():
            getattr(self._structlog_logger, level)(name.value, **told)
        else:
            _standard_log(level, name.value, told)


_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING}


def _common(event: Event) -> dict[str, Any]:
    return {"breaker": event.breaker, "seq": event.seq, "at": event.at}


def _structlog_logger() -> Any:
    import structlog

    return structlog.get_logger("breakerscope")


_standard_logger = logging.getLogger("breakerscope")


def _standard_log(level: str, name: str, keys: dict[str, Any]) -> None:
    """The same facts for `logging`: readable as text, and each one an attribute of the record."""
    if _standard_logger.isEnabledFor(_LEVELS[level]):
        text = " ".join(f"{key}={value}" for key, value in keys.items())
        extra = {f"breakerscope_{key}": value for key, value in keys.items()}
        _standard_logger.log(_LEVELS[level], "%s %s", name, text, extra=extra)
