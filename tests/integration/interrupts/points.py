"""One call, interrupted at each point in turn: `python -m tests.integration.interrupts.points`.

Two kinds of points. `real`: where CPython looks for signals and the like, which is when a function
is entered and when one that was written in C has returned; what is raised there is what a handler
raises. `lines`: before each line. That is harsher than any signal can be, and finds what might
break when a line is added. Only the way out of a `with` is left out: the interpreter calls the lock
there by itself, and nothing can come in between.

After each interrupt another thread has to get into every lock, and the breaker has to work.
"""

from __future__ import annotations

import argparse
import asyncio
import dis
import faulthandler
import gc
import json
import os
import queue
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from functools import lru_cache
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NamedTuple

from prometheus_client import CollectorRegistry, generate_latest

import breakerscope as bs
from breakerscope import State
from tests.integration.interrupts.world import (
    INTERRUPTS,
    PATIENCE,
    Boom,
    Failures,
    NotMineError,
    drive,
    is_bad,
    still_alive,
)

PACKAGE = str(Path(bs.__file__).parent)
SOON = float(os.environ.get("BREAKERSCOPE_INTERRUPTS_SOON", "3"))
"""How long another thread may take to get in."""
OPEN_FOR, LEASE = 0.001, 0.004
REFUSING_FOR = 0.01
"""The wait where the refusal is what is looked at."""
MOST_TOLD = 10


# -- where -----------------------------------------------------------------------------------------


class Injection:
    """Raises at the k-th point, counted in this thread."""

    def __init__(self, at: int, error: type[BaseException]) -> None:
        self.left = at
        self.error = error
        self.where = ""

    @property
    def fired(self) -> bool:
        return bool(self.where)

    def point(self, frame: FrameType, what: str) -> None:
        self.left -= 1
        if self.left == 0:
            file = frame.f_code.co_filename.removeprefix(PACKAGE + os.sep)
            self.where = f"{file}:{frame.f_lineno} in {frame.f_code.co_qualname}, {what}"
            raise self.error(self.where)


def is_ours(frame: FrameType) -> bool:
    return frame.f_code.co_filename.startswith((PACKAGE, "<breakerscope"))


def at_real_points(injection: Injection, act: Callable[[], object]) -> None:
    def profile(frame: FrameType, event: str, _argument: object) -> None:
        if event in ("call", "c_return") and is_ours(frame):
            injection.point(frame, event)

    sys.setprofile(profile)
    try:
        act()
    finally:
        sys.setprofile(None)


def at_lines(injection: Injection, act: Callable[[], object]) -> None:
    def in_frame(frame: FrameType, event: str, _argument: object) -> Any:
        if event == "line" and frame.f_lasti not in ways_out(frame.f_code):
            injection.point(frame, event)
        return in_frame

    def trace(frame: FrameType, _event: str, _argument: object) -> Any:
        return in_frame if is_ours(frame) else None

    sys.settrace(trace)
    try:
        act()
    finally:
        sys.settrace(None)


@lru_cache(maxsize=None)
def ways_out(code: CodeType) -> frozenset[int]:
    """The offsets of the instructions that leave a `with`: three times None, and the call."""
    found: set[int] = set()
    instructions = [each for each in dis.get_instructions(code) if each.opname != "CACHE"]
    for at in range(len(instructions) - 3):
        four = instructions[at : at + 4]
        if all(e.opname == "LOAD_CONST" and e.argval is None for e in four[:3]) and four[
            3
        ].opname in ("PRECALL", "CALL"):
            found.update(each.offset for each in four)
            before = instructions[at - 1]
            if before.opname == "SWAP":
                found.add(before.offset)
    return frozenset(found)


MODES: dict[str, Callable[[Injection, Callable[[], object]], None]] = {
    "real": at_real_points,
    "lines": at_lines,
}


# -- what ------------------------------------------------------------------------------------------


class Subject:
    """A breaker of its own for each trial."""

    def __init__(self, name: str, kind: str) -> None:
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

    def call(self, mood: str = "good", times: int = 1, call: Callable[[], object] = str) -> None:
        """Calls that are not looked at."""
        self.mood = mood
        for _ in range(times):
            self.calls += 1
            try:
                (self.plain if call is str else call)()
            except (Boom, NotMineError, asyncio.CancelledError, bs.CircuitBreakerOpenError):
                pass
        self.mood = "good"

    def open(self) -> None:
        self.call("dead", 3)

    def wait_over(self) -> None:
        self.open()
        time.sleep(1.3 * OPEN_FOR)


