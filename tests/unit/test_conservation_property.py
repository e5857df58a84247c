"""Calls = events = metrics = spans, to the unit, for random mixes of whatever can go wrong."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from prometheus_client import CollectorRegistry

import breakerscope as bs
from breakerscope import CallRejected, CallSettled, Outcome, catalogue
from breakerscope.catalogue import Attribute, SpanEventName
from breakerscope.event_bus import default_bus
from tests.unit.support import Boom

pytestmark = pytest.mark.usefixtures("fresh_breakers")

CALLS = (
    "success",
    "failure",
    "ignored",
    "cancelled",
    "guard",
    "guard says failure",
    "stream",
    "abandoned stream",
    "task",
    "cancelled task",
)
COMMANDS = ("reset", "force open", "disable", "remove", "scrape")
LISTENERS = ("inline", "queued", "raises inline", "raises queued", "short queue", "calls on")

names = (f"property {number}" for number in count())
tracer = TracerProvider(span_limits=SpanLimits(max_events=10**6)).get_tracer("test")


@dataclass
class Listener:
    """A listener that may misbehave, and what it heard."""

    kind: str
    name: str
    other: bs.CircuitBreaker
    heard: Counter[str] = field(default_factory=Counter[str])

    def __call__(self, event: bs.Event) -> None:
        self.heard[_kind_of(event)] += 1
        if "raises" in self.kind:
            raise Boom
        if self.kind == "short queue":
            time.sleep(0.0005)
        if self.kind == "calls on":
            self.other.call(int)

    def subscribe(self, breaker: bs.CircuitBreaker) -> bs.Subscription:
        inline = self.kind in ("inline", "raises inline", "calls on")
        size = 2 if self.kind == "short queue" else 10_000
        return breaker.subscribe(self, name=self.name, inline=inline, queue_size=size)


def _kind_of(event: bs.Event) -> str:
    if isinstance(event, CallSettled):
        return event.outcome.value
    return Outcome.REJECTED.value if isinstance(event, CallRejected) else type(event).__name__


class Caller:
    """Makes calls, each in a span of its own, and keeps the books as a caller sees them."""

    def __init__(self, breaker: bs.CircuitBreaker, registry: CollectorRegistry) -> None:
        self._breaker = breaker
        self._registry = registry
        self.saw: Counter[str] = Counter()
        self.on_spans: Counter[str] = Counter()

    def run(self, acts: list[str]) -> None:
        for act in acts:
            if act in COMMANDS:
                self._command(act)
            else:
                self._call(act)

    def _command(self, act: str) -> None:
        if act == "remove":
            bs.remove_breaker(self._breaker.name)
        elif act == "scrape":
            list(self._registry.collect())
        else:
            getattr(self._breaker, act.replace(" ", "_"))()

    def _call(self, act: str) -> None:
        with tracer.start_as_current_span("a call") as span:
            self.saw[self._outcome(act)] += 1
        for event in span.events:  # type: ignore[attr-defined]
            if event.name in (SpanEventName.CALL, SpanEventName.REJECTION):
                self.on_spans[event.attributes[Attribute.OUTCOME]] += 1

    def _outcome(self, act: str) -> str:
        try:
            made: Callable[[], object] = getattr(self, "_" + act.replace(" ", "_"))
            made()
        except bs.CircuitBreakerOpenError:
            return Outcome.REJECTED
        except Boom:
            return Outcome.FAILURE
        except KeyError:
            return Outcome.IGNORED
        except (asyncio.CancelledError, KeyboardInterrupt):
            return Outcome.CANCELLED
        if act == "guard says failure":
            return Outcome.FAILURE
        return Outcome.CANCELLED if act == "abandoned stream" else Outcome.SUCCESS

    def _success(self) -> None:
        self._breaker.call(int)

    def _failure(self) -> None:
        self._breaker.call(_raise, Boom())

    def _ignored(self) -> None:
        self._breaker.call(_raise, KeyError())

    def _cancelled(self) -> None:
        self._breaker.call(_raise, KeyboardInterrupt())

    def _guard(self) -> None:
        with self._breaker.guard():
            pass

    def _guard_says_failure(self) -> None:
        with self._breaker.guard() as block:
            block.fail()

    def _stream(self) -> None:
        list(self._breaker(_numbers)())

    def _abandoned_stream(self) -> None:
        stream = self._breaker(_numbers)()
        next(stream)
        stream.close()

    def _task(self) -> None:
        asyncio.run(self._breaker(asyncio.sleep)(0))

    def _cancelled_task(self) -> None:
        async def main() -> None:
            task = asyncio.ensure_future(self._breaker(asyncio.sleep)(60))
            await asyncio.sleep(0)
            task.cancel()
            await task

        asyncio.run(main())


def _raise(error: BaseException) -> None:
    raise error


def _numbers() -> Generator[int]:
    yield from range(3)


@settings(max_examples=50)
@given(
    threads=st.lists(
        st.lists(st.sampled_from(CALLS * 3 + COMMANDS), max_size=25), min_size=1, max_size=4
    ),
    kinds=st.sets(st.sampled_from(LISTENERS)),
    policy=st.sampled_from(
        [{"consecutive_failures": 3, "open_for": 0.001}, {"failure_rate": 0.5, "min_calls": 4}]
    ),
)
def test_calls_are_events_are_metrics_are_spans(
    threads: list[list[str]], kinds: set[str], policy: dict[str, Any]
) -> None:
    registry = CollectorRegistry()
    with bs.setup_telemetry(registry=registry):
        breaker = bs.instrumented_breaker(next(names), ignore=KeyError, **policy)
        other = bs.instrumented_breaker(f"behind {breaker.name}")
        listeners = [Listener(kind, f"{kind} of {breaker.name}", other) for kind in sorted(kinds)]
        subscriptions = [listener.subscribe(breaker) for listener in listeners]
        callers = [Caller(breaker, registry) for _ in threads]
        _run_at_once([partial(c.run, acts) for c, acts in zip(callers, threads, strict=True)])
        assert bs.flush(10.0)

        saw = sum((caller.saw for caller in callers), Counter[str]())
        reading = breaker.read()
        assert +Counter({k.value: n for k, n in reading.calls.items()}) == saw
        assert {k: sum(d.counts) for k, d in reading.durations.items()} == {
            k: reading.calls[k] for k in reading.durations
        }
        assert reading.in_flight == 0
        assert sum((caller.on_spans for caller in callers), Counter[str]()) == saw
        if bs.get_breaker(breaker.name) is breaker:
            assert _scraped(registry, breaker.name) == saw
        else:
            assert _scraped(registry, breaker.name) == Counter()

        everything = saw + Counter(StateChanged=sum(reading.transitions.values()))
        dropped, errors = default_bus.dropped(), default_bus.errors()
        for listener in listeners:
            lost = everything.total() - listener.heard.total()
            assert (listener.kind, dropped[listener.name]) == (listener.kind, lost)
            assert lost == 0 or listener.kind == "short queue"
            assert listener.heard <= everything
            raised = listener.heard.total() if "raises" in listener.kind else 0
            assert (listener.kind, errors[listener.name]) == (listener.kind, raised)
            if listener.kind == "calls on":
                assert other.read().calls[Outcome.SUCCESS] == listener.heard.total()
        for subscription in subscriptions:
            subscription.close()


def _run_at_once(runs: list[Callable[[], None]]) -> None:
    together = threading.Barrier(len(runs))
    errors: list[BaseException] = []

    def guarded(run: Callable[[], None]) -> None:
        together.wait(10)
        try:
            run()
        except BaseException as error:
            errors.append(error)

    workers = [threading.Thread(target=guarded, args=(run,)) for run in runs]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert errors == []


def _scraped(registry: CollectorRegistry, breaker: str) -> Counter[str]:
    found: Counter[str] = Counter()
    for outcome in Outcome:
        labels = {"breaker": breaker, "outcome": outcome.value}
        with suppress(TypeError):
            found[outcome.value] = int(registry.get_sample_value(catalogue.CALLS.name, labels))  # type: ignore[arg-type]
    return +found
