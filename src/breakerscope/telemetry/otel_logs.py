"""OpenTelemetry: the span events as log-based events, which is where the specification is heading.

The Logs API of OpenTelemetry for Python has an underscore in its name and has changed before, so it
is asked for what is needed here when it is switched on.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Collection
from contextlib import suppress
from importlib.metadata import version
from typing import Any

from breakerscope.core.events import (
    CallRejected,
    CallSettled,
    Event,
    Outcome,
    PolicyChanged,
    State,
    StateChanged,
)
from breakerscope.event_bus import EventBus, Subscription
from breakerscope.telemetry.errors import MissingExtraError
from breakerscope.telemetry.otel_context import current_context
from breakerscope.telemetry.otel_events import describe

NEEDED = "1.38"
"""The first opentelemetry-api whose loggers take the name of an event."""

WARNING_STATES = frozenset({State.OPEN, State.FORCED_OPEN})


def attach(bus: EventBus, *, outcomes: Collection[Outcome]) -> Subscription:
    """Emit the events of all breakers through the global LoggerProvider, with a span or without.

    The name and the attributes are those of the span event; the ids of the current span, if there
    is one, are in the record. Raises MissingExtraError for an API that is too old.
    """
    # No guard: whether a logger is enabled, the SDK asks of foreign processors, and they may raise.
    subscription = bus.subscribe(
        _listener(_logger()), name="opentelemetry-logs", inline=True, outcomes=outcomes
    )
    subscription.drops_what_raises = True
    return subscription


def _logger() -> Any:
    with suppress(ImportError, AttributeError):
        logs: Any = importlib.import_module("opentelemetry._logs")
        if "event_name" in inspect.signature(logs.Logger.emit).parameters:
            return logs.get_logger("breakerscope", version("breakerscope"))
    raise MissingExtraError(
        'events="log"',
        f"opentelemetry-api {NEEDED} or newer, found {version('opentelemetry-api')}",
        f"'opentelemetry-api>={NEEDED}'",
    )


def _listener(logger: Any) -> Callable[[Event], None]:
    from opentelemetry._logs import SeverityNumber

    current = current_context()

    def severity(event: Event) -> SeverityNumber:
        if isinstance(event, CallRejected):
            return SeverityNumber.WARN
        if isinstance(event, StateChanged):
            return SeverityNumber.WARN if event.new in WARNING_STATES else SeverityNumber.INFO
        failed = isinstance(event, CallSettled) and event.outcome is Outcome.FAILURE
        if failed or isinstance(event, PolicyChanged):
            return SeverityNumber.INFO
        return SeverityNumber.DEBUG

    def emit(event: Event) -> None:
        name, facts = describe(event)
        logger.emit(
            timestamp=int(event.at * 1e9),
            context=current(),
            severity_number=severity(event),
            attributes=facts,
            event_name=name,
        )

    return emit
