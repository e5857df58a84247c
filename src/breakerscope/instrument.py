"""The two functions that an application calls: make a breaker, and say where its telemetry goes."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, Self, TypedDict, Unpack

from breakerscope.breaker import BreakerNameError, CircuitBreaker
from breakerscope.classify import (
    EVERY_EXCEPTION_FAILS,
    Classifier,
    ExceptionRule,
    HintRule,
    ResultRule,
)
from breakerscope.config import from_environment, from_mapping, read_toml
from breakerscope.events import EventType
from breakerscope.hub import (
    DEFAULT_QUEUE_SIZE,
    SubscribeFilter,
    SubscribeOptions,
    Subscription,
    default_hub,
)
from breakerscope.ledger import DEFAULT_BUCKETS
from breakerscope.per_key import DEFAULT_LIMIT, BreakersPer
from breakerscope.policy import Policy
from breakerscope.registry import default_registry
from breakerscope.telemetry.settings import (
    MAX_BREAKERS,
    MetricsSettings,
    TelemetryError,
    checked_labels,
)

if TYPE_CHECKING:
    from os import PathLike

    from prometheus_client import CollectorRegistry

    from breakerscope.telemetry.jsonl import JsonLines
    from breakerscope.telemetry.log_settings import LogLevel, LogSettings

SpanPolicy = Literal["all", "non_success", "off"]
SPAN_POLICIES: tuple[SpanPolicy, ...] = ("all", "non_success", "off")


class BreakerOptions(TypedDict, total=False):
    """The options of `instrumented_breaker`: the fields of `Policy` and `Classifier`, buckets and
    labels.
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
    _set_up_once()
    if not isinstance(name, str):
        raise BreakerNameError(f"name={name!r}: allowed is text that is not empty")
    if not options and (existing := default_registry.get(name)) is not None:
        return existing
    from_outside = _configured.get(name, {}) | from_environment(name, os.environ)
    return default_registry.add(_build(name, {**options, **from_outside}))


