"""A real breaker and the naive model go through the same random life, step by step.

`Watched` hears every event and reads everything after each step. `Quiet` does neither: nobody wants
the events of plain successes and nobody reads unless a rule says so, so that passes, the journal
and batches are at work.

All times are multiples of small powers of two, so that sums of them are exact and everything can be
compared with `==`.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Callable, Coroutine, Generator, Iterator
from contextlib import AbstractContextManager, ExitStack
from contextvars import Context
from dataclasses import dataclass, fields
from datetime import timedelta
from itertools import cycle
from math import floor, inf, nan
from typing import Any, ClassVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from breakerscope.breaker import CircuitBreaker
from breakerscope.core.classification import Classifier
from breakerscope.core.clock import Clock
from breakerscope.core.errors import CircuitBreakerOpenError
from breakerscope.core.events import CallSettled, Event, Outcome, State, StateChanged
from breakerscope.core.guard import Guard
from breakerscope.core.policy import Policy
from breakerscope.core.transitions import TRANSITIONS
from breakerscope.event_bus import EventBus
from breakerscope.testing import FakeClock, capture_events
from tests.unit.model import Model, Refusal, Ticket, Told

NAME = "model"
STEPS_AT_LEAST = 50_000 if os.environ.get("HYPOTHESIS_PROFILE") == "nightly" else 5_000
"""For each of the two machines."""

BUCKETS = (0.25, 0.5, 1.0, 4.0)


class Broken(Exception):
    """A failing dependency. It may say for how many seconds it wants to be left alone."""

    def __init__(self, hint: float | None = None) -> None:
        super().__init__("secret")
        self.hint = hint


class Unimportant(Exception):
    """Says nothing about the dependency."""


@dataclass(frozen=True)
class End:
    """How a call ends: what it raises or returns, and what that means."""

    outcome: Outcome
    raises: Callable[[], BaseException] | None = None
    error: str | None = None
    hint: float = 0.0
    returns: str = "fine"
    says: str | None = None
    """What a guard is told."""


FINE = End(Outcome.SUCCESS)
BROKEN = End(Outcome.FAILURE, Broken, f"{__name__}.Broken")
BAD_RESULT = End(Outcome.FAILURE, None, "failure_if", returns="bad")
WITHOUT_SAY = [
    End(Outcome.IGNORED, Unimportant, f"{__name__}.Unimportant"),
    End(Outcome.CANCELLED, asyncio.CancelledError, "asyncio.exceptions.CancelledError"),
    End(Outcome.CANCELLED, KeyboardInterrupt, "KeyboardInterrupt"),
    End(Outcome.CANCELLED, GeneratorExit, "GeneratorExit"),
]
SAID = [
    End(Outcome.FAILURE, None, "why", says="fail"),
    End(Outcome.IGNORED, Broken, says="ignore"),
    End(Outcome.SUCCESS, Broken, says="success"),
]


def asks_for_rest(seconds: float) -> End:
    counts = seconds if seconds > 0 else 0.0
    return End(Outcome.FAILURE, lambda: Broken(seconds), BROKEN.error, hint=counts)


RESTS = [asks_for_rest(seconds) for seconds in (0.25, 2.0, 30.0, 1000.0, -1.0, 0.0, nan, inf)]
RESTS[-1] = End(Outcome.FAILURE, lambda: Broken(inf), BROKEN.error)

ENDS = st.sampled_from([FINE] * 20 + [BROKEN] * 8 + WITHOUT_SAY + RESTS)
GUARD_ENDS = st.sampled_from([FINE] * 20 + [BROKEN] * 8 + WITHOUT_SAY + SAID + RESTS)

STILL = [0.0]
TURNS = [1 / 64, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 60.0, 2.0**20]
BACK = [-1 / 64, -1.0, -20.0]
IN_FLIGHT = st.sampled_from(STILL * 8 + [1 / 64, 0.25, 0.5, 0.5, 1.0, 1.0, 3.0, 70.0] + BACK)

FORMS = ["call", "function", "guard", "coroutine", "generator"]


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    """All trip rules in any combination, windows of both kinds."""

    def maybe(values: list[Any]) -> Any:
        return draw(st.sampled_from([None] * len(values) + values))

    hardy = draw(st.booleans())
    times = [timedelta(seconds=seconds) for seconds in (2.5, 5, 10, 20, 80)]
    windows: list[int | timedelta] = [8, 12, 20] if hardy else [1, 2, 3, 5, 8, 12]
    window = draw(st.sampled_from(windows + times))
    most = window if isinstance(window, int) else 12
    slow_call = maybe([0.5, 1.0])
    open_for = draw(st.sampled_from([0.5, 1.0, 4.0, 10.0]))
    longest = maybe([1, 2, 8])
    trips: dict[str, Any]
    if hardy:
        # It takes much to trip it, so its window fills and turns over.
        trips = {
            "min_calls": 6,
            "consecutive_failures": 4,
            "failure_rate": maybe([0.75, 1.0]),
            "slow_call_rate": maybe([0.75, 1.0]) if slow_call else None,
        }
    else:
        trips = {
            "min_calls": draw(st.sampled_from([n for n in (1, 2, 3, 4, 6) if n <= most])),
            "consecutive_failures": maybe([1, 2, 3, 4]),
            "failure_count": maybe([n for n in (1, 2, 3, 5) if n <= most]),
            "failure_rate": maybe([0.25, 1 / 3, 0.5, 0.75, 1.0]),
            "slow_call_rate": maybe([0.25, 0.5, 1.0]) if slow_call else None,
        }
    return Policy(
        **trips,
        window=window,
        slow_call=slow_call,
        open_for=open_for,
        backoff=draw(st.sampled_from([1.0, 1.5, 2.0, 3.0])),
        open_for_max=longest and open_for * longest,
        jitter=draw(st.sampled_from([0.0, 0.25, 0.5])),
        probes=draw(st.sampled_from([1, 1, 2, 3])),
        probe_successes=maybe([1, 2, 3, 4]),
        probe_failure_rate=maybe([0.25, 0.5, 0.6, 1.0]),
        probe_when_due=draw(st.sampled_from([False, False, True])),
        probe_lease=draw(st.sampled_from([0.5, 2.0, 60.0])),
        ramp_up=draw(st.sampled_from([0.0, 0.0, 2.0, 8.0])),
        shadow=draw(st.sampled_from([False] * 7 + [True])),
    )


FIELDS: dict[type[Event], tuple[str, ...]] = {}


def as_told(event: Event) -> Told:
    """An event in the words of the model."""
    cls = type(event)
    if cls not in FIELDS:
        FIELDS[cls] = tuple(field.name for field in fields(event))
    return {"kind": cls.__name__, **{name: getattr(event, name) for name in FIELDS[cls]}}


class Life(RuleBasedStateMachine):
    """One life of a breaker and of its model."""

    steps: ClassVar[int] = 0
    fast_calls: ClassVar[int] = 0
    states: ClassVar[Counter[State]] = Counter()

    breaker: CircuitBreaker
    model: Model

    def __init__(self) -> None:
        super().__init__()
        self.bus = EventBus()
        self.events: list[Event] = []
        self.compared = 0
        self.heard = 0
        self.in_flight: list[tuple[Guard, Ticket, float, Context]] = []
        self.isolations: list[AbstractContextManager[None]] = []
        self.reasons: dict[int, str | None] = {}
        self.stack = ExitStack()
        self.healthy = False
        self.watching = False
        self.patience = self.stuck = self.looks = 0
        self.stuck_in = State.CLOSED

    def listen(self) -> None:
        """Subscribe."""
        raise NotImplementedError

    def is_heard(self, told: Told) -> bool:
        """Whether somebody listens to that."""
        raise NotImplementedError

    @initialize(
        policy=policies(),
        chances=st.lists(st.sampled_from([n / 8 for n in range(9)]), min_size=1, max_size=5),
        start=st.sampled_from([0.0, 7.25, -3.5, 2.0**20]),
        judges_results=st.sampled_from([False] * 5 + [True]),
        chosen=st.sampled_from([None, None, [0.5, None, 7.0], [None, 2000.0], [3.0]]),
        patience=st.sampled_from([1, 2, 3, 5, 1000]),
    )
    def begin(
        self,
        policy: Policy,
        chances: list[float],
        start: float,
        judges_results: bool,
        chosen: list[float | None] | None,
        patience: int,
    ) -> None:
        choose = None if chosen is None else lambda opening: chosen[opening % len(chosen)]
        self.choose: Callable[[int], float | None] | None = choose
        self.patience = patience
        self.clock = FakeClock(start, wall=1024.0)
        classifier = Classifier(
            ignore=Unimportant,
            failure_if=(lambda result: result == "bad") if judges_results else None,
            retry_after_from=lambda ended_with: getattr(ended_with, "hint", None),
            open_for=None if choose is None else lambda opening, error: choose(opening),
        )
        self.judges_results = judges_results
        self.breaker = CircuitBreaker(
            NAME,
            policy,
            classifier=classifier,
            buckets=BUCKETS,
            clock=Clock(monotonic=self.monotonic, wall=lambda: self.clock.wall),
            random=cycle(chances).__next__,
            bus=self.bus,
        )
        self.model = Model(NAME, policy, start, 1024.0, cycle(chances).__next__)
        self.body: Callable[[], str] = str

        @self.breaker
        def function() -> str:
            return self.body()

        @self.breaker
        async def coroutine() -> str:
            return self.body()

        @self.breaker
        def generator() -> Generator[int, None, str]:
            answer = self.body()
            yield 1
            return answer

        self.protected: dict[str, Callable[[], str]] = {
            "call": lambda: self.breaker.call(self.body),
            "function": function,
            "guard": self._in_guard,
            "coroutine": lambda: _finish(coroutine()),
            "generator": lambda: _exhaust(generator()),
        }
        self.listen()
        self.healthy = True

    def monotonic(self) -> float:
        self.looks += 1
        return self.clock.now

    def _in_guard(self) -> str:
        with self.breaker.guard():
            return self.body()

    # -- time -------------------------------------------------------------------------------------

    def turn(self, seconds: float) -> None:
        """Turn the clock. Before it runs backwards the breaker looks at it, as the model did: a
        call with a pass never does.
        """
        if seconds < 0:
            self.look()
        self.clock.advance(seconds)

    def look(self) -> None:
        self.model.look(self.clock.now)
        self.same(self.breaker.state, self.model.state)

    @rule(seconds=st.sampled_from(STILL + TURNS + TURNS + BACK))
    def time_passes(self, seconds: float) -> None:
        self.turn(seconds)

    @rule(which=st.integers(0, 30), off=st.sampled_from([-1 / 64, 0.0, 0.0, 1 / 64]))
    def time_passes_to_an_edge(self, which: int, off: float) -> None:
        """To where a wait, a lease, a ramp or a bucket ends, or a moment before or after that."""
        model, window = self.model, self.model.policy.window
        edges = [
            model.open_until,
            *(place.ends for place in model.places),
            model.ramp_from + model.policy.ramp_up,
            model.closed_at + model.last_wait,
        ]
        if isinstance(window, timedelta):
            width = window.total_seconds() / 10
            edges += [(floor(self.clock.now / width) + n) * width for n in (1, 9, 10)]
        edges = [edge for edge in edges if edge > self.clock.now]
        if edges:
            self.turn(edges[which % len(edges)] + off - self.clock.now)

    # -- calls ------------------------------------------------------------------------------------

    @rule(form=st.sampled_from(FORMS), end=ENDS, seconds=IN_FLIGHT)
    def a_call(self, form: str, end: End, seconds: float) -> None:
        self.run_call(form, end, seconds)

    @precondition(lambda self: self.judges_results)
    @rule(form=st.sampled_from([f for f in FORMS if f != "guard"]), seconds=IN_FLIGHT)
    def a_call_with_a_bad_result(self, form: str, seconds: float) -> None:
        self.run_call(form, BAD_RESULT, seconds)

    @rule(
        form=st.sampled_from(FORMS),
        end=st.sampled_from([FINE] * 7 + [BROKEN]),
        times=st.sampled_from([2, 3, 5, 10, 20, 70, 150]),
        seconds=st.sampled_from([0.0, 0.0, 1 / 64]),
    )
    def a_burst(self, form: str, end: End, times: int, seconds: float) -> None:
        if end is BROKEN:
            times = min(times, 10)
        for _ in range(times):
            self.run_call(form, end, seconds)

    @rule(
        buckets=st.sampled_from([0, 1, 2, 5, 8, 9, 10]),
        end=st.sampled_from([FINE, FINE, BROKEN, *WITHOUT_SAY]),
        times=st.sampled_from([1, 2, 5, 80]),
    )
    def calls_come_while_one_stays(self, buckets: int, end: End, times: int) -> None:
        """Some of a window of time is forgotten, and the first call after that is no judge."""
        window = self.model.policy.window
        if isinstance(window, timedelta):
            self.turn(buckets * window.total_seconds() / 10)
        self.calls_begin(1)
        self.run_call("function", end, 0.0)
        for _ in range(times):
            self.run_call("function", FINE, 0.0)

    @precondition(lambda self: isinstance(self.model.policy.window, timedelta))
    @rule(
        stops=st.lists(
            st.tuples(st.sampled_from([0, 1, 1, 2, 7, 8, 9]), st.integers(0, 3), ENDS), max_size=6
        )
    )
    def calls_come_bucket_by_bucket(self, stops: list[tuple[int, int, End]]) -> None:
        """What is forgotten shows in the reading at the end."""
        window = self.model.policy.window
        assert isinstance(window, timedelta)
        for buckets, times, end in stops:
            self.turn(buckets * window.total_seconds() / 10)
            for _ in range(times):
                self.run_call("call", FINE, 0.0)
            self.run_call("call", end, 0.0)
        self.compare_reading()

    @rule(stops=st.lists(st.tuples(st.integers(0, 12), ENDS), max_size=6))
    def runs_of_successes(self, stops: list[tuple[int, End]]) -> None:
        """Batches of all sizes between calls of other kinds."""
        for times, end in stops:
            for _ in range(times):
                self.run_call("function", FINE, 0.0)
            self.run_call("function", end, 0.0)

    def run_call(self, form: str, end: End, seconds: float) -> None:
        """One call that settles before anything else happens."""
        runs: list[float] = []

        def body() -> str:
            runs.append(self.clock.now)
            self.turn(seconds)
            if end.raises is not None:
                raise end.raises()
            return end.returns

        self.body = body
        self.looks = 0
        answer = self.model.ask(self.clock.now)
        # In the model the call settles after its body has run, so the real one goes first.
        raised: BaseException | None = None
        try:
            self.same(self.protected[form](), end.returns)
        except (AssertionError, SystemExit):
            raise
        except BaseException as error:
            raised = error
        if isinstance(answer, Refusal):
            self.same(runs, [])
            self.same_refusal(raised, answer)
            return
        # Two looks at the clock are the fast path: neither way did the call ask for the lock.
        type(self).fast_calls += self.looks == 2
        self.same(len(runs), 1)
        self.same(type(raised), type(end.raises()) if end.raises else type(None))
        self.model.settle(
            answer,
            end.outcome,
            self.clock.now,
            duration=self.clock.now - runs[0],
            error=end.error,
            hint=end.hint,
            choose=self.choose,
        )

    @rule(times=st.sampled_from([1, 1, 1, 2, 4]))
    def calls_begin(self, times: int) -> None:
        """Calls that stay in flight until another rule ends them."""
        for _ in range(times):
            answer = self.model.ask(self.clock.now)
            self.call_begins(answer, Context())

    def call_begins(self, answer: Ticket | Refusal, context: Context) -> None:
        guard, raised = self.breaker.guard(), None
        try:
            context.run(guard.__enter__)
        except CircuitBreakerOpenError as error:
            raised = error
        if isinstance(answer, Refusal):
            self.same_refusal(raised, answer)
        else:
            self.same(raised, None)
            self.in_flight.append((guard, answer, self.clock.now, context))

    @precondition(lambda self: self.in_flight)
    @rule(which=st.integers(0, 1000))
    def a_call_begins_inside_another(self, which: int) -> None:
        _, outer, _, context = self.in_flight[which % len(self.in_flight)]
        self.call_begins(self.model.ask(self.clock.now, outer), context.copy())

    @precondition(lambda self: self.in_flight)
    @rule(which=st.integers(0, 1000), end=GUARD_ENDS)
    def a_call_ends(self, which: int, end: End) -> None:
        """Any of those in flight, so in any order."""
        self.end_call(which % len(self.in_flight), end)

    @precondition(lambda self: self.in_flight)
    @rule(end=GUARD_ENDS)
    def all_calls_end(self, end: End) -> None:
        while self.in_flight:
            self.end_call(-1, end)

    def end_call(self, which: int, end: End) -> None:
        guard, ticket, start, _ = self.in_flight.pop(which)
        if end.says == "fail":
            guard.fail("why")
        elif end.says is not None:
            getattr(guard, end.says)()
        error = None if end.raises is None else end.raises()
        guard.__exit__(None if error is None else type(error), error, None)
        self.model.settle(
            ticket,
            end.outcome,
            self.clock.now,
            duration=self.clock.now - start,
            error=end.error,
            hint=end.hint,
            choose=self.choose,
        )

    def same_refusal(self, raised: BaseException | None, refusal: Refusal) -> None:
        self.same(type(raised), CircuitBreakerOpenError)
        assert isinstance(raised, CircuitBreakerOpenError)
        self.same(
            (raised.breaker, raised.state, raised.retry_after),
            (NAME, refusal.state, refusal.retry_after),
        )

    # -- commands ---------------------------------------------------------------------------------

    @rule(
        command=st.sampled_from(["force_open", "disable", "reset", "reset", "reset"]),
        reason=st.sampled_from([None, "drill"]),
    )
    def a_command(self, command: str, reason: str | None) -> None:
        getattr(self.model, command)(self.clock.now, reason)
        getattr(self.breaker, command)(reason)

    @rule(policy=policies(), reason=st.sampled_from([None, "drill"]))
    def other_rules(self, policy: Policy, reason: str | None) -> None:
        self.model.update(policy, self.clock.now, reason)
        self.breaker.update(policy, reason)

    @precondition(lambda self: len(self.isolations) < 3)
    @rule(reason=st.sampled_from([None, "drill"]))
    def an_isolation_begins(self, reason: str | None) -> None:
        self.model.isolate(self.clock.now, reason)
        isolation = self.breaker.isolated(reason)
        isolation.__enter__()
        self.isolations.append(isolation)
        self.reasons[id(isolation)] = reason

    @precondition(lambda self: self.isolations)
    @rule()
    def all_isolations_end(self) -> None:
        while self.isolations:
            self.an_isolation_ends(0)

    @precondition(lambda self: self.model.state is not State.CLOSED)
    @rule()
    def somebody_clears_up(self) -> None:
        """Back to closed, so that not all of a life is spent open."""
        self.all_isolations_end()
        self.a_command("reset", None)

    @precondition(lambda self: self.isolations)
    @rule(which=st.integers(0, 10))
    def an_isolation_ends(self, which: int) -> None:
        isolation = self.isolations.pop(which % len(self.isolations))
        self.model.end_isolation(self.clock.now, self.reasons[id(isolation)])
        isolation.__exit__(None, None, None)

    # -- comparing --------------------------------------------------------------------------------

    def same(self, real: object, modelled: object) -> None:
        if real != modelled:
            self.healthy = False
        assert real == modelled

    def compare_events(self) -> None:
        told = [told for told in self.model.told[self.compared :] if self.is_heard(told)]
        real = [as_told(event) for event in self.events]
        # Events are numbered as they are made, and none is made for nobody.
        first = self.heard + 1
        self.same([event.pop("seq") for event in real], list(range(first, first + len(real))))
        self.heard += len(real)
        self.same(real, told)
        self.events.clear()
        self.compared = len(self.model.told)

    def compare_reading(self) -> None:
        model = self.model
        # A reading may be the first to see that a call was settled while an object died.
        now = model.look(self.clock.now)
        reading = self.breaker.read()
        self.same(now, model.seen)
        self.same(reading.state, model.state)
        self.same(
            {f.name: getattr(reading.figures, f.name) for f in fields(reading.figures)},
            model.figures(),
        )
        self.same(reading.calls, model.calls())
        self.same(reading.in_flight, model.in_flight)
        self.same(reading.would_reject, model.would_reject)
        self.same(reading.slow, model.slow)
        for outcome, durations in reading.durations.items():
            self.same(durations.counts, model.histogram(outcome, BUCKETS))
            self.same(sum(durations.counts), model.calls()[outcome])
            self.same(durations.total_seconds, sum(model.durations[outcome]))
        self.same(dict(reading.transitions), dict(model.transitions()))
        assert set(reading.transitions) <= TRANSITIONS
        self.same(dict(reading.state_seconds), model.state_seconds())
        self.same(reading.open_wait, model.last_wait or model.policy.open_for)

    def compare(self) -> None:
        """After each step."""
        raise NotImplementedError

    @invariant()
    def is_as_the_model_says(self) -> None:
        type(self).steps += 1
        type(self).states[self.model.state] += 1
        self.compare()
        self.get_on()

    def get_on(self) -> None:
        """Most of a life is to be spent where something happens, so nothing lasts for ever."""
        state = self.model.state
        self.stuck = self.stuck + 1 if state is self.stuck_in else 0
        self.stuck_in = state
        if self.stuck < self.patience or state is State.CLOSED:
            return
        self.stuck = 0
        if state is State.OPEN:
            self.turn(max(self.model.open_until - self.clock.now, 0.0))
            self.calls_begin(1)
        elif state is not State.HALF_OPEN:
            self.somebody_clears_up()

    def teardown(self) -> None:
        if self.healthy:
            while self.in_flight:
                self.end_call(0, FINE)
            while self.isolations:
                self.an_isolation_ends(0)
            self.compare_events()
            self.compare_reading()
            self.same(self.breaker.read().in_flight, 0)
        self.stack.close()
        self.isolations.clear()


class Watched(Life):
    """Everything is heard, everything is read after each step."""

    def listen(self) -> None:
        self.events = self.stack.enter_context(capture_events(bus=self.bus))

    def is_heard(self, told: Told) -> bool:
        return True

    def compare(self) -> None:
        self.compare_events()
        self.compare_reading()


class Quiet(Life):
    """Nobody wants the events of successes (but for a while, as a sampled trace does), and readings
    are rare.
    """

    def listen(self) -> None:
        others = [outcome for outcome in Outcome if outcome is not Outcome.SUCCESS]
        bus, heard = self.bus, self.events.append
        self.stack.enter_context(bus.subscribe(heard, outcomes=others, inline=True))
        self.stack.enter_context(
            bus.subscribe(
                heard,
                CallSettled,
                outcomes=[Outcome.SUCCESS],
                when=lambda: self.watching,
                inline=True,
            )
        )

    def is_heard(self, told: Told) -> bool:
        return told.get("outcome") is not Outcome.SUCCESS or self.watching

    def compare(self) -> None:
        self.compare_events()

    @rule()
    def somebody_reads(self) -> None:
        self.compare_reading()

    @rule()
    def somebody_asks_for_the_state(self) -> None:
        self.look()

    @rule(watching=st.sampled_from([False, False, True]))
    def a_trace_is_sampled(self, watching: bool) -> None:
        self.watching = watching


class Silent(Quiet):
    """As Quiet, and nobody hears of refusals either, so that they need no lock."""

    def listen(self) -> None:
        others = [outcome for outcome in Outcome if outcome is not Outcome.SUCCESS]
        self.stack.enter_context(
            self.bus.subscribe(
                self.events.append, CallSettled, StateChanged, outcomes=others, inline=True
            )
        )

    def is_heard(self, told: Told) -> bool:
        unheard = ("CallRejected", "PolicyChanged")
        return told["kind"] not in unheard and told.get("outcome") is not Outcome.SUCCESS


def _finish(coroutine: Coroutine[Any, Any, str]) -> str:
    """Run a coroutine that waits for nothing."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return str(stop.value)
    raise AssertionError("it waited")


def _exhaust(generator: Generator[int, None, str]) -> str:
    """What a generator returns at its end."""
    answer = ""

    def reader() -> Iterator[int]:
        nonlocal answer
        answer = yield from generator

    assert list(reader()) == [1]
    return answer


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("life", [Watched, Quiet, Silent])
def test_a_breaker_lives_as_the_model_says(life: type[Life]) -> None:
    life.steps = life.fast_calls = 0
    life.states = Counter()
    run_state_machine_as_test(life)
    print(f"{life.__name__}: {life.steps} steps, {life.fast_calls} calls on the fast path")
    print(f"{life.__name__}: steps that ended in {dict(life.states)}")
    assert life.steps >= STEPS_AT_LEAST
    if life is not Watched:
        assert life.fast_calls >= life.steps / 4
