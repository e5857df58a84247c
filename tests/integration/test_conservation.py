"""Nothing lost, nothing counted twice: threads, tasks, forks, and numbers read in between."""

from __future__ import annotations

import asyncio
import os
import random
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from breakerscope import CircuitBreakerOpenError, Outcome
from breakerscope.breaker import CircuitBreaker
from breakerscope.core.classification import Classifier
from breakerscope.core.events import CallRejected, CallSettled, Event, StateChanged
from breakerscope.core.policy import Policy
from breakerscope.core.reading import Reading
from breakerscope.event_bus import EventBus
from tests.unit.support import Boom

THREADS = 8
CALLS = 20_000
TASKS = 1000


@pytest.fixture
def hasty_interpreter() -> Iterator[None]:
    """Threads take turns as often as the interpreter can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def one_call(
    protected: Callable[[BaseException | None], None],
    chance: float,
    *,
    of_key_error: Outcome = Outcome.IGNORED,
) -> Outcome:
    """Make one call that ends in one of the ways, and say how the caller saw it."""
    error: BaseException | None = None
    expected = Outcome.SUCCESS
    if chance < 0.05:
        error, expected = Boom(), Outcome.FAILURE
    elif chance < 0.07:
        error, expected = KeyError(), of_key_error
    elif chance < 0.09:
        error, expected = asyncio.CancelledError(), Outcome.CANCELLED
    try:
        protected(error)
    except CircuitBreakerOpenError:
        return Outcome.REJECTED
    except (Boom, KeyError, asyncio.CancelledError) as raised:
        assert raised is error
    return expected


def total(reading: Reading) -> Counter[Outcome]:
    return Counter({outcome: n for outcome, n in reading.calls.items() if n})


def make(bus: EventBus, *, ignores: bool = True) -> CircuitBreaker:
    policy = Policy(consecutive_failures=3, failure_rate=0.3, open_for=0.002, probes=2)
    classifier = Classifier(ignore=KeyError if ignores else None)
    return CircuitBreaker("threads", policy, classifier=classifier, bus=bus)


@pytest.mark.usefixtures("hasty_interpreter")
@pytest.mark.parametrize(
    ("subscribed", "ignores"),
    [
        pytest.param(True, True, id="all events heard"),
        pytest.param(False, True, id="failures take the lock to be sorted"),
        pytest.param(False, False, id="failures leave by the journal"),
    ],
)
def test_threads_scrapes_and_manual_control_lose_nothing(subscribed: bool, ignores: bool) -> None:
    bus = EventBus()
    breaker = make(bus, ignores=ignores)
    of_key_error = Outcome.IGNORED if ignores else Outcome.FAILURE
    events: Counter[Outcome] = Counter()
    changes = Counter[tuple[str, str]]()
    seen: list[int] = []

    def listen(event: Event) -> None:
        seen.append(event.seq)
        if isinstance(event, CallSettled):
            events[event.outcome] += 1
        elif isinstance(event, CallRejected):
            events[Outcome.REJECTED] += 1
        elif isinstance(event, StateChanged):
            changes[event.old, event.new] += 1

    if subscribed:
        bus.subscribe(listen, queue_size=THREADS * CALLS * 2)

    @breaker
    def protected(error: BaseException | None) -> None:
        if error is not None:
            raise error

    tallies = [Counter[Outcome]() for _ in range(THREADS)]

    def work(number: int) -> None:
        chances = random.Random(number)
        for _ in range(CALLS):
            outcome = one_call(protected, chances.random(), of_key_error=of_key_error)
            tallies[number][outcome] += 1

    done = threading.Event()

    def scrape() -> None:
        before = breaker.read()
        while not done.is_set():
            reading = breaker.read()
            for outcome, count in reading.calls.items():
                assert count >= before.calls[outcome]
            before = reading

    def command() -> None:
        while not done.is_set():
            with breaker.isolated():
                pass
            breaker.disable()
            breaker.reset()

    errors: list[BaseException] = []

    def guarded(target: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            try:
                target()
            except BaseException as error:
                errors.append(error)

        return run

    workers = [
        threading.Thread(target=guarded(lambda number=number: work(number)))  # type: ignore[misc]
        for number in range(THREADS)
    ]
    others = [threading.Thread(target=guarded(target)) for target in (scrape, command)]
    for thread in (*others, *workers):
        thread.start()
    for thread in workers:
        thread.join()
    done.set()
    for thread in others:
        thread.join()

    assert errors == []
    asked = sum(tallies, Counter())
    reading = breaker.read()
    assert total(reading) == asked
    assert asked.total() == THREADS * CALLS
    assert reading.in_flight == 0
    histogram = {outcome: sum(of.counts) for outcome, of in reading.durations.items()}
    assert histogram == {outcome: asked[outcome] for outcome in histogram}
    if subscribed:
        assert bus.flush(60.0)
        assert bus.dropped()[next(iter(bus.dropped()))] == 0
        assert events == asked
        assert sum(changes.values()) == sum(reading.transitions.values())
        assert seen == list(range(1, len(seen) + 1))


def test_tasks_of_which_a_third_is_cancelled_lose_nothing() -> None:
    bus = EventBus()
    breaker = make(bus)
    tally: Counter[Outcome] = Counter()

    @breaker
    async def protected(error: BaseException | None, turns: int) -> None:
        for _ in range(turns):
            await asyncio.sleep(0)
        if error is not None:
            raise error

    async def user(number: int) -> None:
        chances = random.Random(number)
        error = Boom() if chances.random() < 0.1 else None
        started = False
        try:
            started = True
            await protected(error, chances.randrange(50))
            tally[Outcome.SUCCESS] += 1
        except CircuitBreakerOpenError:
            tally[Outcome.REJECTED] += 1
        except Boom:
            tally[Outcome.FAILURE] += 1
        except asyncio.CancelledError:
            assert started
            tally[Outcome.CANCELLED] += 1

    async def main() -> None:
        chances = random.Random(0)
        tasks = [asyncio.create_task(user(number)) for number in range(TASKS)]
        await asyncio.sleep(0)
        for task in tasks:
            if chances.random() < 1 / 3:
                task.cancel()
            if chances.random() < 1 / 10:
                await asyncio.sleep(0)
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(main())
    reading = breaker.read()
    assert total(reading) == tally
    assert tally.total() == TASKS
    assert tally[Outcome.CANCELLED] > 0
    assert reading.in_flight == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork.*:DeprecationWarning")
def test_a_forked_child_starts_afresh() -> None:
    bus = EventBus()
    breaker = make(bus)
    for _ in range(10):
        breaker.call(int)
    in_flight = breaker.guard()
    in_flight.__enter__()
    child = os.fork()
    if child == 0:
        # A failed check must not run pytest's own end in the child.
        code = 1
        try:
            fresh = breaker.read()
            breaker.call(int)
            counted = breaker.read()
            if sum(fresh.calls.values()) == fresh.in_flight == 0:
                code = 0 if counted.calls[Outcome.SUCCESS] == 1 and not counted.in_flight else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    in_flight.__exit__(None, None, None)
    assert breaker.read().calls[Outcome.SUCCESS] == 11
