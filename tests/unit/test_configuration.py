"""What operators set: it reaches breakers, and no caller as an error."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest

import breakerscope as bs
from breakerscope import ConfigError, configuration
from breakerscope.config import from_environment, from_mapping, read_toml
from breakerscope.core.policy import Policy
from breakerscope.mixin import config as mixin_config
from breakerscope.testing import capture_events
from tests.unit.support import Boom, fail

pytestmark = pytest.mark.usefixtures("fresh_breakers")

WAIT = 20.0


@pytest.fixture
def configured() -> Iterator[None]:
    yield
    bs.configure({})


@pytest.mark.usefixtures("configured")
def test_the_environment_goes_before_the_file_before_the_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "breakers.toml"
    file.write_text('[breakers."payment.api"]\nopen_for = 20\nwindow = "30s"\nbackoff = 2\n')
    bs.configure(file)
    monkeypatch.setenv("BREAKERSCOPE_PAYMENT_API_OPEN_FOR", "30")
    monkeypatch.setenv("BREAKERSCOPE_PAYMENT_API_FAILURE_RATE", "none")
    monkeypatch.setenv("BREAKERSCOPE_PAYMENT_API_SHADOW", "true")
    made = bs.instrumented_breaker(
        "payment.api", open_for=10.0, failure_rate=0.9, consecutive_failures=2, jitter=0.1
    ).policy
    assert made == Policy(
        open_for=30,
        window=timedelta(seconds=30),
        backoff=2,
        consecutive_failures=2,
        jitter=0.1,
        shadow=True,
    )


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            {"breakers": {"x": {"open_four": 1}}},
            r"configuration: breakers\.x: unknown key 'open_four', did you mean 'open_for'\?",
        ),
        ({"breaker": {}}, "unknown key 'breaker', did you mean 'breakers'"),
        ({"breakers": 3}, "configuration: breakers=3: allowed is a table"),
        ({"breakers": {"x": 3}}, r"breakers\.x=3: allowed is a table"),
        ({"breakers": {"x": {"window": "soon"}}}, r"breakers\.x\.window='soon': allowed is"),
    ],
)
def test_a_wrong_mapping(data: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_mapping(data)


def test_a_wrong_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        read_toml(tmp_path / "none.toml")
    file = tmp_path / "breakers.toml"
    file.write_text("[breakers")
    with pytest.raises(ConfigError, match=r"breakers\.toml: "):
        read_toml(file)


def test_the_environment_of_one_breaker() -> None:
    environment = {
        "BREAKERSCOPE_A_OPEN_FOR": "1.5",
        "BREAKERSCOPE_A_WINDOW": "200",
        "BREAKERSCOPE_A_B_OPEN_FOR": "7",
        "OTHER": "x",
    }
    assert from_environment("a", environment) == {"open_for": 1.5, "window": 200}
    assert from_environment("a-b", environment) == {"open_for": 7}
    with pytest.raises(ConfigError, match="BREAKERSCOPE_A_OPEN_FRO: unknown key 'open_fro'"):
        from_environment("a", {"BREAKERSCOPE_A_OPEN_FRO": "1"})


# -- while it runs ---------------------------------------------------------------------------------


def handler() -> bs.CircuitBreaker:
    """As a request handler asks for its breaker, each time."""
    return bs.instrumented_breaker("dep", consecutive_failures=5)


@pytest.mark.usefixtures("configured")
def test_a_new_configuration_takes_effect_at_once_and_no_handler_notices() -> None:
    breaker = handler()
    with capture_events(bs.PolicyChanged) as events:
        bs.configure({"breakers": {"dep": {"open_for": 60}}})
        assert breaker.policy.open_for == 60
        assert handler() is breaker
        bs.configure({})
        assert handler() is breaker
        assert breaker.policy.open_for == 10
    assert [(e.changes, e.reason) for e in events] == [
        ("open_for: 10.0 -> 60", "configuration"),
        ("open_for: 60 -> 10.0", "configuration"),
    ]


def test_a_changed_variable_takes_effect_when_the_breaker_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    breaker = handler()
    monkeypatch.setenv("BREAKERSCOPE_DEP_CONSECUTIVE_FAILURES", "2")
    with capture_events(bs.PolicyChanged) as events:
        assert handler() is breaker
    assert [e.changes for e in events] == ["consecutive_failures: 5 -> 2"]


@pytest.mark.parametrize(
    ("variable", "text"), [("OPEN_FOR", "-1"), ("OPEN_FOR", "soon"), ("OPEN_FRO", "1")]
)
def test_a_variable_that_cannot_be_is_logged_once_and_changes_nothing(
    variable: str, text: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    breaker = handler()
    before = breaker.policy
    monkeypatch.setenv(f"BREAKERSCOPE_DEP_{variable}", text)
    with caplog.at_level(logging.ERROR, "breakerscope"):
        assert [handler(), handler()] == [breaker, breaker]
    assert breaker.policy == before
    lines = [r.getMessage() for r in caplog.records if "goes on with" in r.getMessage()]
    assert len(lines) == 1
    assert f"BREAKERSCOPE_DEP_{variable}" in lines[0]
    with pytest.raises(ConfigError, match=f"BREAKERSCOPE_DEP_{variable}"):
        bs.instrumented_breaker("dep", consecutive_failures=5, replace=True)


@pytest.mark.usefixtures("configured")
def test_another_request_of_the_code_is_still_a_contradiction() -> None:
    handler()
    bs.configure({"breakers": {"dep": {"consecutive_failures": 7}}})
    with pytest.raises(bs.ContradictionError, match="consecutive_failures: 5 and 7"):
        bs.instrumented_breaker("dep", consecutive_failures=7)


@pytest.mark.usefixtures("configured")
def test_a_configuration_that_does_not_fit_a_breaker_changes_nothing() -> None:
    breaker = bs.instrumented_breaker("dep", failure_rate=0.5, min_calls=50)
    other = bs.instrumented_breaker("other")
    tables = {"dep": {"window": 20}, "other": {"open_for": 60}}
    with pytest.raises(ConfigError, match=r"breaker 'dep' with window=20: min_calls=50: allowed"):
        bs.configure({"breakers": tables})
    assert (breaker.policy.window, other.policy.open_for) == (100, 10)


@pytest.mark.usefixtures("configured")
def test_a_pattern_is_for_all_that_fit_and_an_exact_name_goes_before_it() -> None:
    per_host = bs.breakers_per("host")
    before = per_host("early")
    bs.configure(
        {
            "breakers": {
                "host:db": {"open_for": 1},
                "host:*": {"open_for": 60, "backoff": 2},
                "*": {"backoff": 3, "jitter": 0.1},
            }
        }
    )
    found = {name: per_host(name).policy for name in ("early", "db")}
    other = bs.instrumented_breaker("other").policy
    assert per_host("early") is before
    assert (found["early"].open_for, found["early"].backoff, found["early"].jitter) == (60, 3, 0.1)
    assert (found["db"].open_for, found["db"].backoff) == (1, 3)
    assert (other.open_for, other.backoff) == (10, 3)


@pytest.mark.usefixtures("configured")
def test_a_name_that_no_breaker_has_is_reported_later(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    told: SimpleQueue[str] = SimpleQueue()

    class Listening(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            told.put(record.getMessage())

    monkeypatch.setattr(configuration, "UNUSED_AFTER_SECONDS", 0.01)
    bs.instrumented_breaker("payment_api")
    listening = Listening(logging.WARNING)
    logging.getLogger("breakerscope").addHandler(listening)
    try:
        bs.configure({"breakers": {"payment_apy": {}, "payment_api": {}, "pay*": {}}})
        line = told.get(timeout=WAIT)
    finally:
        logging.getLogger("breakerscope").removeHandler(listening)
    assert line == (
        "configuration: no breaker is called 'payment_apy'; did you mean 'payment_api'?"
    )
    assert told.empty()


# -- what can be set -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("failure_rate", 50, "a ratio above 0 and up to 1 or None"),
        ("open_for", -1, 'seconds above 0 ("30s", a timedelta)'),
        ("probes", 0, "a whole number of at least 1"),
        ("window", "30", "a whole number of calls from 1 to 1000000, or a time above 0"),
        ("shadow", 1, "True or False"),
    ],
)
def test_a_value_out_of_range_is_refused_at_once(
    field: str, value: Any, allowed: str, tmp_path: Path
) -> None:
    file = tmp_path / "breakers.toml"
    file.write_text(f"[breakers.dep]\n{field} = {value!r}\n")
    with pytest.raises(ConfigError) as caught:
        bs.configure(file)
    assert str(caught.value).startswith(f"{file}: breakers.dep.{field}={value!r}: allowed is")
    assert allowed in str(caught.value)


SECONDS_30 = [30, 30.0, "30s", " 30 s ", "0.5m", "30000ms", timedelta(seconds=30)]


@pytest.mark.parametrize("thirty", SECONDS_30)
@pytest.mark.parametrize("field", ["open_for", "slow_call", "probe_lease", "ramp_up"])
def test_a_time_may_be_given_in_any_way_anywhere(
    field: str, thirty: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = Policy(**{field: 30.0})  # type: ignore[arg-type]
    assert Policy(**{field: thirty}) == expected
    assert bs.instrumented_breaker("code", **{field: thirty}).policy == expected
    assert from_mapping({"breakers": {"x": {field: thirty}}}) == {"x": {field: 30.0}}
    if not isinstance(thirty, timedelta):
        monkeypatch.setenv(f"BREAKERSCOPE_ENV_{field.upper()}", str(thirty))
        assert bs.instrumented_breaker("env").policy == expected


def test_a_window_of_time_needs_its_unit() -> None:
    assert Policy(window="30s") == Policy(window=timedelta(seconds=30))  # type: ignore[arg-type]
    for window in (30.0, "30"):
        with pytest.raises(
            bs.PolicyError, match=r"window=.*or a time above 0 \(\"30s\", a timedelta"
        ):
            Policy(window=window)  # type: ignore[arg-type]


@pytest.mark.parametrize("much", [10**400, "9" * 400 + "h", float("inf"), float("nan")])
def test_a_time_beyond_all_measure(much: Any) -> None:
    with pytest.raises(bs.PolicyError, match=r"open_for=.{1,90}: allowed is seconds above 0"):
        Policy(open_for=much)


def test_what_kubernetes_sets_is_no_setting_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in (
        "SERVICE_HOST",
        "SERVICE_PORT",
        "SERVICE_PORT_HTTP",
        "PORT",
        "PORT_80_TCP",
        "PORT_80_TCP_PROTO",
        "PORT_80_TCP_PORT",
        "PORT_80_TCP_ADDR",
    ):
        monkeypatch.setenv(f"BREAKERSCOPE_PAYMENTS_{variable}", "10.0.0.1")
    assert bs.instrumented_breaker("payments").policy == Policy()


def test_an_empty_variable_sets_nothing() -> None:
    assert (
        from_environment("a", {"BREAKERSCOPE_A_OPEN_FOR": "", "BREAKERSCOPE_A_PROBES": " "}) == {}
    )


def test_names_that_look_alike_in_the_environment_are_reported(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("BREAKERSCOPE_A_B_OPEN_FOR", "7")
    with caplog.at_level(logging.WARNING, "breakerscope"):
        bs.instrumented_breaker("a-b")
        bs.instrumented_breaker("a.b")
        bs.instrumented_breaker("a b")
    assert [r.getMessage() for r in caplog.records] == [
        "BREAKERSCOPE_A_B_... in the environment means 'a-b' and 'a.b'"
    ]


def test_a_file_may_have_tables_for_others(tmp_path: Path) -> None:
    file = tmp_path / "breakers.toml"
    file.write_text("[alerts]\nx = 1\n[breakers.dep]\nprobes = 2\n")
    assert read_toml(file) == {"dep": {"probes": 2}}
    file.write_text("[breaker.dep]\nprobes = 2\n")
    with pytest.raises(ConfigError, match="unknown key 'breaker', did you mean 'breakers'"):
        read_toml(file)


def test_the_mixin_reads_the_same_file(tmp_path: Path) -> None:
    file = tmp_path / "breakers.toml"
    file.write_text("top = 3\n[alerts]\n[breakers.dep]\nprobes = 2\n")
    assert mixin_config.load(file).top == 3
    assert read_toml(file) == {"dep": {"probes": 2}}


# -- the same line run twice -----------------------------------------------------------------------


class Rules:
    def known(self, error: BaseException) -> bool:
        return isinstance(error, Boom)


RULES = Rules()


def over(limit: int, result: int) -> bool:
    return result > limit


REQUESTS: dict[str, Callable[[], dict[str, Any]]] = {
    "lambda": lambda: {"failure_if": lambda result: result > 3},
    "partial": lambda: {"failure_if": partial(over, 3)},
    "partial of a lambda": lambda: {"failure_if": partial(lambda n, result: result > n, 3)},
    "bound method": lambda: {"ignore": RULES.known},
    "closure": lambda: closing_over(3),
}


def closing_over(limit: int) -> dict[str, Any]:
    return {"failure_if": lambda result: result > limit}


@pytest.mark.parametrize("rule", REQUESTS)
def test_the_same_line_run_twice_is_the_same_rule(rule: str) -> None:
    breaker = bs.instrumented_breaker("cell", **REQUESTS[rule]())
    assert bs.instrumented_breaker("cell", **REQUESTS[rule]()) is breaker


def test_other_code_is_another_rule() -> None:
    pairs: list[tuple[dict[str, Any], dict[str, Any]]] = [
        (closing_over(3), closing_over(4)),
        ({"failure_if": partial(over, 3)}, {"failure_if": partial(over, 4)}),
        ({"ignore": RULES.known}, {"ignore": Rules().known}),
        ({"failure_if": lambda result: result > 3}, {"failure_if": lambda result: result > 4}),
        ({"ignore": KeyError}, {"ignore": ValueError}),
    ]
    for number, (old, new) in enumerate(pairs):
        bs.instrumented_breaker(f"cell{number}", **old)
        with pytest.raises(bs.ContradictionError, match="replace=True"):
            bs.instrumented_breaker(f"cell{number}", **new)


def test_a_class_that_was_defined_anew() -> None:
    def cell() -> type[Exception]:
        class Gone(Exception):
            pass

        return Gone

    bs.instrumented_breaker("cell", ignore=cell())
    with pytest.raises(bs.ContradictionError, match="defined anew: another class of the same name"):
        bs.instrumented_breaker("cell", ignore=cell())


def test_replace_makes_another_breaker_on_purpose() -> None:
    old = bs.instrumented_breaker("cell", consecutive_failures=1)
    with pytest.raises(Boom):
        old.call(fail)
    new = bs.instrumented_breaker("cell", consecutive_failures=2, replace=True)
    assert new is not old
    assert new.state is bs.State.CLOSED
    assert bs.get_breaker("cell") is new
    assert bs.instrumented_breaker("cell", consecutive_failures=2) is new


@pytest.mark.usefixtures("configured")
def test_a_breaker_for_a_key_is_made_whatever_operators_have_set(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    per_host = bs.breakers_per("host", consecutive_failures=3, open_for_max=20.0)
    bs.configure({"breakers": {"host:*": {"open_for": 60}}})
    monkeypatch.setenv("BREAKERSCOPE_HOST_B_PROBES", "some")
    with caplog.at_level(logging.ERROR, "breakerscope"):
        for key in ("a", "a", "b"):
            assert per_host(key).policy == Policy(consecutive_failures=3, open_for_max=20.0)
    assert [record.getMessage().partition(";")[0] for record in caplog.records] == [
        "configuration: breaker 'host:a' with open_for=60: open_for_max=20.0: allowed is at least"
        " open_for=60",
        "BREAKERSCOPE_HOST_B_PROBES='some': allowed is a whole number of at least 1",
    ]
    monkeypatch.delenv("BREAKERSCOPE_HOST_B_PROBES")
    bs.configure({"breakers": {"host:*": {"open_for": 15}}})
    assert per_host("a").policy.open_for == 15


@pytest.mark.parametrize("source", [None, [1], 5, b"file"])
def test_a_source_that_is_none_is_refused(source: Any) -> None:
    with pytest.raises(ConfigError, match="allowed is a mapping or the path of a TOML file"):
        bs.configure(source)
