"""Two breakers, what is behind them, and the question whether they still work."""

from __future__ import annotations

import faulthandler
import gc
import os
import random
import re
import sys
import threading
import time
import traceback
import warnings
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry, generate_latest

import breakerscope as bs
from breakerscope import Outcome, State

R = TypeVar("R")

STUCK_SECONDS = float(os.environ.get("BREAKERSCOPE_INTERRUPTS_STUCK", "10"))
"""Without a step forward for so long, a program has failed: it tells where all threads are."""
PATIENCE = 8.0
"""How long anything that is only slow may take."""

CYCLE, OUTAGE = 0.010, 0.003
"""The dependency is dead for so much of each such time, in seconds."""
OPEN_FOR, LEASE = 0.002, 0.02


SAMPLE = re.compile(r"(circuit_breaker_(?:calls_total|state))\{(.*)\} (\S+)")
LABEL = re.compile(r'(\w+)="([^"]*)"')


class Boom(Exception):
    """What a failing dependency raises."""


class NotMineError(Exception):
    """What says nothing about the dependency."""


class Interrupt(Exception):
    """What a signal handler raises, as one for a time-out does."""


class Cut(BaseException):
    """What a signal handler raises, as `KeyboardInterrupt` is."""


INTERRUPTS = (Interrupt, Cut)
PYTHONS_OWN = threading.__file__


def still_alive() -> None:
    """A step forward. Not to be called while an interrupt is due."""
    faulthandler.dump_traceback_later(STUCK_SECONDS, exit=True)


class Pause:
    """Awaited, it gives the others a turn, in whatever loop."""

    def __await__(self) -> Generator[None]:
        yield


def drive(coroutine: Coroutine[Any, Any, R]) -> R:
    """Run a coroutine without a loop: that would be one more thing an interrupt could break."""
    try:
        while True:
            coroutine.send(None)
    except StopIteration as stop:
        result: R = stop.value
        return result


def is_bad(result: object) -> bool:
    """What the second breaker takes for a failure."""
    return result == "bad"


class Reason(str):
    """A text that has something to say when it goes."""

    __slots__ = ("last_words",)
    last_words: Callable[[], object]

    def __del__(self) -> None:
        if hasattr(self, "last_words"):
            self.last_words()


class Service:
    """A dependency behind a breaker, and every form in which it can be called."""

    def __init__(self, breaker: bs.CircuitBreaker, chance: random.Random) -> None:
        self.breaker = breaker
        self.mood = "mixed"
        self.chance = chance
        # Lists, since `append` is one step also for those who come in between.
        self.begun: list[None] = []
        """The calls that were admitted."""
        self.doubtful: list[None] = []
        """Those that may have been: a coroutine that nobody awaited."""
        self.refused: list[None] = []

        @breaker
        def plain(_argument: object = None) -> str:
            return self.work()

        @breaker
        async def coroutine() -> str:
            await Pause()
            return self.work()

        @breaker
        def stream(length: int) -> Iterator[str]:
            yield self.work()
            for _ in range(length):
                yield "more"

        @breaker
        async def astream(length: int) -> AsyncIterator[str]:
            yield self.work()
            for _ in range(length):
                await Pause()
                yield "more"

        self.plain, self.coroutine, self.stream, self.astream = plain, coroutine, stream, astream

        def refused_instead() -> str:
            self.refused.append(None)
            return "instead"

        async def refused_instead_async() -> str:
            return refused_instead()

        @breaker.with_fallback(refused_instead)
        def or_else() -> str:
            return self.work()

        @breaker.with_fallback(refused_instead_async)
        async def or_else_async() -> str:
            await Pause()
            return self.work()

        self.or_else, self.or_else_async = or_else, or_else_async

    def work(self) -> str:
        """One call of the dependency."""
        self.begun.append(None)
        return self.answer()

    def answer(self) -> str:
        if self.mood == "good":
            return "fine"
        if self.mood == "dead" or time.monotonic() % CYCLE < OUTAGE:
            raise Boom
        kind = self.chance.random()
        if kind < 0.06:
            raise Boom
        if kind < 0.10:
            raise NotMineError
        if kind < 0.12:
            return "bad"
        if kind < 0.14:
            until = time.monotonic() + 0.0003
            while time.monotonic() < until:
                pass
        return "fine"

    def attempt(self, call: Callable[..., R], *arguments: Any) -> R | None:
        """A call whose ordinary endings are nobody's concern."""
        try:
            return call(*arguments)
        except (Boom, NotMineError):
            return None
        except bs.CircuitBreakerOpenError as refusal:
            if refusal.breaker == self.breaker.name:
                self.refused.append(None)
            return None


