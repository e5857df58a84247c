"""breakerscope: a circuit breaker that shows what it does.

Everything public is here; the modules behind it may move.
"""

from typing import TYPE_CHECKING, Any

from breakerscope.breaker import CircuitBreaker
from breakerscope.config import ConfigError
from breakerscope.core.classification import Classifier, ClassifierError
from breakerscope.core.clock import Clock
from breakerscope.core.counters import BucketsError
from breakerscope.core.errors import CircuitBreakerOpenError
from breakerscope.core.events import (
    CallRejected,
    CallSettled,
    Cause,
    Event,
    FallbackUsed,
    Outcome,
    PolicyChanged,
    State,
    StateChanged,
)
from breakerscope.core.guard import Exchange, Guard
from breakerscope.core.policy import Policy, PolicyError
from breakerscope.core.reading import Reading, WatchedBreaker
from breakerscope.core.transitions import Figures
from breakerscope.event_bus import Subscription, is_active, set_active
from breakerscope.fallback import FallbackError
from breakerscope.instrument import (
    breakers,
    breakers_per,
    configure,
    get_breaker,
    instrumented_breaker,
    isolated,
    remove_breaker,
    subscribe,
    to_jsonl,
)
from breakerscope.names import BreakerNameError
from breakerscope.per_key import BreakersPer, LimitError
from breakerscope.registry import ContradictionError
from breakerscope.retry_after import http_retry_after
from breakerscope.setup import EventRoute, SpanPolicy, Telemetry, flush, setup_telemetry
from breakerscope.snapshots import SnapshotError
from breakerscope.subscription_options import SubscriptionError
from breakerscope.telemetry.errors import MissingExtraError, TelemetryError
from breakerscope.telemetry.settings import LabelError

if TYPE_CHECKING:
    from breakerscope.codec import (
        EventFormatError,
        event_from_dict,
        event_from_json,
        event_schema,
        event_to_dict,
        event_to_json,
    )
    from breakerscope.streams import AsyncStream, Recent, Stream, astream, recent, stream
    from breakerscope.telemetry.log_settings import LogLevel, LogSettingsError
    from breakerscope.telemetry.multiprocess_files import MultiprocessError, remove_dead_files
    from breakerscope.telemetry.spans import internal_span

__all__ = [
    "AsyncStream",
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
    "EventFormatError",
    "EventRoute",
    "Exchange",
    "FallbackError",
    "FallbackUsed",
    "Figures",
    "Guard",
    "LabelError",
    "LimitError",
    "LogLevel",
    "LogSettingsError",
    "MissingExtraError",
    "MultiprocessError",
    "Outcome",
    "Policy",
    "PolicyChanged",
    "PolicyError",
    "Reading",
    "Recent",
    "SnapshotError",
    "SpanPolicy",
    "State",
    "StateChanged",
    "Stream",
    "Subscription",
    "SubscriptionError",
    "Telemetry",
    "TelemetryError",
    "WatchedBreaker",
    "astream",
    "breakers",
    "breakers_per",
    "configure",
    "event_from_dict",
    "event_from_json",
    "event_schema",
    "event_to_dict",
    "event_to_json",
    "flush",
    "get_breaker",
    "http_retry_after",
    "instrumented_breaker",
    "internal_span",
    "is_active",
    "isolated",
    "recent",
    "remove_breaker",
    "remove_dead_files",
    "set_active",
    "setup_telemetry",
    "stream",
    "subscribe",
    "to_jsonl",
]

for _name in __all__:
    # The name of a class goes into events and pickles: the module behind it is nobody's business.
    if isinstance(_class := globals().get(_name), type):
        _class.__module__ = __name__

_AT_FIRST_USE = {
    "codec": (
        "EventFormatError",
        "event_from_dict",
        "event_from_json",
        "event_schema",
        "event_to_dict",
        "event_to_json",
    ),
    "streams": ("AsyncStream", "Recent", "Stream", "astream", "recent", "stream"),
    "telemetry.multiprocess_files": ("MultiprocessError", "remove_dead_files"),
    "telemetry.log_settings": ("LogLevel", "LogSettingsError"),
    "telemetry.spans": ("internal_span",),
}
"""What most programs do not need is imported when they ask for it: the import should be quick."""


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("breakerscope")
    for module, names in _AT_FIRST_USE.items():
        if name in names:
            from importlib import import_module

            return getattr(import_module(f"breakerscope.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
