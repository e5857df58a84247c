"""Where the telemetry of all breakers of a process goes: `setup_telemetry`, and its undoing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, Self, get_args

from breakerscope.event_bus import default_bus
from breakerscope.registry import default_registry
from breakerscope.telemetry.errors import MissingExtraError, TelemetryError
from breakerscope.telemetry.settings import MAX_BREAKERS, MetricsSettings

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from prometheus_client import CollectorRegistry

    from breakerscope.telemetry.log_settings import LogLevel, LogSettings
    from breakerscope.telemetry.otlp import Otlp

SpanPolicy = Literal["all", "non_success", "off"]
"""Which events go to OpenTelemetry; see `setup_telemetry(traces=...)`."""
EventRoute = Literal["span", "log", "both"]
"""How they go there; see `setup_telemetry(events=...)`."""

CLOSE_SECONDS = 1.0
"""How long closing waits for the last log lines."""

Undo = list[Callable[[], object]]


class Telemetry:
    """What `setup_telemetry` switched on. `close()` switches it off and leaves nothing behind.

    As a context manager it closes at the end of the block. Thread-safe.

    Attributes:
        logs: Whether there are log lines.
        metrics: Whether there are metrics for Prometheus.
        traces: Which events go to OpenTelemetry: "all", "non_success" or "off".
    """

    def __init__(self, undo: Undo, *, logs: bool, metrics: bool, traces: str) -> None:
        self._undo = undo
        self._begun: Callable[[], object] | None = None
        """The step of undoing that was begun last."""
        self._busy = False
        """Whether a frame of the thread that has the lock sets this up or closes it."""
        self.logs = logs
        self.metrics = metrics
        self.traces = traces
        self._flush_metrics: Callable[[], object] = lambda: None

    def close(self) -> None:
        """Undo everything, after the last log lines were written. Closing twice is harmless."""
        nested = _lock._is_owned()
        with _lock:
            if nested and self._busy:
                # A finaliser or a handler in the middle of it: the frame below goes on.
                return
            self._undo_locked()
            if self in _open:
                _open.remove(self)

    def _undo_locked(self) -> None:
        """Each step can be done twice: one that was interrupted is done again by the next close.
        But not a third time: one that always raises must not be in the way of set-ups to come.
        """
        self._busy = True
        try:
            while self._undo:
                step = self._undo[-1]
                if step is self._begun:
                    self._undo.pop()
                    step()
                else:
                    self._begun = step
                    step()
                    self._undo.pop()
        finally:
            self._busy = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


_lock: Any = threading.RLock()
_open: list[Telemetry] = []
"""One, as a rule; more only while one takes the place of another, or where that was interrupted."""
_settings = MetricsSettings()
_was_set_up = False


def setup_telemetry(
    *,
    logs: bool = True,
    log_levels: Mapping[str, LogLevel] | None = None,
    log_sampling: Mapping[str, float] | None = None,
    log_rejections_every: float = 10.0,
    metrics: bool = True,
    registry: CollectorRegistry | None = None,
    otel_metrics: bool = False,
    meter_provider: MeterProvider | None = None,
    prefix: str = "",
    labels: Mapping[str, str] | None = None,
    max_breakers: int = MAX_BREAKERS,
    traces: bool | SpanPolicy = True,
    events: EventRoute = "span",
    otlp: bool = False,
) -> Telemetry:
    """Say where the telemetry of all breakers goes, those that exist and those to come.

    Logs. `logs`: structlog, or `logging.getLogger("breakerscope")` where structlog is not
    configured. `log_levels`: the level of a log event by its name, or "off"; by default calls that
    succeeded or were ignored or cancelled, and fallbacks, are off. `log_sampling`: the share of
    such lines that is written, above 0 to 1. `log_rejections_every`: seconds between two lines
    about the rejections of one breaker; each says how many there were.

    Metrics. `metrics`: a collector in `registry`, by default in prometheus_client's default
    registry; in its multiprocess mode, the files of that mode. `otel_metrics`: the same metrics
    through OpenTelemetry as well, by `meter_provider` or else the global one; naming a provider
    asks for them. For the histogram of durations see `with_durations`. `prefix` goes before all
    names: "shop" makes `shop_circuit_breaker_calls_total`. `labels` are on all series; a breaker
    may have other values for them ("" where there is no common one). Above `max_breakers`, further
    breakers are summed into one that is called `_OTHER`.

    Traces. `traces`: events on the current OpenTelemetry span: "all" (the same as True),
    "non_success", or "off" (the same as False). `events`: whether these are events on the span
    ("span"), log-based OpenTelemetry events ("log"), or "both".

    `otlp`: export by OTLP what the application has set no provider of its own for: all spans of the
    process, and log-based events and metrics where they are asked for. The standard `OTEL_…`
    variables say where to; closing sends what waits. So does SIGTERM, where nobody else handles it:
    the process ends by it after up to five seconds more.

    A second call replaces the first set-up. Returns a handle to undo it. Thread-safe. Raises
    TelemetryError for a policy, route, limit, prefix or OTLP protocol that cannot be, LabelError,
    LogSettingsError, DuplicateMetricError for a clash of metric names, MultiprocessError, and
    MissingExtraError where a library is missing or too old.
    """
    global _was_set_up, _settings
    from breakerscope.telemetry.log_settings import LogSettings

    span_policy = _span_policy(traces)
    for name, value in (("logs", logs), ("metrics", metrics), ("otlp", otlp)):
        _check_switch(name, value)
    _check_switch("otel_metrics", otel_metrics)
    if events not in get_args(EventRoute):
        raise TelemetryError(f"events={events!r}: allowed are {', '.join(get_args(EventRoute))}")
    settings = MetricsSettings(prefix, labels or {}, max_breakers)
    log_settings = LogSettings(log_levels, log_sampling, rejections_every=log_rejections_every)
    otel_metrics = otel_metrics or meter_provider is not None
    with _lock:
        _close_locked(_open.copy())
        undo: Undo = []
        made = Telemetry(undo, logs=logs, metrics=metrics, traces=span_policy)
        made._busy = True
        # From here on the next set-up undoes it, should an interrupt come in before the end.
        _open.append(made)
        try:
            exporting = None
            if otlp:
                exporting = _export_by_otlp(
                    log_events=events != "span" and span_policy != "off",
                    otel_metrics=otel_metrics and meter_provider is None,
                )
                undo.append(exporting.shutdown)
                _close_on_sigterm(undo, made)
                meter_provider = meter_provider or exporting.meter_provider
            if otel_metrics:
                _attach_otel_metrics(undo, meter_provider, settings)
            if exporting is not None:
                # Before the instruments fall silent, and after the last event.
                undo.append(exporting.flush)
            if metrics:
                made._flush_metrics = _attach_metrics(undo, registry, settings)
            if span_policy != "off":
                _attach_traces(undo, span_policy, events)
            if logs:
                _attach_logs(undo, log_settings)
        except BaseException:
            made._busy = False
            made.close()
            raise
        finally:
            made._busy = False
        # A finaliser or a handler in between may have set up another one.
        _close_locked([other for other in _open if other is not made])
        _was_set_up, _settings = True, settings
        return made


def _close_locked(handles: list[Telemetry]) -> None:
    for handle in handles:
        handle.close()


def set_up_once() -> None:
    """Once in a process, so that a set-up that was closed on purpose stays closed."""
    if not _was_set_up:
        with _lock:
            if not _was_set_up:
                setup_telemetry()


def check_labels(breaker: str, labels: Mapping[str, str]) -> None:
    """Raises LabelError if a breaker has a label that the set-up did not name."""
    _settings.check_known(breaker, labels)


def flush(timeout: float = 5.0) -> bool:
    """Wait until every event so far was delivered; False if `timeout` seconds were not enough.

    In prometheus_client's multiprocess mode this also brings the metrics of this process up to
    date.
    """
    for telemetry in _open.copy():
        telemetry._flush_metrics()
    return default_bus.flush(timeout)


_SWITCHES = {
    "logs": "structlog's processors say how lines look, JSON too",
    "metrics": "prometheus_client.start_http_server(8000) serves them",
    "otlp": "the variable OTEL_EXPORTER_OTLP_ENDPOINT says where to",
    "otel_metrics": "meter_provider names a provider",
}


def _check_switch(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise TelemetryError(f"{name}={value!r}: allowed are True and False; {_SWITCHES[name]}")


def _span_policy(traces: object) -> SpanPolicy:
    allowed: tuple[SpanPolicy, ...] = get_args(SpanPolicy)
    if isinstance(traces, bool):
        return "all" if traces else "off"
    for policy in allowed:
        if traces == policy:
            return policy
    raise TelemetryError(f"traces={traces!r}: allowed are True, False, {', '.join(allowed)}")


def _export_by_otlp(*, log_events: bool, otel_metrics: bool) -> Otlp:
    try:
        from breakerscope.telemetry.otlp import set_up
    except ImportError as error:
        raise MissingExtraError("otlp=True", str(error.name), "'breakerscope[otlp]'") from error
    return set_up(default_bus, log_events=log_events, otel_metrics=otel_metrics)


def _close_on_sigterm(undo: Undo, telemetry: Telemetry) -> None:
    from breakerscope.telemetry.termination import Termination

    def close() -> None:
        default_bus.flush(CLOSE_SECONDS)
        telemetry.close()

    termination = Termination(close)
    undo.append(termination.undo)
    termination.begin()


def _attach_otel_metrics(
    undo: Undo, provider: MeterProvider | None, settings: MetricsSettings
) -> None:
    from breakerscope.telemetry import otel_metrics

    instruments = otel_metrics.attach(provider, default_registry, default_bus, settings)
    undo.append(instruments.detach)


def _attach_metrics(
    undo: Undo, registry: CollectorRegistry | None, settings: MetricsSettings
) -> Callable[[], object]:
    from prometheus_client import REGISTRY

    from breakerscope.telemetry import metrics

    target = REGISTRY if registry is None else registry
    exposition = metrics.Exposition(target, default_registry, default_bus, settings)
    undo.append(exposition.close)
    exposition.begin()
    return exposition.flush


def _attach_traces(undo: Undo, policy: SpanPolicy, events: EventRoute) -> None:
    from breakerscope.telemetry import traces

    subscriptions = traces.attach(default_bus, policy=policy, events=events)
    undo.append(lambda: traces.detach(default_bus, subscriptions))


def _attach_logs(undo: Undo, settings: LogSettings) -> None:
    from breakerscope.telemetry import logs

    lines = logs.attach(default_bus, settings)
    undo.append(lambda: lines.close(default_registry.shown(), wait=CLOSE_SECONDS))
