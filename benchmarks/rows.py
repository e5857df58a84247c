"""The rows of calls: which subjects share the rounds, and how each is checked beforehand."""

from __future__ import annotations

import dataclasses
import functools
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import breakerscope
from benchmarks import loops, ours, peers
from benchmarks.loops import Body, Loop
from benchmarks.rounds import Subject

CHECKED_CALLS = 1_000


@dataclass(frozen=True)
class Row:
    """Subjects that are timed together. `body` is what every call runs."""

    subjects: list[Subject]
    body: Body
    check: Callable[[Subject], None]


# -- correctness under speed -----------------------------------------------------------------------


def check_success(subject: Subject) -> None:
    """Each call runs the body once, no more and no less; the metrics show exactly the calls."""
    ran = 0

    def body() -> None:
        nonlocal ran
        ran += 1

    _run_checked(subject, body)
    _expect(subject, "the body ran", ran, CHECKED_CALLS)


def check_async(subject: Subject) -> None:
    """As `check_success`."""
    ran = 0

    async def body() -> None:
        nonlocal ran
        ran += 1

    _run_checked(subject, body)
    _expect(subject, "the body ran", ran, CHECKED_CALLS)


def check_failing(subject: Subject) -> None:
    """Each call runs the body once and hands on what it raised (the loop insists on that)."""
    ran = 0

    def body() -> None:
        nonlocal ran
        ran += 1
        raise loops.Broken

    _run_checked(subject, body)
    _expect(subject, "the body ran", ran, CHECKED_CALLS)


def check_rejected(subject: Subject) -> None:
    """No call runs the body, each raises the refusal (the loop insists on that)."""
    ran = 0

    def body() -> None:
        nonlocal ran
        ran += 1
        raise loops.Broken

    loop = subject.build(body)
    before = ran
    with subject.around():
        loop(CHECKED_CALLS)
    _expect(subject, "the body ran while open", ran - before, 0)
    if subject.counted is not None:
        _expect(subject, "the metrics show", subject.counted(), CHECKED_CALLS)


def _run_checked(subject: Subject, body: Body) -> None:
    loop = subject.build(body)
    with subject.around():
        loop(CHECKED_CALLS)
    if subject.counted is not None:
        _expect(subject, "the metrics show", subject.counted(), CHECKED_CALLS)


def _expect(subject: Subject, what: str, found: float, wanted: float) -> None:
    if found != wanted:
        raise AssertionError(f"{subject.name}: {what} {found} times, {wanted} were due")


# -- the rows --------------------------------------------------------------------------------------


def _bare_peers() -> list[Subject]:
    def build(make: peers.Make) -> Callable[[Body], Loop]:
        return lambda fn: loops.calls(make(fn))

    return [Subject(peer.name, "peer", build(peer.make)) for peer in peers.PEERS]


def success() -> Row:
    from benchmarks import peers_with_metrics

    ours.switch_on()
    subjects = [
        Subject("empty function", "floor", loops.calls),
        ours.Form(ours.decorator, "success").subject("decorator"),
        ours.Form(ours.by_call, "success").subject("call()"),
        ours.Form(ours.by_guard, "success").subject("with guard()"),
        ours.Form(ours.decorator, "success", window=timedelta(seconds=60)).subject(
            "decorator, window of 60 s"
        ),
        ours.Form(ours.decorator, "success", slow_call=1.0, slow_call_rate=0.5).subject(
            "decorator, slow calls judged"
        ),
        *_bare_peers(),
        *peers_with_metrics.successes(),
    ]
    return Row(subjects, loops.empty, check_success)


@contextmanager
def _current_span() -> Iterator[Any]:
    """A recording span of the SDK that is current, new for each slice, with room for all events."""
    from opentelemetry import trace

    span = _tracer().start_span("slice")
    with trace.use_span(span, end_on_exit=True):
        yield span


@functools.cache
def _tracer() -> Any:
    from opentelemetry.sdk.trace import SpanLimits, TracerProvider

    limits = SpanLimits(max_events=10**7, max_span_attributes=64)
    return TracerProvider(span_limits=limits).get_tracer("bench")


