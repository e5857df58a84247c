"""breakerscope: a circuit breaker that shows what it does.

Everything public is here; the modules behind it may move.
"""

from breakerscope.breaker import BreakerNameError, CircuitBreaker
from breakerscope.classify import Classifier, ClassifierError
from breakerscope.events import (
    CallRejected,
    CallSettled,
    Cause,
    Event,
    Outcome,
    State,
    StateChanged,
)
from breakerscope.gate import CircuitBreakerOpenError, Clock, Reading
from breakerscope.hub import Subscription, SubscriptionError
from breakerscope.instrument import (
    SpanPolicy,
    Telemetry,
    TelemetryError,
    breakers,
    flush,
    get_breaker,
    instrumented_breaker,
    remove_breaker,
    setup_telemetry,
    subscribe,
)
from breakerscope.ledger import BucketsError
from breakerscope.machine import Figures
from breakerscope.policy import Policy, PolicyError
from breakerscope.protect import Guard
from breakerscope.registry import ContradictionError

__all__ = [
    "BreakerNameError",
    "BucketsError",
    "CallRejected",
    "CallSettled",
    "Cause",
    "CircuitBreaker",
    "CircuitBreakerOpenError",
    "Classifier",
    "ClassifierError",
    "Clock",
    "ContradictionError",
    "Event",
    "Figures",
    "Guard",
    "Outcome",
    "Policy",
    "PolicyError",
    "Reading",
    "SpanPolicy",
    "State",
    "StateChanged",
    "Subscription",
    "SubscriptionError",
    "Telemetry",
    "TelemetryError",
    "breakers",
    "flush",
    "get_breaker",
    "instrumented_breaker",
    "remove_breaker",
    "setup_telemetry",
    "subscribe",
]