class Reentrant(CollectorRegistry):
    """prometheus_client's own registry takes a plain lock: a scrape by a finaliser or a handler in
    the middle of a scrape would wait for itself, whatever a collector does.
    """

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.RLock()  # type: ignore[assignment]


def is_interrupt(error: BaseException | None) -> bool:
    """Whether it is one of ours. `threading` itself may turn one into an error of its own: a
    Condition that was interrupted lets go of a lock that it does not have. That passes.
    """
    if isinstance(error, INTERRUPTS):
        return True
    if error is None or traceback.extract_tb(error.__traceback__)[-1].filename != PYTHONS_OWN:
        return False
    while error is not None:
        error = error.__context__
        if isinstance(error, INTERRUPTS):
            return True
    return False


class Failures:
    """What went wrong where nobody could be told."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        sys.unraisablehook = self._unraisable
        threading.excepthook = self._in_thread

    def _unraisable(self, what: sys.UnraisableHookArgs) -> None:
        if what.exc_value is not None and not isinstance(what.exc_value, INTERRUPTS):
            self.note(f"in {what.object!r}", what.exc_value)

    def _in_thread(self, what: threading.ExceptHookArgs) -> None:
        if what.exc_value is not None and not isinstance(what.exc_value, INTERRUPTS):
            self.note(f"in thread {what.thread}", what.exc_value)

    def note(self, where: str, error: BaseException) -> None:
        self.texts.append(where + "\n" + "".join(traceback.format_exception(error)))

    def check(self) -> None:
        assert not self.texts, f"{len(self.texts)} of:\n" + "\n".join(self.texts[:3])


class World:
    """The services of one program, and all that its forms need."""

    def __init__(self, seed: int, folder: Path) -> None:
        warnings.simplefilter("ignore")
        self.chance = random.Random(seed)
        self.folder = folder
        self.failures = Failures()
        self.multiprocess = "PROMETHEUS_MULTIPROC_DIR" in os.environ
        self.scrapes_list_all = True
        self.interrupts = 0
        """How many calls may have been hit, when it is over."""
        self.hits: list[None] = []
        """One for each interrupt, as they come."""
        self.rounds: dict[str, Callable[[], object]] = {}
        self.set_up()
        self.services = [
            Service(
                bs.instrumented_breaker(
                    "plain", consecutive_failures=3, open_for=OPEN_FOR, probe_lease=LEASE
                ),
                self.chance,
            ),
            Service(
                bs.instrumented_breaker(
                    "rich",
                    consecutive_failures=3,
                    failure_rate=0.5,
                    slow_call=0.0002,
                    slow_call_rate=0.8,
                    window=timedelta(seconds=5),
                    open_for=OPEN_FOR,
                    jitter=0.1,
                    probes=2,
                    probe_lease=LEASE,
                    ignore=NotMineError,
                    failure_if=is_bad,
                ),
                self.chance,
            ),
        ]
        self.per_key = bs.breakers_per("host", limit=4, consecutive_failures=3, open_for=OPEN_FOR)
        # They are there before, and must not be lost either.
        self.heard: list[bs.Event] = []
        self.heard_inline: list[bs.Event] = []
        bs.subscribe(self.heard.append, bs.StateChanged, name="early")
        bs.subscribe(self.heard_inline.append, bs.StateChanged, name="inline", inline=True)

    def set_up(self) -> None:
        """The telemetry of this program, anew."""
        self.registry = Reentrant()
        bs.setup_telemetry(registry=self.registry)

    @property
    def service(self) -> Service:
        return self.chance.choice(self.services)

    def scrape(self) -> str:
        """What Prometheus would see."""
        if not self.multiprocess:
            return generate_latest(self.registry).decode()
        from prometheus_client.multiprocess import MultiProcessCollector

        registry = CollectorRegistry()
        MultiProcessCollector(registry)
        return generate_latest(registry).decode()

    def check_scrape(self) -> None:
        """Every breaker is listed, whoever asks, and when. In the scrape that was hit itself, one
        may be missing.
        """
        hits = len(self.hits)
        text = self.scrape()
        if self.scrapes_list_all and hits == len(self.hits):
            for service in self.services:
                name = service.breaker.name
                assert f'breaker="{name}"' in text, f"{name} is not listed in:\n{text}"

    # -- afterwards --------------------------------------------------------------------------------

    def wait_until(self, ask: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not ask():
            assert time.monotonic() < deadline, what
            time.sleep(0.001)

    def check_all(self) -> None:
        """Everything works, here and in another thread, and nothing is out of count."""
        gc.collect()
        for service in self.services:
            check_counts(service, self.interrupts)
        self._check_all_alive()
        in_another_thread(self._check_all_alive)
        self.failures.check()

    def _check_all_alive(self) -> None:
        for service in self.services:
            self.check_alive(service)

    def check_alive(self, service: Service) -> None:
        """It opens on a dead dependency, refuses, closes on a good one, can be read and scraped."""
        still_alive()
        breaker = service.breaker
        breaker.reset("to look at it")
        assert breaker.state is State.CLOSED, f"a reset leaves it {breaker.state}"
        in_flight = breaker.read().in_flight
        assert in_flight == 0, f"after a reset {in_flight} calls are in flight"
        heard, heard_inline, late = len(self.heard), len(self.heard_inline), list[bs.Event]()
        listening = breaker.subscribe(late.append, bs.StateChanged, name="late")

        service.mood = "dead"
        refused = len(service.refused)
        self.wait_until(lambda: self._dies(service), "it does not open on a dead dependency")
        self.wait_until(
            lambda: (service.attempt(service.plain), len(service.refused) > refused)[1],
            "it does not refuse",
        )

        service.mood = "good"
        self.wait_until(lambda: self._recovers(service), "it does not close on a good dependency")
        answers = [service.plain(), service.or_else(), drive(service.coroutine())]
        answers += list(service.stream(1))
        assert answers == ["fine", "fine", "fine", "fine", "more"], answers
        with breaker.guard():
            service.work()
        breaker.exchange().end("fine")
        service.begun.append(None)

        reading = breaker.read()
        assert reading.state is breaker.state is State.CLOSED, "it does not stay closed"
        assert reading.in_flight == 0, f"{reading.in_flight} calls are in flight"
        assert reading.calls == breaker.read().calls, "a reading changes what it reads"
        # Where an interrupt has kept a thread from being started, this starts it.
        assert bs.flush(PATIENCE), "it cannot be flushed"
        assert len(self.heard) >= heard + 3, "a listener of before is deaf"
        assert len(self.heard_inline) >= heard_inline + 3, "an inline listener of before is deaf"
        assert len(late) >= 3, "a new listener is deaf"
        listening.close()
        self.check_series(service)
        service.mood = "mixed"

    def _dies(self, service: Service) -> bool:
        service.attempt(service.plain)
        return service.breaker.state is State.OPEN

    def _recovers(self, service: Service) -> bool:
        service.attempt(service.breaker.call, service.work)
        return service.breaker.state is State.CLOSED

    def check_series(self, service: Service) -> None:
        """The scrape says what the breaker says."""
        name = service.breaker.name
        if self.multiprocess:
            bs.flush(PATIENCE)
        assert bs.get_breaker(name) in bs.breakers(), "it is not listed"
        calls, states = dict[str, float](), dict[str, float]()
        for line in self.scrape().splitlines():
            # A parser would take longer than all the rest.
            if sample := SAMPLE.fullmatch(line):
                metric, labels, value = sample.groups("")
                told: dict[str, str] = dict(LABEL.findall(labels))
                if told["breaker"] == name:
                    of = calls if metric.endswith("calls_total") else states
                    of[told.get("outcome", told.get("state", ""))] = float(value)
        expected = {str(k): n for k, n in service.breaker.read().calls.items()}
        # What is read by nobody but a file may have missed the call that brings it up to date.
        slack = self.interrupts if self.multiprocess else 0
        assert calls.keys() == expected.keys() and all(  # noqa: PT018
            abs(calls[outcome] - expected[outcome]) <= slack for outcome in calls
        ), f"{name} says {expected}, its series say {calls}"
        assert [state for state, there in states.items() if there] == ["closed"], (
            f"{name} is closed, its series say {states}"
        )


def check_counts(service: Service, slack: int) -> None:
    """At most the interrupted calls are missing or in flight; without an exception, none."""
    reading = service.breaker.read()
    calls = dict(reading.calls)
    rejected = calls.pop(Outcome.REJECTED)
    settled, begun = sum(calls.values()), len(service.begun)
    told = (
        f"{service.breaker.name}: {begun} calls (and perhaps {len(service.doubtful)}) began"
        f" and {settled} have ended, {reading.in_flight} are in flight;"
        f" {len(service.refused)} were refused and {rejected} are counted; {slack} may be amiss"
    )
    assert begun - slack <= settled <= begun + len(service.doubtful) + slack, told
    assert abs(rejected - len(service.refused)) <= slack, told
    assert 0 <= reading.in_flight <= slack, told


def in_another_thread(work: Callable[[], object]) -> None:
    """Do this in another thread, which waits for locks that this one may have lost."""
    still_alive()
    raised: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join()
    still_alive()
    if raised:
        raise raised[0]
