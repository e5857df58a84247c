"""Every name that leaves the process, once: metrics, labels, log events, span events, attributes.

Exporters make their instruments by reading this file and nothing else spells a name. A rename or a
removal here is a change of public API. Label values come from the enums of `events`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from breakerscope.core.events import FALLBACK_OUTCOMES, SETTLED_OUTCOMES, Cause, Outcome, State


class Kind(StrEnum):
    """The kind of a metric, in Prometheus' words."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


UCUM_UNITS = {
    "calls": "{call}",
    "changes": "{change}",
    "errors": "{error}",
    "events": "{event}",
    "seconds": "s",
    "unix seconds": "s",
}
"""Units in words, as OpenTelemetry writes them."""


@dataclass(frozen=True, slots=True)
class Label:
    """A label of a metric. `values` are all it can have; None where that is not fixed."""

    name: str
    help: str
    values: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric by its Prometheus name, with its unit in words (empty: a number without a unit)."""

    name: str
    kind: Kind
    labels: tuple[Label, ...]
    unit: str
    help: str

    @property
    def family(self) -> str:
        """The name without the suffix that Prometheus gives to counters."""
        return self.name.removesuffix("_total")

    @property
    def instrument(self) -> str:
        """The name in OpenTelemetry, which keeps the unit apart.

        A counter of seconds keeps it in the name: without, it would be called as a gauge is.
        """
        stem = self.family.removeprefix("circuit_breaker_")
        if self.kind is not Kind.COUNTER:
            stem = stem.removesuffix("_seconds")
        return f"circuit_breaker.{stem}"

    @property
    def ucum_unit(self) -> str:
        """The unit as OpenTelemetry writes it. A ratio has none: with "1" some add a suffix."""
        return UCUM_UNITS.get(self.unit, "")

    @property
    def label_names(self) -> tuple[str, ...]:
        """The names of the labels, in order."""
        return tuple(label.name for label in self.labels)


BREAKER = Label("breaker", "the name of the breaker")
OUTCOME = Label("outcome", "how the call ended", tuple(Outcome))
SETTLED_OUTCOME = Label("outcome", "how the admitted call ended", SETTLED_OUTCOMES)
FALLBACK_OUTCOME = Label("outcome", "what the fallback stood in for", FALLBACK_OUTCOMES)
STATE = Label("state", "a state of the breaker", tuple(State))
FROM_STATE = Label("from_state", "the state before", tuple(State))
TO_STATE = Label("to_state", "the state after", tuple(State))
CAUSE = Label("cause", "why the state changed", tuple(Cause))
POLICY_HASH = Label("policy_hash", "eight digits that are equal for equal policies")
VERSION = Label("version", "the version of breakerscope")
LISTENER = Label("listener", "the name of the listener")

CALLS = Metric(
    "circuit_breaker_calls_total",
    Kind.COUNTER,
    (BREAKER, OUTCOME),
    "calls",
    "Every call that asked, exactly once, by how it ended.",
)
CALL_DURATION = Metric(
    "circuit_breaker_call_duration_seconds",
    Kind.HISTOGRAM,
    (BREAKER, SETTLED_OUTCOME),
    "seconds",
    "Time inside the protected function. Rejected calls are not observed.",
)
SLOW_CALLS = Metric(
    "circuit_breaker_slow_calls_total",
    Kind.COUNTER,
    (BREAKER,),
    "calls",
    "Settled calls that took at least the slow-call threshold of the policy.",
)
WOULD_REJECT = Metric(
    "circuit_breaker_would_reject_total",
    Kind.COUNTER,
    (BREAKER,),
    "calls",
    "Calls that a policy in shadow mode would have rejected. They were made all the same.",
)
FALLBACKS = Metric(
    "circuit_breaker_fallbacks_total",
    Kind.COUNTER,
    (BREAKER, FALLBACK_OUTCOME),
    "calls",
    "Calls of a fallback, by what it stood in for.",
)
STATE_NOW = Metric(
    "circuit_breaker_state",
    Kind.GAUGE,
    (BREAKER, STATE),
    "",
    "1 for the present state, 0 for the others. An idle open breaker stays open until a call asks.",
)
TRANSITIONS = Metric(
    "circuit_breaker_transitions_total",
    Kind.COUNTER,
    (BREAKER, FROM_STATE, TO_STATE, CAUSE),
    "changes",
    "Changes of state. Those of the policy and by hand exist at 0 from registration.",
)
STATE_SECONDS = Metric(
    "circuit_breaker_state_seconds_total",
    Kind.COUNTER,
    (BREAKER, STATE),
    "seconds",
    "Time spent in each state. Shows openings that are shorter than a scrape interval.",
)
STATE_ENTERED = Metric(
    "circuit_breaker_state_entered_timestamp_seconds",
    Kind.GAUGE,
    (BREAKER,),
    "unix seconds",
    "When the present state was entered.",
)
FAILURE_RATIO = Metric(
    "circuit_breaker_failure_ratio",
    Kind.GAUGE,
    (BREAKER,),
    "ratio",
    "Share of failures in the window; NaN below the minimum number of calls.",
)
SLOW_CALL_RATIO = Metric(
    "circuit_breaker_slow_call_ratio",
    Kind.GAUGE,
    (BREAKER,),
    "ratio",
    "Share of slow calls in the window; NaN below the minimum number of calls.",
)
FAILURE_RATIO_THRESHOLD = Metric(
    "circuit_breaker_failure_ratio_threshold",
    Kind.GAUGE,
    (BREAKER,),
    "ratio",
    "The failure ratio that opens the breaker; NaN where the policy has no such rule.",
)
SLOW_CALL_RATIO_THRESHOLD = Metric(
    "circuit_breaker_slow_call_ratio_threshold",
    Kind.GAUGE,
    (BREAKER,),
    "ratio",
    "The slow-call ratio that opens the breaker; NaN where the policy has no such rule.",
)
OPEN_WAIT = Metric(
    "circuit_breaker_open_wait_seconds",
    Kind.GAUGE,
    (BREAKER,),
    "seconds",
    "How long the last opening lasts before a probe; before the first one, the wait of the policy.",
)
IN_FLIGHT = Metric(
    "circuit_breaker_in_flight_calls",
    Kind.GAUGE,
    (BREAKER,),
    "calls",
    "Calls admitted and not settled yet.",
)
INFO = Metric(
    "circuit_breaker_info",
    Kind.GAUGE,
    (BREAKER, POLICY_HASH, VERSION),
    "",
    "Always 1. Shows which policy and version an instance runs.",
)
EVENTS_DROPPED = Metric(
    "circuit_breaker_events_dropped_total",
    Kind.COUNTER,
    (LISTENER,),
    "events",
    "Events that did not arrive: the queue was full, the listener caused them itself, or their"
    " export failed.",
)
LISTENER_ERRORS = Metric(
    "circuit_breaker_listener_errors_total",
    Kind.COUNTER,
    (LISTENER,),
    "errors",
    "How many times a listener or a rule of the user raised. The calls were not touched.",
)

METRICS = (
    CALLS,
    CALL_DURATION,
    SLOW_CALLS,
    WOULD_REJECT,
    FALLBACKS,
    STATE_NOW,
    TRANSITIONS,
    STATE_SECONDS,
    STATE_ENTERED,
    FAILURE_RATIO,
    SLOW_CALL_RATIO,
    FAILURE_RATIO_THRESHOLD,
    SLOW_CALL_RATIO_THRESHOLD,
    OPEN_WAIT,
    IN_FLIGHT,
    INFO,
    EVENTS_DROPPED,
    LISTENER_ERRORS,
)


class SpanEventName(StrEnum):
    """The names of the events on the current span."""

    CALL = "circuit_breaker.call"
    STATE_CHANGE = "circuit_breaker.state_change"
    REJECTION = "circuit_breaker.rejection"
    FALLBACK = "circuit_breaker.fallback"
    POLICY_CHANGE = "circuit_breaker.policy_change"


class SpanName(StrEnum):
    """How spans of our own begin; the name of the breaker follows."""

    CALL = "circuit_breaker"


class Attribute(StrEnum):
    """The attributes of span events. Times are seconds, ratios run from 0 to 1."""

    NAME = "circuit_breaker.name"
    SEQ = "circuit_breaker.seq"
    STATE = "circuit_breaker.state"
    PREVIOUS_STATE = "circuit_breaker.previous_state"
    OUTCOME = "circuit_breaker.outcome"
    CAUSE = "circuit_breaker.cause"
    DURATION = "circuit_breaker.duration"
    SLOW = "circuit_breaker.slow"
    LATE = "circuit_breaker.late"
    RETRY_AFTER = "circuit_breaker.retry_after"
    OPEN_FOR = "circuit_breaker.open_for"
    FAILURE_RATIO = "circuit_breaker.failure_ratio"
    REASON = "circuit_breaker.reason"
    ENFORCED = "circuit_breaker.enforced"
    CHANGES = "circuit_breaker.changes"
    ERROR_TYPE = "error.type"


class LogEvent(StrEnum):
    """The names of the log events."""

    STATE_CHANGED = "circuit_breaker.state_changed"
    CALL_FAILED = "circuit_breaker.call_failed"
    CALL_REJECTED = "circuit_breaker.call_rejected"
    CALL_SUCCEEDED = "circuit_breaker.call_succeeded"
    CALL_IGNORED = "circuit_breaker.call_ignored"
    CALL_CANCELLED = "circuit_breaker.call_cancelled"
    FALLBACK_USED = "circuit_breaker.fallback_used"
    POLICY_CHANGED = "circuit_breaker.policy_changed"


class LogKey(StrEnum):
    """The keys of log lines. Times are seconds, ratios run from 0 to 1."""

    BREAKER = "breaker"
    SEQ = "seq"
    AT = "at"
    STATE = "state"
    PREVIOUS_STATE = "previous_state"
    CAUSE = "cause"
    CALLS = "calls"
    FAILURES = "failures"
    SLOW_CALLS = "slow_calls"
    CONSECUTIVE_FAILURES = "consecutive_failures"
    FAILURE_RATIO = "failure_ratio"
    SLOW_CALL_RATIO = "slow_call_ratio"
    OPEN_FOR = "open_for"
    REASON = "reason"
    OUTCOME = "outcome"
    DURATION = "duration"
    ERROR = "error"
    SLOW = "slow"
    LATE = "late"
    RETRY_AFTER = "retry_after"
    REJECTIONS = "rejections"
    ENFORCED = "enforced"
    CHANGES = "changes"
    SAMPLE_RATE = "sample_rate"


EVENT_SCHEMA_VERSION = 1
"""The version of the JSON form of events. Rises when a field goes or gets another meaning."""


class EventKey(StrEnum):
    """The keys that the JSON form of an event has besides the fields of its type."""

    TYPE = "type"
    SCHEMA_VERSION = "schema_version"


class TraceKey(StrEnum):
    """How logs and exemplars name a trace. Grafana's link from an exemplar needs `trace_id`."""

    TRACE_ID = "trace_id"
    SPAN_ID = "span_id"
