"""Which name takes the place of which, and the warning that says so."""

from __future__ import annotations

import warnings

REPLACED = {
    "LLMCircuitBreaker": "breakerscope.instrumented_breaker",
    "FailureThreshold": "the options consecutive_failures and failure_rate",
    "get_circuit_breaker": "breakerscope.instrumented_breaker",
    "_circuit_breakers": "breakerscope.breakers and breakerscope.get_breaker",
    "reset_all_circuit_breakers": "breakerscope.breakers and CircuitBreaker.reset",
    "get_all_circuit_breaker_stats": "breakerscope.breakers and CircuitBreaker.read",
    "LogContext": "structlog.contextvars.bound_contextvars",
    "get_current_context": "structlog.contextvars.get_contextvars",
    "set_context": "structlog.contextvars.bind_contextvars",
    "clear_context": "structlog.contextvars.clear_contextvars",
    "get_logger": "structlog.get_logger",
    "log_event": "structlog.get_logger().info",
    "log_error": "structlog.get_logger().error",
    "log_performance": "the histogram circuit_breaker_call_duration_seconds",
    "PrometheusMetricsCollector": "breakerscope.setup_telemetry",
    "get_prometheus_collector": "breakerscope.setup_telemetry",
    "OTelTracer": "opentelemetry.trace.get_tracer",
    "get_otel_tracer": "opentelemetry.trace.get_tracer",
    "setup_otel_tracer": "breakerscope.setup_telemetry(otlp=True)",
}
"""Old name -> new name. docs/migration.md shows both."""

_warned: set[str] = set()


def replaced(name: str, *, stacklevel: int = 3) -> None:
    """Warn that a name is replaced, the first time it is used in this process.

    `stacklevel` is that of `warnings.warn`: 3 is the caller of the function that calls this one.
    """
    if name in _warned:
        return
    _warned.add(name)
    warnings.warn(
        f"{name} is replaced by {REPLACED[name]}; docs/migration.md shows how",
        DeprecationWarning,
        stacklevel=stacklevel,
    )


def start_over() -> None:
    """Forget which names have warned, for tests."""
    _warned.clear()
