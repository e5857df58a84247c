"""What cannot be is refused at once, with the field, its value and what is allowed."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

import breakerscope as bs
from breakerscope import BreakerNameError, BucketsError, ClassifierError, Policy, PolicyError
from breakerscope.core.counters import checked_buckets
from breakerscope.core.policy import ALLOWED
from breakerscope.instrument import CLASSIFIER_OPTIONS, BreakerOptions
from breakerscope.registry import ContradictionError


@pytest.fixture(autouse=True)
def no_breakers() -> Iterator[None]:
    yield
    for breaker in bs.breakers():
        bs.remove_breaker(breaker.name)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("failure_rate", 0.0),
        ("failure_rate", 1.01),
        ("failure_rate", float("nan")),
        ("failure_rate", "0.5"),
        ("failure_rate", True),
        ("min_calls", 0),
        ("min_calls", 2.5),
        ("min_calls", None),
        ("window", 0),
        ("window", timedelta(0)),
        ("window", 1_000_001),
        ("window", 1.5),
        ("consecutive_failures", 0),
        ("consecutive_failures", True),
        ("failure_count", -1),
        ("slow_call", 0),
        ("slow_call_rate", 2),
        ("open_for", 0),
        ("open_for", float("inf")),
        ("backoff", 0.5),
        ("open_for_max", -1.0),
        ("jitter", 1.0),
        ("jitter", -0.1),
        ("probes", 0),
        ("probe_successes", 0),
        ("probe_lease", 0),
        ("ramp_up", -1),
        ("shadow", 1),
    ],
)
def test_a_field_out_of_range(field: str, value: object) -> None:
    with pytest.raises(PolicyError) as caught:
        Policy(**{field: value})  # type: ignore[arg-type]
    optional = " or None" if ALLOWED[field].optional else ""
    assert caught.value.problems == [
        f"{field}={value!r}: allowed is {ALLOWED[field].words}{optional}"
    ]


def test_all_problems_at_once() -> None:
    with pytest.raises(PolicyError) as caught:
        Policy(failure_rate=7, open_for=-1, probes=0)
    assert str(caught.value) == (
        "failure_rate=7: allowed is a ratio above 0 and up to 1 or None; "
        'open_for=-1: allowed is seconds above 0 ("30s", a timedelta); '
        "probes=0: allowed is a whole number of at least 1"
    )


def test_contradictions_all_at_once() -> None:
    with pytest.raises(PolicyError) as caught:
        Policy(
            failure_rate=0.5,
            min_calls=20,
            window=10,
            failure_count=11,
            slow_call_rate=0.5,
            open_for=10,
            open_for_max=5,
        )
    assert caught.value.problems == [
        "min_calls=20: allowed is at most window=10, or no rate would ever be judged",
        "failure_count=11: allowed is at most window=10, or the rule could never be met",
        "slow_call_rate=0.5: allowed only together with slow_call, the seconds from which a call"
        " is slow",
        "open_for_max=5: allowed is at least open_for=10",
    ]


def test_what_is_not_said_is_filled_in() -> None:
    default = Policy()
    assert (default.failure_rate, default.consecutive_failures) == (0.5, 5)
    assert (default.longest_wait, default.successes_to_close) == (300.0, 1)
    only = Policy(consecutive_failures=3, open_for=500.0, probes=4)
    assert (only.failure_rate, only.longest_wait, only.successes_to_close) == (None, 500.0, 4)
    assert default.hash == Policy().hash != only.hash


@pytest.mark.parametrize("name", ["", "  ", None, 7])
def test_a_name_is_text(name: str) -> None:
    with pytest.raises(BreakerNameError, match="allowed is text that is not empty"):
        bs.instrumented_breaker(name)


def test_the_same_name_is_the_same_breaker() -> None:
    first = bs.instrumented_breaker("shared", consecutive_failures=3)
    assert bs.instrumented_breaker("shared") is first
    assert bs.instrumented_breaker("shared", consecutive_failures=3) is first
    assert bs.get_breaker("shared") is first


def test_a_contradicting_policy_shows_both() -> None:
    bs.instrumented_breaker("shared", consecutive_failures=3, ignore=KeyError)
    with pytest.raises(ContradictionError) as caught:
        bs.instrumented_breaker("shared", consecutive_failures=4, open_for=2.0, ignore=KeyError)
    assert str(caught.value) == (
        "breaker 'shared' exists with another policy; what it has and what this call asks for:"
        " consecutive_failures: 3 and 4; open_for: 10.0 and 2.0. To have another one on purpose,"
        " call remove_breaker('shared') first, or pass replace=True"
    )


def test_an_unknown_option() -> None:
    with pytest.raises(TypeError, match="unknown option 'open_four': did you mean 'open_for'"):
        bs.instrumented_breaker("x", open_four=1)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("option", "ours"),
    [
        ("fail_max", "consecutive_failures"),
        ("reset_timeout", "open_for"),
        ("recovery_timeout", "open_for"),
        ("expected_exception", "failures"),
        ("exclude", "ignore"),
    ],
)
def test_an_option_of_another_library(option: str, ours: str) -> None:
    for make in (bs.instrumented_breaker, bs.breakers_per):
        with pytest.raises(TypeError, match=f"'{option}': did you mean '{ours}'"):
            make("x", **{option: 1})  # type: ignore[arg-type]


def test_an_option_that_is_like_none() -> None:
    with pytest.raises(TypeError, match="unknown option 'zzz': Allowed are failure_rate,"):
        bs.instrumented_breaker("x", zzz=1)  # type: ignore[call-arg]


def test_the_options_are_the_fields() -> None:
    others = {"buckets", "labels", "replace"}
    assert set(BreakerOptions.__annotations__) == {*ALLOWED, *CLASSIFIER_OPTIONS, *others}


@pytest.mark.parametrize("rule", [3, (ValueError, 3), int, "ValueError"])
def test_a_classification_rule_is_a_type_or_a_predicate(rule: object) -> None:
    with pytest.raises(ClassifierError, match="allowed is an exception type"):
        bs.instrumented_breaker("x", ignore=rule)  # type: ignore[arg-type]


def test_a_result_rule_is_callable() -> None:
    with pytest.raises(ClassifierError, match="failure_if=500: allowed is a function"):
        bs.instrumented_breaker("x", failure_if=500)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        ((), "0 bounds given"),
        ((1, 1), "1 before 1: allowed are rising bounds"),
        ((2, 1), "2 before 1"),
        ((0, 1), "0: allowed are finite seconds above 0"),
        ((1, float("inf")), "inf: allowed are finite"),
        ((1, "2"), "'2': allowed are numbers"),
        (range(1, 99), "98 bounds given"),
    ],
)
def test_buckets(bounds: object, message: str) -> None:
    with pytest.raises(BucketsError, match=message):
        checked_buckets(bounds)  # type: ignore[arg-type]


def test_an_unknown_span_policy() -> None:
    with pytest.raises(bs.TelemetryError, match="traces='some': allowed are True, False, all"):
        bs.setup_telemetry(traces="some")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("argument", "value", "hint"),
    [
        ("logs", "json", "structlog's processors say how lines look, JSON too"),
        ("metrics", 8000, r"prometheus_client\.start_http_server\(8000\) serves them"),
        ("otlp", "http://localhost:4317", "OTEL_EXPORTER_OTLP_ENDPOINT says where to"),
        ("otel_metrics", "yes", "meter_provider names a provider"),
    ],
)
def test_a_switch_of_the_set_up_is_a_switch(argument: str, value: Any, hint: str) -> None:
    told = f"{argument}=.*: allowed are True and False; .*{hint}"
    with pytest.raises(bs.TelemetryError, match=told):
        bs.setup_telemetry(**{argument: value})


@pytest.mark.parametrize("word", ["fail", "ignore", "success"])
def test_after_its_block_a_guard_hears_no_more(word: str) -> None:
    guard = bs.CircuitBreaker("x").guard()
    with guard:
        pass
    with pytest.raises(RuntimeError, match="the block has ended: say inside of it how it ends"):
        getattr(guard, word)()


# -- several at once -------------------------------------------------------------------------------


def test_several_breakers_are_isolated_together() -> None:
    per_host = bs.breakers_per("host")
    payments, a, b, other = (
        bs.instrumented_breaker("payments"),
        per_host("a"),
        per_host("b"),
        bs.instrumented_breaker("other"),
    )
    with bs.isolated("payments", "host:*", "host:a", reason="deployment"):
        assert [x.state for x in (payments, a, b)] == [bs.State.FORCED_OPEN] * 3
        assert other.state is bs.State.CLOSED
        with bs.isolated("*"):
            assert other.state is bs.State.FORCED_OPEN
        assert a.state is bs.State.FORCED_OPEN
    assert {x.state for x in (payments, a, b, other)} == {bs.State.CLOSED}


def test_isolating_what_is_not_there_isolates_nothing() -> None:
    payments = bs.instrumented_breaker("payments")
    with (
        pytest.raises(LookupError, match="no breaker is called 'paiments'; there are: payments"),
        bs.isolated("payments", "paiments"),
    ):
        pytest.fail("it was entered")
    assert payments.state is bs.State.CLOSED


def test_a_breaker_made_by_hand_hears_itself_and_no_other_of_its_name() -> None:
    mine, other = bs.CircuitBreaker("same"), bs.CircuitBreaker("same")
    heard: list[bs.Event] = []
    with mine.subscribe(heard.append, bs.CallSettled, inline=True):
        mine.call(str)
        other.call(str)
    assert len(heard) == 1
