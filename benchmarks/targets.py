"""What each row must reach and what it aims at: the table of issue 4, and one beside resilix.

circuitbreaker is the fastest of the breakers that were known when that table was set. resilix was
found later and does the least of all: no window, no clock while calls succeed, no metrics.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """One line of a table: the figure of `subject` over that of `reference`, in the same row.

    Without a reference it is the figure itself. `more` True: higher is better.
    """

    key: str
    words: str
    row: str
    subject: str
    must: float
    aim: float | None = None
    more: bool = False
    reference: str | None = "circuitbreaker"


TARGETS = (
    Target(
        "decorator",
        "success, decorator, everything on, no current span",
        "success",
        "decorator",
        0.70,
        0.50,
    ),
    Target("call", "the same, `call()`", "success", "call()", 0.75, 0.55),
    Target("guard", "the same, `with guard()`", "success", "with guard()", 1.10, 0.90),
    Target(
        "in_span",
        "the same with a recording span current, span events for non-success only",
        "success_in_span",
        "decorator",
        0.80,
        0.60,
    ),
    Target(
        "span_event",
        "success with one span event per call: ratio to bare `span.add_event` + wrapper",
        "span_event",
        "decorator, one span event a call",
        1.35,
        1.15,
        reference="span.add_event in a wrapper",
    ),
    Target("async", "async success, everything on", "async_success", "decorator", 0.75, 0.55),
    Target(
        "rejected",
        "rejected, everything on (rate-limited log)",
        "rejected",
        "decorator",
        0.90,
        0.60,
    ),
    Target(
        "failing",
        "failing, metrics and tracing on, log line suppressed",
        "failing",
        "decorator",
        1.30,
        1.05,
    ),
    Target(
        "multiprocess",
        "success in prometheus_client's multiprocess mode",
        "multiprocess",
        "decorator",
        1.00,
        0.65,
    ),
    Target(
        "subscriber",
        "one typed subscriber of every call (inline)",
        "subscriber",
        "decorator, one inline subscriber",
        1.60,
        1.20,
    ),
    Target(
        "threads",
        "8 threads on one breaker, calls a second (higher is better)",
        "threads",
        "decorator",
        1.5,
        2.3,
        more=True,
    ),
    Target(
        "scrape",
        "scrape of 1,000 breakers: ratio to the same series as prometheus_client children",
        "scrape",
        "ours",
        0.70,
        0.50,
        reference="children",
    ),
    Target(
        "memory",
        "bytes per breaker after 300 calls, all metrics on",
        "memory",
        "after_300_calls",
        3072,
        3072,
        reference=None,
    ),
    Target(
        "import",
        "`import breakerscope`, whole process: ratio to `import circuitbreaker`",
        "import",
        "breakerscope",
        1.5,
        1.5,
    ),
)

AGAINST_RESILIX = (
    Target(
        "decorator beside resilix",
        "success, decorator, everything on",
        "success",
        "decorator",
        1.05,
        1.00,
        reference="resilix",
    ),
    Target(
        "async beside resilix",
        "async success, everything on",
        "async_success",
        "decorator",
        1.05,
        reference="resilix",
    ),
    Target(
        "rejected beside resilix",
        "rejected, everything on (rate-limited log)",
        "rejected",
        "decorator",
        0.90,
        reference="resilix",
    ),
    Target(
        "failing beside resilix",
        "failing, metrics and tracing on, log line suppressed",
        "failing",
        "decorator",
        1.20,
        reference="resilix",
    ),
)
