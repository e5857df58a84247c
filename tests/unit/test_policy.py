"""A policy is one flat value: its defaults, its limits, its hash, its differences."""

from __future__ import annotations

import pickle
from dataclasses import FrozenInstanceError, asdict
from datetime import timedelta
from typing import Any

import pytest

from breakerscope import Policy, PolicyError
from breakerscope.core.policy import ALLOWED


def policy(**given: Any) -> Policy:
    return Policy(**given)


def problems(**given: Any) -> list[str]:
    with pytest.raises(PolicyError) as caught:
        policy(**given)
    return caught.value.problems


DEFAULTS = {
    "failure_rate": 0.5,
    "min_calls": 10,
    "window": 100,
    "consecutive_failures": 5,
    "failure_count": None,
    "slow_call": None,
    "slow_call_rate": None,
    "open_for": 10.0,
    "backoff": 1.0,
    "open_for_max": 300.0,
    "jitter": 0.0,
    "probes": 1,
    "probe_successes": 1,
    "probe_failure_rate": None,
    "probe_lease": 60.0,
    "probe_when_due": False,
    "ramp_up": 0.0,
    "shadow": False,
}


def test_the_defaults() -> None:
    assert asdict(Policy()) == DEFAULTS
    assert Policy().shadow is False


@pytest.mark.parametrize(
    "rule",
    [
        {"consecutive_failures": 1},
        {"failure_count": 1},
        {"failure_rate": 1},
        {"slow_call": 1e-9, "slow_call_rate": 1},
    ],
)
def test_one_rule_turns_the_others_off(rule: dict[str, Any]) -> None:
    off = {"failure_rate": None, "consecutive_failures": None}
    assert asdict(policy(**rule)) == DEFAULTS | off | rule


@pytest.mark.parametrize(
    "given",
    [
        {"failure_rate": 1e-9},
        {"failure_rate": 1},
        {"min_calls": 1},
        {"min_calls": 100, "failure_rate": 0.5},
        {"window": 1, "min_calls": 1},
        {"window": 1_000_000},
        {"window": timedelta(microseconds=1)},
        {"consecutive_failures": 1},
        {"failure_count": 1},
        {"failure_count": 100},
        {"slow_call": 0.001},
        {"open_for": 0.001},
        {"open_for_max": 10.0},
        {"backoff": 1},
        {"jitter": 0},
        {"jitter": 0.999},
        {"probes": 1, "probe_successes": 1},
        {"probe_lease": 0.001},
        {"ramp_up": 0},
        {"ramp_up": 0.001},
        {"shadow": True},
    ],
)
def test_the_last_value_that_is_allowed(given: dict[str, Any]) -> None:
    made = policy(**given)
    assert {name: getattr(made, name) for name in given} == given


RATIO = "a ratio above 0 and up to 1 or None"
COUNT = "a whole number of at least 1"
OR_A_TIME = ' ("30s", a timedelta)'
SECONDS = f"seconds above 0{OR_A_TIME}"
WINDOW = f"a whole number of calls from 1 to 1000000, or a time above 0{OR_A_TIME}"


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("failure_rate", 0, RATIO),
        ("failure_rate", 1.001, RATIO),
        ("slow_call_rate", 0, RATIO),
        ("min_calls", None, COUNT),
        ("min_calls", True, COUNT),
        ("window", True, WINDOW),
        ("window", 1_000_001, WINDOW),
        ("window", timedelta(microseconds=-1), WINDOW),
        ("consecutive_failures", 0, f"{COUNT} or None"),
        ("failure_count", 0, f"{COUNT} or None"),
        ("slow_call", 0, f"{SECONDS} or None"),
        ("slow_call", False, f"{SECONDS} or None"),
        ("open_for", None, SECONDS),
        ("open_for", "1", SECONDS),
        ("open_for_max", 0, f"{SECONDS} or None"),
        ("backoff", 0.999, "a factor of at least 1"),
        ("backoff", True, "a factor of at least 1"),
        ("jitter", 1, "a ratio from 0 to below 1"),
        ("jitter", -0.001, "a ratio from 0 to below 1"),
        ("jitter", False, "a ratio from 0 to below 1"),
        ("probes", 0, COUNT),
        ("probe_successes", 0, f"{COUNT} or None"),
        ("probe_lease", 0, SECONDS),
        ("ramp_up", -0.001, f"seconds, 0 or more{OR_A_TIME}"),
        ("ramp_up", float("inf"), f"seconds, 0 or more{OR_A_TIME}"),
        ("shadow", None, "True or False"),
    ],
)
def test_the_first_value_that_is_not_allowed(field: str, value: object, allowed: str) -> None:
    assert problems(**{field: value}) == [f"{field}={value!r}: allowed is {allowed}"]


