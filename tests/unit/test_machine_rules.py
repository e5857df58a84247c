"""The machine and its windows, one example a rule. Random lives are in `test_model.py`.

These examples are the same in each run, so `make mutate` can count on them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import FrozenInstanceError
from datetime import timedelta
from functools import partial
from math import inf
from typing import Any

import pytest

from breakerscope.core import permits
from breakerscope.core.events import Cause, Outcome, State
from breakerscope.core.journal import runs_of
from breakerscope.core.permits import OUTSIDE, AnyPermit, Permit
from breakerscope.core.policy import Policy
from breakerscope.core.transitions import Figures, Transition, transitions_of
from breakerscope.core.windows import CountWindow, TimeWindow, Window
from tests.unit.support import Admission, Holder, Machine, Verdict

CLOSED, OPEN, HALF_OPEN = State.CLOSED, State.OPEN, State.HALF_OPEN
FORCED_OPEN, DISABLED = State.FORCED_OPEN, State.DISABLED
SUCCESS, FAILURE = Outcome.SUCCESS, Outcome.FAILURE
IGNORED, CANCELLED = Outcome.IGNORED, Outcome.CANCELLED

Act = Callable[[Machine], object]


def machine_with(*, now: float = 0.0, random: float = 0.5, **policy: Any) -> Machine:
    return Machine(Policy(**policy), now=now, random=lambda: random)


def admitted(machine: Machine, now: float) -> AnyPermit:
    permit = machine.admit(now).permit
    assert permit is not None
    return permit


def settle(
    machine: Machine, outcome: Outcome, now: float, *, slow: bool = False, hint: float = 0.0
) -> Transition | None:
    """One call that asks and ends at the same moment."""
    permit = admitted(machine, now)
    late, transition = machine.settle(permit, outcome, now=now, slow=slow, hint=hint)
    assert not late
    return transition


def opened(*, now: float = 0.0, **policy: Any) -> Machine:
    """A machine that a single failure opened at `now`."""
    machine = machine_with(now=now, consecutive_failures=1, **policy)
    assert settle(machine, FAILURE, now) is not None
    return machine


def half_opened(*, now: float = 0.0, **policy: Any) -> tuple[Machine, AnyPermit]:
    """A machine that asked for its first probe as soon as it could, and that probe."""
    machine = opened(now=now, **policy)
    return machine, admitted(machine, now + machine.wait)


def figures(
    calls: int = 0,
    failures: int = 0,
    slow_calls: int = 0,
    in_a_row: int = 0,
    failure_ratio: float | None = None,
    slow_call_ratio: float | None = None,
) -> Figures:
    return Figures(
        calls=calls,
        failures=failures,
        slow_calls=slow_calls,
        consecutive_failures=in_a_row,
        failure_ratio=failure_ratio,
        slow_call_ratio=slow_call_ratio,
    )


# -- windows --------------------------------------------------------------------------------------

GOOD, FAILED, SLOW, BOTH = [0, 0], [1, 0], [0, 1], [1, 1]


def held(window: Window) -> tuple[int, int, int, list[list[int]]]:
    return window.calls, window.failures, window.slow_calls, window.dump()


def window_of(size: int, *rows: list[int]) -> CountWindow:
    window = CountWindow(size)
    for failed, slow in rows:
        window.add(failed=bool(failed), slow=bool(slow))
    return window


def test_a_count_window_forgets_the_oldest_call() -> None:
    window = CountWindow(3)
    seen = [held(window)]
    for failed, slow in [FAILED, BOTH, SLOW, GOOD, GOOD, BOTH]:
        window.add(failed=bool(failed), slow=bool(slow))
        seen.append(held(window))
    assert seen == [
        (0, 0, 0, []),
        (1, 1, 0, [FAILED]),
        (2, 2, 1, [FAILED, BOTH]),
        (3, 2, 2, [FAILED, BOTH, SLOW]),
        (3, 1, 2, [BOTH, SLOW, GOOD]),
        (3, 0, 1, [SLOW, GOOD, GOOD]),
        (3, 1, 1, [GOOD, GOOD, BOTH]),
    ]
    assert type(window.failures) is int
    assert window.bucket(99.0) == 0


@pytest.mark.parametrize(
    ("before", "n", "after"),
    [
        ([], 0, (0, 0, 0, [])),
        ([], 2, (2, 0, 0, [GOOD] * 2)),
        ([], 9, (4, 0, 0, [GOOD] * 4)),
        ([GOOD] * 3, 3, (4, 0, 0, [GOOD] * 4)),
        ([BOTH], 1, (2, 1, 1, [BOTH, GOOD])),
        ([BOTH], 3, (4, 1, 1, [BOTH, GOOD, GOOD, GOOD])),
        ([BOTH], 4, (4, 0, 0, [GOOD] * 4)),
        ([SLOW], 5, (4, 0, 0, [GOOD] * 4)),
        ([FAILED, SLOW, BOTH, FAILED], 0, (4, 3, 2, [FAILED, SLOW, BOTH, FAILED])),
        ([FAILED, SLOW, BOTH, FAILED], 1, (4, 2, 2, [SLOW, BOTH, FAILED, GOOD])),
        ([FAILED, SLOW, BOTH, FAILED], 2, (4, 2, 1, [BOTH, FAILED, GOOD, GOOD])),
        ([FAILED, SLOW, BOTH, FAILED], 3, (4, 1, 0, [FAILED, GOOD, GOOD, GOOD])),
        # Around the end of the ring, where the oldest call stands in the middle.
        ([GOOD, GOOD, SLOW, SLOW, BOTH], 2, (4, 1, 2, [SLOW, BOTH, GOOD, GOOD])),
        ([GOOD, GOOD, SLOW, BOTH, SLOW], 3, (4, 0, 1, [SLOW, GOOD, GOOD, GOOD])),
        ([GOOD, GOOD, GOOD, SLOW, BOTH, FAILED], 3, (4, 1, 0, [FAILED, GOOD, GOOD, GOOD])),
        ([GOOD, GOOD, GOOD, SLOW, BOTH, FAILED], 2, (4, 2, 1, [BOTH, FAILED, GOOD, GOOD])),
        ([GOOD, GOOD, GOOD, SLOW], 7, (4, 0, 0, [GOOD] * 4)),
    ],
)
def test_a_batch_of_successes_in_a_count_window(
    before: list[list[int]], n: int, after: tuple[int, int, int, list[list[int]]]
) -> None:
    window = window_of(4, *before)
    window.add_batch(n)
    assert held(window) == after
    # The next calls take the right places, all around the ring.
    rows = after[3]
    for mark in (BOTH, GOOD, SLOW, FAILED, GOOD):
        window.add(failed=bool(mark[0]), slow=bool(mark[1]))
        rows = [*rows, mark][-4:]
        assert held(window) == (
            len(rows),
            sum(row[0] for row in rows),
            sum(row[1] for row in rows),
            rows,
        )


@pytest.mark.parametrize(
    ("before", "n", "after"),
    [
        ([], 0, (0, 0, 0, [])),
        ([], 1, (1, 1, 0, [FAILED])),
        ([GOOD, SLOW], 2, (4, 2, 1, [GOOD, SLOW, FAILED, FAILED])),
        ([FAILED, SLOW, BOTH, FAILED], 3, (4, 4, 0, [FAILED] * 4)),
        ([SLOW, BOTH, SLOW, GOOD, GOOD, GOOD], 2, (4, 2, 0, [GOOD, GOOD, FAILED, FAILED])),
        ([SLOW, BOTH, SLOW, GOOD, GOOD, BOTH], 3, (4, 4, 1, [BOTH, FAILED, FAILED, FAILED])),
        ([GOOD, SLOW], 9, (4, 4, 0, [FAILED] * 4)),
    ],
)
def test_a_batch_of_failures_in_a_count_window(
    before: list[list[int]], n: int, after: tuple[int, int, int, list[list[int]]]
) -> None:
    window = window_of(4, *before)
    window.add_batch(n, failed=True)
    assert held(window) == after


def test_a_batch_of_failures_in_a_time_window() -> None:
    window = timed(now=100.5)
    window.add_batch(2, failed=True)
    window.advance(103.0)
    window.add_batch(3)
    window.add_batch(1, failed=True)
    window.add_batch(2, failed=True)
    rows = [EMPTY] * 6 + [[2, 2, 0], EMPTY, EMPTY, [6, 3, 0]]
    assert held(window) == (8, 5, 0, rows)


def test_a_count_window_cleared_and_loaded() -> None:
    window = window_of(3, FAILED, BOTH, GOOD, SLOW)
    rows = window.dump()
    window.clear()
    assert held(window) == (0, 0, 0, [])
    window.add(failed=True, slow=False)
    window.load(rows)
    assert held(window) == (3, 1, 2, [BOTH, GOOD, SLOW])
    window.advance(1e9)
    assert held(window) == (3, 1, 2, [BOTH, GOOD, SLOW])
    window.load([FAILED])
    assert held(window) == (1, 1, 0, [FAILED])


EMPTY = [0, 0, 0]


def timed(*, seconds: float = 10.0, now: float = 0.0) -> TimeWindow:
    window = TimeWindow(seconds)
    window.advance(now)
    return window


def test_a_time_window_forgets_whole_buckets() -> None:
    window = timed(now=100.5)
    window.add(failed=True, slow=True)
    window.add(failed=True, slow=False)
    window.advance(101.0)
    window.add(failed=False, slow=True)
    window.add_batch(2)
    window.advance(103.0)
    window.add_batch(1)
    rows = [EMPTY] * 6 + [[2, 2, 1], [3, 0, 1], EMPTY, [1, 0, 0]]
    assert held(window) == (6, 2, 2, rows)
    window.advance(109.999)
    assert held(window) == (6, 2, 2, rows[6:] + [EMPTY] * 6)
    window.advance(110.0)
    assert held(window) == (4, 0, 1, rows[7:] + [EMPTY] * 7)
    window.advance(112.0)
    assert held(window) == (1, 0, 0, [[1, 0, 0]] + [EMPTY] * 9)
    window.advance(113.0)
    assert held(window) == (0, 0, 0, [EMPTY] * 10)
    # The places of what was forgotten are empty again.
    window.add(failed=True, slow=True)
    assert held(window) == (1, 1, 1, [EMPTY] * 9 + [[1, 1, 1]])


@pytest.mark.parametrize(("later", "left"), [(9.0, 1), (10.0, 0), (11.0, 0), (25.0, 0)])
def test_a_long_silence(later: float, left: int) -> None:
    window = timed()
    window.add(failed=True, slow=True)
    window.advance(later)
    assert (window.calls, window.failures, window.slow_calls) == (left, left, left)
    assert window.bucket(later) == later
    window.add(failed=False, slow=False)
    window.advance(later + 9)
    assert window.calls == 1
    window.advance(later + 10)
    assert window.calls == 0


def test_an_empty_time_window_moves_on_too() -> None:
    window = timed()
    window.advance(4.0)
    assert (window.bucket(4.0), window.bucket(5.0)) == (4, 5)
    window.add(failed=True, slow=False)
    window.advance(13.0)
    assert window.calls == 1
    window.advance(14.0)
    assert window.calls == 0


def test_time_that_runs_backwards_changes_nothing() -> None:
    window = timed(now=5.0)
    window.add(failed=True, slow=False)
    for earlier in (-100.0, 2.0, 4.9, 5.0):
        window.advance(earlier)
        assert held(window) == (1, 1, 0, [EMPTY] * 9 + [[1, 1, 0]])
    assert window.bucket(5.9) == 5
    # An empty one does not go back either.
    window.clear()
    window.advance(2.0)
    window.add(failed=True, slow=False)
    window.advance(14.9)
    assert window.calls == 1
    window.advance(15.0)
    assert window.calls == 0


def test_the_width_of_a_bucket_is_a_tenth() -> None:
    window = timed(seconds=2.5, now=-1.0)
    assert (window.bucket(-0.8), window.bucket(-0.75)) == (-4, -3)
    window.add_batch(3)
    window.advance(1.49)
    assert window.calls == 3
    window.advance(1.5)
    assert window.calls == 0


def test_a_time_window_cleared_and_loaded() -> None:
    window = timed(now=3.0)
    window.add(failed=True, slow=True)
    window.advance(5.0)
    window.add(failed=False, slow=True)
    rows = window.dump()
    other = timed(now=777.0)
    other.add(failed=True, slow=True)
    other.load(rows)
    assert held(other) == held(window) == (2, 1, 2, rows)
    other.advance(784.0)
    assert (other.calls, other.failures, other.slow_calls) == (2, 1, 2)
    other.advance(785.0)
    assert (other.calls, other.failures, other.slow_calls) == (1, 0, 1)
    other.clear()
    assert held(other) == (0, 0, 0, [EMPTY] * 10)
    # It knows the time still.
    other.add(failed=False, slow=True)
    other.advance(794.9)
    assert (other.calls, other.failures, other.slow_calls) == (1, 0, 1)
    other.advance(795.0)
    assert held(other) == (0, 0, 0, [EMPTY] * 10)
    other.add(failed=True, slow=True)
    other.load([])
    assert held(other) == (0, 0, 0, [EMPTY] * 10)


def test_a_time_window_that_knows_no_time_yet() -> None:
    window = TimeWindow(10.0)
    window.add(failed=True, slow=False)
    assert window.dump() == [EMPTY] * 9 + [[1, 1, 0]]
    other = TimeWindow(10.0)
    other.load(window.dump())
    assert other.dump() == window.dump()


# -- trip rules -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "calls", "cause"),
    [
        ({"consecutive_failures": 3}, "ff.fff", Cause.CONSECUTIVE_FAILURES),
        ({"failure_count": 3}, "f.f.f", Cause.FAILURE_COUNT),
        ({"failure_count": 2, "window": 3}, "f..f..f.f", Cause.FAILURE_COUNT),
        ({"failure_rate": 0.5, "min_calls": 4}, "..ff", Cause.FAILURE_RATE),
        ({"failure_rate": 0.5, "min_calls": 4}, "fff.f", Cause.FAILURE_RATE),
        ({"failure_rate": 0.6, "min_calls": 2}, ".f.ff", Cause.FAILURE_RATE),
        ({"slow_call": 1, "slow_call_rate": 0.5, "min_calls": 4}, ".S.s", Cause.SLOW_CALL_RATE),
        ({"slow_call": 1, "slow_call_rate": 0.5, "min_calls": 4}, "s...ss", Cause.SLOW_CALL_RATE),
        # Several at once: the first in the order of rule 5.
        (
            {"consecutive_failures": 2, "failure_count": 2, "failure_rate": 0.5, "min_calls": 2},
            "ff",
            Cause.CONSECUTIVE_FAILURES,
        ),
        (
            {"consecutive_failures": 9, "failure_count": 2, "failure_rate": 1, "min_calls": 2},
            "ff",
            Cause.FAILURE_COUNT,
        ),
        (
            {"failure_rate": 1, "slow_call_rate": 1, "slow_call": 1, "min_calls": 2},
            "SS",
            Cause.FAILURE_RATE,
        ),
        (
            {"failure_rate": 0.9, "slow_call_rate": 1, "slow_call": 1, "min_calls": 2},
            "sS",
            Cause.SLOW_CALL_RATE,
        ),
    ],
)
def test_the_last_of_these_calls_opens(policy: dict[str, Any], calls: str, cause: Cause) -> None:
    """`.` a success, `f` a failure, `s` a slow success, `S` a slow failure."""
    machine = machine_with(**policy)
    told = [
        settle(machine, FAILURE if call in "fS" else SUCCESS, 0.0, slow=call in "sS")
        for call in calls
    ]
    assert [change and change.cause for change in told] == [None] * (len(calls) - 1) + [cause]
    assert machine.state is OPEN


SLOW_HALF = {"slow_call": 1, "slow_call_rate": 0.5, "min_calls": 4}


@pytest.mark.parametrize(
    ("policy", "calls", "last", "cause"),
    [
        # The last success makes the minimum of calls full.
        ({"failure_rate": 0.5, "min_calls": 4}, "fff.", "f", Cause.FAILURE_RATE),
        ({"failure_rate": 0.5, "min_calls": 4}, "fff..", "S", Cause.FAILURE_RATE),
        (SLOW_HALF, "sss.", "s", Cause.SLOW_CALL_RATE),
        (SLOW_HALF, "sss.", "S", Cause.SLOW_CALL_RATE),
        # A failure is judged by all rules, and so is a slow call.
        (SLOW_HALF, "sss.", "f", Cause.SLOW_CALL_RATE),
        (SLOW_HALF, "Ss..", "f", None),
        ({"failure_rate": 0.5, "min_calls": 4}, "fff.", "s", Cause.FAILURE_RATE),
        ({"failure_count": 2, "failure_rate": 1, "min_calls": 4}, "f...", "f", Cause.FAILURE_COUNT),
        # By the next bad call enough of the old ones may be out of the window again.
        ({"failure_rate": 0.6, "min_calls": 3, "window": 3}, "ff.", "f", Cause.FAILURE_RATE),
        ({"failure_rate": 0.6, "min_calls": 3, "window": 3}, "ff..", "f", None),
    ],
)
def test_a_quick_success_never_opens_and_what_comes_next_may(
    policy: dict[str, Any], calls: str, last: str, cause: Cause | None
) -> None:
    machine = machine_with(**policy)
    for call in calls:
        assert settle(machine, FAILURE if call in "fS" else SUCCESS, 0.0, slow=call in "sS") is None
    assert machine.state is CLOSED
    change = settle(machine, FAILURE if last in "fS" else SUCCESS, 0.0, slow=last in "sS")
    assert (change and change.cause) is cause
    assert machine.state is (CLOSED if cause is None else OPEN)


@pytest.mark.parametrize(("outcome", "slow"), [(FAILURE, False), (SUCCESS, True), (FAILURE, True)])
def test_a_rate_that_old_successes_kept_low_is_judged_with_the_next_bad_call(
    outcome: Outcome, slow: bool
) -> None:
    machine = machine_with(failure_rate=0.5, min_calls=2, window=timedelta(seconds=10))
    for _ in range(3):
        settle(machine, SUCCESS, 0.0)
    for _ in range(2):
        settle(machine, FAILURE, 5.0)
    assert machine.figures(9.9) == figures(5, 2, 0, 2, 0.4, 0.0)
    assert machine.figures(10.0) == figures(2, 2, 0, 2, 1.0, 0.0)
    assert settle(machine, SUCCESS, 10.0) is None
    assert settle(machine, IGNORED, 10.0, slow=True) is None
    change = settle(machine, outcome, 10.0, slow=slow)
    assert change is not None
    assert (change.new, change.cause) == (OPEN, Cause.FAILURE_RATE)


def test_what_has_no_say_is_not_in_the_window() -> None:
    machine = machine_with(consecutive_failures=2)
    for outcome in (FAILURE, IGNORED, CANCELLED):
        assert settle(machine, outcome, 0.0, slow=True) is None
    assert machine.figures(0.0) == figures(1, 1, 1, in_a_row=1)


def test_a_change_tells_all_figures() -> None:
    machine = machine_with(failure_rate=0.5, slow_call=1, slow_call_rate=1, min_calls=4)
    settle(machine, SUCCESS, 0.0, slow=True)
    settle(machine, SUCCESS, 0.0)
    settle(machine, FAILURE, 0.0)
    assert machine.figures(0.0) == figures(3, 1, 1, in_a_row=1)
    assert settle(machine, FAILURE, 0.0) == Transition(
        old=CLOSED,
        new=OPEN,
        cause=Cause.FAILURE_RATE,
        figures=figures(4, 2, 1, 2, failure_ratio=0.5, slow_call_ratio=0.25),
        open_for=10.0,
        reason=None,
    )


def test_figures_are_those_of_the_moment() -> None:
    machine = machine_with(window=timedelta(seconds=10), now=100.0)
    settle(machine, FAILURE, 100.0)
    assert machine.figures(109.5) == figures(1, 1, 0, in_a_row=1)
    assert machine.figures(110.0) == figures(in_a_row=1)
    # The clock has seen 110; 100 is over.
    settle(machine, SUCCESS, 100.0)
    assert machine.figures(119.0) == figures(1)
    assert machine.figures(120.0) == figures()


def test_the_window_knows_the_time_from_the_beginning() -> None:
    machine = machine_with(window=timedelta(seconds=10), now=103.5)
    settle(machine, FAILURE, 103.5)
    assert machine.figures(112.9) == figures(1, 1, 0, in_a_row=1)
    assert machine.figures(113.0) == figures(in_a_row=1)


def test_values_are_frozen() -> None:
    change = settle(machine_with(consecutive_failures=1), FAILURE, 0.0)
    assert change is not None
    for value, field in ((change, "old"), (change.figures, "calls")):
        with pytest.raises(FrozenInstanceError):
            setattr(value, field, None)
        assert not hasattr(value, "__dict__")
        of_any_type: Any = type(value)
        with pytest.raises(TypeError):
            of_any_type(*range(6))


def test_the_short_answers() -> None:
    shared = machine_with().permit
    assert permits.Admission(shared) == (shared, None)
    permit = Permit(3, OPEN, shared)
    assert (permit.generation, permit.state, permit.shared) == (3, OPEN, shared)
    assert (permit.lease_ends, permit.is_probe, permit.nested) == (inf, False, False)
    assert (shared.lease_ends, shared.is_probe, shared.nested) == (inf, False, False)
    assert permit.journal is shared.journal
    assert OUTSIDE < machine_with().generation == 0
    assert machine_with().real.transition is None


def test_the_changes_that_a_policy_allows() -> None:
    changes = transitions_of(Policy(failure_count=1, slow_call=1, slow_call_rate=1))
    assert changes == sorted(changes)
    assert {cause for *_, cause in changes} == {
        *(Cause.FAILURE_COUNT, Cause.SLOW_CALL_RATE, Cause.WAIT_ELAPSED, Cause.PROBES_SUCCEEDED),
        *(Cause.PROBE_FAILED, Cause.FORCE_OPEN, Cause.DISABLE, Cause.RESET, Cause.RELEASE),
    }


# -- open -----------------------------------------------------------------------------------------


def test_the_wait_counts_down_to_the_first_probe() -> None:
    machine = opened(now=100.0, open_for=10.0)
    assert machine.admit(103.0) == Admission(None, 7.0)
    assert machine.admit(90.0) == Admission(None, 7.0)
    assert machine.state is OPEN
    permit, retry_after, change = machine.admit(110.0)
    assert permit is not None
    assert (permit.generation, permit.state, permit.lease_ends) == (2, HALF_OPEN, 170.0)
    assert (permit.is_probe, permit.nested, permit.shared) == (True, False, machine.permit)
    assert retry_after is None
    assert change == Transition(
        old=OPEN, new=HALF_OPEN, cause=Cause.WAIT_ELAPSED, figures=figures(1, 1, in_a_row=1)
    )


def test_calls_that_nobody_refused_do_not_count_while_it_is_open() -> None:
    machine = opened()
    permit = machine.permit
    assert machine.settle(permit, FAILURE, now=1.0, slow=True) == Verdict()
    assert machine.figures(1.0) == figures(1, 1, in_a_row=1)
    assert machine.settle(permit, FAILURE, now=1.0, hint=99.0) == Verdict()
    assert machine.admit(1.0).retry_after == 9.0


def waits(machine: Machine, openings: int, *, now: float = 0.0) -> list[float]:
    """The waits of so many openings, each probe failing as soon as it is admitted."""
    told: list[float] = []
    for _ in range(openings):
        change = settle(machine, FAILURE, now)
        assert change is not None
        assert change.open_for == machine.wait
        assert machine.admit(now) == Admission(None, machine.wait)
        told.append(machine.wait)
        now += machine.wait
    return told


def test_the_wait_grows_up_to_the_longest() -> None:
    grows = machine_with(consecutive_failures=1, open_for=2.0, backoff=3.0, open_for_max=50.0)
    assert waits(grows, 5) == [2.0, 6.0, 18.0, 50.0, 50.0]


@pytest.mark.parametrize(
    ("random", "expected"),
    [(0.0, [5.0, 10.0, 15.0]), (0.25, [7.5, 15.0, 22.5]), (1.0, [15.0, 30.0, 30.0])],
)
def test_jitter_moves_each_wait_and_not_the_next_one(random: float, expected: list[float]) -> None:
    machine = machine_with(
        random=random, consecutive_failures=1, jitter=0.5, backoff=2.0, open_for_max=30.0
    )
    assert waits(machine, 3) == expected


def test_without_jitter_nothing_is_drawn() -> None:
    machine = Machine(Policy(consecutive_failures=1), now=0.0, random=lambda: 1 / 0)
    assert waits(machine, 2) == [10.0, 10.0]


@pytest.mark.parametrize(("after", "wait"), [(0.0, 4.0), (1.9, 4.0), (2.0, 2.0), (50.0, 2.0)])
def test_a_close_is_stable_when_it_lasts_as_long_as_the_wait(after: float, wait: float) -> None:
    machine, probe = half_opened(now=100.0, open_for=2.0, backoff=2.0)
    change = machine.settle(probe, SUCCESS, now=102.0).transition
    assert change == Transition(
        old=HALF_OPEN,
        new=CLOSED,
        cause=Cause.PROBES_SUCCEEDED,
        figures=figures(1, 1),
    )
    assert machine.figures(102.0) == figures()
    assert waits(machine, 1, now=102.0 + after) == [wait]


def test_a_probe_that_fails_late_is_no_stable_close() -> None:
    machine, probe = half_opened(open_for=2.0, backoff=2.0)
    assert machine.settle(probe, FAILURE, now=50.0).transition is not None
    assert machine.wait == 4.0


# -- hints ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hints", "wait"),
    [
        ([0.0], 10.0),
        ([-5.0], 10.0),
        ([9.0], 10.0),
        ([0.5], 10.0),
        ([30.0], 30.0),
        ([1000.0], 300.0),
        ([40.0, 20.0], 40.0),
    ],
)
def test_a_hint_lengthens_the_wait_and_no_more(hints: list[float], wait: float) -> None:
    machine = machine_with(consecutive_failures=len(hints), now=100.0)
    for hint in hints:
        change = settle(machine, FAILURE, 100.0, hint=hint)
    assert change is not None
    assert change.open_for == wait
    assert machine.admit(100.0).retry_after == wait


def test_a_hint_counts_from_the_moment_it_was_given() -> None:
    machine = machine_with(consecutive_failures=2)
    settle(machine, FAILURE, 0.0, hint=0.5)
    settle(machine, SUCCESS, 0.0, hint=40.0)
    settle(machine, FAILURE, 10.0)
    settle(machine, FAILURE, 15.0)
    assert machine.wait == 25.0


def test_a_hint_below_a_second_is_heard() -> None:
    machine = machine_with(consecutive_failures=1, open_for=0.1)
    settle(machine, FAILURE, 0.0, hint=0.75)
    assert machine.wait == 0.75


def test_a_call_is_quick_and_gives_no_hint_unless_it_says_so() -> None:
    machine = machine_with(consecutive_failures=1, open_for=0.1)
    assert machine.real.settle(machine.permit, FAILURE, now=0.0) is False
    assert machine.wait == 0.1
    assert machine.figures(0.0) == figures(1, 1, 0, in_a_row=1)


def test_a_close_and_a_reset_forget_the_hint() -> None:
    machine, probe = half_opened(probes=2, probe_successes=1)
    other = admitted(machine, 10.0)
    machine.settle(other, CANCELLED, now=10.0, hint=100.0)
    machine.settle(probe, SUCCESS, now=10.0)
    assert waits(machine, 1, now=10.0) == [10.0]
    machine = machine_with(consecutive_failures=2)
    settle(machine, FAILURE, 0.0, hint=100.0)
    machine.reset(0.0)
    settle(machine, FAILURE, 0.0)
    settle(machine, FAILURE, 0.0)
    assert machine.wait == 10.0


def test_a_hint_that_comes_too_late_is_not_heard() -> None:
    machine, lost = half_opened(probe_lease=5.0)
    probe = admitted(machine, 15.0)
    assert machine.settle(lost, FAILURE, now=15.0, hint=100.0) == Verdict(late=True)
    machine.settle(probe, FAILURE, now=15.0)
    assert machine.wait == 10.0


# -- half-open ------------------------------------------------------------------------------------


def test_no_more_probes_than_places() -> None:
    machine, first = half_opened(probes=2, probe_successes=3, probe_lease=5.0)
    second = admitted(machine, 12.0)
    assert (first.lease_ends, second.lease_ends) == (15.0, 17.0)
    assert machine.admit(12.5) == Admission(None, 2.5)
    assert machine.settle(second, SUCCESS, now=13.0) == Verdict()
    third = admitted(machine, 13.0)
    assert machine.admit(14.5) == Admission(None, 0.5)
    # The lease of the first ends: its place is free, and its result is late.
    fourth = admitted(machine, 15.0)
    assert machine.settle(first, SUCCESS, now=15.0) == Verdict(late=True)
    assert machine.settle(third, SUCCESS, now=15.0) == Verdict()
    # One success is missing and one probe is in flight: nothing else is needed.
    assert machine.admit(16.0) == Admission(None, 4.0)
    change = machine.settle(fourth, SUCCESS, now=16.0).transition
    assert change is not None
    assert (change.new, machine.state) == (CLOSED, CLOSED)


def test_more_places_than_successes_are_all_used() -> None:
    machine, first = half_opened(probes=3, probe_successes=2)
    others = [admitted(machine, 10.0) for _ in range(2)]
    assert machine.admit(10.0) == Admission(None, 60.0)
    assert machine.settle(first, SUCCESS, now=10.0) == Verdict()
    assert machine.admit(10.0).permit is None
    assert machine.settle(others[0], SUCCESS, now=10.0).transition is not None
    assert machine.settle(others[1], FAILURE, now=10.0) == Verdict(late=True)


@pytest.mark.parametrize("give_back", [IGNORED, CANCELLED])
def test_a_place_that_is_given_back(give_back: Outcome) -> None:
    machine, probe = half_opened()
    assert machine.admit(10.0).permit is None
    assert machine.settle(probe, give_back, now=10.0, slow=True) == Verdict()
    assert machine.state is HALF_OPEN
    again = admitted(machine, 10.0)
    assert machine.settle(probe, FAILURE, now=10.0) == Verdict(late=True)
    assert machine.settle(again, SUCCESS, now=10.0).transition is not None
    assert machine.state is CLOSED


def test_a_failed_probe_tells_and_counts_its_failure() -> None:
    machine, probe = half_opened()
    change = machine.settle(probe, FAILURE, now=10.0).transition
    assert change == Transition(
        old=HALF_OPEN,
        new=OPEN,
        cause=Cause.PROBE_FAILED,
        figures=figures(1, 1, in_a_row=2),
        open_for=10.0,
    )


@pytest.mark.parametrize(
    ("policy", "outcome", "slow", "state"),
    [
        ({"slow_call": 1, "slow_call_rate": 1}, SUCCESS, True, OPEN),
        ({"slow_call": 1, "slow_call_rate": 1}, SUCCESS, False, CLOSED),
        ({"slow_call": 1, "slow_call_rate": 1}, IGNORED, True, HALF_OPEN),
        ({"slow_call": 1}, SUCCESS, True, CLOSED),
    ],
)
def test_a_slow_probe(policy: dict[str, Any], outcome: Outcome, slow: bool, state: State) -> None:
    machine, probe = half_opened(**policy)
    machine.settle(probe, outcome, now=10.0, slow=slow)
    assert machine.state is state
    # A slow success is no failure in a row; an ignored call leaves the row as it was.
    assert machine.consecutive_failures == (1 if outcome is IGNORED else 0)


def test_successes_of_an_older_half_open_do_not_count() -> None:
    machine, first = half_opened(probe_successes=2)
    machine.settle(first, SUCCESS, now=10.0)
    machine.settle(admitted(machine, 10.0), FAILURE, now=10.0)
    assert machine.settle(admitted(machine, 20.0), SUCCESS, now=20.0) == Verdict()
    assert machine.settle(admitted(machine, 20.0), SUCCESS, now=20.0).transition is not None


def test_a_lease_ends_at_its_end() -> None:
    machine, probe = half_opened(probe_lease=5.0)
    assert machine.settle(probe, FAILURE, now=15.0) == Verdict(late=True)
    machine, probe = half_opened(probe_lease=5.0)
    assert machine.settle(probe, SUCCESS, now=14.999).transition is not None


def test_a_new_generation_frees_all_places() -> None:
    machine, probe = half_opened()
    machine.new_generation()
    assert machine.settle(probe, FAILURE, now=10.0) == Verdict(late=True)
    again = admitted(machine, 10.0)
    assert (again.generation, machine.permit.generation, machine.generation) == (3, 3, 3)
    assert machine.permit.state is HALF_OPEN


def test_a_probe_that_nobody_holds_gives_its_place_back() -> None:
    machine, lost = half_opened(probes=2, probe_lease=5.0)
    kept = admitted(machine, 12.0)
    assert machine.leases == [lost, kept]
    assert machine.admit(12.0) == Admission(None, 3.0)
    del lost
    assert machine.leases == [kept]
    again = admitted(machine, 13.0)
    assert machine.leases == [kept, again]
    # The next place is free when the lease of those that are left ends.
    assert machine.admit(13.0) == Admission(None, 4.0)
    assert machine.settle(kept, SUCCESS, now=13.0) == Verdict()
    assert machine.leases == [again]
    change = machine.settle(again, SUCCESS, now=13.0).transition
    assert change is not None
    assert (change.new, machine.leases) == (CLOSED, [])


def test_a_shared_permit_is_no_probe() -> None:
    machine, probe = half_opened()
    assert machine.settle(machine.permit, FAILURE, now=10.0, hint=99.0) == Verdict(late=True)
    assert machine.settle(probe, FAILURE, now=10.0).transition is not None
    assert machine.wait == 10.0


# -- ramp-up --------------------------------------------------------------------------------------


def ramping(*, now: float = 0.0) -> Machine:
    """Closed again at `now` + 10, with eight seconds of ramp-up."""
    machine, probe = half_opened(now=now, ramp_up=8.0)
    machine.settle(probe, SUCCESS, now=now + 10.0)
    return machine


def test_the_share_of_the_admitted_rises() -> None:
    machine = ramping(now=100.0)
    answers = [machine.admit(110.0 + step / 2) for step in range(17)]
    shown = "".join("." if answer.permit is None else "x" for answer in answers)
    assert shown == "x.....x.x.xx.xxxx"
    assert answers[1] == Admission(None, 7.5)
    assert answers[0] == Admission(machine.permit)
    assert [machine.admit(118.0).permit for _ in range(3)] == [machine.permit] * 3


def test_a_ramp_up_does_not_admit_all() -> None:
    machine = ramping()
    assert not machine.real.admits_all
    machine.advance(17.9)
    assert not machine.real.admits_all
    machine.advance(18.0)
    assert machine.real.admits_all


def test_failures_may_settle_without_the_lock_while_it_ramps_up() -> None:
    machine, probe = half_opened(ramp_up=8.0, failure_count=4)
    assert machine.failures_until_trip() == 0
    machine.settle(probe, SUCCESS, now=10.0)
    assert not machine.real.admits_all
    assert machine.failures_until_trip() == 0
    machine = machine_with(consecutive_failures=3, ramp_up=8.0)
    machine.load(FRESH | {"ramp_for": 8.0}, 0.0)
    assert not machine.real.admits_all
    assert machine.failures_until_trip() == 2


def test_a_reset_ends_the_ramp() -> None:
    machine = ramping()
    assert machine.reset(10.0) is None
    assert all(machine.admit(10.0).permit for _ in range(5))
    assert machine.failures_until_trip() == 0


# -- batches --------------------------------------------------------------------------------------


def test_a_batch_is_not_judged_until_somebody_asks() -> None:
    machine = machine_with(consecutive_failures=3, window=5)
    machine.real.settle_batch(4, failed=True)
    assert machine.state is CLOSED
    assert machine.figures(0.0) == figures(4, 4, in_a_row=4)
    assert machine.failures_until_trip() == 0
    machine.real.judge()
    assert (machine.state, machine.consecutive_failures) == (OPEN, 4)
    assert machine.real.transition == Transition(
        old=CLOSED,
        new=OPEN,
        cause=Cause.CONSECUTIVE_FAILURES,
        figures=figures(4, 4, in_a_row=4),
        open_for=10.0,
    )


@pytest.mark.parametrize("state", [OPEN, HALF_OPEN, FORCED_OPEN, DISABLED])
def test_only_a_closed_circuit_is_judged(state: State) -> None:
    machine = machine_with(consecutive_failures=1)
    machine.load(FRESH | {"state": state.value, "consecutive_failures": 9}, 0.0)
    before, change = machine.dump(0.0), machine.real.transition
    machine.real.judge()
    machine.real.settle_batch(2)
    machine.real.settle_batch(2, failed=True)
    assert machine.dump(0.0) == before
    assert machine.real.transition is change
    machine.load(FRESH | {"consecutive_failures": 1}, 0.0)
    machine.real.judge()
    assert machine.state is OPEN


def test_successes_of_a_batch_end_the_row_and_do_not_judge() -> None:
    machine = machine_with(failure_rate=0.5, min_calls=4, consecutive_failures=9)
    assert machine.settle_batch(3, failed=True) is None
    assert machine.settle_batch(1) is None
    assert machine.figures(0.0) == figures(4, 3, 0, 0, 0.75, 0.0)
    change = machine.settle_batch(1, failed=True)
    assert change is not None
    assert (change.cause, change.figures) == (Cause.FAILURE_RATE, figures(5, 4, 0, 1, 0.8, 0.0))


def test_a_batch_counts_at_the_time_when_its_calls_ended() -> None:
    machine = machine_with(window=timedelta(seconds=10), now=100.0)
    machine.real.settle_batch(2, at=104.5)
    assert machine.advance(0.0) == 104.5
    machine.real.settle_batch(1, failed=True, at=107.0)
    # Another thread was quicker: time stands still.
    machine.real.settle_batch(4, at=103.0)
    assert machine.window.dump() == [EMPTY] * 6 + [[2, 0, 0], EMPTY, EMPTY, [5, 1, 0]]
    machine.real.settle_batch(8)
    assert machine.window.dump()[-1] == [13, 1, 0]
    machine.force_open(107.0)
    machine.real.settle_batch(1, at=111.0)
    assert machine.advance(0.0) == 111.0


def test_two_threads_that_use_the_last_tokens_at_once() -> None:
    machine = machine_with(failure_rate=0.5, min_calls=4, consecutive_failures=3)
    machine.settle_batch(1)
    assert machine.settle_batch(1, failed=True) is None
    assert machine.failures_until_trip() == 0
    machine.window.add_batch(2)
    assert settle(machine, FAILURE, 0.0) is None
    assert machine.failures_until_trip() == 0
    change = machine.settle_batch(1, failed=True)
    assert change is not None
    assert change.cause is Cause.CONSECUTIVE_FAILURES
    assert change.figures == figures(6, 3, 0, 3, 0.5, 0.0)
    # What comes after the change of state does not count.
    assert machine.settle_batch(3) is None
    assert machine.settle_batch(3, failed=True) is None
    assert machine.figures(0.0) == change.figures


def test_a_minimum_that_the_window_never_holds() -> None:
    machine = machine_with(consecutive_failures=1, window=5, min_calls=10)
    assert machine.settle_batch(12) is None
    assert machine.figures(0.0) == figures(5)


@pytest.mark.parametrize("n", [1, 3, 4, 25])
def test_a_batch_that_changes_nothing(n: int) -> None:
    machine = machine_with(failure_rate=0.9, min_calls=4, consecutive_failures=3, window=20)
    settle(machine, FAILURE, 0.0)
    settle(machine, FAILURE, 0.0)
    assert machine.settle_batch(n) is None
    found = machine.figures(0.0)
    calls = min(n + 2, 20)
    enough = calls >= 4
    failures = 2 if n + 2 <= 20 else 0
    assert found == figures(
        calls, failures, 0, 0, failures / calls if enough else None, 0.0 if enough else None
    )


def test_a_batch_may_push_out_what_kept_the_rate_low() -> None:
    machine = machine_with(failure_rate=0.5, min_calls=1, window=2, consecutive_failures=9)
    machine.window.load([[0, 0], [1, 0]])
    assert machine.settle_batch(3) is None
    assert machine.figures(0.0) == figures(2, 0, 0, 0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("policy", "acts", "room"),
    [
        ({}, [], 4),
        ({"failure_rate": 0.5}, [], 4),
        ({"failure_rate": 0.5}, [FAILURE], 3),
        ({"failure_rate": 0.5}, [SUCCESS], 4),
        ({"failure_rate": 0.5}, [SUCCESS] * 10, 4),
        ({"failure_rate": 0.5}, [SUCCESS] * 20, 9),
        ({"failure_rate": 0.5}, [SUCCESS] * 120, 49),
        # The product of rate and calls is not exact: 0.1 * 30 is a little more than 3.
        ({"failure_rate": 0.1, "min_calls": 30}, [], 2),
        ({"failure_rate": 0.58, "min_calls": 50}, [], 28),
        ({"failure_rate": 1.0, "min_calls": 1}, [], 0),
        ({"consecutive_failures": 5}, [FAILURE], 3),
        ({"consecutive_failures": 5}, [FAILURE, SUCCESS], 4),
        ({"failure_rate": 0.5, "min_calls": 2}, [SUCCESS, SUCCESS, FAILURE], 0),
        ({"failure_rate": 0.6, "min_calls": 2}, [SUCCESS, FAILURE], 0),
        ({"failure_rate": 0.5, "min_calls": 4}, [FAILURE, FAILURE], 0),
        ({"failure_count": 5}, [FAILURE] * 3, 1),
        ({"failure_count": 5}, [FAILURE, SUCCESS] * 4, 0),
        ({"failure_count": 9, "consecutive_failures": 4, "failure_rate": 1}, [FAILURE] * 2, 1),
        ({"slow_call": 1, "slow_call_rate": 0.5}, [], inf),
    ],
)
def test_how_many_failures_change_nothing(
    policy: dict[str, Any], acts: list[Outcome], room: float
) -> None:
    machine = machine_with(**policy)
    for outcome in acts:
        assert settle(machine, outcome, 0.0) is None
    assert machine.failures_until_trip() == room


@pytest.mark.parametrize(
    ("policy", "room"),
    [
        ({"slow_call": 1, "slow_call_rate": 0.1}, 0),
        ({"slow_call": 1, "slow_call_rate": 0.11}, inf),
        ({"slow_call": 1, "slow_call_rate": 0.1, "min_calls": 11}, inf),
        ({"slow_call": 1, "consecutive_failures": 2}, 1),
        ({"slow_call": 1, "failure_rate": 1}, 9),
    ],
)
def test_failures_until_trip_after_a_slow_call(policy: dict[str, Any], room: float) -> None:
    machine = machine_with(**policy)
    settle(machine, SUCCESS, 0.0, slow=True)
    assert machine.failures_until_trip() == room


def test_a_window_of_time_may_forget_all_but_the_minimum() -> None:
    """So of the calls that it holds only the minimum counts for the room that failures have."""
    machine = machine_with(failure_rate=0.5, min_calls=4, window=timedelta(seconds=10))
    for _ in range(9):
        settle(machine, SUCCESS, 0.0)
    assert machine.failures_until_trip() == 1
    settle(machine, FAILURE, 5.0)
    assert machine.failures_until_trip() == 0
    # Far below the rate, but not if the minimum were all that is left.
    settle(machine, FAILURE, 5.0)
    settle(machine, FAILURE, 5.0)
    assert machine.figures(5.0) == figures(12, 3, 0, 3, 0.25, 0.0)
    assert machine.failures_until_trip() == 0
    machine.advance(15.0)
    assert machine.failures_until_trip() == 1


@pytest.mark.parametrize(
    ("window", "calls", "room"),
    [
        (100, "s", inf),
        (100, "ss", 0),
        (100, "ss.", 0),
        (100, "ss...", inf),
        (100, "ss....f", inf),
        (timedelta(seconds=10), "s", inf),
        (timedelta(seconds=10), "s..........", inf),
        # Of eleven calls there may be four when the next failure settles, and these two with them.
        (timedelta(seconds=10), ".........ss", 0),
    ],
)
def test_no_failure_may_settle_without_the_lock_where_the_slow_calls_could_open(
    window: Any, calls: str, room: float
) -> None:
    machine = machine_with(window=window, slow_call=1, slow_call_rate=0.5, min_calls=4)
    for call in calls:
        outcome = FAILURE if call == "f" else SUCCESS
        assert settle(machine, outcome, 0.0, slow=call == "s") is None
    assert machine.failures_until_trip() == room


def test_a_failure_that_settles_when_the_slow_calls_are_half() -> None:
    machine = machine_with(window=timedelta(seconds=10), **SLOW_HALF)
    for now, slow in [(0.0, False)] * 5 + [(5.0, True)] * 2:
        assert settle(machine, SUCCESS, now, slow=slow) is None
    assert machine.failures_until_trip() == 0
    assert settle(machine, SUCCESS, 10.0) is None
    change = settle(machine, FAILURE, 10.0)
    assert change is not None
    assert (change.cause, change.figures) == (
        Cause.SLOW_CALL_RATE,
        figures(4, 1, 2, 1, 0.25, 0.5),
    )


def test_failures_until_trip_in_the_other_states() -> None:
    machine = machine_with(consecutive_failures=1, now=3.5, open_for=2.0)
    assert (machine.failures_until_trip(), machine.real.admits_all) == (0, True)
    machine.disable(3.5)
    assert (machine.failures_until_trip(), machine.real.admits_all) == (inf, True)
    machine.force_open(3.5)
    assert (machine.failures_until_trip(), machine.real.admits_all) == (0, False)
    machine.reset(3.5)
    settle(machine, FAILURE, 3.5)
    assert (machine.failures_until_trip(), machine.real.admits_all) == (0, False)
    probe = admitted(machine, 5.5)
    assert (probe.state, machine.failures_until_trip()) == (HALF_OPEN, 0)
    assert not machine.real.admits_all


# -- journals -------------------------------------------------------------------------------------


def test_what_settled_without_the_lock_is_judged_in_runs() -> None:
    assert runs_of([0.1, 0.2, 0.3], False) == [(3, False, -inf)]
    assert runs_of([0.1, (0.2,), (0.3,), 0.4], True) == [
        (1, False, -inf),
        (2, True, -inf),
        (1, False, -inf),
    ]
    assert runs_of([(0.1,), 0.2, (0.3,)], True) == [
        (1, True, -inf),
        (1, False, -inf),
        (1, True, -inf),
    ]
    # No failure is among them, as it turned out.
    assert runs_of([0.1, 0.2], True) == [(2, False, -inf)]
    timed = partial(runs_of, bucket=machine_with(window=timedelta(seconds=10)).window.bucket)
    assert timed([(4.1, 0.1), (4.9, 0.1)], False) == [(2, False, 4.1)]
    assert timed([(4.9, 0.1), (5.0, 0.1)], False) == [(1, False, 4.9), (1, False, 5.0)]
    # How long they took has no say.
    assert timed([(4.9, 5.5), (5.0, 4.6)], False) == [(1, False, 4.9), (1, False, 5.0)]
    assert timed([(4.1, 0.1), (4.2, 0.1, True), (4.3, 0.1)], True) == [
        (1, False, 4.1),
        (1, True, 4.2),
        (1, False, 4.3),
    ]
    assert timed([(4.1, 9.9, True), (4.2, 0.1, True), (5.1, 0.1, True)], True) == [
        (2, True, 4.1),
        (1, True, 5.1),
    ]
    # The border lies somewhere in between.
    assert timed([(4.1, 0.1), (4.2, 0.1), (6.0, 0.1), (6.5, 0.1)], False) == [
        (2, False, 4.1),
        (2, False, 6.0),
    ]
    assert timed([(4.1, 0.1), (4.2, 0.1)], True) == [(2, False, 4.1)]


# -- calls inside a probe -------------------------------------------------------------------------


def test_a_call_inside_a_probe_is_admitted_beside_it() -> None:
    machine, probe = half_opened(now=100.0)
    assert machine.admit(110.0) == Admission(None, 60.0)
    before = machine.dump(110.0)
    inner, retry_after, change = machine.admit(111.0, [only(probe)])
    assert isinstance(inner, Permit)
    assert (retry_after, change) == (None, None)
    assert (inner.generation, inner.state, inner.shared) == (2, HALF_OPEN, machine.permit)
    assert (inner.nested, inner.is_probe, inner.lease_ends) == (True, False, inf)
    # It takes no place, and there may be any number of them, one inside of another too.
    assert machine.leases == [probe]
    assert all(machine.admit(111.0, [only(probe), inner]).permit for _ in range(3))
    assert machine.leases == [probe]
    assert machine.dump(110.0) == before
    assert machine.admit(111.0) == Admission(None, 59.0)


@pytest.mark.parametrize("outcome", Outcome)
@pytest.mark.parametrize("slow", [False, True])
def test_a_call_inside_a_probe_has_no_say(outcome: Outcome, slow: bool) -> None:
    machine, probe = half_opened(slow_call=1, slow_call_rate=1)
    inner = nested(machine, probe)
    before = machine.dump(10.0)
    for _ in range(2):
        assert machine.settle(inner, outcome, now=10.0, slow=slow, hint=99.0) == Verdict()
    assert machine.dump(10.0) == before
    assert machine.leases == [probe]
    # Not even its hint is heard.
    change = machine.settle(probe, FAILURE, now=10.0).transition
    assert change is not None
    assert change.open_for == 10.0


@pytest.mark.parametrize("outcome", [SUCCESS, FAILURE])
def test_a_call_inside_a_probe_that_changed_the_state_is_late(outcome: Outcome) -> None:
    machine, probe = half_opened()
    inner = nested(machine, probe)
    assert machine.settle(probe, outcome, now=10.0).transition is not None
    before = machine.dump(10.0)
    assert machine.settle(inner, FAILURE, now=10.0, hint=99.0) == Verdict(late=True)
    assert machine.dump(10.0) == before


def test_a_call_inside_a_probe_stays_in_time_as_long_as_the_state_does() -> None:
    machine, probe = half_opened(probe_successes=2)
    inner = nested(machine, probe)
    assert machine.settle(probe, SUCCESS, now=10.0) == Verdict()
    assert machine.settle(inner, FAILURE, now=10.0) == Verdict()
    assert machine.state is HALF_OPEN
    machine.new_generation()
    assert machine.settle(inner, FAILURE, now=10.0) == Verdict(late=True)


@pytest.mark.parametrize("outcome", [IGNORED, CANCELLED, SUCCESS])
def test_nothing_is_inside_a_probe_that_has_settled(outcome: Outcome) -> None:
    machine, probe = half_opened(probe_successes=2)
    assert machine.settle(probe, outcome, now=10.0) == Verdict()
    again = machine.admit(10.0, [only(probe)]).permit
    assert isinstance(again, Permit)
    assert (again.nested, again.is_probe, machine.leases) == (False, True, [again])
    # And when there is no place, it is rejected.
    assert machine.admit(10.0, [only(probe)]) == Admission(None, 60.0)


def test_nothing_is_inside_a_probe_whose_lease_has_ended() -> None:
    machine, probe = half_opened(probe_lease=5.0)
    inner = machine.admit(14.9, [only(probe)]).permit
    assert inner is not None
    assert inner.nested
    again = machine.admit(15.0, [only(probe)]).permit
    assert isinstance(again, Permit)
    assert (again.nested, again.lease_ends, machine.leases) == (False, 20.0, [again])
    assert machine.admit(15.0, [only(probe)]) == Admission(None, 5.0)
    # One probe in flight among those around it is enough.
    assert nested(machine, probe, again).generation == 2


def test_nothing_is_inside_a_probe_of_an_older_generation() -> None:
    machine, probe = half_opened()
    machine.new_generation()
    again = machine.admit(10.0, [only(probe)]).permit
    assert isinstance(again, Permit)
    assert (again.nested, again.is_probe) == (False, True)
    assert machine.admit(10.0, [only(probe)]) == Admission(None, 60.0)


@pytest.mark.parametrize("outcome", [SUCCESS, FAILURE])
def test_in_the_other_states_it_is_a_call_like_any_other(outcome: Outcome) -> None:
    machine, probe = half_opened()
    machine.settle(probe, outcome, now=10.0)
    inside = [only(probe)]
    if outcome is FAILURE:
        assert machine.admit(10.0, inside) == Admission(None, 10.0)
        permit, retry_after, change = machine.admit(20.0, inside)
        assert permit is not None
        assert (permit.nested, permit.is_probe, retry_after) == (False, True, None)
        assert change is not None
        assert change.new is HALF_OPEN
    else:
        assert machine.admit(10.0, inside) == Admission(machine.permit)
    machine.force_open(20.0)
    assert machine.admit(20.0, inside) == Admission(None)
    machine.disable(20.0)
    assert machine.admit(20.0, inside) == Admission(machine.permit)


def only(probe: AnyPermit) -> Permit:
    assert isinstance(probe, Permit)
    return probe


def nested(machine: Machine, *probes: AnyPermit) -> Permit:
    """A call that was admitted inside of these."""
    inner = only(machine.admit(-inf, [only(probe) for probe in probes]).permit or machine.permit)
    assert inner.nested
    return inner


# -- commands -------------------------------------------------------------------------------------


def test_commands_tell_their_reason() -> None:
    machine = machine_with()
    acts: list[Act] = [
        lambda m: m.force_open(1.0, "a"),
        lambda m: m.disable(2.0, "b"),
        lambda m: m.isolate(3.0, "c"),
        lambda m: m.isolate(3.0, "d"),
        lambda m: m.end_isolation(4.0, "e"),
        lambda m: m.end_isolation(4.0, "f"),
        lambda m: m.reset(5.0, "g"),
        lambda m: m.reset(6.0, "h"),
    ]

    def change(old: State, new: State, cause: Cause, reason: str) -> Transition:
        return Transition(old=old, new=new, cause=cause, figures=figures(), reason=reason)

    assert [act(machine) for act in acts] == [
        change(CLOSED, FORCED_OPEN, Cause.FORCE_OPEN, "a"),
        change(FORCED_OPEN, DISABLED, Cause.DISABLE, "b"),
        change(DISABLED, FORCED_OPEN, Cause.FORCE_OPEN, "c"),
        None,
        None,
        change(FORCED_OPEN, DISABLED, Cause.RELEASE, "f"),
        change(DISABLED, CLOSED, Cause.RESET, "g"),
        None,
    ]
    assert machine.generation == 6


@pytest.mark.parametrize(
    "act",
    [
        lambda m: m.force_open(50.0),
        lambda m: m.disable(50.0),
        lambda m: m.reset(50.0),
        lambda m: m.isolate(50.0),
        lambda m: m.figures(50.0),
        lambda m: m.dump(50.0),
        lambda m: m.admit(50.0),
        lambda m: m.settle(m.permit, IGNORED, now=50.0),
    ],
)
def test_whatever_happens_moves_the_time_on(act: Act) -> None:
    machine = machine_with(window=timedelta(seconds=10), consecutive_failures=1)
    settle(machine, SUCCESS, 40.9)
    act(machine)
    assert machine.advance(20.0) == 50.0
    # So does the window: it has forgotten that call, and keeps the next one until second 60.
    assert machine.window.calls == 0
    machine.window.add(failed=False, slow=False)
    machine.window.advance(59.9)
    assert machine.window.calls == 1
    machine.window.advance(60.0)
    assert machine.window.calls == 0


def test_a_state_from_elsewhere_moves_the_time_on() -> None:
    machine = machine_with().real
    machine.adopt(OPEN, 7.0, 50.0)
    assert machine.now == 50.0
    assert machine.transition == Transition(
        old=CLOSED, new=OPEN, cause=Cause.ADOPT, figures=figures(), open_for=7.0
    )
    machine.adopt(OPEN, 9.0, 60.0)
    assert (machine.now, machine.transition.open_for, machine.generation) == (60.0, 7.0, 1)


def test_the_end_of_an_isolation_moves_the_time_on() -> None:
    machine = machine_with()
    machine.isolate(0.0)
    machine.end_isolation(50.0)
    assert machine.advance(20.0) == 50.0


def test_nothing_is_admitted_and_everything_is() -> None:
    machine = machine_with(consecutive_failures=1)
    machine.force_open(0.0)
    assert machine.admit(1e9) == Admission(None, None, None)
    machine.disable(0.0)
    assert machine.admit(1e9) == Admission(machine.permit)
    assert settle(machine, FAILURE, 1e9) is None
    assert machine.figures(1e9) == figures()


@pytest.mark.parametrize(
    ("before", "command", "after"),
    [
        (lambda m: None, lambda m: None, CLOSED),
        (lambda m: m.disable(0.0), lambda m: None, DISABLED),
        (lambda m: settle(m, FAILURE, 0.0), lambda m: None, OPEN),
        (lambda m: m.force_open(0.0), lambda m: None, FORCED_OPEN),
        (lambda m: None, lambda m: m.disable(0.0), DISABLED),
        (lambda m: m.disable(0.0), lambda m: m.reset(0.0), CLOSED),
        (lambda m: None, lambda m: m.force_open(0.0), FORCED_OPEN),
        (lambda m: m.force_open(0.0), lambda m: m.disable(0.0), DISABLED),
    ],
)
def test_isolation_is_stronger_than_any_command(before: Act, command: Act, after: State) -> None:
    machine = machine_with(consecutive_failures=1)
    before(machine)
    machine.isolate(0.0)
    assert command(machine) is None
    assert machine.state is FORCED_OPEN
    machine.end_isolation(0.0)
    assert machine.state is after
    # And it can be isolated again.
    machine.isolate(0.0)
    assert machine.state is FORCED_OPEN
    machine.end_isolation(0.0)
    assert machine.state is after


def test_an_isolation_ends_with_the_last_holder() -> None:
    machine = machine_with().real
    first, second, stranger = Holder(), Holder(), Holder()
    machine.isolate(first, 1.0, "a")
    machine.isolate(second, 2.0, "b")
    assert (machine.state, machine.generation) == (FORCED_OPEN, 1)
    machine.end_isolation(stranger, 3.0)
    machine.end_isolation(first, 3.0)
    machine.end_isolation(first, 3.0)
    machine.end_lost_isolations()
    assert (machine.state, machine.generation) == (FORCED_OPEN, 1)
    machine.end_isolation(second, 4.0, "c")
    assert machine.transition == Transition(
        old=FORCED_OPEN, new=CLOSED, cause=Cause.RELEASE, figures=figures(), reason="c"
    )
    machine.end_isolation(second, 5.0)
    machine.end_lost_isolations()
    assert (machine.state, machine.generation, machine.now) == (CLOSED, 2, 5.0)


def test_nobody_has_to_end_the_isolation_of_a_holder_that_is_gone() -> None:
    machine = machine_with().real
    lost, kept = Holder(), Holder()
    for holder in (lost, kept):
        machine.isolate(holder, 0.0)
    del lost, holder
    machine.end_lost_isolations()
    assert machine.state is FORCED_OPEN
    del kept
    assert machine.state is FORCED_OPEN
    machine.disable(0.0)
    machine.end_lost_isolations()
    assert machine.transition == Transition(
        old=FORCED_OPEN, new=DISABLED, cause=Cause.RELEASE, figures=figures()
    )
    # Those that are gone leave with the next one that goes, too.
    lost, kept = Holder(), Holder()
    machine.isolate(lost, 0.0)
    machine.isolate(kept, 0.0)
    del lost
    machine.end_isolation(kept, 0.0)
    assert machine.state is DISABLED


def test_a_command_that_keeps_it_forced_open_outlives_the_isolation() -> None:
    machine = machine_with()
    machine.isolate(0.0)
    assert machine.force_open(0.0) is None
    assert machine.end_isolation(0.0) is None
    assert machine.state is FORCED_OPEN
    assert machine.reset(0.0) is not None


def test_an_isolation_ends_the_probes() -> None:
    machine, probe = half_opened()
    machine.isolate(10.0)
    machine.end_isolation(10.0)
    assert machine.state is OPEN
    assert machine.settle(probe, SUCCESS, now=10.0) == Verdict(late=True)
    assert machine.admit(10.0).transition is not None


def test_a_reset_forgets_everything() -> None:
    machine = machine_with(consecutive_failures=3, open_for=1.0, backoff=2.0)
    settle(machine, FAILURE, 0.0)
    machine.reset(0.0)
    assert machine.figures(0.0) == figures()
    opening = opened(open_for=1.0, backoff=2.0)
    opening.settle(admitted(opening, 1.0), FAILURE, now=1.0)
    assert opening.wait == 2.0
    opening.reset(1.0)
    assert opening.dump(1.0) == FRESH | {"base_wait": 1.0, "closed_for": 0.0}
    assert waits(opening, 3, now=1.0) == [1.0, 2.0, 4.0]


def test_a_reset_makes_late_what_is_in_flight() -> None:
    machine = machine_with(consecutive_failures=1)
    permit = machine.permit
    assert machine.reset(0.0) is None
    assert (machine.generation, machine.permit.generation, machine.permit.state) == (1, 1, CLOSED)
    assert machine.settle(permit, FAILURE, now=0.0, hint=99.0) == Verdict(late=True)
    assert machine.dump(0.0) == FRESH
    assert machine.settle(machine.permit, FAILURE, now=0.0).transition is not None
    assert machine.wait == 10.0


@pytest.mark.parametrize("state", [OPEN, HALF_OPEN, FORCED_OPEN, DISABLED])
def test_a_reset_begins_one_new_generation(state: State) -> None:
    machine = machine_with()
    machine.load(FRESH | {"state": state.value}, 0.0)
    assert machine.generation == 1
    change = machine.reset(0.0)
    assert change is not None
    assert (change.old, change.new, machine.generation) == (state, CLOSED, 2)


def test_a_reset_during_an_isolation_makes_late_what_is_in_flight() -> None:
    machine = machine_with(consecutive_failures=3)
    settle(machine, FAILURE, 0.0)
    machine.isolate(0.0)
    permit, generation = machine.permit, machine.generation
    assert machine.reset(0.0) is None
    assert machine.generation == generation + 1
    assert (machine.state, machine.permit.state) == (FORCED_OPEN, FORCED_OPEN)
    assert machine.settle(permit, FAILURE, now=0.0) == Verdict(late=True)
    assert machine.figures(0.0) == figures()


# -- snapshots ------------------------------------------------------------------------------------

FRESH = {
    "state": "closed",
    "rows": [],
    "consecutive_failures": 0,
    "wait": 0.0,
    "base_wait": 10.0,
    "open_for": None,
    "closed_for": None,
    "ramp_for": 0.0,
    "probe_successes": 0,
    "probe_failures": 0,
    "openings": 0,
}


def test_what_a_dump_holds() -> None:
    machine = machine_with(now=100.0, consecutive_failures=1, backoff=2.0, probe_successes=2)
    assert machine.dump(100.0) == FRESH
    settle(machine, FAILURE, 100.0)
    one_failure = FRESH | {"rows": [FAILED], "consecutive_failures": 1, "wait": 10.0, "openings": 1}
    assert machine.dump(104.0) == one_failure | {"state": "open", "open_for": 6.0}
    assert machine.dump(110.5) == one_failure | {"state": "open", "open_for": 0.0}
    machine.settle(admitted(machine, 111.0), SUCCESS, now=111.0)
    one_success = one_failure | {"consecutive_failures": 0}
    assert machine.dump(111.0) == one_success | {"state": "half_open", "probe_successes": 1}
    machine.settle(admitted(machine, 111.0), SUCCESS, now=111.0)
    assert machine.dump(113.0) == FRESH | {"wait": 10.0, "openings": 1, "closed_for": 2.0}


def test_a_ramp_in_a_dump() -> None:
    machine = ramping()
    assert machine.dump(13.0)["ramp_for"] == 5.0
    assert machine.dump(18.5)["ramp_for"] == 0.0


@pytest.mark.parametrize(
    "data",
    [
        FRESH,
        FRESH
        | {
            "rows": [FAILED, SLOW],
            "wait": 20.0,
            "openings": 1,
            "base_wait": 20.0,
            "closed_for": 3.0,
        },
        FRESH | {"ramp_for": 4.0, "consecutive_failures": 1},
        FRESH | {"state": "open", "open_for": 6.0, "wait": 10.0, "openings": 1},
        FRESH | {"state": "half_open", "probe_successes": 1, "wait": 10.0, "openings": 1},
        FRESH | {"state": "forced_open"},
        FRESH | {"state": "disabled"},
    ],
)
def test_a_dump_that_is_loaded_and_dumped_again(data: dict[str, Any]) -> None:
    machine = machine_with(consecutive_failures=2, ramp_up=8.0, now=500.0)
    change = machine.load(data, 700.0)
    assert machine.dump(700.0) == data
    assert machine.advance(0.0) == 700.0
    if data["state"] == "closed":
        assert change is None
    else:
        assert change == Transition(
            old=CLOSED,
            new=State(data["state"]),
            cause=Cause.ADOPT,
            figures=figures(),
            open_for=data["open_for"],
        )


def test_what_is_loaded_decides() -> None:
    machine = machine_with(consecutive_failures=2, backoff=2.0, now=500.0)
    machine.load(FRESH | {"state": "open", "open_for": 6.0}, 700.0)
    assert machine.admit(702.0) == Admission(None, 4.0)
    assert machine.admit(706.0).transition is not None
    machine.load(
        FRESH | {"wait": 10.0, "openings": 1, "consecutive_failures": 1, "closed_for": 9.0}, 710.0
    )
    change = settle(machine, FAILURE, 710.5)
    assert change is not None
    assert change.open_for == 20.0
    machine.load(
        FRESH | {"wait": 10.0, "openings": 1, "consecutive_failures": 1, "closed_for": 9.0}, 720.0
    )
    change = settle(machine, FAILURE, 721.0)
    assert change is not None
    assert change.open_for == 10.0


def test_a_loaded_ramp_goes_on() -> None:
    machine = machine_with(ramp_up=8.0)
    machine.load(FRESH | {"ramp_for": 4.0}, 700.0)
    assert machine.admit(700.0) == Admission(None, 4.0)
    assert machine.admit(700.0) == Admission(machine.permit)
    machine = machine_with()
    machine.load(FRESH, 700.0)
    assert machine.admit(700.0) == Admission(machine.permit)


def test_a_loaded_ramp_is_no_longer_than_the_policy_has_it() -> None:
    machine = machine_with(ramp_up=8.0)
    machine.load(FRESH | {"ramp_for": 9.0}, 700.0)
    assert machine.dump(700.0)["ramp_for"] == 8.0
    machine = machine_with()
    machine.load(FRESH | {"ramp_for": 9.0}, 700.0)
    assert machine.admit(700.0) == Admission(machine.permit)


def test_a_batch_where_the_minimum_does_not_fit_into_the_window() -> None:
    machine = machine_with(window=10, min_calls=11, consecutive_failures=1)
    for _ in range(3):
        assert machine.settle_batch(1_000_000) is None
    assert machine.figures(0.0).calls == 10


def test_a_loaded_state_that_waits_for_nothing() -> None:
    machine = machine_with()
    machine.load(FRESH | {"state": "half_open"}, 5.0)
    assert machine.admit(5.0).permit is not None
    machine.isolate(5.0)
    machine.end_isolation(5.0)
    # The wait was over when it was loaded.
    assert machine.admit(5.0).transition is not None


def test_a_dump_that_is_loaded_during_an_isolation() -> None:
    machine = machine_with()
    machine.isolate(0.0)
    assert machine.load(FRESH | {"state": "half_open"}, 5.0) is None
    assert machine.state is FORCED_OPEN
    change = machine.end_isolation(5.0)
    assert change is not None
    assert (change.new, machine.state) == (OPEN, OPEN)


# -- a half-open state that tolerates failures -----------------------------------------------------


@pytest.mark.parametrize(
    ("results", "state"),
    [
        ("ss", HALF_OPEN),
        ("sss", CLOSED),
        ("fsfss", CLOSED),
        ("ff", HALF_OPEN),
        ("fff", OPEN),
        ("sfsff", OPEN),
    ],
)
def test_three_of_five_probes_decide(results: str, state: State) -> None:
    machine, probe = half_opened(probe_successes=5, probe_failure_rate=0.5)
    for at, result in enumerate(results):
        probe = probe if at == 0 else admitted(machine, machine.real.now)
        machine.settle(probe, SUCCESS if result == "s" else FAILURE, now=machine.real.now)
    assert machine.state is state


def test_no_more_probes_are_made_than_are_judged() -> None:
    machine, first = half_opened(probes=3, probe_failure_rate=1.0)
    second, third = admitted(machine, 10.0), admitted(machine, 10.0)
    for probe in (first, second):
        machine.settle(probe, FAILURE, now=10.0)
        assert machine.admit(10.0).permit is None
    machine.settle(third, SUCCESS, now=10.0)
    assert machine.state is CLOSED


def test_the_tally_of_failed_probes_is_dumped_and_begins_anew_with_each_half_open_state() -> None:
    machine, probe = half_opened(probes=1, probe_successes=3, probe_failure_rate=0.6)
    machine.settle(probe, FAILURE, now=10.0)
    assert machine.dump(10.0)["probe_failures"] == 1
    machine.settle(admitted(machine, 10.0), FAILURE, now=10.0)
    assert machine.state is OPEN
    assert machine.dump(10.0)["probe_failures"] == 0
