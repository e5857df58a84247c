"""What an exception or a result says about the dependency."""

from __future__ import annotations

import asyncio
from dataclasses import FrozenInstanceError
from typing import Any

import pytest

from breakerscope import Classifier, ClassifierError, Outcome
from breakerscope.core.classification import error_name

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
    classifier = Classifier(**{rule: lambda e: 1 / e.args[0] > 0})
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
