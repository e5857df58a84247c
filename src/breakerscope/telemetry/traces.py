"""OpenTelemetry: events on the span that is current when a call ends. No span of our own here.

The status of a span that is not ours is never touched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from breakerscope.catalogue import Attribute, SpanEventName, TraceKey
from breakerscope.events import (
    CallRejected,
    CallSettled,
    Event,
    EventType,
    FallbackUsed,
    Outcome,
    StateChanged,
)
from breakerscope.hub import NEVER, Guard, Hub, SubscribeOptions, Subscription

if TYPE_CHECKING:
    from opentelemetry.context import Context

    from breakerscope.telemetry.links import Links


def attach(hub: Hub, *, policy: str, events: str = "span") -> tuple[Subscription, ...]:
    """Put the events of all breakers on the current span, if it is recording.

    `policy`: "all", or "non_success" (calls that succeeded are left out). `events`: "span", "log"
    (log-based events instead), or "both". Raises MissingExtraError for logs and an old API.
    """
    from breakerscope.telemetry.links import Links

    current, ids, links = current_context(), trace_ids(sampled_only=True), Links()
    hub.trace_ids, hub.traced = ids, current
    outcomes = set(Outcome) if policy == "all" else set(Outcome) - {Outcome.SUCCESS}
    made: list[Subscription] = []
    if events != "span":
        from breakerscope.telemetry import otel_logs

        made.append(otel_logs.attach(hub, outcomes=outcomes))
    # A change of state is heard without a span too: the opening before it is no longer the last.
    when: dict[EventType, Guard] = dict.fromkeys((CallSettled, CallRejected, FallbackUsed), current)
    options: SubscribeOptions = {
        "name": "opentelemetry",
        "inline": True,
        "outcomes": outcomes,
        "when": when,
    }
    if events == "log":
        made.append(hub.subscribe(links, StateChanged, CallRejected, **options))
    else:
        made.append(hub.subscribe(_listener(current, links), **options))
    return tuple(made)


def detach(hub: Hub, subscriptions: Iterable[Subscription]) -> None:
    """Undo `attach`."""
    hub.trace_ids, hub.traced = None, NEVER
    for subscription in subscriptions:
        subscription.close()


def trace_ids(*, sampled_only: bool) -> Callable[[], Mapping[str, str] | None]:
    """A function that names the current span as exemplars and log lines do; None without a span."""
    from opentelemetry.trace import format_span_id, format_trace_id, get_current_span

    def current() -> Mapping[str, str] | None:
        context = get_current_span().get_span_context()
        if not context.is_valid or (sampled_only and not context.trace_flags.sampled):
            return None
        return {
            TraceKey.TRACE_ID.value: format_trace_id(context.trace_id),
            TraceKey.SPAN_ID.value: format_span_id(context.span_id),
        }

    return current


def current_context() -> Callable[[], Context]:
    """A way to the current OpenTelemetry context; it is empty, so false, where there is no span.

    The public way costs more than the rest of a protected call. The default runtime context keeps
    a mapping in one context variable; where that is not so, the public way is taken.
    """
    from opentelemetry import context

    runtime = getattr(context, "_RUNTIME_CONTEXT", None)
    variable = getattr(runtime, "_current_context", None)
    if variable is not None and hasattr(variable, "get") and not isinstance(runtime, type):
        quick: Callable[[], Any] = variable.get
        try:
            if isinstance(quick(), Mapping):
                return quick
        except LookupError:
            pass
    return context.get_current


def _listener(current: Callable[[], Context], links: Links) -> Callable[[Event], None]:
    from opentelemetry.trace import get_current_span

    def add_span_event(event: Event) -> None:
        span = get_current_span(current())
        if type(event) is CallSettled:
            if span.is_recording():
                span.add_event(CALL, _settled(event))
            return
        if span.is_recording():
            span.add_event(*describe(event))
        links(event)

    return add_span_event


# The keys as plain text: to hash a member of an enum costs a Python call for each key.
CALL, STATE_CHANGE = SpanEventName.CALL.value, SpanEventName.STATE_CHANGE.value
REJECTION, FALLBACK = SpanEventName.REJECTION.value, SpanEventName.FALLBACK.value
NAME, SEQ, STATE = Attribute.NAME.value, Attribute.SEQ.value, Attribute.STATE.value
PREVIOUS_STATE, CAUSE = Attribute.PREVIOUS_STATE.value, Attribute.CAUSE.value
OUTCOME, DURATION = Attribute.OUTCOME.value, Attribute.DURATION.value
SLOW, LATE = Attribute.SLOW.value, Attribute.LATE.value
RETRY_AFTER, ENFORCED = Attribute.RETRY_AFTER.value, Attribute.ENFORCED.value
OPEN_FOR, FAILURE_RATIO = Attribute.OPEN_FOR.value, Attribute.FAILURE_RATIO.value
REASON, ERROR_TYPE = Attribute.REASON.value, Attribute.ERROR_TYPE.value

Facts = dict[str, str | int | float | bool]


def describe(event: Event) -> tuple[str, Facts]:
    """The name and the attributes of a span event; attributes that say nothing are left out."""
    if isinstance(event, CallSettled):
        return CALL, _settled(event)
    if isinstance(event, CallRejected):
        return REJECTION, _rejected(event)
    if isinstance(event, StateChanged):
        return STATE_CHANGE, _changed(event)
    return FALLBACK, {
        NAME: event.breaker,
        SEQ: event.seq,
        OUTCOME: event.outcome._value_,
        ERROR_TYPE: event.error,
    }


def _settled(event: CallSettled) -> Facts:
    facts: Facts = {
        NAME: event.breaker,
        SEQ: event.seq,
        STATE: event.state._value_,
        OUTCOME: event.outcome._value_,
        DURATION: event.duration,
    }
    if event.error is not None:
        facts[ERROR_TYPE] = event.error
    if event.slow:
        facts[SLOW] = True
    if event.late:
        facts[LATE] = True
    return facts


def _rejected(event: CallRejected) -> Facts:
    facts: Facts = {
        NAME: event.breaker,
        SEQ: event.seq,
        STATE: event.state._value_,
        OUTCOME: Outcome.REJECTED._value_,
    }
    if event.retry_after is not None:
        facts[RETRY_AFTER] = event.retry_after
    if not event.enforced:
        facts[ENFORCED] = False
    return facts


def _changed(event: StateChanged) -> Facts:
    facts: Facts = {
        NAME: event.breaker,
        SEQ: event.seq,
        STATE: event.new._value_,
        PREVIOUS_STATE: event.old._value_,
        CAUSE: event.cause._value_,
    }
    if event.open_for is not None:
        facts[OPEN_FOR] = event.open_for
    if event.failure_ratio is not None:
        facts[FAILURE_RATIO] = event.failure_ratio
    if event.reason is not None:
        facts[REASON] = event.reason
    return facts
