"""An event as OpenTelemetry tells it, on a span or log-based: its name and its attributes.

What was said as the program ran, an error or a reason, is escaped as far as UTF-8 cannot hold it:
the exporter would drop such an attribute, and log each one. The name of a breaker was checked when
it was made.
"""

from __future__ import annotations

from breakerscope.catalogue import Attribute, SpanEventName
from breakerscope.core.events import (
    CallRejected,
    CallSettled,
    Event,
    Outcome,
    PolicyChanged,
    StateChanged,
)
from breakerscope.names import encodable

# The keys as plain text: to hash a member of an enum costs a Python call for each key.
CALL, STATE_CHANGE = SpanEventName.CALL.value, SpanEventName.STATE_CHANGE.value
REJECTION, FALLBACK = SpanEventName.REJECTION.value, SpanEventName.FALLBACK.value
POLICY_CHANGE, CHANGES = SpanEventName.POLICY_CHANGE.value, Attribute.CHANGES.value
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
        return CALL, settled(event)
    if isinstance(event, CallRejected):
        return REJECTION, _rejected(event)
    if isinstance(event, StateChanged):
        return STATE_CHANGE, _changed(event)
    if isinstance(event, PolicyChanged):
        facts: Facts = {NAME: event.breaker, SEQ: event.seq, CHANGES: event.changes}
        if event.reason is not None:
            facts[REASON] = encodable(event.reason)
        return POLICY_CHANGE, facts
    return FALLBACK, {
        NAME: event.breaker,
        SEQ: event.seq,
        OUTCOME: event.outcome._value_,
        ERROR_TYPE: encodable(event.error),
    }


def settled(event: CallSettled) -> Facts:
    """The attributes of a call that ended, which is by far the most frequent event."""
    facts: Facts = {
        NAME: event.breaker,
        SEQ: event.seq,
        STATE: event.state._value_,
        OUTCOME: event.outcome._value_,
        DURATION: event.duration,
    }
    if event.error is not None:
        facts[ERROR_TYPE] = encodable(event.error)
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
        facts[REASON] = encodable(event.reason)
    return facts
