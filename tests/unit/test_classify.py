"""What an exception or a result says about the dependency."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import FrozenInstanceError
from http import HTTPStatus
from typing import Any, cast

import pytest

from breakerscope import (
    CallSettled,
    CircuitBreaker,
    CircuitBreakerOpenError,
    Classifier,
    ClassifierError,
    FallbackUsed,
    Outcome,
    Policy,
    State,
)
from breakerscope.core.classification import error_name
from breakerscope.testing import capture_events

FAILURE, IGNORED, CANCELLED = Outcome.FAILURE, Outcome.IGNORED, Outcome.CANCELLED


class Declined(Exception):
    pass


def raised_from(error: Exception, cause: BaseException) -> Exception:
    try:
        raise error from cause
    except Exception as caught:
        return caught


RING = Declined()
RING.__cause__ = Declined()
RING.__cause__.__cause__ = RING


@pytest.mark.parametrize(
    ("rules", "error", "outcome"),
    [
        ({}, ValueError(), FAILURE),
        ({}, TimeoutError(), FAILURE),
        ({}, asyncio.CancelledError(), CANCELLED),
        ({}, KeyboardInterrupt(), CANCELLED),
        ({}, GeneratorExit(), CANCELLED),
        ({"failures": BaseException}, asyncio.CancelledError(), CANCELLED),
        ({"ignore": Declined}, Declined(), IGNORED),
        ({"ignore": (Declined, KeyError)}, KeyError(), IGNORED),
        ({"ignore": Declined}, ValueError(), FAILURE),
        ({"ignore": lambda e: "no" in str(e)}, ValueError("no money"), IGNORED),
        ({"failures": OSError}, ConnectionError(), FAILURE),
        ({"failures": OSError}, ValueError(), IGNORED),
        ({"failures": OSError, "ignore": ConnectionError}, ConnectionError(), IGNORED),
        ({"failures": OSError}, raised_from(ValueError(), ConnectionError()), FAILURE),
        ({"ignore": Declined}, raised_from(ValueError(), Declined()), IGNORED),
        # The outermost answer counts.
        ({"failures": OSError, "ignore": Declined}, raised_from(OSError(), Declined()), FAILURE),
        ({"failures": OSError}, RING, IGNORED),
        ({}, ExceptionGroup("all", [ValueError()]), FAILURE),
        ({"ignore": Declined}, ExceptionGroup("", [Declined(), Declined()]), IGNORED),
        ({"ignore": Declined}, ExceptionGroup("", [Declined(), ValueError()]), FAILURE),
        ({}, BaseExceptionGroup("", [asyncio.CancelledError()]), CANCELLED),
        (
            {"ignore": Declined},
            BaseExceptionGroup("", [asyncio.CancelledError(), ExceptionGroup("", [Declined()])]),
            IGNORED,
        ),
        ({}, BaseExceptionGroup("", [asyncio.CancelledError(), ValueError()]), FAILURE),
    ],
)
def test_errors(rules: dict[str, object], error: BaseException, outcome: Outcome) -> None:
    assert Classifier(**rules).of_error(error) is outcome  # type: ignore[arg-type]


def test_results() -> None:
    classifier = Classifier(failure_if=lambda status: status >= 500)
    assert classifier.of_result(200) is Outcome.SUCCESS
    assert classifier.of_result(503) is FAILURE


def test_a_rule_that_raises_is_no_answer_and_is_told() -> None:
    told: list[tuple[str, str]] = []

    def tell(rule: str, error: Exception) -> None:
        told.append((rule, type(error).__name__))

    broken = Classifier(
        ignore=lambda e: e.nonsense, failure_if=lambda r: r.status, retry_after_from=lambda r: r.x
    )
    assert broken.of_error(ValueError(), tell) is FAILURE
    assert broken.of_result(None, tell) is Outcome.SUCCESS
    assert broken.hint(None, tell) == 0.0
    assert told == [
        ("ignore", "AttributeError"),
        ("failure_if", "AttributeError"),
        ("retry_after_from", "AttributeError"),
    ]


@pytest.mark.parametrize(
    ("says", "seconds"), [(30, 30.0), (None, 0.0), (float("nan"), 0.0), (float("inf"), 0.0)]
)
def test_hints(says: float | None, seconds: float) -> None:
    assert Classifier(retry_after_from=lambda _: says).hint(object()) == seconds


def test_nobody_hints_unless_asked() -> None:
    assert Classifier().hint(object()) == 0.0
    assert Classifier(retry_after_from=lambda seconds: seconds).hint("2.5") == 2.5


@pytest.mark.parametrize("rule", ["failures", "ignore"])
def test_a_rule_that_raises_is_told_by_its_name_from_inside_a_group(rule: str) -> None:
    told: list[tuple[str, str]] = []
    rules: dict[str, Any] = {rule: lambda e: 1 / e.args[0] > 0}
    classifier = Classifier(**rules)
    group = ExceptionGroup("", [ExceptionGroup("", [ValueError(0)]), ValueError("x")])
    found = classifier.of_error(group, lambda name, e: told.append((name, type(e).__name__)))
    # No answer is what an exception without a rule would be.
    assert found is (IGNORED if rule == "failures" else FAILURE)
    assert told == [(rule, "ZeroDivisionError"), (rule, "TypeError")]


def test_without_a_listener_a_broken_rule_stays_silent() -> None:
    def broken(_: object) -> bool:
        raise RuntimeError

    classifier = Classifier(
        ignore=broken,
        failures=broken,
        failure_if=broken,
        retry_after_from=broken,
    )
    assert classifier.of_error(ValueError()) is IGNORED
    assert classifier.of_result(1) is Outcome.SUCCESS
    assert classifier.hint(1) == 0.0


@pytest.mark.parametrize(("links", "outcome"), [(1, FAILURE), (16, FAILURE), (17, IGNORED)])
def test_sixteen_links_of_a_chain_are_followed(links: int, outcome: Outcome) -> None:
    error: BaseException = OSError()
    for _ in range(links - 1):
        outer = ValueError()
        outer.__cause__ = error
        error = outer
    assert Classifier(failures=OSError).of_error(error) is outcome


def test_what_was_only_the_context_has_no_say() -> None:
    error = ValueError()
    error.__context__ = OSError()
    assert Classifier(failures=OSError).of_error(error) is IGNORED


@pytest.mark.parametrize("rule", ["failures", "ignore"])
@pytest.mark.parametrize("value", [3, int, (ValueError, 3), (ValueError, int), "ValueError"])
def test_an_exception_rule_that_cannot_be(rule: str, value: object) -> None:
    with pytest.raises(ClassifierError) as caught:
        Classifier(**{rule: value})  # type: ignore[arg-type]
    assert str(caught.value) == (
        f"{rule}={value!r}: allowed is an exception type, a tuple of exception types,"
        " or a predicate of the exception"
    )


@pytest.mark.parametrize("rule", ["failure_if", "retry_after_from"])
def test_a_result_rule_that_cannot_be(rule: str) -> None:
    with pytest.raises(ClassifierError) as caught:
        Classifier(**{rule: 500})  # type: ignore[arg-type]
    assert str(caught.value) == f"{rule}=500: allowed is a function of one argument"


def test_whether_results_matter() -> None:
    assert Classifier(ignore=KeyError).ignores_results
    assert not Classifier(failure_if=bool).ignores_results


@pytest.mark.parametrize(
    ("rules", "none"),
    [
        ({}, True),
        ({"failure_if": bool}, True),
        ({"failures": KeyError}, False),
        ({"ignore": KeyError}, False),
        ({"retry_after_from": len}, False),
        ({"failures": KeyError, "ignore": OSError, "retry_after_from": len}, False),
    ],
)
def test_whether_an_exception_has_to_be_looked_at(rules: dict[str, Any], none: bool) -> None:
    assert Classifier(**rules).ignores_no_exception is none


def test_a_classifier_is_a_value() -> None:
    assert Classifier(ignore=KeyError) == Classifier(ignore=KeyError) != Classifier()
    with pytest.raises(FrozenInstanceError):
        Classifier().ignore = KeyError  # type: ignore[misc]
    with pytest.raises(TypeError):
        Classifier(KeyError)  # type: ignore[call-arg]
    assert not hasattr(Classifier(), "__dict__")


def test_the_name_of_an_error() -> None:
    class Local(Exception):
        pass

    assert [error_name(e) for e in (ValueError(), Declined(), Local())] == [
        "ValueError",
        f"{__name__}.Declined",
        f"{__name__}.test_the_name_of_an_error.<locals>.Local",
    ]


# -- what is no `Exception` ------------------------------------------------------------------------


class Timeout(BaseException):
    """As gevent's: no Exception, and no cancellation."""


