"""What an exception or a result says about the dependency."""

from __future__ import annotations

import asyncio

import pytest

from breakerscope import Classifier, Outcome

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
