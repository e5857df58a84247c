"""Span links: from a refused call to the trace that opened the breaker, for OpenTelemetry."""

from __future__ import annotations

from weakref import WeakKeyDictionary

from opentelemetry.trace import Span, SpanContext, get_current_span

from breakerscope.catalogue import Attribute
from breakerscope.core.events import CallRejected, Cause, Event, State, StateChanged

MAX_OPENERS = 1000
"""How many open breakers are remembered; beyond that the oldest opening is forgotten."""

OPEN_STATES = frozenset({State.OPEN, State.FORCED_OPEN})


class Links:
    """Links each span that has a refused call to the span that was current at the opening, once.

    A listener, to be called in the thread and in the context of the call. Thread-safe, by single
    operations of dictionaries: a lock might be held for ever in a forked child. Two refusals of one
    span that meet in two threads may both add the link.
    """

    def __init__(self) -> None:
        self._openers: dict[str, tuple[SpanContext, Cause]] = {}
        self._linked: WeakKeyDictionary[Span, dict[str, SpanContext]] = WeakKeyDictionary()

    def __call__(self, event: Event) -> None:
        """Remember an opening, or link to it."""
        if isinstance(event, StateChanged):
            self._remember(event)
        elif isinstance(event, CallRejected):
            opener = self._openers.get(event.breaker)
            if opener is not None:
                self._link(event.breaker, *opener)

    def _remember(self, event: StateChanged) -> None:
        if event.new is State.HALF_OPEN:
            return
        self._openers.pop(event.breaker, None)
        context = get_current_span().get_span_context()
        # A link to a trace that nobody keeps would lead nowhere.
        if event.new in OPEN_STATES and context.is_valid and context.trace_flags.sampled:
            self._openers[event.breaker] = context, event.cause
            for oldest in list(self._openers)[:-MAX_OPENERS]:
                self._openers.pop(oldest, None)

    def _link(self, breaker: str, opener: SpanContext, cause: Cause) -> None:
        span = get_current_span()
        # Within one trace the events tell the story.
        if not span.is_recording() or span.get_span_context().trace_id == opener.trace_id:
            return
        linked = self._linked.setdefault(span, {})
        if linked.get(breaker) != opener:
            linked[breaker] = opener
            attributes = {Attribute.NAME.value: breaker, Attribute.CAUSE.value: cause.value}
            span.add_link(opener, attributes)