CANCELLED_BY = (asyncio.CancelledError, GeneratorExit, KeyboardInterrupt, SystemExit)


@pytest.mark.parametrize(
    ("rules", "outcome"),
    [
        ({}, Outcome.CANCELLED),
        ({"failures": Timeout}, Outcome.FAILURE),
        ({"failures": (OSError, Timeout)}, Outcome.FAILURE),
        ({"failures": BaseException}, Outcome.FAILURE),
        ({"ignore": Timeout}, Outcome.IGNORED),
        ({"failures": OSError}, Outcome.CANCELLED),
        ({"failures": lambda _: True}, Outcome.CANCELLED),
    ],
)
def test_a_rule_that_names_a_class_of_base_exceptions_is_asked(
    rules: dict[str, Any], outcome: Outcome
) -> None:
    assert Classifier(**rules).of_error(Timeout()) is outcome


@pytest.mark.parametrize("cls", CANCELLED_BY)
def test_a_cancellation_is_one_unless_a_rule_names_it(cls: type[BaseException]) -> None:
    for rule in (None, Exception, BaseException, Timeout, lambda _: True):
        assert Classifier(failures=rule).of_error(cls()) is Outcome.CANCELLED
    assert Classifier(failures=(OSError, cls)).of_error(cls()) is Outcome.FAILURE
    assert Classifier(ignore=cls).of_error(cls()) is Outcome.IGNORED


