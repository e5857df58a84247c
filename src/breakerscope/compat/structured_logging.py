"""The guide's log helpers, over structlog.

Where the application has configured structlog, lines go its way; else they are JSON on stderr. Each
line has `timestamp` (ISO 8601, UTC), `level` and the fields of the context, in both cases.
"""

from __future__ import annotations

import datetime as dt
import logging
import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self, overload

import structlog

from breakerscope.compat._replaced import replaced

__all__ = [
    "LogContext",
    "LogPerformance",
    "clear_context",
    "get_current_context",
    "get_logger",
    "log_error",
    "log_event",
    "log_performance",
    "set_context",
]

ERROR_OCCURRED = "error.occurred"
PERFORMANCE_MEASURED = "performance.measured"
BASE = {"event", "timestamp", "level", "self"}
"""Keys of every line. A field of the same name gets an underscore."""
LEVELS = ("debug", "info", "warning", "error", "critical")


class LogContext:
    """Inside the block, every line has these fields. Blocks nest; the inner one goes before.

    Belongs to its thread or task. One object may be used again, but not inside itself.
    """

    def __init__(self, **fields: Any) -> None:
        replaced("LogContext")
        self._fields = fields

    def __enter__(self) -> Self:
        self._tokens = structlog.contextvars.bind_contextvars(**self._fields)
        return self

    def __exit__(self, *exc_info: object) -> None:
        structlog.contextvars.reset_contextvars(**self._tokens)


def get_current_context() -> dict[str, Any]:
    """The fields that every line has just now, as a copy."""
    replaced("get_current_context")
    return dict(structlog.contextvars.get_contextvars())


def set_context(**fields: Any) -> None:
    """From now on every line of this thread or task has these fields."""
    replaced("set_context")
    structlog.contextvars.bind_contextvars(**fields)


def clear_context() -> None:
    """Forget all fields of this thread or task."""
    replaced("clear_context")
    structlog.contextvars.clear_contextvars()


def get_logger(name: str | None = None) -> Any:
    """A structlog logger whose lines have the field `logger`."""
    replaced("get_logger")
    return _logger(None) if name is None else _logger(None).bind(logger=name)


def log_event(
    event_type: str,
    fields: Mapping[str, Any] | Any = None,
    level: int | str = logging.INFO,
    *,
    logger: Any = None,
    **more: Any,
) -> None:
    """Write one line. The second argument is a dictionary of fields, or, as in the old module, a
    logger. `level`: a name (debug, info, warning, error, critical) or a number of `logging`.

    Raises ValueError for a level that is none, TypeError for something that is no logger.
    """
    replaced("log_event")
    if fields is not None and not isinstance(fields, Mapping):
        fields, logger = None, fields
    _write(logger, _level(level), event_type, {**(fields or {}), **more})


def log_error(
    error: str | BaseException,
    exception: BaseException | Any = None,
    *,
    logger: Any = None,
    **more: Any,
) -> None:
    """Write one line of level error: `log_error("payment_failed", error)`, or `log_error(error)`.

    The line has `error_type` and `error_message`, so the message should hold no secret.
    """
    replaced("log_error")
    event = error if isinstance(error, str) else ERROR_OCCURRED
    if exception is not None and not isinstance(exception, BaseException):
        exception, logger = None, exception
    if isinstance(error, BaseException):
        exception = error
    what = (
        {}
        if exception is None
        else {"error_type": type(exception).__name__, "error_message": str(exception)}
    )
    _write(logger, "error", event, {**what, **more})


class LogPerformance:
    """At its end the block is one line: how long it took, and whether it raised."""

    def __init__(
        self, operation: str, logger: Any = None, extra: Mapping[str, Any] | None = None
    ) -> None:
        self._operation = operation
        self._logger = logger
        self._extra = dict(extra or {})

    def __enter__(self) -> Self:
        self._start = time.perf_counter()
        return self

    def __exit__(
        self, cls: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        took = 1000 * (time.perf_counter() - self._start)
        status = "success" if error is None else "failed"
        fields = {"operation": self._operation, "duration_ms": took, "status": status}
        level = "info" if error is None else "error"
        _write(self._logger, level, PERFORMANCE_MEASURED, {**self._extra, **fields})


@overload
def log_performance(
    operation: str, duration_ms: None = None, logger: Any = None, **more: Any
) -> LogPerformance: ...
@overload
def log_performance(
    operation: str, duration_ms: float, logger: Any = None, **more: Any
) -> None: ...
def log_performance(
    operation: str, duration_ms: float | None = None, logger: Any = None, **more: Any
) -> LogPerformance | None:
    """Write how long something took: `log_performance("op", 12.5)`, in milliseconds, or measure it:
    `with log_performance("op"):`.
    """
    replaced("log_performance")
    if duration_ms is None:
        return LogPerformance(operation, logger, more)
    fields = {"operation": operation, "duration_ms": duration_ms, **more}
    _write(logger, "info", PERFORMANCE_MEASURED, fields)
    return None


def _write(logger: Any, level: str, event: str, fields: Mapping[str, Any]) -> None:
    now = dt.datetime.now(dt.UTC).isoformat().replace("+00:00", "Z")
    known = {**structlog.contextvars.get_contextvars(), **fields}
    own = {f"{key}_" if key in BASE else str(key): value for key, value in known.items()}
    _method(_logger(logger), level)(event, **{**own, "timestamp": now, "level": level})


def _method(logger: Any, level: str) -> Any:
    method = getattr(logger, level, None)
    if not callable(method):
        raise TypeError(f"logger={logger!r}: allowed is a logger of structlog or of logging")
    return method


def _logger(given: Any) -> Any:
    if isinstance(given, logging.Logger):
        # One of `logging` takes no fields: a line of JSON is its message.
        return structlog.wrap_logger(given, processors=[structlog.processors.JSONRenderer()])
    if given is not None:
        return given
    if structlog.is_configured():
        return structlog.get_logger()
    return structlog.wrap_logger(
        structlog.PrintLogger(sys.stderr), processors=[structlog.processors.JSONRenderer()]
    )


def _level(level: int | str) -> str:
    name = logging.getLevelName(level).lower() if isinstance(level, int) else level.lower()
    if name not in LEVELS:
        raise ValueError(f"level={level!r}: allowed are {', '.join(LEVELS)}")
    return name