Act = Callable[[], object]


class Case(NamedTuple):
    """What is interrupted. `prepare` gives it, after what has to come before; `calls` of the
    breaker are in it, at most."""

    prepare: Callable[[Subject], Act]
    calls: int
    kind: str


GROUPS: dict[str, dict[str, Case]] = {}


def case(
    group: str, *, calls: int = 0, kind: str = "plain"
) -> Callable[[Callable[[Subject], Act]], Callable[[Subject], Act]]:
    def keep(prepare: Callable[[Subject], Act]) -> Callable[[Subject], Act]:
        name = prepare.__name__.strip("_").replace("_", " ")
        GROUPS.setdefault(group, {})[name] = Case(prepare, calls, kind)
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

    return lambda: drive(subject.breaker.call(lambda: asks()))


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
    subject.breaker.subscribe(heard.append, inline=inline)
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
    subject.breaker.subscribe(list[bs.Event]().append)
    return subject.plain


@case("listening", calls=1, kind="refusing")
def _refusal_that_is_heard(subject: Subject) -> Act:
    _hearing(subject, inline=False)
    subject.open()
    return subject.plain


@case("listening")
def _subscribe(subject: Subject) -> Act:
    return lambda: subject.breaker.subscribe(list[bs.Event]().append, bs.StateChanged)


@case("listening")
def _close(subject: Subject) -> Act:
    subscription = subject.breaker.subscribe(list[bs.Event]().append, inline=True)
    subject.call(times=2)
    return subscription.close


@case("listening", calls=1)
def _recent(subject: Subject) -> Act:
    def act() -> None:
        with bs.recent(3, breaker=subject.name) as last:
            subject.plain()
            last.events()

    return act


@case("listening", calls=1)
def _stream(subject: Subject) -> Act:
    def act() -> None:
        with bs.stream(bs.CallSettled, breaker=subject.name) as events:
            subject.plain()
        list(events)

    return act


@case("listening", calls=1)
def _to_jsonl(subject: Subject) -> Act:
    def act() -> None:
        with bs.to_jsonl(FOLDER / "events.jsonl", breaker=subject.name):
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


@case("all breakers")
def _setup_telemetry(subject: Subject) -> Act:
    def act() -> None:
        with bs.setup_telemetry(registry=CollectorRegistry(), prefix="again"):
            pass

    return act


REGISTRY = CollectorRegistry()
PER_KEY = bs.breakers_per("host", limit=3, consecutive_failures=3)
FOLDER = Path()


# -- afterwards ------------------------------------------------------------------------------------


