"""OpenTelemetry: events on the span that is current when a call ends. No span of our own here.

The status of a span that is not ours is never touched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from breakerscope.core.checks import NEVER, Check
from breakerscope.core.events import (
    EVENT_TYPES,
    CallRejected,
    CallSettled,
    Event,
    EventType,
    Outcome,
    StateChanged,
)
from breakerscope.event_bus import EventBus, Subscription
from breakerscope.subscription_options import SubscribeOptions
from breakerscope.telemetry.otel_context import current_context, trace_ids
from breakerscope.telemetry.otel_events import CALL, describe, settled

if TYPE_CHECKING:
    from opentelemetry.context import Context

    from breakerscope.telemetry.links import Links


def attach(bus: EventBus, *, policy: str, events: str = "span") -> tuple[Subscription, ...]:
    """Put the events of all breakers on the current span, if it is recording.

    `policy`: "all", or "non_success" (calls that succeeded are left out). `events`: "span", "log"
    (log-based events instead), or "both". Raises MissingExtraError for logs and an old API.
    """
    from breakerscope.telemetry.links import Links

    current, ids, links = current_context(), trace_ids(sampled_only=True), Links()
    bus.trace_ids, bus.traced = ids, current
    outcomes = set(Outcome) if policy == "all" else set(Outcome) - {Outcome.SUCCESS}
    made: list[Subscription] = []
    if events != "span":
        from breakerscope.telemetry import otel_logs

        made.append(otel_logs.attach(bus, outcomes=outcomes))
    # A change of state is heard without a span too: the opening before it is no longer the last.
    when: dict[EventType, Check] = dict.fromkeys(EVENT_TYPES, current)
    del when[StateChanged]
    options: SubscribeOptions = {
        "name": "opentelemetry",
        "inline": True,
        "outcomes": outcomes,
        "when": when,
    }
    if events == "log":
        made.append(bus.subscribe(links, StateChanged, CallRejected, **options))
    else:
        made.append(bus.subscribe(_listener(current, links), **options))
    for subscription in made:
        subscription.drops_what_raises = True
    return tuple(made)


def detach(bus: EventBus, subscriptions: Iterable[Subscription]) -> None:
    """Undo `attach`."""
    bus.trace_ids, bus.traced = None, NEVER
    for subscription in subscriptions:
        subscription.close()


def _listener(current: Callable[[], Context], links: Links) -> Callable[[Event], None]:
    from opentelemetry.trace import get_current_span

    def add_span_event(event: Event) -> None:
        span = get_current_span(current())
        if type(event) is CallSettled:
            if span.is_recording():
                span.add_event(CALL, settled(event))
            return
        if span.is_recording():
            span.add_event(*describe(event))
        links(event)

    return add_span_event
