"""The two functions that an application calls: make a breaker, and say where its telemetry goes."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, TypedDict, Unpack

from breakerscope.breaker import BreakerNameError, CircuitBreaker
from breakerscope.classify import Classifier, ExceptionRule, HintRule, ResultRule
from breakerscope.config import from_environment, from_mapping, read_toml
from breakerscope.events import EventType
from breakerscope.hub import SubscribeOptions, Subscription, default_hub
from breakerscope.ledger import DEFAULT_BUCKETS
from breakerscope.per_key import DEFAULT_LIMIT, BreakersPer
from breakerscope.policy import Policy
from breakerscope.registry import default_registry
from breakerscope.telemetry.errors import MissingExtraError, TelemetryError

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from prometheus_client import CollectorRegistry

    from breakerscope.telemetry.otlp import Otlp

SpanPolicy = Literal["all", "non_success", "off"]
SPAN_POLICIES: tuple[SpanPolicy, ...] = ("all", "non_success", "off")
EventRoute = Literal["span", "log", "both"]
EVENT_ROUTES: tuple[EventRoute, ...] = ("span", "log", "both")


class BreakerOptions(TypedDict, total=False):
    """The options of `instrumented_breaker`: the fields of `Policy` and `Classifier`, and
    buckets.
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


CLASSIFIER_OPTIONS = ("failures", "ignore", "failure_if", "retry_after_from")


def instrumented_breaker(name: str, **options: Unpack[BreakerOptions]) -> CircuitBreaker:
    """The breaker with this name, made at the first call, with all its telemetry switched on.

    The same name gives the same breaker. With no options, an existing breaker is returned as it is;
    with other options than it has, ContradictionError shows both. For the options see `Policy`
    (rules, in seconds and ratios from 0 to 1) and `Classifier` (what is a failure); `buckets` are
    the upper bounds of the duration histogram in seconds. Raises PolicyError, ClassifierError,
    BucketsError or BreakerNameError for what cannot be, and TypeError for an unknown option.

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
    rules = {key: options.pop(key) for key in CLASSIFIER_OPTIONS if key in options}
    return CircuitBreaker(name, Policy(**options), classifier=Classifier(**rules), buckets=buckets)


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


def configure(source: Mapping[str, Any] | str | Path) -> None:
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


def flush(timeout: float = 5.0) -> bool:
    """Wait until every event so far was delivered; False if `timeout` seconds were not enough."""
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
_was_set_up = False


def setup_telemetry(
    *,
    logs: bool = True,
    metrics: bool = True,
    traces: bool | SpanPolicy = True,
    events: EventRoute = "span",
    otel_metrics: bool = False,
    otlp: bool = False,
    registry: CollectorRegistry | None = None,
    meter_provider: MeterProvider | None = None,
) -> Telemetry:
    """Say where the telemetry of all breakers goes, those that exist and those to come.

    `logs`: structlog, or `logging.getLogger("breakerscope")` where structlog is not configured.
    `metrics`: a collector in `registry`, by default in prometheus_client's default registry.
    `traces`: events on the current OpenTelemetry span: "all" (the same as True), "non_success", or
    "off" (the same as False). `events`: whether these are events on the span ("span"), log-based
    OpenTelemetry events ("log"), or "both". `otel_metrics`: the same metrics through OpenTelemetry
    as well, by `meter_provider` or else the global one; naming a provider asks for them. For the
    histogram of durations see `with_durations`. `otlp`: export by OTLP what the application has set
    no provider of its own for: all spans of the process, and log-based events and metrics where
    they are asked for. The standard `OTEL_…` variables say where to; closing sends what waits.

    A second call replaces the first set-up. Returns a handle to undo it. Thread-safe. Raises
    TelemetryError for an unknown policy, route or OTLP protocol, DuplicateMetricError for a clash
    of metric names, MissingExtraError where a library is missing or too old.
    """
    global _telemetry, _was_set_up
    span_policy = _span_policy(traces)
    if events not in EVENT_ROUTES:
        raise TelemetryError(f"events={events!r}: allowed are {', '.join(EVENT_ROUTES)}")
    with _lock:
        if _telemetry is not None:
            _telemetry.close()
        undo: list[Callable[[], object]] = []
        made = Telemetry(undo, logs=logs, metrics=metrics, traces=span_policy)
        try:
            _attach(
                undo,
                logs=logs,
                metrics=metrics,
                span_policy=span_policy,
                events=events,
                otel_metrics=otel_metrics or meter_provider is not None,
                otlp=otlp,
                registry=registry,
                meter_provider=meter_provider,
            )
        except BaseException:
            made.close()
            raise
        _telemetry, _was_set_up = made, True
        return made


def _span_policy(traces: object) -> SpanPolicy:
    if isinstance(traces, bool):
        return "all" if traces else "off"
    for policy in SPAN_POLICIES:
        if traces == policy:
            return policy
    raise TelemetryError(f"traces={traces!r}: allowed are True, False, {', '.join(SPAN_POLICIES)}")


def _attach(
    undo: list[Callable[[], object]],
    *,
    logs: bool,
    metrics: bool,
    span_policy: SpanPolicy,
    events: EventRoute,
    otel_metrics: bool,
    otlp: bool,
    registry: CollectorRegistry | None,
    meter_provider: MeterProvider | None,
) -> None:
    exporting = None
    if otlp:
        exporting = _export_by_otlp(
            log_events=events != "span" and span_policy != "off",
            otel_metrics=otel_metrics and meter_provider is None,
        )
        undo.append(exporting.shutdown)
    if otel_metrics:
        from breakerscope.telemetry import otel_metrics as otel

        if meter_provider is None and exporting is not None:
            meter_provider = exporting.meter_provider
        undo.append(otel.attach(meter_provider, default_registry, default_hub).detach)
    if exporting is not None:
        # Before the instruments fall silent, and after the last event.
        undo.append(exporting.flush)
    if metrics:
        from prometheus_client import REGISTRY

        from breakerscope.telemetry import metrics as prometheus

        target = REGISTRY if registry is None else registry
        collector = prometheus.attach(target, default_registry, default_hub)
        undo.append(lambda: target.unregister(collector))
    if span_policy != "off":
        from breakerscope.telemetry import traces as opentelemetry

        spans = opentelemetry.attach(default_hub, policy=span_policy, events=events)
        undo.append(lambda: opentelemetry.detach(default_hub, spans))
    if logs:
        from breakerscope.telemetry import logs as structlog

        subscription = structlog.attach(default_hub)
        undo.append(lambda: subscription.close(wait=CLOSE_SECONDS))


def _export_by_otlp(*, log_events: bool, otel_metrics: bool) -> Otlp:
    try:
        from breakerscope.telemetry.otlp import set_up
    except ImportError as error:
        raise MissingExtraError("otlp=True", str(error.name), "'breakerscope[otlp]'") from error
    return set_up(default_hub, log_events=log_events, otel_metrics=otel_metrics)


def _set_up_once() -> None:
    """Once in a process, so that a set-up that was closed on purpose stays closed."""
    if not _was_set_up:
        with _lock:
            if not _was_set_up:
                setup_telemetry()
