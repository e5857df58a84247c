"""Listeners: what they do never reaches the protected call, and what they miss is counted."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextvars import ContextVar, copy_context
from typing import Any
from weakref import ref

import pytest

from breakerscope.core.events import (
    CallRejected,
    CallSettled,
    Event,
    Outcome,
    State,
    StateChanged,
)
from breakerscope.event_bus import EventBus
from breakerscope.subscription_options import SubscriptionError
from breakerscope.testing import FakeClock, capture_events
from tests.unit.support import Boom, fail_times, make_breaker, refused, succeed

WAIT = 10.0


def test_a_sleeping_listener_does_not_hold_up_calls() -> None:
    bus = EventBus()
    breaker = make_breaker(bus=bus)
    awake = threading.Event()
    heard: list[int] = []

    def sleeping(event: Event) -> None:
        awake.wait(WAIT)
        heard.append(event.seq)

    bus.subscribe(sleeping, name="sleeping", queue_size=5)
    for _ in range(20):
        assert breaker.call(succeed) == "fine"
    # All 20 calls have returned while the listener still sleeps over the first one.
    assert heard == []
    assert breaker.read().calls[Outcome.SUCCESS] == 20
    awake.set()
    assert bus.flush(WAIT)
    dropped = bus.dropped()["sleeping"]
    assert len(heard) + dropped == 20
    assert dropped in (14, 15)
    assert heard == list(range(1, len(heard) + 1))


def test_listeners_whose_names_are_made_up_are_counted_as_one() -> None:
    bus = EventBus()
    for number in range(1005):
        bus.count_dropped(f"listener {number}")
        bus.count_error(f"listener {number}", Boom())
    bus.count_dropped("listener 7")
    for counts, seven in ((bus.dropped(), 2), (bus.errors(), 1)):
        assert len(counts) == 1001
        assert (counts["listener 7"], counts["_OTHER"]) == (seven, 5)


def test_a_guard_that_raises_says_no() -> None:
    bus = EventBus()
    breaker = make_breaker(bus=bus, consecutive_failures=2)
    heard: list[Event] = []

    def broken() -> bool:
        raise Boom

    bus.subscribe(heard.append, name="guarded", inline=True, when=broken)
    assert breaker.call(succeed) == "fine"
    fail_times(breaker, 2)
    assert refused(breaker).state is State.OPEN
    assert heard == []
    # One success, two failures, a change of state and a refusal; a guard may be asked twice.
    assert 5 <= bus.errors()["guarded"] <= 10


def test_a_stream_that_a_garbage_collection_ends() -> None:
    """In the middle of it anything may be locked, so inline listeners are called later."""
    bus = EventBus()
    breaker = make_breaker(bus=bus)
    inline: list[Event] = []
    queued: list[Event] = []
    bus.subscribe(inline.append, name="inline", inline=True)
    bus.subscribe(queued.append, name="queued")

    @breaker
    def stream() -> Iterator[int]:
        yield from range(3)

    abandoned = stream()
    next(abandoned)
    ring: list[object] = [abandoned]
    ring.append(ring)
    del abandoned, ring
    gc.collect()
    assert inline == []
    assert bus.flush(WAIT)
    reading = breaker.read()
    assert (reading.calls[Outcome.CANCELLED], reading.in_flight) == (1, 0)
    assert inline == queued
    assert len(inline) == 1
    assert bus.dropped() == {"inline": 0, "queued": 0}

    abandoned = stream()
    next(abandoned)
    del abandoned
    assert bus.flush(WAIT)
    assert inline == queued
    assert breaker.read().calls[Outcome.CANCELLED] == 2


def test_one_sleeping_listener_takes_nothing_from_the_others() -> None:
    bus = EventBus()
    breaker = make_breaker(bus=bus)
    awake = threading.Event()
    heard: list[int] = []
    arrived = threading.Event()

    def quick(event: Event) -> None:
        heard.append(event.seq)
        if len(heard) == 100:
            arrived.set()

    bus.subscribe(lambda _: awake.wait(WAIT), name="sleeping", queue_size=1)
    bus.subscribe(quick)
    for _ in range(100):
        breaker.call(succeed)
    assert arrived.wait(WAIT)
    awake.set()
    assert heard == list(range(1, 101))


@pytest.mark.parametrize("inline", [True, False])
def test_a_listener_that_makes_calls_hears_nothing_of_them(inline: bool) -> None:
    bus = EventBus()
    breaker = make_breaker(bus=bus)
    heard: list[Event] = []

    def calling(event: Event) -> None:
        heard.append(event)
        breaker.call(succeed)

    bus.subscribe(calling, name="calling", inline=inline)
    breaker.call(succeed)
    assert bus.flush(WAIT)
    assert len(heard) == 1
    assert bus.dropped() == {"calling": 1}
    assert breaker.read().calls[Outcome.SUCCESS] == 2


def test_the_queue_carries_the_context_of_the_call() -> None:
    bus = EventBus()
    breaker = make_breaker(bus=bus)
    request: ContextVar[str] = ContextVar("request", default="none")
    heard: list[str] = []
    bus.subscribe(lambda _: heard.append(request.get()))
    for name in ("first", "second"):
        request.set(name)
        breaker.call(succeed)
    request.set("none")
    assert bus.flush(WAIT)
    assert heard == ["first", "second"]


def test_filters() -> None:
    bus, clock = EventBus(), FakeClock()
    breaker = make_breaker(clock, bus=bus, consecutive_failures=2, open_for=100.0)
    other = make_breaker(bus=bus, name="other")
    heard: dict[str, list[str]] = {"failures": [], "changes": [], "some": [], "other": [], "no": []}

    def into(key: str) -> object:
        return lambda event: heard[key].append(type(event).__name__)

    subscriptions = [
        bus.subscribe(into("failures"), CallSettled, outcomes={Outcome.FAILURE}, inline=True),  # type: ignore[arg-type]
        bus.subscribe(into("changes"), StateChanged, inline=True),  # type: ignore[arg-type]
        bus.subscribe(into("some"), CallRejected, every=10.0, inline=True),  # type: ignore[arg-type]
        bus.subscribe(into("no"), when=lambda: False, inline=True),  # type: ignore[arg-type]
        other.subscribe(into("other"), inline=True),  # type: ignore[arg-type]
    ]
    breaker.call(succeed)
    fail_times(breaker, 2)
    for _ in range(3):
        refused(breaker)
    clock.advance(10.0)
    refused(breaker)
    other.call(succeed)
    for subscription in subscriptions:
        subscription.close()
    refused(breaker)
    other.call(succeed)
    assert heard == {
        "failures": ["CallSettled", "CallSettled"],
        "changes": ["StateChanged"],
        "some": ["CallRejected", "CallRejected"],
        "other": ["CallSettled"],
        "no": [],
    }


def test_a_subscriber_hears_of_breakers_made_later() -> None:
    bus = EventBus()
    with capture_events(CallSettled, bus=bus) as events:
        make_breaker(bus=bus, name="later").call(succeed)
    make_breaker(bus=bus, name="too late").call(succeed)
    assert [event.breaker for event in events] == ["later"]


def test_a_call_in_flight_at_the_subscription_is_heard_of() -> None:
    bus = EventBus()
    breaker = make_breaker(bus=bus)
    breaker.call(succeed)
    with breaker.guard():
        bus.subscribe(heard := [].append, inline=True)  # type: ignore[var-annotated]
    assert len(heard.__self__) == 1  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": -1.0}, "every=-1.0: allowed are seconds, 0 or more"),
        ({"every": "5s"}, "every='5s': allowed are seconds, 0 or more"),
        ({"queue_size": 0}, "queue_size=0: allowed is 1 or more"),
        ({"queue_size": 1.5}, "queue_size=1.5: allowed is 1 or more"),
        (
            {"outcomes": "failure"},
            "outcomes='failure': allowed is a collection of success, failure",
        ),
        ({"outcomes": ["failed"]}, "outcomes=.*: allowed is a collection of success, failure"),
        ({"when": True}, "when=True: allowed is a function without arguments"),
        ({"when": {int: print}}, "when=.*: allowed is a function without arguments"),
        ({"inline": "yes"}, "inline='yes': allowed are True and False"),
        ({"breaker": 3}, "breaker=3: allowed is the name of a breaker"),
        ({"name": 3}, "name=3: allowed is text"),
        ({"name": "a\nb"}, r"name='a\\nb': \\n is in it; allowed is text without control"),
        ({"brekaer": "x"}, "unknown option 'brekaer': did you mean 'breaker'"),
    ],
)
def test_impossible_subscriptions(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SubscriptionError, match=message):
        EventBus().subscribe(print, **options)
    with pytest.raises(SubscriptionError, match="allowed are CallSettled, CallRejected"):
        EventBus().subscribe(print, int)  # type: ignore[arg-type]

    class Async:
        async def __call__(self, event: Event) -> None: ...

    for listener in (Async().__call__, Async()):
        with pytest.raises(SubscriptionError, match="nobody would await it"):
            EventBus().subscribe(listener)
    with pytest.raises(SubscriptionError, match="allowed is a callable"):
        EventBus().subscribe("print")  # type: ignore[arg-type]


def test_the_context_of_a_call_is_let_go_when_its_event_was_delivered() -> None:
    """Not when the next event comes: a context may hold a request, and all that it brought."""

    class Request:
        pass

    bus = EventBus()
    breaker = make_breaker(bus=bus)
    variable: ContextVar[Request | None] = ContextVar("request", default=None)
    seen: list[ref[Request]] = []

    def call() -> None:
        request = Request()
        seen.append(ref(request))
        variable.set(request)
        breaker.call(succeed)

    with bus.subscribe(list[object]().append, CallSettled):
        copy_context().run(call)
        assert bus.flush()
        gc.collect()
        assert seen[0]() is None