def test_a_rate_needs_as_many_calls_as_the_window_holds() -> None:
    told = "min_calls=11: allowed is at most window=10, or no rate would ever be judged"
    assert problems(min_calls=11, window=10) == [told]
    assert problems(min_calls=11, window=10, failure_rate=0.5) == [told]
    assert problems(min_calls=11, window=10, slow_call=1, slow_call_rate=0.5) == [told]
    # Without a rate nothing asks for `min_calls`; a window of time holds any number of calls.
    assert policy(min_calls=11, window=10, consecutive_failures=1).min_calls == 11
    assert policy(min_calls=11, window=timedelta(seconds=1)).min_calls == 11


def test_what_is_meaningless_together() -> None:
    assert problems(failure_count=11, window=10) == [
        "failure_count=11: allowed is at most window=10, or the rule could never be met"
    ]
    assert policy(failure_count=11, window=timedelta(seconds=1)).failure_count == 11
    assert problems(slow_call_rate=0.5) == [
        "slow_call_rate=0.5: allowed only together with slow_call,"
        " the seconds from which a call is slow"
    ]
    assert problems(open_for=10.0, open_for_max=9.999) == [
        "open_for_max=9.999: allowed is at least open_for=10.0"
    ]


def test_limits_that_follow_from_others() -> None:
    far = policy(open_for=300.5, probes=3)
    assert (far.open_for_max, far.longest_wait) == (300.5, 300.5)
    assert (far.probe_successes, far.successes_to_close) == (3, 3)
    given = policy(open_for_max=20.0, probes=3, probe_successes=2)
    assert (given.open_for_max, given.longest_wait) == (20.0, 20.0)
    assert (given.probe_successes, given.successes_to_close) == (2, 2)


def test_the_hash_is_the_same_in_every_process() -> None:
    # A change of these two is a change of every dashboard that compares hashes.
    assert Policy().hash == "c9fb9a3f"
    assert policy(window=timedelta(minutes=1), failure_rate=0.25).hash == "a67661c6"
    # What was added since is told when it is on.
    assert Policy(probe_when_due=True).hash == "fc4ba820"
    assert Policy(probe_failure_rate=0.5).hash == "a87f8946"


def test_differences_in_the_order_of_the_fields() -> None:
    one = policy(consecutive_failures=3)
    other = policy(consecutive_failures=4, min_calls=5, window=timedelta(seconds=9))
    assert one.differences(one) == []
    assert one.differences(other) == [
        "min_calls: 10 and 5",
        "window: 100 and datetime.timedelta(seconds=9)",
        "consecutive_failures: 3 and 4",
    ]


def test_a_policy_is_a_value() -> None:
    assert policy(probes=2) == policy(probes=2) != Policy()
    assert len({policy(probes=2), policy(probes=2), Policy()}) == 2
    assert pickle.loads(pickle.dumps(policy(probes=2))) == policy(probes=2)
    with pytest.raises(FrozenInstanceError):
        Policy().probes = 2  # type: ignore[misc]
    with pytest.raises(TypeError):
        Policy(0.5)  # type: ignore[call-arg]
    assert not hasattr(Policy(), "__dict__")


def test_the_error_goes_through_a_pickle() -> None:
    error = pickle.loads(pickle.dumps(PolicyError(["one", "two"])))
    assert type(error) is PolicyError
    assert (str(error), error.problems) == ("one; two", ["one", "two"])
    assert isinstance(error, ValueError)


def test_the_table_of_what_is_allowed() -> None:
    or_none = {name for name, value in DEFAULTS.items() if value is None}
    or_none |= {"failure_rate", "consecutive_failures", "open_for_max", "probe_successes"}
    assert {name: allowed.optional for name, allowed in ALLOWED.items()} == {
        name: name in or_none for name in DEFAULTS
    }
    # It is shared by all policies.
    with pytest.raises(FrozenInstanceError):
        ALLOWED["probes"].words = "anything"  # type: ignore[misc]
    assert not hasattr(ALLOWED["probes"], "__dict__")
