"""Other rules at run time: what goes on, what begins anew, and what is told of it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta

import pytest

from breakerscope.breaker import CircuitBreaker
from breakerscope.core.events import CallSettled, Outcome, PolicyChanged, State, StateChanged
from breakerscope.core.policy import Policy
from breakerscope.event_bus import EventBus
from breakerscope.testing import FakeClock, capture_events
from tests.unit.support import Boom, fail, fail_times, make_breaker, refused, succeed

Calls = Callable[[CircuitBreaker, Callable[[], object]], object]


def by_guard(breaker: CircuitBreaker, fn: Callable[[], object]) -> object:
    with breaker.guard():
        return fn()


FORMS: dict[str, Calls] = {
    "call": lambda breaker, fn: breaker.call(fn),
    "decorator": lambda breaker, fn: breaker(fn)(),
    "guard": by_guard,
}


def test_an_update_is_one_event_with_what_has_changed() -> None:
    bus = EventBus()
    breaker = make_breaker(bus=bus, consecutive_failures=5)
    with capture_events(bus=bus) as events:
        breaker.update(Policy(consecutive_failures=2, open_for=30.0), reason="launch day")
        breaker.update(Policy(consecutive_failures=2, open_for=30.0))
    assert [(type(e), e.changes, e.reason) for e in events if isinstance(e, PolicyChanged)] == [
        (PolicyChanged, "consecutive_failures: 5 -> 2; open_for: 10.0 -> 30.0", "launch day")
    ]
    assert len(events) == 1
    assert breaker.policy == breaker.read().policy == Policy(consecutive_failures=2, open_for=30.0)


def test_failures_that_came_before_count_under_the_new_rules() -> None:
    breaker = make_breaker(consecutive_failures=10, failure_count=10)
    fail_times(breaker, 3)
    breaker.update(Policy(consecutive_failures=4, failure_count=10))
    assert breaker.state is State.CLOSED
    fail_times(breaker, 1)
    assert breaker.state is State.OPEN


@pytest.mark.parametrize(
    ("policy", "kept"),
    [
        (Policy(failure_count=3), True),
        (Policy(failure_count=3, window=50), False),
        (Policy(failure_count=3, window=timedelta(seconds=30)), False),
        (Policy(failure_count=3, slow_call=1.0), False),
    ],
)
def test_the_window_is_kept_where_its_marks_mean_the_same(policy: Policy, kept: bool) -> None:
    breaker = make_breaker(failure_count=10)
    fail_times(breaker, 2)
    breaker.update(policy)
    assert breaker.read().figures.failures == (2 if kept else 0)
    assert breaker.read().calls[Outcome.FAILURE] == 2
    fail_times(breaker, 1)
    assert breaker.state is (State.OPEN if kept else State.CLOSED)


def test_the_wait_of_an_open_breaker_goes_on_within_the_new_limit() -> None:
    clock = FakeClock()
    breaker = make_breaker(clock, consecutive_failures=1, open_for=100.0)
    fail_times(breaker, 1)
    breaker.update(Policy(consecutive_failures=1, open_for=20.0))
    assert refused(breaker).retry_after == 100.0
    breaker.update(Policy(consecutive_failures=1, open_for=20.0, open_for_max=40.0))
    assert refused(breaker).retry_after == 40.0
    clock.advance(40.0)
    fail_times(breaker, 1)
    assert refused(breaker).retry_after == 20.0


def test_a_call_in_flight_is_counted_and_has_no_say() -> None:
    bus = EventBus()
    breaker = make_breaker(bus=bus, consecutive_failures=1)
    with capture_events(CallSettled, bus=bus) as events, suppress(Boom), breaker.guard():
        breaker.update(Policy(consecutive_failures=2, failure_count=1))
        assert breaker.read().in_flight == 1
        raise Boom
    assert [(e.outcome, e.late) for e in events] == [(Outcome.FAILURE, True)]
    reading = breaker.read()
    assert (reading.state, reading.in_flight, reading.figures.failures) == (State.CLOSED, 0, 0)
    assert reading.calls[Outcome.FAILURE] == 1


def test_the_place_of_a_probe_in_flight_is_free_again() -> None:
    clock = FakeClock()
    breaker = make_breaker(clock, consecutive_failures=1, open_for=10.0)
    fail_times(breaker, 1)
    clock.advance(10.0)
    probe = breaker.exchange()
    assert refused(breaker).state is State.HALF_OPEN
    breaker.update(Policy(consecutive_failures=1, open_for=10.0, probe_successes=2))
    breaker.call(succeed)
    probe.end()
    assert breaker.state is State.HALF_OPEN
    breaker.call(succeed)
    assert breaker.state is State.CLOSED


def test_a_ramp_up_that_is_no_more_wanted_ends() -> None:
    clock = FakeClock()
    breaker = make_breaker(clock, consecutive_failures=1, ramp_up=100.0)
    fail_times(breaker, 1)
    clock.advance(10.0)
    breaker.call(succeed)
    breaker.update(Policy(consecutive_failures=1))
    assert [breaker.call(succeed) for _ in range(20)] == ["fine"] * 20


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "policy",
    [
        Policy(slow_call=0.5, slow_call_rate=0.5, min_calls=4),
        Policy(slow_call=0.5, slow_call_rate=0.5, min_calls=4, window=timedelta(seconds=60)),
        Policy(failure_count=4, window=timedelta(seconds=60)),
        Policy(failure_count=4),
    ],
    ids=["slow", "slow-timed", "timed", "count"],
)
def test_what_was_decorated_before_follows_the_new_rules(form: str, policy: Policy) -> None:
    clock, bus = FakeClock(), EventBus()
    breaker = make_breaker(clock, bus=bus, failure_count=50)
    fails = False

    @breaker
    def decorated() -> None:
        clock.advance(1.0 if policy.slow_call else 0.1)
        if fails and not policy.slow_call:
            raise Boom

    def call() -> None:
        with suppress(Boom):
            decorated() if form == "decorator" else FORMS[form](breaker, decorated.__wrapped__)  # type: ignore[attr-defined]

    for _ in range(100):
        call()
    breaker.update(policy)
    with capture_events(StateChanged, bus=bus) as events:
        fails = True
        for _ in range(4):
            assert breaker.state is State.CLOSED
            call()
    assert [event.new for event in events] == [State.OPEN]
    reading = breaker.read()
    bad = Outcome.SUCCESS if policy.slow_call else Outcome.FAILURE
    assert {o: n for o, n in reading.calls.items() if n} == (
        {bad: 104} if policy.slow_call else {Outcome.SUCCESS: 100, bad: 4}
    )
    assert reading.in_flight == 0
    assert reading.slow == (4 if policy.slow_call else 0)


def test_a_timed_window_forgets_after_an_update_too() -> None:
    clock = FakeClock()
    breaker = make_breaker(clock, failure_count=50)
    call = breaker(fail)
    breaker.update(Policy(failure_count=4, window=timedelta(seconds=10)))
    for _ in range(3):
        with pytest.raises(Boom):
            call()
    clock.advance(20.0)
    with pytest.raises(Boom):
        call()
    assert breaker.read().figures.failures == 1


def test_a_shadow_that_ends_rejects_from_then_on() -> None:
    breaker = make_breaker(consecutive_failures=1, shadow=True)
    fail_times(breaker, 1)
    assert breaker.call(succeed) == "fine"
    breaker.update(Policy(consecutive_failures=1))
    refused(breaker)
    breaker.update(Policy(consecutive_failures=1, shadow=True))
    assert breaker.call(succeed) == "fine"
    reading = breaker.read()
    assert (reading.rejected, reading.would_reject) == (1, 2)


def test_an_update_during_an_isolation_leaves_it_in_force() -> None:
    breaker = make_breaker(consecutive_failures=1)
    with breaker.isolated():
        breaker.update(Policy(consecutive_failures=2))
        assert refused(breaker).state is State.FORCED_OPEN
    assert breaker.state is State.CLOSED


def test_only_a_policy_can_be_taken_over() -> None:
    breaker = make_breaker()
    with pytest.raises(TypeError, match=r"update\(\{'open_for': 5\}\): allowed is a Policy"):
        breaker.update({"open_for": 5})  # type: ignore[arg-type]