class Watchdog:
    """Another thread, which does as it is told and says when it is done."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            job = self._jobs.get()
            try:
                job()
            except BaseException as error:
                self._done.put(error)
            else:
                self._done.put(None)

    def do(self, job: Callable[[], object]) -> None:
        """Raises TimeoutError if it does not come back."""
        self._jobs.put(job)
        try:
            error = self._done.get(timeout=SOON)
        except queue.Empty:
            raise TimeoutError("another thread does not get in") from None
        if error is not None:
            raise error


def check(subject: Subject, calls: int, watchdog: Watchdog) -> None:
    """The breaker and all that is shared work, in another thread and in this one."""
    breaker = subject.breaker

    def of_this_breaker() -> None:
        assert breaker.state in State
        breaker.read()
        subject.call(call=lambda: breaker.call(subject.answer))

    def of_all() -> None:
        bs.subscribe(list[bs.Event]().append, breaker="nobody").close()
        assert breaker in bs.breakers()
        assert bs.instrumented_breaker(subject.name) is breaker
        # Other keys than those of the trial, and as many as there may be.
        for key in "abc":
            PER_KEY(key)
        assert len(PER_KEY) <= 3, "more breakers by key than allowed"
        bs.flush(0.0)

    watchdog.do(of_this_breaker)
    watchdog.do(of_all)
    reading = breaker.read()
    total = sum(reading.calls.values())
    least = subject.calls + max(calls - 1, 0)
    assert least <= total <= subject.calls + calls, (
        f"{subject.calls} calls were made and up to {calls} interrupted;"
        f" {total} are counted: {reading.calls}"
    )
    assert 0 <= reading.in_flight <= 1, f"{reading.in_flight} in flight"
    breaker.reset()
    in_flight = breaker.read().in_flight
    assert in_flight == 0, f"after a reset {in_flight} calls are in flight"
    works(subject)
    watchdog.do(lambda: listed(subject))


def works(subject: Subject) -> None:
    """It opens on a dead dependency, refuses, and closes on a good one."""
    breaker = subject.breaker
    until(lambda: (subject.call("dead"), breaker.state is State.OPEN)[1], "it does not open")
    rejected = breaker.read().rejected
    until(lambda: (subject.call("dead"), breaker.read().rejected > rejected)[1], "it never refuses")
    until(lambda: (subject.call(), breaker.state is State.CLOSED)[1], "it does not close")
    assert subject.plain() == subject.or_else() == "good"
    assert breaker.read().in_flight == 0


def until(ask: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + PATIENCE
    while not ask():
        assert time.monotonic() < end, what
        time.sleep(0.0002)


def listed(subject: Subject) -> None:
    scraped = generate_latest(REGISTRY).decode()
    line = f'circuit_breaker_state{{breaker="{subject.name}",state="closed"}} 1.0'
    assert line in scraped, "the scrape does not list it"


def trials(
    mode: str, group: str, watchdog: Watchdog, failures: Failures
) -> tuple[Counter[str], list[str]]:
    """How many points each case has, and what went wrong at which of them."""
    points: Counter[str] = Counter()
    wrong: list[str] = []
    for name, (prepare, calls, kind) in GROUPS[group].items():
        for error in INTERRUPTS:
            at = 0
            while True:
                at += 1
                still_alive()
                subject = Subject(f"{name} {error.__name__} {at}", kind)
                act = prepare(subject)
                injection = Injection(at, error)
                try:
                    MODES[mode](injection, act)
                except (*INTERRUPTS, Boom, NotMineError, asyncio.CancelledError):
                    pass
                except bs.CircuitBreakerOpenError:
                    pass
                del act
                subject.mood = "good"
                if not injection.fired:
                    break
                points[name] += 1
                if group in ("all breakers", "listening"):
                    # One of these may have been left half open, or half closed.
                    bs.setup_telemetry(registry=REGISTRY, logs=False)
                try:
                    check(subject, calls, watchdog)
                    failures.check()
                except TimeoutError as stuck:
                    # What is shared may be lost: nothing after this would say anything new.
                    faulthandler.dump_traceback(all_threads=True)
                    wrong.append(f"{name}, {error.__name__} at {injection.where}: {stuck}")
                    return points, wrong
                except Exception as problem:
                    told = f"{type(problem).__name__}: {problem}"
                    wrong.append(f"{name}, {error.__name__} at {injection.where}: {told}")
                    failures.texts.clear()
                bs.remove_breaker(subject.name)
                bs.remove_breaker(f"{subject.name} again")
                bs.remove_breaker(f"{subject.name} gone")
    return points, wrong


def main() -> None:
    global FOLDER
    parser = argparse.ArgumentParser()
    parser.add_argument("mode", choices=MODES)
    parser.add_argument("group", choices=GROUPS)
    options = parser.parse_args()
    still_alive()
    failures = Failures()
    bs.setup_telemetry(registry=REGISTRY, logs=False)
    with tempfile.TemporaryDirectory() as folder:
        FOLDER = Path(folder)
        for prepare, _, kind in GROUPS[options.group].values():
            # All is imported once, by a trial without an interrupt.
            subject = Subject(f"warm {prepare.__name__}", kind)
            try:
                prepare(subject)()
            except (Boom, NotMineError, asyncio.CancelledError, bs.CircuitBreakerOpenError):
                pass
            bs.remove_breaker(subject.name)
        bs.setup_telemetry(registry=REGISTRY, logs=False)
        gc.collect()
        gc.freeze()
        points, wrong = trials(options.mode, options.group, Watchdog(), failures)
    for text in wrong[:MOST_TOLD]:
        print(text, file=sys.stderr)
    print(json.dumps({"times": points.total(), "points": points, "wrong": len(wrong)}))
    sys.stdout.flush()
    os._exit(bool(wrong))


if __name__ == "__main__":
    main()
