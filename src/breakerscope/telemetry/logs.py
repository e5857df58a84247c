"""structlog: one line for each change of state and failed call, a summary for rejections.

An application that has configured structlog gets the lines through its own processors. In any other
the lines go to `logging.getLogger("breakerscope")`, which says nothing unless somebody listens.
Rejections: the first one at once, then one line for each interval. `rejections` says how many
calls a line stands for. What no line has told yet is told when the state changes, or at the end, so
the lines of a breaker add up to the calls it refused. Other
lines can be sampled: of each kind and breaker the first one is written, then every so many-th.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterable, Mapping
from math import ceil
from typing import Any, TypeVar

from breakerscope.catalogue import LogEvent, LogKey
from breakerscope.core.checks import Check
from breakerscope.core.events import (
    CallRejected,
    CallSettled,
    Event,
    EventType,
    FallbackUsed,
    Outcome,
    PolicyChanged,
    State,
    StateChanged,
)
from breakerscope.core.reading import WatchedBreaker
from breakerscope.event_bus import EventBus, Subscription
from breakerscope.names import readable
from breakerscope.telemetry.log_settings import OFF, LogLevel, LogSettings
from breakerscope.telemetry.otel_context import trace_ids

K = TypeVar("K")

MAX_REMEMBERED = 10_000
"""How many breakers the writer of lines can tell apart at once."""

ALARMING_STATES = frozenset({State.OPEN, State.FORCED_OPEN})

LOG_EVENTS: Mapping[Outcome, LogEvent] = {
    Outcome.SUCCESS: LogEvent.CALL_SUCCEEDED,
    Outcome.FAILURE: LogEvent.CALL_FAILED,
    Outcome.IGNORED: LogEvent.CALL_IGNORED,
    Outcome.CANCELLED: LogEvent.CALL_CANCELLED,
}
"""How the line about a call that was admitted is called."""

OF_TYPE: Mapping[EventType, tuple[LogEvent, ...]] = {
    CallSettled: tuple(LOG_EVENTS.values()),
    CallRejected: (LogEvent.CALL_REJECTED,),
    StateChanged: (LogEvent.STATE_CHANGED,),
    FallbackUsed: (LogEvent.FALLBACK_USED,),
    PolicyChanged: (LogEvent.POLICY_CHANGED,),
}


def attach(bus: EventBus, settings: LogSettings) -> Attached:
    """Log the events of all breakers, from a thread of its own and in the context of the call."""
    types = [t for t, names in OF_TYPE.items() if any(settings.level(n) != OFF for n in names)]
    writer = _Writer(settings, lambda: bus.count_dropped("structlog"))
    subscription = bus.subscribe(
        writer,
        # With no type named, the bus would take all of them.
        *(types or [CallSettled]),
        name="structlog",
        outcomes={o for o, name in LOG_EVENTS.items() if settings.level(name) != OFF},
        every=settings.rejections_every,
        when={CallSettled: _calls_are_logged(settings)},
    )
    subscription.drops_what_raises = True
    return Attached(bus, subscription, writer)


class Attached:
    """The log lines of a process, until `close`."""

    def __init__(self, bus: EventBus, subscription: Subscription, writer: _Writer) -> None:
        self._bus = bus
        self._subscription = subscription
        self._writer = writer

    def close(self, breakers: Iterable[WatchedBreaker], wait: float) -> None:
        """Stop, after the lines of what has happened so far, and the last ones about rejections.

        Waits up to `wait` seconds for them. Closing twice is harmless.
        """
        if self._subscription.close(wait):
            try:
                self._writer.finish(breakers)
            except Exception as error:
                self._bus.count_error(self._subscription.name, error)


def _calls_are_logged(settings: LogSettings) -> Check:
    """Says whether a line about a call would go anywhere; if not, its event is not made."""
    from structlog import is_configured

    levels = [_LEVELS[level] for n in LOG_EVENTS.values() if (level := settings.level(n)) != OFF]
    loudest = max(levels, default=0)
    return lambda: is_configured() or _is_enabled(loudest)


def _is_enabled(level: int) -> bool:
    """As `isEnabledFor`, which may take the lock of `logging` in a way that an interrupt can lose:
    this is asked in the thread of the call.
    """
    logger = _standard_logger
    if logger.disabled:
        # The line goes nowhere, and is counted as lost.
        return True
    if logger.manager.disable >= level:
        return False
    return level >= logger.getEffectiveLevel()


class _Writer:
    """Writes one line for one event. Called by one thread."""

    def __init__(self, settings: LogSettings, count_dropped: Callable[[], None]) -> None:
        self._settings = settings
        self._count_dropped = count_dropped
        self._structlog_logger = _structlog_logger()
        self._rejected_before: dict[str, int] = {}
        self._seen: dict[tuple[str, LogEvent], int] = {}
        self._trace_ids = trace_ids(sampled_only=False)

    def __call__(self, event: Event) -> None:
        keys: dict[LogKey, Any] = {
            LogKey.BREAKER: event.breaker,
            LogKey.SEQ: event.seq,
            LogKey.AT: event.at,
        }
        if isinstance(event, StateChanged):
            self._write_rejections(event, keys)
            level = self._settings.level(
                LogEvent.STATE_CHANGED, alarming=event.new in ALARMING_STATES
            )
            self._write(level, LogEvent.STATE_CHANGED, keys | _of_change(event))
        elif isinstance(event, CallRejected):
            self._write_rejections(event, keys)
        elif isinstance(event, FallbackUsed):
            self._write_sample(LogEvent.FALLBACK_USED, keys | _of_fallback(event))
        elif isinstance(event, PolicyChanged):
            keys |= {LogKey.CHANGES: event.changes, LogKey.REASON: event.reason}
            level = self._settings.level(LogEvent.POLICY_CHANGED)
            self._write(level, LogEvent.POLICY_CHANGED, keys)
        else:
            self._write_sample(LOG_EVENTS[event.outcome], keys | _of_call(event))

    def _write_rejections(
        self, event: CallRejected | StateChanged, keys: dict[LogKey, Any]
    ) -> None:
        """The calls refused since the last line about them. A change of state ends the row."""
        unsaid = self._since_last_line(event.breaker, event.rejected)
        if not unsaid:
            return
        keys = keys | {LogKey.STATE: _state_of_refusal(event), LogKey.REJECTIONS: unsaid}
        if isinstance(event, CallRejected):
            keys |= {
                LogKey.RETRY_AFTER: event.retry_after,
                LogKey.ENFORCED: None if event.enforced else False,
            }
        self._write(self._settings.level(LogEvent.CALL_REJECTED), LogEvent.CALL_REJECTED, keys)

    def finish(self, breakers: Iterable[WatchedBreaker]) -> None:
        """What no line has told yet of the rejections of these breakers."""
        for breaker in breakers:
            reading = breaker.read()
            rejected = reading.calls[Outcome.REJECTED] + reading.would_reject
            if unsaid := self._since_last_line(breaker.name, rejected):
                keys = {
                    LogKey.BREAKER: breaker.name,
                    LogKey.STATE: reading.state.value,
                    LogKey.REJECTIONS: unsaid,
                }
                level = self._settings.level(LogEvent.CALL_REJECTED)
                self._write(level, LogEvent.CALL_REJECTED, keys)

    def _since_last_line(self, breaker: str, rejected: int) -> int:
        before = self._rejected_before.pop(breaker, 0)
        _remember(self._rejected_before, breaker, rejected)
        # A breaker that was made anew under the same name counts from the beginning.
        return rejected - before if rejected >= before else rejected

    def _write_sample(self, name: LogEvent, keys: dict[LogKey, Any]) -> None:
        share = self._settings.share(name)
        if share < 1:
            seen = self._seen.pop((keys[LogKey.BREAKER], name), 0) + 1
            _remember(self._seen, (keys[LogKey.BREAKER], name), seen)
            if ceil(seen * share) == ceil((seen - 1) * share):
                return
            keys = keys | {LogKey.SAMPLE_RATE: share}
        self._write(self._settings.level(name), name, keys)

    def _write(self, level: LogLevel, name: LogEvent, keys: dict[LogKey, Any]) -> None:
        import structlog

        if level == OFF:
            return
        told = {key.value: readable(value) for key, value in keys.items() if value is not None}
        told |= self._trace_ids() or {}
        if structlog.is_configured():
            getattr(self._structlog_logger, level)(name.value, **told)
        else:
            self._standard_log(_LEVELS[level], name.value, told)

    def _standard_log(self, level: int, name: str, keys: dict[str, Any]) -> None:
        """The same facts for `logging`: readable as text, and each an attribute of the record."""
        if _standard_logger.disabled:
            # `dictConfig` does that to every logger that exists and that it does not name.
            self._count_dropped()
        elif _standard_logger.isEnabledFor(level):
            text = " ".join(f"{key}={_quoted(value)}" for key, value in keys.items())
            extra = {f"breakerscope_{key}": value for key, value in keys.items()}
            _standard_logger.log(level, "%s %s", name, text, extra=extra)


def _remember(counts: dict[K, int], key: K, count: int) -> None:
    """Breakers by key come and go, so the one that was not heard of longest is forgotten."""
    counts[key] = count
    if len(counts) > MAX_REMEMBERED:
        del counts[next(iter(counts))]


def _state_of_refusal(event: CallRejected | StateChanged) -> str:
    return event.state.value if isinstance(event, CallRejected) else event.old.value


def _of_change(event: StateChanged) -> dict[LogKey, Any]:
    return {
        LogKey.STATE: event.new.value,
        LogKey.PREVIOUS_STATE: event.old.value,
        LogKey.CAUSE: event.cause.value,
        LogKey.CALLS: event.calls,
        LogKey.FAILURES: event.failures,
        LogKey.SLOW_CALLS: event.slow_calls,
        LogKey.CONSECUTIVE_FAILURES: event.consecutive_failures,
        LogKey.FAILURE_RATIO: event.failure_ratio,
        LogKey.SLOW_CALL_RATIO: event.slow_call_ratio,
        LogKey.OPEN_FOR: event.open_for,
        LogKey.REASON: event.reason,
    }


def _of_fallback(event: FallbackUsed) -> dict[LogKey, Any]:
    return {LogKey.OUTCOME: event.outcome.value, LogKey.ERROR: event.error}


def _of_call(event: CallSettled) -> dict[LogKey, Any]:
    return {
        LogKey.STATE: event.state.value,
        LogKey.OUTCOME: event.outcome.value,
        LogKey.DURATION: event.duration,
        LogKey.ERROR: event.error,
        LogKey.SLOW: event.slow,
        LogKey.LATE: event.late,
    }


_LEVELS: Mapping[LogLevel, int] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "critical": logging.CRITICAL,
}


def _structlog_logger() -> Any:
    import structlog

    return structlog.get_logger("breakerscope")


_standard_logger = logging.getLogger("breakerscope")


_BARE = re.compile(r'[^\s"=]+')


def _quoted(value: object) -> object:
    """In quotes where it could be taken for more than one value, as logfmt does."""
    if isinstance(value, str) and not _BARE.fullmatch(value):
        return json.dumps(value, ensure_ascii=False)
    return value