def _build(name: str, options: dict[str, Any]) -> CircuitBreaker:
    buckets = options.pop("buckets", DEFAULT_BUCKETS)
    labels = checked_labels(options.pop("labels", {}))
    _settings.check_known(name, labels)
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
    longest is forgotten, with its series. Raises LimitError, and what `instrumented_breaker` does.
    """
    _build(prefix, dict(options))
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
    """The breaker with this name, or None."""
    return default_registry.get(name)


def breakers() -> list[CircuitBreaker]:
    """All breakers made by `instrumented_breaker` and not removed."""
    return list(default_registry)


def remove_breaker(name: str) -> CircuitBreaker | None:
    """Forget a breaker, and with it its series in the metrics. Returns it, or None."""
    return default_registry.remove(name)


def subscribe(
    listener: Callable[[Any], object], /, *types: EventType, **options: Unpack[SubscribeOptions]
) -> Subscription:
    """Call `listener` with each event of these types (none named: all), of all breakers, also
    future ones.

    By default the listener has a bounded queue and a thread of its own and gets the events of each
    breaker in the order of `seq`. See `SubscribeOptions`. Raises SubscriptionError.
    """
    return default_hub.subscribe(listener, *types, **options)


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
        default_hub,
        path,
        *types,
        max_bytes=max_bytes,
        backups=backups,
        queue_size=queue_size,
        **options,
    )


def flush(timeout: float = 5.0) -> bool:
    """Wait until every event so far was delivered; False if `timeout` seconds were not enough.

    In prometheus_client's multiprocess mode this also brings the metrics of this process up to
    date.
    """
    if (telemetry := _telemetry) is not None:
        telemetry._flush_metrics()
    return default_hub.flush(timeout)


CLOSE_SECONDS = 5.0
"""How long closing waits for the last log lines."""


class Telemetry:
    """What `setup_telemetry` switched on. `close()` switches it off and leaves nothing behind."""

    def __init__(
        self, undo: list[Callable[[], object]], *, logs: bool, metrics: bool, traces: str
    ) -> None:
        self._undo = undo
        self.logs = logs
        self.metrics = metrics
        self.traces = traces
        self._flush_metrics: Callable[[], object] = lambda: None

    def close(self) -> None:
        """Undo everything, after the last log lines were written. Closing twice is harmless."""
        global _telemetry  # noqa: PLW0603 - one set-up a process, as one registry
        with _lock:
            while self._undo:
                self._undo.pop()()
            if _telemetry is self:
                _telemetry = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


_lock = threading.RLock()
_telemetry: Telemetry | None = None
_settings = MetricsSettings()
_was_set_up = False


def setup_telemetry(
    *,
    logs: bool = True,
    metrics: bool = True,
    traces: bool | SpanPolicy = True,
    registry: CollectorRegistry | None = None,
    prefix: str = "",
    labels: Mapping[str, str] | None = None,
    max_breakers: int = MAX_BREAKERS,
    log_levels: Mapping[str, LogLevel] | None = None,
    log_sampling: Mapping[str, float] | None = None,
    log_rejections_every: float = 10.0,
) -> Telemetry:
    """Say where the telemetry of all breakers goes, those that exist and those to come.

    `logs`: structlog, or `logging.getLogger("breakerscope")` where structlog is not configured.
    `metrics`: a collector in `registry`, by default in prometheus_client's default registry; in its
    multiprocess mode, the files of that mode. `prefix` goes before all their names: "shop" makes
    `shop_circuit_breaker_calls_total`. `labels` are on all series; a breaker may have other values
    for them ("" where there is no common one). Above `max_breakers`, further breakers are summed
    into one that is called `_OTHER`.
    `traces`: events on the current OpenTelemetry span: "all" (the same as True), "non_success", or
    "off" (the same as False).

    `log_levels`: the level of a log event by its name, or "off"; by default calls that succeeded or
    were ignored or cancelled, and fallbacks, are off. `log_sampling`: the share of such lines that
    is written, above 0 to 1. `log_rejections_every`: seconds between two lines about the rejections
    of one breaker; each says how many there were.

    A second call replaces the first set-up. Returns a handle to undo it. Thread-safe. Raises
    TelemetryError for an unknown policy or limit, LogSettingsError, LabelError,
    DuplicateMetricError for a clash of metric names, MultiprocessError.
    """
    global _telemetry, _was_set_up, _settings
    from breakerscope.telemetry.log_settings import LogSettings

    span_policy = _span_policy(traces)
    settings = MetricsSettings(prefix, labels or {}, max_breakers)
    log_settings = LogSettings(log_levels, log_sampling, rejections_every=log_rejections_every)
    with _lock:
        if _telemetry is not None:
            _telemetry.close()
        undo: list[Callable[[], object]] = []
        made = Telemetry(undo, logs=logs, metrics=metrics, traces=span_policy)
        try:
            if metrics:
                made._flush_metrics = _attach_metrics(undo, registry, settings)
            if span_policy != "off":
                _attach_traces(undo, span_policy)
            if logs:
                _attach_logs(undo, log_settings)
        except BaseException:
            made.close()
            raise
        _telemetry, _was_set_up, _settings = made, True, settings
        return made


def _span_policy(traces: object) -> SpanPolicy:
    if isinstance(traces, bool):
        return "all" if traces else "off"
    for policy in SPAN_POLICIES:
        if traces == policy:
            return policy
    raise TelemetryError(f"traces={traces!r}: allowed are True, False, {', '.join(SPAN_POLICIES)}")


def _attach_metrics(
    undo: list[Callable[[], object]], registry: CollectorRegistry | None, settings: MetricsSettings
) -> Callable[[], object]:
    from prometheus_client import REGISTRY

    from breakerscope.telemetry import metrics as prometheus

    target = REGISTRY if registry is None else registry
    attached = prometheus.attach(target, default_registry, default_hub, settings)
    undo.append(attached.close)
    return attached.flush


def _attach_traces(undo: list[Callable[[], object]], policy: SpanPolicy) -> None:
    from breakerscope.telemetry import traces as opentelemetry

    spans = opentelemetry.attach(default_hub, policy=policy)
    undo.append(lambda: opentelemetry.detach(default_hub, spans))


def _attach_logs(undo: list[Callable[[], object]], settings: LogSettings) -> None:
    from breakerscope.telemetry import logs as structlog

    subscription = structlog.attach(default_hub, settings)
    undo.append(lambda: subscription.close(wait=CLOSE_SECONDS))


def _set_up_once() -> None:
    """Once in a process, so that a set-up that was closed on purpose stays closed."""
    if not _was_set_up:
        with _lock:
            if not _was_set_up:
                setup_telemetry()
