"""What an application calls: make breakers, find them, and hear of their events."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from breakerscope.breaker import CircuitBreaker
from breakerscope.config import from_environment, from_mapping, read_toml
from breakerscope.core.classification import (
    EVERY_EXCEPTION_FAILS,
    Classifier,
    ExceptionRule,
    HintRule,
    ResultRule,
)
from breakerscope.core.counters import DEFAULT_BUCKETS
from breakerscope.core.events import EventType
from breakerscope.core.policy import Policy
from breakerscope.event_bus import (
    DEFAULT_QUEUE_SIZE,
    SubscribeFilter,
    SubscribeOptions,
    Subscription,
    default_bus,
)
from breakerscope.names import checked_name
from breakerscope.per_key import DEFAULT_LIMIT, BreakersPer
from breakerscope.registry import default_registry
from breakerscope.setup import check_labels, set_up_once
from breakerscope.telemetry.settings import checked_labels

if TYPE_CHECKING:
    from os import PathLike

    from breakerscope.telemetry.jsonl import JsonLines


class BreakerOptions(TypedDict, total=False):
    """The options of `instrumented_breaker` and `breakers_per`, all by keyword.

    All fields of `Policy` and of `Classifier`; `buckets`, the upper bounds of the duration
    histogram in seconds; and `labels`, values for the labels that `setup_telemetry` named.
    """

    failure_rate: float | None
    min_calls: int
    window: int | timedelta
    consecutive_failures: int | None
    failure_count: int | None
    slow_call: float | None
    slow_call_rate: float | None
    open_for: float
    backoff: float
    open_for_max: float | None
    jitter: float
    probes: int
    probe_successes: int | None
    probe_failure_rate: float | None
    probe_when_due: bool
    probe_lease: float
    ramp_up: float
    shadow: bool
    failures: ExceptionRule | None
    ignore: ExceptionRule | None
    failure_if: ResultRule | None
    retry_after_from: HintRule | None
    buckets: Sequence[float]
    labels: Mapping[str, str]


CLASSIFIER_OPTIONS = ("failures", "ignore", "failure_if", "retry_after_from")


def instrumented_breaker(name: str, **options: Unpack[BreakerOptions]) -> CircuitBreaker:
    """The breaker with this name, made at the first call, with all its telemetry switched on.

    The same name gives the same breaker. With no options, an existing breaker is returned as it is;
    with other options than it has, ContradictionError shows both. For the options see `Policy`
    (rules, in seconds and ratios from 0 to 1) and `Classifier` (what is a failure); `buckets` are
    the upper bounds of the duration histogram in seconds; `labels` are values for the labels that
    `setup_telemetry` named, in the metrics of this breaker. Raises PolicyError, ClassifierError,
    BucketsError, LabelError or BreakerNameError for what cannot be, and TypeError for an unknown
    option.

    Options set by `configure` or in the environment (`BREAKERSCOPE_PAYMENT_API_OPEN_FOR=30`) go
    before these; ConfigError says what is wrong with them.

    Unless `setup_telemetry` was called before, this calls it with its defaults. Thread-safe.
    """
    set_up_once()
    known = isinstance(name, str) and not options
    if known and (existing := default_registry.get(name)) is not None:
        return existing
    checked_name(name)
    from_outside = _configured.get(name, {}) | from_environment(name, os.environ)
    return default_registry.add(_build(name, {**options, **from_outside}))


def _build(name: str, options: dict[str, Any]) -> CircuitBreaker:
    buckets = options.pop("buckets", DEFAULT_BUCKETS)
    labels = checked_labels(options.pop("labels", {}))
    check_labels(name, labels)
    rules = {key: options.pop(key) for key in CLASSIFIER_OPTIONS if key in options}
    classifier = Classifier(**rules) if rules else EVERY_EXCEPTION_FAILS
    policy = _shared(Policy(**options))
    return CircuitBreaker(name, policy, classifier=classifier, buckets=buckets, labels=labels)


@lru_cache(maxsize=256)
def _shared(policy: Policy) -> Policy:
    """One object for equal policies: the breakers of a service seldom have more than a few."""
    return policy


def breakers_per(
    prefix: str, *, limit: int = DEFAULT_LIMIT, **options: Unpack[BreakerOptions]
) -> BreakersPer:
    """One breaker for each key (host, tenant, model), all with these options, at most `limit`.

    `per_host = breakers_per("search"); per_host("api.example.com")` is the breaker named
    "search:api.example.com". When there are more keys than `limit`, the one that was not asked for
    longest is forgotten, with its series. A key may be any text, also from outside: what cannot be
    in a name is escaped, see `BreakersPer`. Raises LimitError and what `instrumented_breaker` does.
    """
    _build(checked_name(prefix, "prefix"), dict(options))
    return BreakersPer(
        prefix, lambda name: instrumented_breaker(name, **options), default_registry, limit
    )


def configure(source: Mapping[str, Any] | str | PathLike[str]) -> None:
    """Set policies from a mapping or a TOML file, for breakers that are made from now on.

    What is set here goes before the options in the code, and the environment goes before both; see
    `breakerscope.config`. A second call replaces the first. Raises ConfigError.
    """
    global _configured  # noqa: PLW0603 - one configuration a process
    _configured = from_mapping(source) if isinstance(source, Mapping) else read_toml(source)


_configured: dict[str, dict[str, Any]] = {}


def get_breaker(name: str) -> CircuitBreaker | None:
    """The breaker with this name, or None if nobody has made it. Thread-safe."""
    return default_registry.get(name)


def breakers() -> list[CircuitBreaker]:
    """All breakers made by `instrumented_breaker` and not removed. A copy; thread-safe."""
    return list(default_registry)


def remove_breaker(name: str) -> CircuitBreaker | None:
    """Forget a breaker, and with it its series in the metrics. Returns it, or None. Thread-safe.

    Who still holds it can go on using it; the next `instrumented_breaker` makes another.
    """
    return default_registry.remove(name)


def subscribe(
    listener: Callable[[Any], object], /, *types: EventType, **options: Unpack[SubscribeOptions]
) -> Subscription:
    """Call `listener` with each event of these types (none named: all), of all breakers, also
    future ones.

    By default the listener has a bounded queue and a thread of its own and gets the events of each
    breaker in the order of `seq`. See `SubscribeOptions`. Raises SubscriptionError.
    """
    return default_bus.subscribe(listener, *types, **options)


def to_jsonl(
    path: str | os.PathLike[str],
    /,
    *types: EventType,
    max_bytes: int | None = 10_000_000,
    backups: int = 5,
    queue_size: int = DEFAULT_QUEUE_SIZE,
    **options: Unpack[SubscribeFilter],
) -> JsonLines:
    """Append each event of these types (none named: all) to a file, as a line of JSON.

    The lines are those of `event_to_json`, written by a thread of their own. A file that would
    grow to `max_bytes` bytes becomes `path.1`, that one `path.2`, up to `backups` of them; None
    lets it grow. What cannot be written, on a full disk say, is counted in `lost` and in the
    metrics; when there is room again, it goes on. A forked child writes to `name.PID.suffix`. For
    the options see `SubscribeOptions`. Undo it with `close()`, which waits for the last lines.
    Raises OSError if the file cannot be opened, SubscriptionError for impossible options.
    """
    from breakerscope.telemetry.jsonl import JsonLines

    return JsonLines(
        default_bus,
        path,
        *types,
        max_bytes=max_bytes,
        backups=backups,
        queue_size=queue_size,
        **options,
    )
