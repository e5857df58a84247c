"""Which span of OpenTelemetry is current: asked so often that the public way would be too slow."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from breakerscope.catalogue import TraceKey

if TYPE_CHECKING:
    from opentelemetry.context import Context


def trace_ids(*, sampled_only: bool) -> Callable[[], Mapping[str, str] | None]:
    """A function that names the current span as exemplars and log lines do; None without a span."""
    from opentelemetry.trace import format_span_id, format_trace_id, get_current_span

    def current() -> Mapping[str, str] | None:
        context = get_current_span().get_span_context()
        if not context.is_valid or (sampled_only and not context.trace_flags.sampled):
            return None
        return {
            TraceKey.TRACE_ID.value: format_trace_id(context.trace_id),
            TraceKey.SPAN_ID.value: format_span_id(context.span_id),
        }

    return current


def current_context() -> Callable[[], Context]:
    """A way to the current OpenTelemetry context; it is empty, so false, where there is no span.

    The public way costs more than the rest of a protected call. The default runtime context keeps
    a mapping in one context variable; where that is not so, the public way is taken.
    """
    from opentelemetry import context

    runtime = getattr(context, "_RUNTIME_CONTEXT", None)
    variable = getattr(runtime, "_current_context", None)
    if variable is not None and hasattr(variable, "get") and not isinstance(runtime, type):
        quick: Callable[[], Any] = variable.get
        try:
            if isinstance(quick(), Mapping):
                return quick
        except LookupError:
            pass
    return context.get_current
