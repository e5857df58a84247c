"""What is interrupted at each of its points in turn; see `points`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from prometheus_client import CollectorRegistry, generate_latest

import breakerscope as bs
from tests.integration.interrupts.world import Boom, NotMineError, drive, is_bad

OPEN_FOR, LEASE = 0.001, 0.004
REFUSING_FOR = 0.01
"""The wait where the refusal is what is looked at."""

ENDINGS = (Boom, NotMineError, asyncio.CancelledError, bs.CircuitBreakerOpenError)
"""How a call may end."""

REGISTRY = CollectorRegistry()
PER_KEY = bs.breakers_per("host", limit=3, consecutive_failures=3)


Act = Callable[[], object]


class Subject:
    """A breaker of its own for each trial."""

    def __init__(self, name: str, kind: str, folder: Path) -> None:
        self.folder = folder
        options: dict[str, Any] = {
            "consecutive_failures": 3,
            "open_for": REFUSING_FOR if kind == "refusing" else OPEN_FOR,
            "probe_lease": LEASE,
        }
        if kind == "rich":
            options |= {
                "ignore": NotMineError,
                "failure_if": is_bad,
                "slow_call": 0.0005,
                "slow_call_rate": 1.0,
                "failure_rate": 0.9,
                "min_calls": 4,
            }
        self.name = name
        self.breaker = bs.instrumented_breaker(name, **options)
        self.mood = "good"
        self.calls = 0
        """How often somebody called it so far."""
        self.listening: list[bs.Subscription] = []
        breaker = self.breaker

        @breaker
        def plain() -> str:
            return self.answer()

        @breaker
        async def coroutine() -> str:
            return self.answer()

        @breaker
        def stream() -> Iterator[str]:
            yield "one"
            yield self.answer()

        @breaker
        async def astream() -> AsyncIterator[str]:
            yield "one"
            yield self.answer()

        @breaker.with_fallback(lambda: "instead")
        def or_else() -> str:
            return self.answer()

        self.plain, self.coroutine, self.or_else = plain, coroutine, or_else
        self.stream, self.astream = stream, astream

    def answer(self) -> str:
        if self.mood == "dead":
            raise Boom
        if self.mood == "ignored":
            raise NotMineError
        if self.mood == "cancelled":
            raise asyncio.CancelledError
        if self.mood == "slow":
            time.sleep(0.0006)
        return self.mood

    def call(self, mood: str = "good", times: int = 1, call: Act | None = None) -> None:
        """Calls that are not looked at."""
        self.mood = mood
        for _ in range(times):
            self.calls += 1
            with suppress(*ENDINGS):
                (call or self.plain)()
        self.mood = "good"

    def open(self) -> None:
        self.call("dead", 3)

    def wait_over(self) -> None:
        self.open()
        time.sleep(1.3 * OPEN_FOR)


class Case(NamedTuple):
    """What is interrupted. `prepare` gives it, after what has to come before; `calls` of the
    breaker are in it, at most. Interrupted, it `leaks` a listener that nobody got hold of.
    """

    prepare: Callable[[Subject], Act]
    calls: int
    kind: str
    leaks: bool


GROUPS: dict[str, dict[str, Case]] = {}


def case(
    group: str, *, calls: int = 0, kind: str = "plain", leaks: bool = False
) -> Callable[[Callable[[Subject], Act]], Callable[[Subject], Act]]:
    def keep(prepare: Callable[[Subject], Act]) -> Callable[[Subject], Act]:
        name = prepare.__name__.strip("_").replace("_", " ")
        GROUPS.setdefault(group, {})[name] = Case(prepare, calls, kind, leaks)
        return prepare

    return keep


def answering(subject: Subject, mood: str, call: Act | None = None) -> Act:
    def act() -> object:
        subject.mood = mood
        return (call or subject.plain)()

    return act


@case("calls", calls=1)
def _first_success(subject: Subject) -> Act:
    return subject.plain


@case("calls", calls=1)
def _further_success(subject: Subject) -> Act:
    subject.call(times=3)
    return subject.plain


@case("calls", calls=1, kind="rich")
def _slow_success(subject: Subject) -> Act:
    subject.call()
    return answering(subject, "slow")


@case("calls", calls=1)
def _first_failure(subject: Subject) -> Act:
    return answering(subject, "dead")


@case("calls", calls=1)
def _further_failure(subject: Subject) -> Act:
    subject.call(times=3)
    return answering(subject, "dead")


@case("calls", calls=1, kind="rich")
def _failing_result(subject: Subject) -> Act:
    subject.call()
    return answering(subject, "bad")


@case("calls", calls=1, kind="rich")
def _ignored_error(subject: Subject) -> Act:
    subject.call()
    return answering(subject, "ignored")


@case("calls", calls=1)
def _cancelled(subject: Subject) -> Act:
    subject.call()
    return answering(subject, "cancelled")


@case("calls", calls=1)
def _opening_call(subject: Subject) -> Act:
    subject.call("dead", 2)
    return answering(subject, "dead")


@case("refusals and probes", calls=1, kind="refusing")
def _first_refusal(subject: Subject) -> Act:
    subject.open()
    return subject.plain


@case("refusals and probes", calls=1, kind="refusing")
def _further_refusal(subject: Subject) -> Act:
    subject.open()
    subject.call(times=2)
    return subject.plain


@case("refusals and probes", calls=1, kind="refusing")
def _refused_guard(subject: Subject) -> Act:
    subject.open()
    return lambda: subject.breaker.guard().__enter__()


@case("refusals and probes", calls=1)
def _good_probe(subject: Subject) -> Act:
    subject.wait_over()
    return subject.plain


@case("refusals and probes", calls=1)
def _failing_probe(subject: Subject) -> Act:
    subject.wait_over()
    return answering(subject, "dead")


@case("refusals and probes", calls=1, kind="rich")
def _ignored_probe(subject: Subject) -> Act:
    subject.wait_over()
    return answering(subject, "ignored")


@case("refusals and probes", calls=1)
def _probe_in_a_guard(subject: Subject) -> Act:
    subject.wait_over()
    return lambda: _block(subject)


@case("refusals and probes", calls=1)
def _abandoned_probe(subject: Subject) -> Act:
    subject.wait_over()
    return lambda: next(iter(subject.stream()))


@case("refusals and probes", calls=1, kind="refusing")
def _fallback_of_a_refusal(subject: Subject) -> Act:
    subject.open()
    return subject.or_else


@case("refusals and probes", calls=1)
def _late_result(subject: Subject) -> Act:
    guard = subject.breaker.guard()
    guard.__enter__()
    subject.open()
    return lambda: guard.__exit__(None, None, None)


def _block(subject: Subject) -> None:
    with subject.breaker.guard():
        subject.answer()


async def _async_block(subject: Subject) -> None:
    async with subject.breaker.guard() as guard:
        guard.fail("no good")


@case("forms", calls=1)
def _guard(subject: Subject) -> Act:
    return lambda: _block(subject)


@case("forms", calls=1)
def _failing_guard(subject: Subject) -> Act:
    subject.call(times=2)
    return answering(subject, "dead", lambda: _block(subject))


@case("forms", calls=1)
def _async_guard(subject: Subject) -> Act:
    return lambda: drive(_async_block(subject))


@case("forms", calls=1)
def _exchange(subject: Subject) -> Act:
    def act() -> None:
        exchange = subject.breaker.exchange()
        with exchange:
            subject.answer()
        exchange.end("fine")

    return act


@case("forms", calls=1)
def _forgotten_exchange(subject: Subject) -> Act:
    return lambda: subject.breaker.exchange() and None


@case("forms", calls=1)
def _call(subject: Subject) -> Act:
    return lambda: subject.breaker.call(subject.answer)


@case("forms", calls=1)
def _call_of_a_coroutine(subject: Subject) -> Act:
    async def asks() -> str:
        return subject.answer()

    def hiding() -> Any:
        return asks()

    return lambda: drive(subject.breaker.call(hiding))


@case("forms", calls=1)
def _coroutine(subject: Subject) -> Act:
    return lambda: drive(subject.coroutine())


@case("forms", calls=1)
def _generator(subject: Subject) -> Act:
    return lambda: list(subject.stream())


@case("forms", calls=1)
def _failing_generator(subject: Subject) -> Act:
    return answering(subject, "dead", lambda: list(subject.stream()))


@case("forms", calls=1)
def _abandoned_generator(subject: Subject) -> Act:
    return lambda: next(iter(subject.stream()))


@case("forms", calls=1)
def _async_generator(subject: Subject) -> Act:
    async def read() -> list[str]:
        return [item async for item in subject.astream()]

    return lambda: drive(read())


@case("by hand")
def _state(subject: Subject) -> Act:
    subject.call(times=3)
    return lambda: subject.breaker.state


@case("by hand")
def _read(subject: Subject) -> Act:
    subject.call(times=3)
    subject.call("dead", 2)
    return subject.breaker.read


@case("by hand")
def _read_while_refusing(subject: Subject) -> Act:
    subject.open()
    subject.call(times=2)
    return subject.breaker.read


@case("by hand")
def _reset_of_a_closed_one(subject: Subject) -> Act:
    subject.call(times=2)
    return subject.breaker.reset


@case("by hand")
def _reset_of_an_open_one(subject: Subject) -> Act:
    subject.open()
    subject.call()
    return subject.breaker.reset


@case("by hand")
def _force_open(subject: Subject) -> Act:
    subject.call(times=2)
    return lambda: subject.breaker.force_open("maintenance")


@case("by hand")
def _disable(subject: Subject) -> Act:
    subject.open()
    return subject.breaker.disable


@case("by hand", calls=1)
def _isolated(subject: Subject) -> Act:
    def act() -> None:
        with subject.breaker.isolated("deployment"):
            pass

    return act


@case("by hand")
def _snapshot(subject: Subject) -> Act:
    subject.open()
    return subject.breaker.snapshot


@case("by hand")
def _adopt(subject: Subject) -> Act:
    subject.open()
    snapshot = subject.breaker.snapshot()
    subject.breaker.reset()
    return lambda: subject.breaker.adopt(snapshot)


def _hearing(subject: Subject, *, inline: bool) -> None:
    heard: list[bs.Event] = []
    subject.listening.append(subject.breaker.subscribe(heard.append, inline=inline))
    subject.call(times=2)


@case("listening", calls=1)
def _success_that_is_heard(subject: Subject) -> Act:
    _hearing(subject, inline=False)
    return subject.plain


@case("listening", calls=1)
def _success_that_is_heard_inline(subject: Subject) -> Act:
    _hearing(subject, inline=True)
    return subject.plain


@case("listening", calls=1)
def _opening_that_is_heard(subject: Subject) -> Act:
    _hearing(subject, inline=False)
    _hearing(subject, inline=True)
    subject.call("dead", 2)
    return answering(subject, "dead")


@case("listening", calls=1)
def _first_event_of_a_queue(subject: Subject) -> Act:
    subject.listening.append(subject.breaker.subscribe(list[bs.Event]().append))
    return subject.plain


@case("listening", calls=1, kind="refusing")
def _refusal_that_is_heard(subject: Subject) -> Act:
    _hearing(subject, inline=False)
    subject.open()
    return subject.plain


@case("listening", leaks=True)
def _subscribe(subject: Subject) -> Act:
    return lambda: subject.breaker.subscribe(list[bs.Event]().append, bs.StateChanged)


@case("listening", leaks=True)
def _close(subject: Subject) -> Act:
    subscription = subject.breaker.subscribe(list[bs.Event]().append, inline=True)
    subject.call(times=2)
    return subscription.close


@case("listening", calls=1, leaks=True)
def _recent(subject: Subject) -> Act:
    def act() -> None:
        with bs.recent(3, breaker=subject.name) as last:
            subject.plain()
            last.events()

    return act


@case("listening", calls=1, leaks=True)
def _stream(subject: Subject) -> Act:
    def act() -> None:
        with bs.stream(bs.CallSettled, breaker=subject.name) as events:
            subject.plain()
        list(events)

    return act


@case("listening", calls=1, leaks=True)
def _to_jsonl(subject: Subject) -> Act:
    def act() -> None:
        with bs.to_jsonl(subject.folder / "events.jsonl", breaker=subject.name):
            subject.plain()

    return act


@case("listening", calls=1)
def _flush(subject: Subject) -> Act:
    def act() -> None:
        subject.plain()
        bs.flush(0.1)

    return act


@case("all breakers")
def _scrape(subject: Subject) -> Act:
    subject.call(times=2)
    return lambda: generate_latest(REGISTRY)


@case("all breakers")
def _make(subject: Subject) -> Act:
    return lambda: bs.instrumented_breaker(subject.name + " again", failure_count=9)


@case("all breakers")
def _find(subject: Subject) -> Act:
    return lambda: (bs.instrumented_breaker(subject.name), bs.get_breaker(subject.name))


@case("all breakers")
def _list(subject: Subject) -> Act:
    return bs.breakers


@case("all breakers")
def _remove(subject: Subject) -> Act:
    bs.instrumented_breaker(subject.name + " gone", failure_count=9)
    return lambda: bs.remove_breaker(subject.name + " gone")


@case("all breakers")
def _breakers_per(subject: Subject) -> Act:
    return lambda: PER_KEY(f"{subject.name}.example.com")


@case("all breakers")
def _configure(subject: Subject) -> Act:
    return lambda: bs.configure({"breakers": {"nobody": {"open_for": 3.0}}})


@case("all breakers", leaks=True, kind="refusing")
def _setup_telemetry(subject: Subject) -> Act:
    def act() -> None:
        with bs.setup_telemetry(registry=CollectorRegistry(), prefix="again"):
            pass

    return act