def _with_span(subjects: list[Subject]) -> list[Subject]:
    return [Subject(s.name, s.group, s.build, s.counted, _current_span) for s in subjects]


def success_in_span() -> Row:
    """The span is current for all subjects of the row."""
    ours.switch_on(traces="non_success")
    subjects = [
        Subject("empty function", "floor", loops.calls),
        ours.Form(ours.decorator, "success").subject("decorator"),
        *_bare_peers(),
    ]
    return Row(_with_span(subjects), loops.empty, check_success)


def span_event() -> Row:
    """One span event for each successful call, beside the least code that does the same."""
    from opentelemetry import trace

    ours.switch_on(traces="all")

    def bare(fn: Body) -> Loop:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            result = fn(*args, **kwargs)
            span = trace.get_current_span()
            span.add_event(
                "circuit_breaker.call",
                {
                    "circuit_breaker.name": "bench",
                    "circuit_breaker.seq": 1,
                    "circuit_breaker.state": "closed",
                    "circuit_breaker.outcome": "success",
                    "circuit_breaker.duration": 0.001,
                },
            )
            return result

        return loops.calls(wrapper)

    form = ours.Form(ours.decorator, "success")
    ours_subject = form.subject("decorator, one span event a call")
    subjects = [
        Subject("span.add_event in a wrapper", "baseline", bare),
        ours_subject,
    ]
    return Row(_with_span(subjects), loops.empty, _check_events)


def _check_events(subject: Subject) -> None:
    check_success(subject)
    loop = subject.build(loops.empty)
    with _current_span() as span:
        loop(CHECKED_CALLS)
        _expect(subject, "the span has events", len(span.events), CHECKED_CALLS)


def async_success() -> Row:
    ours.switch_on()
    subjects = [
        Subject("empty coroutine function", "floor", loops.awaits),
        ours.Form(ours.asynchronous, "success").subject("decorator"),
        *(
            Subject(
                peer.name,
                "peer",
                lambda fn, make=peer.make_async: loops.awaits(make(fn)),  # type: ignore[misc]
            )
            for peer in peers.PEERS
            if peer.make_async is not None
        ),
    ]
    return Row(subjects, loops.empty_async, check_async)


def _opened(make: Callable[[Body], Body], refusal: type[BaseException], fn: Body) -> Loop:
    """The loop of a breaker that was opened by failures."""
    protected = make(fn)
    for _ in range(peers.FAILURES + 5):
        try:
            protected()
        except refusal:
            return loops.catching(protected, refusal)
        except loops.Broken:
            pass
    raise AssertionError("the breaker did not open")


class _Rejected(ours.Form):
    """Ours, opened; the one refusal that showed it is not counted."""

    def build(self, fn: Body) -> Loop:
        loop = super().build(fn)
        self._before = super().counted()
        return loop

    def counted(self) -> float:
        return super().counted() - self._before


def rejected() -> Row:
    from benchmarks import peers_with_metrics

    ours.switch_on()

    def opened(breaker: Any, fn: Body) -> Loop:
        return _opened(breaker, breakerscope.CircuitBreakerOpenError, fn)

    form = _Rejected(opened, "rejected", consecutive_failures=peers.FAILURES, open_for=peers.HOUR)
    subjects = [
        Subject("plain raise", "floor", lambda _: loops.catching(loops.broken, loops.Broken)),
        form.subject("decorator"),
    ]
    subjects += [
        Subject(peer.name, "peer", lambda fn, peer=peer: _opened(peer.make, peer.refusal, fn))  # type: ignore[misc]
        for peer in peers.PEERS
    ]
    for name, (peer_name, make, around) in peers_with_metrics.makes_with_metrics().items():
        refusal = peers.BY_NAME[peer_name].refusal

        def build(fn: Body, make: Any = make, refusal: Any = refusal) -> Loop:
            return _opened(make, refusal, fn)

        more = {} if around is None else {"around": around}
        subjects.append(Subject(name, "with metrics", build, **more))
    return Row(subjects, loops.broken, check_rejected)


