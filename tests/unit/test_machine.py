"""Which changes of state there are: each one of the table is reached, and no other one ever is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from itertools import permutations, product
from typing import Any
from weakref import ref

import pytest
from hypothesis import given
from hypothesis import strategies as st

from breakerscope.core.events import Cause, Outcome, State
from breakerscope.core.permits import AnyPermit, Permit
from breakerscope.core.policy import Policy
from breakerscope.core.transitions import TRANSITIONS, TRIPS, Transition, transitions_of
from tests.unit.support import Machine, each_interrupt, recounted

CLOSED, OPEN, HALF_OPEN = State.CLOSED, State.OPEN, State.HALF_OPEN
FORCED_OPEN, DISABLED = State.FORCED_OPEN, State.DISABLED

Change = tuple[State, State, Cause]
Script = Callable[[], Transition | None]

ONE_FAILURE = Policy(consecutive_failures=1, open_for=10.0, slow_call=1.0, slow_call_rate=1.0)


def machine_with(policy: Policy = ONE_FAILURE) -> Machine:
    return Machine(policy, now=0.0, random=lambda: 0.5)


def admitted(machine: Machine, now: float = 0.0) -> AnyPermit:
    permit = machine.admit(now).permit
    assert permit is not None
    return permit


def settle(
    machine: Machine, outcome: Outcome, *, now: float = 0.0, slow: bool = False, hint: float = 0.0
) -> Transition | None:
    return machine.settle(admitted(machine, now), outcome, now=now, slow=slow, hint=hint).transition


held: list[object] = []
"""Probes of which nothing else keeps hold: a lease ends when nobody holds its permit."""


def machine_in(state: State, policy: Policy = ONE_FAILURE) -> Machine:
    """A machine that got there by itself or by hand; one second after that it is time 11."""
    machine = machine_with(policy)
    if state in (OPEN, HALF_OPEN):
        settle(machine, Outcome.FAILURE)
    if state is HALF_OPEN:
        held.append(machine.admit(10.0).permit)
    if state is FORCED_OPEN:
        machine.force_open(0.0)
    if state is DISABLED:
        machine.disable(0.0)
    assert machine.state is state
    return machine


# -- every legal change ----------------------------------------------------------------------------


def by_consecutive_failures() -> Transition | None:
    machine = machine_with(Policy(consecutive_failures=2))
    assert settle(machine, Outcome.FAILURE) is None
    return settle(machine, Outcome.FAILURE)


def by_failure_count() -> Transition | None:
    machine = machine_with(Policy(failure_count=2))
    for outcome in (Outcome.FAILURE, Outcome.SUCCESS):
        assert settle(machine, outcome) is None
    return settle(machine, Outcome.FAILURE)


def by_failure_rate() -> Transition | None:
    machine = machine_with(Policy(failure_rate=0.5, min_calls=2))
    assert settle(machine, Outcome.SUCCESS) is None
    return settle(machine, Outcome.FAILURE)


def by_slow_call_rate() -> Transition | None:
    machine = machine_with(Policy(slow_call_rate=1.0, slow_call=1.0, min_calls=2))
    assert settle(machine, Outcome.SUCCESS, slow=True) is None
    return settle(machine, Outcome.SUCCESS, slow=True)


def by_the_end_of_the_wait() -> Transition | None:
    machine = machine_in(OPEN)
    assert machine.admit(9.0) == (None, 1.0, None)
    return machine.admit(10.0).transition


def by_good_probes() -> Transition | None:
    machine = machine_in(OPEN)
    return settle(machine, Outcome.SUCCESS, now=10.0)


def by_a_failed_probe() -> Transition | None:
    machine = machine_in(OPEN)
    return settle(machine, Outcome.FAILURE, now=10.0)


def by_command(old: State, give: Callable[[Machine, float], Transition | None]) -> Script:
    return lambda: give(machine_in(old), 11.0)


def by_release(new: State) -> Script:
    def script() -> Transition | None:
        machine = machine_in(new)
        machine.isolate(1.0)
        return machine.end_isolation(2.0)

    return script


def by_adoption(old: State, new: State) -> Script:
    return lambda: machine_in(old).load(machine_in(new).dump(10.0), 10.0)


SCRIPTS: dict[Change, Script] = {
    (CLOSED, OPEN, Cause.CONSECUTIVE_FAILURES): by_consecutive_failures,
    (CLOSED, OPEN, Cause.FAILURE_COUNT): by_failure_count,
    (CLOSED, OPEN, Cause.FAILURE_RATE): by_failure_rate,
    (CLOSED, OPEN, Cause.SLOW_CALL_RATE): by_slow_call_rate,
    (OPEN, HALF_OPEN, Cause.WAIT_ELAPSED): by_the_end_of_the_wait,
    (HALF_OPEN, CLOSED, Cause.PROBES_SUCCEEDED): by_good_probes,
    (HALF_OPEN, OPEN, Cause.PROBE_FAILED): by_a_failed_probe,
    (CLOSED, FORCED_OPEN, Cause.FORCE_OPEN): by_command(CLOSED, Machine.force_open),
    (OPEN, FORCED_OPEN, Cause.FORCE_OPEN): by_command(OPEN, Machine.force_open),
    (HALF_OPEN, FORCED_OPEN, Cause.FORCE_OPEN): by_command(HALF_OPEN, Machine.force_open),
    (DISABLED, FORCED_OPEN, Cause.FORCE_OPEN): by_command(DISABLED, Machine.isolate),
    (CLOSED, DISABLED, Cause.DISABLE): by_command(CLOSED, Machine.disable),
    (OPEN, DISABLED, Cause.DISABLE): by_command(OPEN, Machine.disable),
    (HALF_OPEN, DISABLED, Cause.DISABLE): by_command(HALF_OPEN, Machine.disable),
    (FORCED_OPEN, DISABLED, Cause.DISABLE): by_command(FORCED_OPEN, Machine.disable),
    (OPEN, CLOSED, Cause.RESET): by_command(OPEN, Machine.reset),
    (HALF_OPEN, CLOSED, Cause.RESET): by_command(HALF_OPEN, Machine.reset),
    (FORCED_OPEN, CLOSED, Cause.RESET): by_command(FORCED_OPEN, Machine.reset),
    (DISABLED, CLOSED, Cause.RESET): by_command(DISABLED, Machine.reset),
    (FORCED_OPEN, CLOSED, Cause.RELEASE): by_release(CLOSED),
    (FORCED_OPEN, OPEN, Cause.RELEASE): by_release(OPEN),
    (FORCED_OPEN, DISABLED, Cause.RELEASE): by_release(DISABLED),
} | {(old, new, Cause.ADOPT): by_adoption(old, new) for old, new in permutations(State, 2)}


def test_there_is_a_script_for_each_legal_change_and_for_no_other() -> None:
    assert set(SCRIPTS) == TRANSITIONS


@pytest.mark.parametrize("change", sorted(SCRIPTS), ids="-".join)
def test_each_legal_change_happens(change: Change) -> None:
    transition = SCRIPTS[change]()
    assert transition is not None
    assert (transition.old, transition.new, transition.cause) == change
    assert (transition.open_for is not None) == (
        transition.new is OPEN and transition.cause is not Cause.RELEASE
    )


def test_a_slow_probe_is_a_failed_one_where_slow_calls_are_judged() -> None:
    transition = settle(machine_in(OPEN), Outcome.SUCCESS, now=10.0, slow=True)
    assert transition is not None
    assert transition.cause is Cause.PROBE_FAILED
    machine = machine_in(OPEN, Policy(consecutive_failures=1, slow_call=1.0))
    transition = settle(machine, Outcome.SUCCESS, now=10.0, slow=True)
    assert transition is not None
    assert transition.cause is Cause.PROBES_SUCCEEDED


# -- no illegal one --------------------------------------------------------------------------------

ILLEGAL = sorted(set(product(State, State, Cause)) - TRANSITIONS)


def test_no_state_leads_to_itself() -> None:
    assert len(ILLEGAL) + len(TRANSITIONS) == len(State) ** 2 * len(Cause)
    assert all(old is not new for old, new, _ in TRANSITIONS)


@pytest.mark.parametrize("state", State)
def test_a_command_for_the_state_that_is_changes_nothing(state: State) -> None:
    commands = {
        CLOSED: Machine.reset,
        FORCED_OPEN: Machine.force_open,
        DISABLED: Machine.disable,
    }
    if state in commands:
        machine = machine_in(state)
        permit, generation = machine.permit, machine.generation
        assert commands[state](machine, 11.0) is None
        # A reset forgets the calls in flight as well.
        assert machine.generation == generation + (state is CLOSED)
        assert (machine.permit is permit) == (state is not CLOSED)
    assert machine_in(state).load(machine_in(state).dump(10.0), 10.0) is None


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("outcome", [Outcome.IGNORED, Outcome.CANCELLED])
def test_outcomes_without_a_say_never_change_a_state(state: State, outcome: Outcome) -> None:
    machine = machine_in(state)
    now = 10.0 if state is HALF_OPEN else 1.0
    permit = machine.leases[0] if state is HALF_OPEN else machine.permit
    assert machine.settle(permit, outcome, now=now, slow=True) == (False, None)
    assert machine.state is state


@pytest.mark.parametrize(("old", "new"), sorted(permutations(State, 2)))
@pytest.mark.parametrize("outcome", [Outcome.SUCCESS, Outcome.FAILURE])
def test_a_late_result_changes_nothing(old: State, new: State, outcome: Outcome) -> None:
    machine = machine_in(old)
    permit = machine.leases[0] if old is HALF_OPEN else machine.permit
    machine.load(machine_in(new).dump(10.0), 10.0)
    before = machine.dump(10.0)
    assert machine.settle(permit, outcome, now=10.0, slow=True, hint=99.0) == (True, None)
    assert machine.dump(10.0) == before


def live_leases(machine: Machine) -> list[Permit]:
    """The probes that are in flight: held by somebody, and their time is not over."""
    return [probe for probe in machine.leases if probe.lease_ends > machine.real.now]


POLICIES = [
    ONE_FAILURE,
    Policy(),
    Policy(failure_count=2, window=4, probes=2, probe_lease=2.0, backoff=2.0, jitter=0.5),
    Policy(failure_rate=0.5, min_calls=2, window=timedelta(seconds=5), ramp_up=3.0),
    Policy(slow_call=1.0, slow_call_rate=0.5, min_calls=3, window=5, probe_successes=3),
    Policy(failure_rate=1.0, min_calls=1, window=timedelta(seconds=1), probes=3, probe_successes=2),
]
ACTS = (
    ["admit"] * 6
    + ["inside"] * 2
    + ["settle"] * 8
    + ["forget", "batch", "batch", "turn", "turn", "turn"]
)
COMMANDS = ["force_open", "disable", "reset", "isolate", "end_isolation", "adopt", "release"]


@given(
    policy=st.sampled_from(POLICIES),
    acts=st.lists(
        st.tuples(
            st.sampled_from(ACTS + COMMANDS),
            st.integers(0, 1000),
            st.sampled_from([Outcome.FAILURE, Outcome.SUCCESS, Outcome.IGNORED]),
            st.booleans(),
            st.sampled_from([0.0, 0.5, 1.0, 3.0, 10.0, 400.0, -2.0]),
        ),
        max_size=80,
    ),
    saved=st.sampled_from(State),
)
def test_no_random_run_leaves_the_table(
    policy: Policy, acts: list[tuple[str, int, Outcome, bool, float]], saved: State
) -> None:
    machine, now, holders = machine_with(policy), 0.0, 0
    permits: list[AnyPermit] = []
    settled: list[AnyPermit] = []
    possible = {*transitions_of(policy)}
    assert possible <= TRANSITIONS
    snapshot = machine_in(saved, ONE_FAILURE).dump(10.0) | {"rows": machine.window.dump()}
    for act, which, outcome, slow, seconds in acts:
        old, generation = machine.state, machine.generation
        transition: Transition | None = None
        if act in ("admit", "inside"):
            machine.advance(now)
            all_are, leases = machine.real.admits_all, live_leases(machine)
            outer = [each for each in permits + settled if isinstance(each, Permit)]
            inside = outer[which % len(outer) :][:2] if outer and act == "inside" else []
            permit, retry_after, transition = machine.admit(now, inside)
            if permit is not None:
                permits.append(permit)
                assert permit.generation == machine.generation
                assert permit.state is machine.state
                assert permit.nested == any(probe in leases for probe in inside)
                assert permit.is_probe == (machine.state is HALF_OPEN and not permit.nested)
                assert isinstance(permit, Permit) or permit is machine.permit
            else:
                assert not all_are
                assert machine.state is not DISABLED
                assert (retry_after is None) == (machine.state is FORCED_OPEN)
                assert retry_after is None or retry_after > 0
            assert len(live_leases(machine)) <= policy.probes
            # Nothing else may keep hold of a probe that is forgotten.
            del permit, leases, outer, inside
        elif act == "forget" and permits:
            forgotten = ref(permits.pop(which % len(permits)))
            assert not isinstance(forgotten(), Permit)
        elif act == "settle" and permits:
            permit = permits.pop(which % len(permits))
            settled = [*settled[-3:], permit]
            late, transition = machine.settle(
                permit, outcome, now=now, slow=slow, hint=max(seconds, 0.0)
            )
            assert late or permit.generation == generation
            if transition is not None:
                assert not late
                assert not permit.nested
                assert outcome is Outcome.FAILURE or slow or transition.new is CLOSED
            del permit
        elif act == "batch":
            # Within that room nothing changes the state, in whatever order it comes.
            room = int(min(machine.failures_until_trip(), 40))
            assert room >= 0
            assert not room or machine.state in (CLOSED, DISABLED)
            for at in range(room + 1):
                if at:
                    assert machine.settle_batch(1, failed=True) is None
                assert machine.settle_batch(1 + which * at % 7) is None
        elif act == "turn":
            now += seconds
            machine.advance(now)
        elif act == "isolate" and holders < 3:
            holders += 1
            transition = machine.isolate(now)
        elif act == "end_isolation" and holders:
            holders -= 1
            transition = machine.end_isolation(now)
        elif act in ("force_open", "disable", "reset"):
            transition = getattr(machine, act)(now)
        elif act == "adopt":
            adopted: dict[str, Any] = snapshot if slow else machine.dump(now)
            transition = machine.load(adopted, now)
            assert transition is None or transition.cause is Cause.ADOPT
        if transition is None:
            assert machine.state is old
            assert machine.generation == generation + (act == "reset")
        else:
            change = (transition.old, transition.new, transition.cause)
            assert change in TRANSITIONS
            assert change in possible or transition.cause is Cause.ADOPT
            assert change[:2] == (old, machine.state)
            assert machine.generation == generation + 1
        assert not holders or machine.state is FORCED_OPEN


@given(
    policy=st.sampled_from([policy for policy in POLICIES if isinstance(policy.window, int)]),
    before=st.lists(
        st.tuples(st.sampled_from([Outcome.FAILURE, Outcome.SUCCESS]), st.booleans()), max_size=12
    ),
    runs=st.lists(st.tuples(st.booleans(), st.integers(1, 150)), max_size=12),
)
def test_a_batch_is_worth_as_much_as_its_calls(
    policy: Policy, before: list[tuple[Outcome, bool]], runs: list[tuple[bool, int]]
) -> None:
    batch, singles = machine_with(policy), machine_with(policy)
    for machine in (batch, singles):
        for outcome, slow in before:
            machine.settle(machine.permit, outcome, now=0.0, slow=slow)
    for failed, n in runs:
        room = batch.failures_until_trip()
        if room < failed:
            break
        fits = int(min(n, room)) if failed else n
        assert batch.settle_batch(fits, failed=failed) is None
        outcome = Outcome.FAILURE if failed else Outcome.SUCCESS
        for _ in range(fits):
            assert singles.settle(singles.permit, outcome, now=0.0).transition is None
        assert batch.dump(0.0) == singles.dump(0.0)
        assert batch.failures_until_trip() == singles.failures_until_trip()


def test_a_rate_that_is_met_as_successes_are_forgotten_waits_for_a_failure() -> None:
    """A window of time forgets the successes first. No success opens, the next failure does."""
    machine = machine_with(Policy(failure_rate=0.5, min_calls=1, window=timedelta(seconds=10)))
    for now, outcome in [(0.0, Outcome.SUCCESS)] * 2 + [(1.0, Outcome.FAILURE)]:
        assert settle(machine, outcome, now=now) is None
    machine.advance(10.0)
    assert machine.figures(10.0).failure_ratio == 1.0
    assert machine.failures_until_trip() == 0
    for _ in range(3):
        assert settle(machine, Outcome.SUCCESS, now=10.0) is None
    assert settle(machine, Outcome.FAILURE, now=10.5) is None
    transition = settle(machine, Outcome.FAILURE, now=10.5)
    assert transition is not None
    assert transition.cause is Cause.FAILURE_RATE


@pytest.mark.parametrize("cause", TRIPS)
def test_a_rule_that_is_not_given_never_trips(cause: Cause) -> None:
    rules: dict[Cause, dict[str, Any]] = {
        Cause.CONSECUTIVE_FAILURES: {"consecutive_failures": 3},
        Cause.FAILURE_COUNT: {"failure_count": 3},
        Cause.FAILURE_RATE: {"failure_rate": 0.5, "min_calls": 3},
        Cause.SLOW_CALL_RATE: {"slow_call_rate": 0.5, "slow_call": 1.0, "min_calls": 3},
    }
    machine = machine_with(Policy(**rules[cause]))
    trips = [settle(machine, Outcome.FAILURE, slow=True) for _ in range(3)]
    assert [trip and trip.cause for trip in trips] == [None, None, cause]


@pytest.mark.parametrize(("closed_for", "open_for"), [(0.0, 4.0), (1.75, 4.0), (2.0, 1.0)])
def test_the_wait_begins_anew_after_as_long_a_time_of_peace(
    closed_for: float, open_for: float
) -> None:
    """The last wait was two seconds: closed for exactly as long is long enough."""
    machine = machine_with(Policy(consecutive_failures=1, open_for=1.0, backoff=2.0))
    settle(machine, Outcome.FAILURE)
    settle(machine, Outcome.FAILURE, now=1.0)
    settle(machine, Outcome.SUCCESS, now=3.0)
    assert machine.state is CLOSED
    transition = settle(machine, Outcome.FAILURE, now=3.0 + closed_for)
    assert transition is not None
    assert transition.open_for == open_for


def test_closing_forgets_a_hint_that_the_longest_wait_cut_short() -> None:
    policy = Policy(consecutive_failures=1, open_for=1.0, open_for_max=8.0)
    machine = machine_with(policy)
    opened = settle(machine, Outcome.FAILURE, hint=1000.0)
    assert opened is not None
    assert opened.open_for == 8.0
    settle(machine, Outcome.SUCCESS, now=8.0)
    assert machine.state is CLOSED
    opened = settle(machine, Outcome.FAILURE, now=100.0)
    assert opened is not None
    assert opened.open_for == 1.0


@pytest.mark.parametrize("state", [CLOSED, DISABLED])
def test_a_snapshot_adopted_during_an_isolation_takes_effect_after_it(state: State) -> None:
    machine = machine_with()
    machine.isolate(0.0)
    machine.load(machine_in(state).dump(10.0), 0.0)
    assert machine.admit(0.0).permit is None
    change = machine.end_isolation(0.0)
    assert machine.state is state
    assert change is not None
    assert (change.old, change.new, change.cause) in TRANSITIONS


# -- rules that were once broken -------------------------------------------------------------------

FIRST_TRIP = Policy(consecutive_failures=1, open_for=1.0, backoff=2.0)


def failed_twice() -> Machine:
    """Open for the second time, with a wait of two seconds."""
    machine = machine_with(FIRST_TRIP)
    settle(machine, Outcome.FAILURE)
    settle(machine, Outcome.FAILURE, now=1.0)
    assert machine.wait == 2.0
    return machine


def test_a_reset_during_an_isolation_forgets_the_back_off() -> None:
    machine = failed_twice()
    machine.isolate(1.0)
    machine.reset(1.0)
    machine.end_isolation(1.0)
    transition = settle(machine, Outcome.FAILURE, now=1.0)
    assert transition is not None
    assert transition.open_for == 1.0


def test_a_reset_during_an_isolation_forgets_the_ramp() -> None:
    machine = machine_with(Policy(consecutive_failures=1, open_for=1.0, ramp_up=100.0))
    settle(machine, Outcome.FAILURE)
    settle(machine, Outcome.SUCCESS, now=1.0)
    machine.isolate(1.0)
    machine.reset(1.0)
    machine.end_isolation(1.0)
    admitted(machine, 1.0)
    admitted(machine, 1.0)


def test_a_reset_forgets_the_last_wait() -> None:
    machine = failed_twice()
    machine.reset(1.0)
    machine.isolate(1.0)
    machine.end_isolation(1.0)
    transition = settle(machine, Outcome.FAILURE, now=1.0)
    assert transition is not None
    assert transition.open_for == 1.0


def test_the_hint_of_an_expired_probe_is_late_too() -> None:
    machine = machine_with(Policy(consecutive_failures=1, open_for=1.0, probe_lease=5.0))
    settle(machine, Outcome.FAILURE)
    lost = admitted(machine, 1.0)
    probe = admitted(machine, 6.0)
    assert machine.settle(lost, Outcome.FAILURE, now=6.0, hint=100.0).late
    transition = machine.settle(probe, Outcome.FAILURE, now=6.0).transition
    assert transition is not None
    assert transition.open_for == 1.0


# -- an interrupt strikes --------------------------------------------------------------------------

BUSY = Policy(
    consecutive_failures=2,
    failure_rate=0.5,
    window=timedelta(seconds=10),
    min_calls=4,
    slow_call=1.0,
    slow_call_rate=0.5,
    backoff=2.0,
    jitter=0.5,
    probes=2,
    probe_successes=2,
    ramp_up=5.0,
)


@dataclass
class Scene:
    """A machine at time 10, with calls in its window where they count, and a call in flight."""

    machine: Machine
    permit: AnyPermit


def closed() -> Scene:
    """One more failure would open it."""
    machine = machine_with(BUSY)
    settle(machine, Outcome.SUCCESS, now=2.0, slow=True)
    settle(machine, Outcome.FAILURE, now=10.0)
    assert machine.window.calls == 2
    return Scene(machine, machine.permit)


def opened() -> Scene:
    """Its wait is over."""
    scene = closed()
    scene.machine.settle(scene.permit, Outcome.FAILURE, now=0.0)
    scene.machine.advance(20.0)
    assert scene.machine.state is OPEN
    return scene


def half_open() -> Scene:
    """One of two probes is in flight."""
    machine = opened().machine
    return Scene(machine, admitted(machine, 20.0))


def last_probe() -> Scene:
    """One of two probes was good already."""
    scene = half_open()
    scene.machine.settle(scene.permit, Outcome.SUCCESS, now=20.0)
    return Scene(scene.machine, admitted(scene.machine, 20.0))


def ramping() -> Scene:
    """Closed by two probes."""
    scene = last_probe()
    scene.machine.settle(scene.permit, Outcome.SUCCESS, now=20.0)
    return Scene(scene.machine, admitted(scene.machine, 20.0))


def forced() -> Scene:
    machine = closed().machine
    machine.force_open(10.0)
    return Scene(machine, machine.permit)


def isolated() -> Scene:
    machine = closed().machine
    machine.isolate(10.0)
    return Scene(machine, machine.permit)


def disabled() -> Scene:
    machine = closed().machine
    machine.disable(10.0)
    return Scene(machine, machine.permit)


def asks(now: float, *, inside: bool = False) -> Callable[[Scene], object]:
    def act(scene: Scene) -> object:
        around = [scene.permit] if inside and isinstance(scene.permit, Permit) else []
        return scene.machine.admit(now, around)

    return act


def ends(outcome: Outcome, *, slow: bool = False) -> Callable[[Scene], object]:
    return lambda scene: scene.machine.settle(scene.permit, outcome, now=21.0, slow=slow, hint=30.0)


def commanded(command: Callable[[Machine, float], object]) -> Callable[[Scene], object]:
    return lambda scene: command(scene.machine, 21.0)


def adopts(state: State) -> Callable[[Scene], object]:
    data = machine_in(state, BUSY if state is CLOSED else ONE_FAILURE).dump(10.0)
    rows = [[0, 0, 0]] * 9 + [[3, 2, 1]]
    return lambda scene: scene.machine.load(data | {"rows": rows}, 21.0)


Moment = tuple[Callable[[], Scene], Callable[[Scene], object]]

MOMENTS: dict[str, Moment] = {
    "a success": (closed, ends(Outcome.SUCCESS)),
    "a slow success": (closed, ends(Outcome.SUCCESS, slow=True)),
    "a failure that opens": (closed, ends(Outcome.FAILURE)),
    "a batch that opens": (closed, lambda scene: scene.machine.settle_batch(3, failed=True)),
    "the first probe": (opened, asks(20.0)),
    "the second probe": (half_open, asks(21.0)),
    "inside a probe": (half_open, asks(21.0, inside=True)),
    "an ignored probe": (half_open, ends(Outcome.IGNORED)),
    "a failed probe": (half_open, ends(Outcome.FAILURE)),
    "a slow probe": (half_open, ends(Outcome.SUCCESS, slow=True)),
    "a good probe": (half_open, ends(Outcome.SUCCESS)),
    "the last probe": (last_probe, ends(Outcome.SUCCESS)),
    "a share": (ramping, asks(24.0)),
    "a failure of a share": (ramping, ends(Outcome.FAILURE)),
    "a late result": (isolated, ends(Outcome.FAILURE)),
    "a new generation": (half_open, lambda scene: scene.machine.new_generation()),
}
for scene_of in (closed, opened, half_open, ramping, forced, isolated, disabled):
    for command in (Machine.force_open, Machine.disable, Machine.reset, Machine.isolate):
        MOMENTS[f"{command.__name__}, {scene_of.__name__}"] = scene_of, commanded(command)
for scene_of, new in product((closed, half_open, isolated), (CLOSED, OPEN, HALF_OPEN)):
    MOMENTS[f"adopt {new}, {scene_of.__name__}"] = scene_of, adopts(new)
MOMENTS["end_isolation"] = isolated, commanded(Machine.end_isolation)


def published(machine: Machine) -> tuple[State, int, Transition | None]:
    """What the machine says of its state; all that says it has to agree."""
    assert machine.permit.state is machine.state
    assert machine.permit.generation == machine.generation
    transition = machine.real.transition
    assert transition is None or transition.new is machine.state
    window = machine.window
    assert (window.calls, window.failures, window.slow_calls) == recounted(window)
    return machine.state, machine.generation, transition


@pytest.mark.parametrize("moment", MOMENTS)
def test_an_interrupted_change_of_state_is_made_wholly_or_not_at_all(moment: str) -> None:
    make, act = MOMENTS[moment]
    before, done = published(make().machine), make()
    act(done)
    after = published(done.machine)
    for scene, was in each_interrupt(make, act):
        found = published(scene.machine)
        assert found in [before, after]
        assert was or found == after
        goes_on(scene.machine)


def goes_on(machine: Machine) -> None:
    """Whatever it was interrupted in: it answers, obeys, and opens when it has to."""
    # Later than any lease and any wait.
    permit = machine.admit(1000.0).permit
    assert (permit is None) == (machine.state is FORCED_OPEN)
    published(machine)
    machine.holders.clear()
    machine.real.end_lost_isolations()
    machine.reset(1000.0)
    for _ in range(2):
        assert machine.state is CLOSED
        settle(machine, Outcome.FAILURE, now=1000.0)
    assert machine.state is OPEN
    assert machine.wait == 10.0
    published(machine)


@pytest.mark.parametrize(
    ("make", "act", "left"),
    [
        (closed, Machine.isolate, [CLOSED]),
        (opened, Machine.isolate, [OPEN]),
        (half_open, Machine.isolate, [HALF_OPEN, OPEN]),
        (disabled, Machine.isolate, [DISABLED]),
        (forced, Machine.isolate, [FORCED_OPEN]),
        (isolated, Machine.isolate, [CLOSED]),
        (isolated, Machine.end_isolation, [CLOSED]),
    ],
)
def test_who_was_interrupted_holds_no_isolation(
    make: Callable[[], Scene], act: Callable[[Machine, float], object], left: list[State]
) -> None:
    """Nobody would ever end it, and commands would wait for that."""
    for scene, _ in each_interrupt(make, commanded(act)):
        machine = scene.machine
        machine.holders.clear()
        machine.real.end_lost_isolations()
        published(machine)
        assert not machine.real._isolations
        assert machine.state in left
        machine.disable(30.0)
        assert machine.state is DISABLED


@pytest.mark.parametrize(
    "moment",
    ["isolate, closed", "isolate, isolated", "end_isolation"],
)
def test_an_isolation_is_in_force_exactly_while_somebody_holds_it(moment: str) -> None:
    make, act = MOMENTS[moment]
    for scene, _ in each_interrupt(make, act):
        machine = scene.machine
        assert (machine.state is FORCED_OPEN) == bool(machine.real._isolations)
