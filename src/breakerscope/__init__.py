"""breakerscope: a circuit breaker that shows what it does.

Everything public is here; the modules behind it may move.
"""

from breakerscope.breaker import BreakerNameError, CircuitBreaker
from breakerscope.classify import Classifier, ClassifierError
from breakerscope.config import ConfigError
from breakerscope.events import (
    CallRejected,
    CallSettled,
    Cause,
    Event,
    FallbackUsed,
    Outcome,
    State,
    StateChanged,
)
from breakerscope.fallback import FallbackError
from breakerscope.gate import CircuitBreakerOpenError, Clock
from breakerscope.hub import Subscription, SubscriptionError
from breakerscope.instrument import (
    EventRoute,
    SpanPolicy,
    Telemetry,
    breakers,
    breakers_per,
    configure,
    flush,
    get_breaker,
    instrumented_breaker,
    remove_breaker,
    setup_telemetry,
    subscribe,
)
from breakerscope.ledger import BucketsError
from breakerscope.machine import Figures
from breakerscope.per_key import BreakersPer, LimitError
from breakerscope.policy import Policy, PolicyError
from breakerscope.protect import Guard
from breakerscope.reading import Reading
from breakerscope.registry import ContradictionError
from breakerscope.retry_after import http_retry_after
from breakerscope.snapshots import SnapshotError
from breakerscope.telemetry.errors import MissingExtraError, TelemetryError
from breakerscope.telemetry.spans import internal_span

__all__ = [
    "BreakerNameError",
    "BreakersPer",
    "BucketsError",
    "CallRejected",
    "CallSettled",
    "Cause",
    "CircuitBreaker",
    "CircuitBreakerOpenError",
    "Classifier",
    "ClassifierError",
    "Clock",
    "ConfigError",
    "ContradictionError",
    "Event",
    "EventRoute",
    "FallbackError",
    "FallbackUsed",
    "Figures",
    "Guard",
    "LimitError",
    "MissingExtraError",
    "Outcome",
    "Policy",
    "PolicyError",
    "Reading",
    "SnapshotError",
    "SpanPolicy",
    "State",
    "StateChanged",
    "Subscription",
    "SubscriptionError",
    "Telemetry",
    "TelemetryError",
    "breakers",
    "breakers_per",
    "configure",
    "flush",
    "get_breaker",
    "http_retry_after",
    "instrumented_breaker",
    "internal_span",
    "remove_breaker",
    "setup_telemetry",
    "subscribe",
]
