"""Events as JSON: nothing is lost on the way there and back, and the schema says the same."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

import breakerscope as bs
from breakerscope.core.events import EVENT_TYPES, CallRejected, CallSettled, Event, Outcome, State
from breakerscope.event_bus import EventBus
from breakerscope.testing import FakeClock, capture_events
from tests.unit.support import Boom, fail, fail_times, make_breaker, refused, succeed

VALIDATOR = Draft202012Validator(bs.event_schema())

finite = st.floats(allow_nan=False, allow_infinity=False)
st.register_type_strategy(float, finite)
events: st.SearchStrategy[Event] = st.one_of(*[st.builds(t) for t in EVENT_TYPES])
json_values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    finite,
    st.text(max_size=5),
    st.sampled_from([*State, *Outcome]).map(str),
    st.lists(st.integers(), max_size=2),
    st.just({}),
)


@given(events)
def test_there_and_back(event: Event) -> None:
    line = bs.event_to_json(event)
    assert line.isascii()
    assert "\n" not in line
    form = json.loads(line)
    assert form == bs.event_to_dict(event)
    assert bs.event_from_json(line) == event
    back = bs.event_from_dict(form)
    assert (type(back), back) == (type(event), event)
    VALIDATOR.validate(form)


@given(events, st.data())
def test_the_reader_and_the_schema_agree_on_what_is_broken(
    event: Event, data: st.DataObject
) -> None:
    form = bs.event_to_dict(event)
    key = data.draw(st.sampled_from([*form, "a key of a later version"]))
    if data.draw(st.booleans()):
        form[key] = data.draw(json_values)
    else:
        form.pop(key, None)
    if VALIDATOR.is_valid(form):
        assert VALIDATOR.is_valid(bs.event_to_dict(bs.event_from_dict(form)))
    else:
        with pytest.raises(bs.EventFormatError, match=key):
            bs.event_from_dict(form)


def test_what_breakers_emit_fits_the_schema_in_the_package() -> None:
    schema = json.loads(files(bs).joinpath("events.schema.json").read_text(encoding="utf-8"))
    Draft202012Validator.check_schema(schema)
    bus, clock = EventBus(), FakeClock()
    breaker = make_breaker(clock, bus=bus, consecutive_failures=2, name='quo"te 🔌')

    @breaker.with_fallback(succeed)
    def work() -> str:
        raise Boom

    with capture_events(bus=bus) as told:
        breaker.call(succeed)
        fail_times(breaker, 2)
        refused(breaker)
        assert work() == "fine"
        clock.advance(60.0)
        fail_times(breaker, 1)
        breaker.force_open("by\nhand \udcff")
        refused(breaker, fail)
        breaker.update(bs.Policy(consecutive_failures=3))
    assert {type(event) for event in told} == set(EVENT_TYPES)
    for event in told:
        form = json.loads(bs.event_to_json(event))
        Draft202012Validator(schema).validate(form)
        assert bs.event_from_dict(form) == event


def test_the_form_of_an_event() -> None:
    event = CallSettled(
        breaker="payment_api",
        seq=3,
        at=1_700_000_000.5,
        state=State.CLOSED,
        outcome=Outcome.FAILURE,
        duration=0.25,
        error="builtins.TimeoutError",
    )
    assert bs.event_to_json(event) == (
        '{"type": "CallSettled", "schema_version": 1, "breaker": "payment_api", "seq": 3,'
        ' "at": 1700000000.5, "state": "closed", "outcome": "failure", "duration": 0.25,'
        ' "error": "builtins.TimeoutError", "slow": false, "late": false}'
    )


REJECTION: dict[str, Any] = bs.event_to_dict(
    CallRejected(breaker="x", seq=1, at=0.0, state=State.OPEN, retry_after=None, rejected=1)
)


def test_fields_with_a_default_may_be_missing_and_others_more() -> None:
    form = {**REJECTION, "severity": "high"}
    del form["enforced"]
    assert bs.event_to_dict(bs.event_from_dict(form)) == REJECTION


@pytest.mark.parametrize(
    ("form", "message"),
    [
        (
            {"type": "CallLost", "schema_version": 2},
            "schema_version=2: allowed is 1; type='CallLost': allowed are CallSettled,"
            " CallRejected, StateChanged, FallbackUsed, PolicyChanged",
        ),
        (
            {},
            "schema_version=None: allowed is 1; type=None: allowed are CallSettled,"
            " CallRejected, StateChanged, FallbackUsed, PolicyChanged",
        ),
        (
            {**REJECTION, "state": "ajar", "seq": "1", "retry_after": True},
            "seq='1': allowed is integer; state='ajar': allowed is one of closed, open, half_open,"
            " forced_open, disabled; retry_after=True: allowed is number or null",
        ),
        ({**REJECTION, "at": 10**400}, f"at={10**400}: allowed is number"),
        ({**REJECTION, "at": float("nan")}, "at=nan: allowed is number"),
        (
            {"type": "CallRejected", "schema_version": 1, "breaker": "x", "state": "open", "at": 0},
            "seq: is missing; retry_after: is missing; rejected: is missing",
        ),
    ],
)
def test_broken_forms(form: dict[str, Any], message: str) -> None:
    with pytest.raises(bs.EventFormatError) as caught:
        bs.event_from_dict(form)
    assert str(caught.value) == message


@pytest.mark.parametrize("text", ["", "[1]", "nonsense", b"\xff"])
def test_broken_lines(text: str | bytes) -> None:
    with pytest.raises(bs.EventFormatError):
        bs.event_from_json(text)