def failing() -> Row:
    """No threshold is ever reached; the line of the log is suppressed by its level."""
    ours.switch_on()
    logging.getLogger("breakerscope").setLevel(logging.ERROR)

    def build(make: peers.Make) -> Callable[[Body], Loop]:
        return lambda fn: loops.catching(make(fn, trips=False), loops.Broken)

    never: dict[str, Any] = {"consecutive_failures": peers.NEVER}
    subjects = [
        Subject("plain raise", "floor", lambda fn: loops.catching(fn, loops.Broken)),
        ours.Form(ours.failing, "failure", **never).subject("decorator"),
        ours.Form(
            ours.failing,
            "failure",
            failure_rate=0.5,
            min_calls=peers.NEVER,
            window=timedelta(seconds=60),
        ).subject("decorator, rate over 60 s"),
        *(Subject(peer.name, "peer", build(peer.make)) for peer in peers.PEERS),
    ]
    return Row(subjects, loops.broken, check_failing)


class _Heard(ours.Form):
    """Ours, with an inline subscriber of every settled call; it must hear each one."""

    heard = 0

    def build(self, fn: Body) -> Loop:
        self.heard = 0
        loop = super().build(fn)
        self.breaker.subscribe(self.hear, breakerscope.CallSettled, inline=True)
        return loop

    def hear(self, _event: object) -> None:
        self.heard += 1

    def counted(self) -> float:
        if self.heard != super().counted():
            raise AssertionError(f"{self.heard} events for {super().counted()} calls")
        return self.heard


def subscriber() -> Row:
    """One typed subscriber, inline, of every settled call."""
    ours.switch_on()
    subjects = [
        Subject("empty function", "floor", loops.calls),
        _Heard(ours.decorator, "success").subject("decorator, one inline subscriber"),
        *_bare_peers(),
    ]
    return Row(subjects, loops.empty, check_success)


DEEP = 40


def _deep(breaker: Any, fn: Body) -> Loop:
    """The loop of the decorator, run from so many frames further down."""
    loop = ours.decorator(breaker, fn)

    def deeper(n: int, left: int = DEEP) -> float:
        return deeper(n, left - 1) if left else loop(n)

    return deeper


@contextmanager
def _another_delivers() -> Iterator[None]:
    """Another thread that calls a breaker of its own, nearly always inside its inline listener.

    The listener sleeps: were it busy, the two threads would share the interpreter, and the clock
    would show little else.
    """
    inside, stop = threading.Event(), threading.Event()

    def hear(_event: object) -> None:
        inside.set()
        time.sleep(0.001)

    breaker = breakerscope.instrumented_breaker(peers.new_name())
    subscription = breaker.subscribe(hear, breakerscope.CallSettled, inline=True)
    fn = breaker(loops.empty)

    def deliver() -> None:
        while not stop.is_set():
            fn()

    thread = threading.Thread(target=deliver)
    thread.start()
    try:
        if not inside.wait(10):
            raise AssertionError("the other thread delivers nothing")
        yield
    finally:
        stop.set()
        thread.join()
        subscription.close()
        breakerscope.remove_breaker(breaker.name)


def subscriber_beside() -> Row:
    """The price of a delivery while another thread delivers too, to a caller that is deep down."""
    ours.switch_on()
    alone = _Heard(ours.decorator, "success").subject("decorator, one inline subscriber")
    beside = _Heard(_deep, "success").subject(
        f"the same, called from {DEEP} frames deep while another thread delivers"
    )
    subjects = [
        dataclasses.replace(alone, group="baseline"),
        dataclasses.replace(beside, around=_another_delivers),
    ]
    return Row(subjects, loops.empty, check_success)


def ingredients() -> Row:
    """What a protected call could be made of."""
    from benchmarks.ingredients import subjects

    return Row(subjects(), loops.empty, lambda _: None)


ROWS: dict[str, Callable[[], Row]] = {
    "success": success,
    "success_in_span": success_in_span,
    "span_event": span_event,
    "async_success": async_success,
    "rejected": rejected,
    "failing": failing,
    "subscriber": subscriber,
    "subscriber_beside": subscriber_beside,
    "ingredients": ingredients,
}
