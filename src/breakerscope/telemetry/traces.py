"""OpenTelemetry: events on the span that is current when a call ends. No span of our own.

The status of a span that is not ours is never touched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from breakerscope.catalogue import Attribute, SpanEventName, TraceKey
from breakerscope.events import CallRejected, CallSettled, Event, FallbackUsed, Outcome
from breakerscope.hub import NEVER, Guard, Hub, Subscription

if TYPE_CHECKING:
    from opentelemetry.trace import Span


def attach(hub: Hub, *, policy: str) -> Subscription:
    """Put the events of all breakers on the current span, if it is recording.

    `policy`: "all", or "non_success" (calls that succeeded are left out).
    """
    guard, ids = context_guard(), trace_ids(sampled_only=True)
    hub.trace_ids, hub.traced = ids, guard
    outcomes = set(Outcome) if policy == "all" else set(Outcome) - {Outcome.SUCCESS}
    return hub.subscribe(
        _listener(), name="opentelemetry", inline=True, outcomes=outcomes, when=guard
    )


def detach(hub: Hub, subscription: Subscription) -> None:
    """Undo `attach`."""
    hub.trace_ids, hub.traced = None, NEVER
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


def context_guard() -> Guard:
    """Says cheaply whether any OpenTelemetry context is current; without one there is no span.

    The public way to the current span costs more than the rest of a protected call. The default
    runtime context keeps an empty mapping in one context variable; where that is not so, the
    public way is taken.
    """
    from opentelemetry import context, trace

    runtime = getattr(context, "_RUNTIME_CONTEXT", None)
    variable = getattr(runtime, "_current_context", None)
    if variable is not None and hasattr(variable, "get") and not isinstance(runtime, type):
        quick: Callable[[], Any] = variable.get
        try:
            if isinstance(quick(), Mapping):
                return quick
        except LookupError:
            return lambda: trace.get_current_span().is_recording()
    return lambda: trace.get_current_span().is_recording()


def _listener() -> Callable[[Event], None]:
    from opentelemetry.trace import get_current_span

    def add_span_event(event: Event) -> None:
        span: Span = get_current_span()
        if span.is_recording():
            span.add_event(*describe(event))

    return add_span_event


def describe(event: Event) -> tuple[str, dict[str, str | int | float | bool]]:
    """The name and the attributes of a span event; attributes that say nothing are left out."""
    facts: dict[str, str | int | float | bool | None] = {
        Attribute.NAME.value: event.breaker,
        Attribute.SEQ.value: event.seq,
    }
    if isinstance(event, CallSettled):
        name = SpanEventName.CALL
        facts |= {
            Attribute.STATE.value: event.state.value,
            Attribute.OUTCOME.value: event.outcome.value,
            Attribute.DURATION.value: event.duration,
            Attribute.ERROR_TYPE.value: event.error,
            Attribute.SLOW.value: event.slow or None,
            Attribute.LATE.value: event.late or None,
        }
    elif isinstance(event, CallRejected):
        name = SpanEventName.REJECTION
        facts |= {
            Attribute.STATE.value: event.state.value,
            Attribute.OUTCOME.value: Outcome.REJECTED.value,
            Attribute.RETRY_AFTER.value: event.retry_after,
            Attribute.ENFORCED.value: None if event.enforced else False,
        }
    elif isinstance(event, FallbackUsed):
        name = SpanEventName.FALLBACK
        facts |= {
            Attribute.OUTCOME.value: event.outcome.value,
            Attribute.ERROR_TYPE.value: event.error,
        }
    else:
        name = SpanEventName.STATE_CHANGE
        facts |= {
            Attribute.STATE.value: event.new.value,
            Attribute.PREVIOUS_STATE.value: event.old.value,
            Attribute.CAUSE.value: event.cause.value,
            Attribute.OPEN_FOR.value: event.open_for,
            Attribute.FAILURE_RATIO.value: event.failure_ratio,
            Attribute.REASON.value: event.reason,
        }
    return name.value, {key: value for key, value in facts.items() if value is not None}