def raising(error: BaseException) -> Callable[[], object]:
    def fn() -> None:
        raise error

    return fn


def in_guard(breaker: CircuitBreaker, fn: Callable[[], object]) -> object:
    with breaker.guard():
        return fn()


FORMS: dict[str, Callable[[CircuitBreaker, Callable[[], object]], object]] = {
    "call": lambda breaker, fn: breaker.call(fn),
    "decorator": lambda breaker, fn: breaker(fn)(),
    "guard": in_guard,
    "fallback": lambda breaker, fn: breaker.with_fallback(str)(fn)(),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_asks_about_base_exceptions(form: str) -> None:
    breaker = CircuitBreaker(
        "x", Policy(consecutive_failures=1), classifier=Classifier(failures=Timeout)
    )
    with pytest.raises(Timeout):
        FORMS[form](breaker, raising(Timeout()))
    assert breaker.state is State.OPEN


def test_a_fallback_stands_in_for_a_base_exception_that_is_a_failure() -> None:
    breaker = CircuitBreaker("x", classifier=Classifier(failures=Timeout))
    protected = breaker.with_fallback(lambda: "cached", on=[Outcome.FAILURE])
    assert protected(raising(Timeout()))() == "cached"
    with pytest.raises(KeyboardInterrupt):
        protected(raising(KeyboardInterrupt()))()


# -- groups and causes -----------------------------------------------------------------------------


def from_(error: BaseException, cause: BaseException) -> BaseException:
    error.__cause__ = cause
    return error


def nested(error: Exception, depth: int) -> ExceptionGroup[Exception]:
    group = ExceptionGroup("0", [error])
    for level in range(1, depth):
        group = ExceptionGroup(str(level), [group])
    return group


@pytest.mark.parametrize(
    ("rules", "error", "outcome"),
    [
        ({"failures": OSError}, from_(RuntimeError(), nested(OSError(), 1)), Outcome.FAILURE),
        ({"failures": OSError}, from_(RuntimeError(), nested(KeyError(), 1)), Outcome.IGNORED),
        ({"ignore": KeyError}, from_(RuntimeError(), nested(KeyError(), 3)), Outcome.IGNORED),
        ({"ignore": KeyError}, from_(RuntimeError(), nested(OSError(), 3)), Outcome.FAILURE),
        ({"ignore": ExceptionGroup}, nested(OSError(), 2), Outcome.IGNORED),
        ({"ignore": ExceptionGroup}, from_(RuntimeError(), nested(OSError(), 2)), Outcome.IGNORED),
        ({"failures": ExceptionGroup}, nested(KeyError(), 2), Outcome.FAILURE),
        (
            {"ignore": ExceptionGroup, "failures": OSError},
            BaseExceptionGroup("", [KeyboardInterrupt(), nested(OSError(), 1)]),
            Outcome.IGNORED,
        ),
    ],
)
def test_groups_below_causes_and_rules_that_name_groups(
    rules: dict[str, Any], error: BaseException, outcome: Outcome
) -> None:
    assert Classifier(**rules).of_error(error) is outcome


@pytest.mark.parametrize("form", FORMS)
def test_a_group_that_is_nested_very_deep_is_counted_like_any(form: str) -> None:
    breaker = CircuitBreaker("x", classifier=Classifier(ignore=KeyError))
    with pytest.raises(ExceptionGroup):
        FORMS[form](breaker, raising(nested(OSError(), 5000)))
    with pytest.raises(ExceptionGroup):
        FORMS[form](breaker, raising(nested(KeyError(), 5000)))
    reading = breaker.read()
    assert (reading.calls[Outcome.FAILURE], reading.calls[Outcome.IGNORED]) == (1, 1)
    assert reading.in_flight == 0


def test_causes_that_go_round_in_a_circle() -> None:
    ring = from_(OSError(), from_(RuntimeError(), ValueError()))
    cast("BaseException", ring.__cause__).__cause__ = ring
    assert Classifier(failures=KeyError).of_error(ring) is Outcome.IGNORED
    group = nested(OSError(), 1)
    group.exceptions[0].__cause__ = group
    assert Classifier(failures=KeyError).of_error(group) is Outcome.IGNORED
    assert Classifier(failures=OSError).of_error(from_(ValueError(), group)) is Outcome.FAILURE


def test_a_class_that_cannot_be_asked_is_an_answer_less() -> None:
    class Meta(type):
        def __instancecheck__(cls, _: object) -> bool:
            raise RuntimeError

    class Odd(Exception, metaclass=Meta):
        pass

    told: list[str] = []
    outcome = Classifier(ignore=Odd).of_error(OSError(), lambda name, _: told.append(name))
    assert (outcome, told) == (Outcome.FAILURE, ["ignore"])


# -- the rejection of another breaker --------------------------------------------------------------


def rejecting() -> CircuitBreaker:
    inner = CircuitBreaker("inner")
    inner.force_open()
    return inner


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("rules", "outcome"),
    [
        ({}, Outcome.IGNORED),
        ({"ignore": KeyError}, Outcome.IGNORED),
        ({"failures": OSError}, Outcome.IGNORED),
        ({"failures": CircuitBreakerOpenError}, Outcome.FAILURE),
    ],
)
def test_the_rejection_of_another_breaker_says_nothing_about_this_dependency(
    form: str, rules: dict[str, Any], outcome: Outcome
) -> None:
    inner, outer = rejecting(), CircuitBreaker("outer", classifier=Classifier(**rules))

    def through() -> None:
        inner.call(str)

    def wrapped() -> None:
        try:
            inner.call(str)
        except CircuitBreakerOpenError as error:
            raise RuntimeError from error

    for number in range(40):
        with suppress(CircuitBreakerOpenError, RuntimeError):
            FORMS[form](outer, wrapped if number % 2 else through)
    assert outer.state is (State.OPEN if outcome is Outcome.FAILURE else State.CLOSED)
    calls = outer.read().calls
    assert calls[Outcome.FAILURE if outcome is Outcome.IGNORED else Outcome.IGNORED] == 0
    assert calls[outcome] >= 5


# -- how a condemned result is called --------------------------------------------------------------


class Response:
    def __init__(self, **attributes: object) -> None:
        self.__dict__.update(attributes)


class Broken:
    @property
    def status_code(self) -> int:
        raise RuntimeError


@pytest.mark.parametrize(
    ("result", "error"),
    [
        (Response(status_code=503), "HTTP 503"),
        (Response(status=429), "HTTP 429"),
        (Response(status_code=HTTPStatus.BAD_GATEWAY), "HTTP 502"),
        (Response(status="busy"), "failure_if"),
        (Response(status_code=7), "failure_if"),
        (Broken(), "failure_if"),
        (None, "failure_if"),
    ],
)
def test_a_result_is_called_by_its_http_status(result: object, error: str) -> None:
    breaker = CircuitBreaker("x", classifier=Classifier(failure_if=lambda _: True))
    with capture_events() as events:
        breaker.call(lambda: result)
        breaker.with_fallback(lambda: None, on=[Outcome.FAILURE])(lambda: result)()
    assert [e.error for e in events if isinstance(e, CallSettled | FallbackUsed)] == [error] * 3
