"""What an exception or a result says about the dependency: exception or result -> Outcome.

The rules, in their order:

1. A cancellation (`asyncio.CancelledError`, `GeneratorExit`, `KeyboardInterrupt`, `SystemExit`, the
   `Cancelled` of trio) says nothing about the dependency: CANCELLED, unless a rule names a class of
   cancellations.
2. A group of exceptions is what a rule says that names a class of groups. Otherwise it is a failure
   if any exception in it is one, otherwise ignored if any is, otherwise cancelled.
3. `ignore` and `failures` are asked about the exception, then about the exceptions it was raised
   `from`, outermost first; of a group among those, about its members. The first answer counts; for
   one exception `ignore` goes first. A predicate is asked about an `Exception` only, a class about
   any exception.
4. With no answer: IGNORED for the rejection of another breaker, whose dependency was not called,
   and where `failures` was given; CANCELLED for what is no `Exception`; FAILURE otherwise.

A rule that raises must not hide the caller's own exception: it counts as "no answer", and
the error is handed to `on_error`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, fields
from datetime import timedelta
from math import isfinite
from typing import Any, cast

from breakerscope.core.errors import CircuitBreakerOpenError
from breakerscope.core.events import Outcome
from breakerscope.core.policy import ALLOWED, normalized
from breakerscope.core.same_rule import is_same_rule

ExceptionRule = type[BaseException] | tuple[type[BaseException], ...] | Callable[[Any], bool]
ResultRule = Callable[[Any], bool]
HintRule = Callable[[Any], float | None]
OpenForRule = Callable[[int, BaseException | str | None], float | timedelta | str | None]

MAX_CHAIN = 16
"""How many links of a chain of causes are followed."""
MOST_ASKED = 10_000
"""About how many exceptions in all, groups and causes together."""
CANCELLATIONS = frozenset({("asyncio.exceptions", "CancelledError"), ("trio", "Cancelled")})
"""Classes by name, since their modules need not be there."""


class ClassifierError(TypeError):
    """A classification rule is neither a type, nor a tuple of types, nor callable."""


GRAVITY = (Outcome.FAILURE, Outcome.IGNORED, Outcome.CANCELLED)
"""In a group of exceptions the gravest one counts."""


def _ignore_error(rule: str, error: Exception) -> None:
    """The default for `on_error`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Classifier:
    """Sorts exceptions and results into outcomes. Frozen; safe in threads if the rules are.

    `failures` and `ignore` are an exception type, a tuple of types, or a predicate of the
    exception. `failure_if` is a predicate of the result; true makes a returned call a failure.
    `retry_after_from` takes the exception or the result of a failure and returns for how many
    seconds the dependency asks to be left alone, or None; it lengthens the open wait. `open_for`
    chooses the wait of an opening: it takes the number of the opening (1 for the first, one more
    for each that follows a failed probe or comes too soon after a close) and the error, and returns
    a time, or None for the wait of the policy. The error is the exception, the name that events
    give a condemned result ("HTTP 503"), or None for a slow call. It is asked about each failed or
    slow call that might open the circuit, before anybody knows whether it will; never where
    operators have set `open_for`.
    Raises ClassifierError for anything else.
    """

    failures: ExceptionRule | None = None
    ignore: ExceptionRule | None = None
    failure_if: ResultRule | None = None
    retry_after_from: HintRule | None = None
    open_for: OpenForRule | None = None

    def __post_init__(self) -> None:
        for name in ("failures", "ignore"):
            rule = getattr(self, name)
            if rule is not None and not _is_exception_rule(rule):
                raise ClassifierError(
                    f"{name}={rule!r}: allowed is an exception type, a tuple of exception types,"
                    " or a predicate of the exception"
                )
        for name in ("failure_if", "retry_after_from"):
            rule = getattr(self, name)
            if rule is not None and not callable(rule):
                raise ClassifierError(f"{name}={rule!r}: allowed is a function of one argument")
        if self.open_for is not None and not callable(self.open_for):
            raise ClassifierError(
                f"open_for={self.open_for!r}: allowed is a function of the number of the opening"
                " and the error; a time belongs to the policy"
            )

    def differences(self, other: Classifier) -> list[str]:
        """The rules in which two classifiers differ, each with both values."""
        pairs = [(f.name, getattr(self, f.name), getattr(other, f.name)) for f in fields(self)]
        return [
            f"{name}: {old!r} and {new!r}{_same_text(old, new)}"
            for name, old, new in pairs
            if not is_same_rule(old, new)
        ]

    @property
    def ignores_results(self) -> bool:
        """Whether a call that returns is a success, whatever it returns."""
        return self.failure_if is None

    @property
    def ignores_no_exception(self) -> bool:
        """Whether every exception is a failure that says no more than that."""
        return self.failures is None and self.ignore is None and self.retry_after_from is None

    def of_error(
        self, error: BaseException, on_error: Callable[[str, Exception], None] = _ignore_error
    ) -> Outcome:
        """The outcome of a call that raised."""
        walk = _Walk(self, on_error)
        if not isinstance(error, BaseExceptionGroup):
            return walk.outcome_of(error)
        group = cast("Group", error)
        if (answer := walk.ask_about_group(group)) is not None:
            return answer
        return min(map(walk.outcome_of, walk.members_of(group)), key=GRAVITY.index)

    def of_result(
        self, result: object, on_error: Callable[[str, Exception], None] = _ignore_error
    ) -> Outcome:
        """The outcome of a call that returned."""
        if self.failure_if is None:
            return Outcome.SUCCESS
        try:
            return Outcome.FAILURE if self.failure_if(result) else Outcome.SUCCESS
        except Exception as error:
            on_error("failure_if", error)
            return Outcome.SUCCESS

    def hint(
        self, ended_with: object, on_error: Callable[[str, Exception], None] = _ignore_error
    ) -> float:
        """For how many seconds a failed dependency asks to be left alone; 0 if it does not say."""
        if self.retry_after_from is None:
            return 0.0
        try:
            seconds = float(self.retry_after_from(ended_with) or 0.0)
        except Exception as error:
            on_error("retry_after_from", error)
            return 0.0
        return seconds if isfinite(seconds) else 0.0

    def wait(
        self,
        opening: int,
        error: BaseException | str | None,
        on_error: Callable[[str, Exception], None] = _ignore_error,
    ) -> float | None:
        """For how many seconds the circuit is to open; None if that is for the policy to say."""
        if self.open_for is None:
            return None
        try:
            return _checked_wait(self.open_for(opening, error))
        except Exception as broken:
            on_error("open_for", broken)
            return None


def _checked_wait(answer: object) -> float | None:
    seconds: float | None = normalized("open_for", answer)
    if seconds is not None and not ALLOWED["open_for"].admits(seconds):
        raise ValueError(f"open_for gave {answer!r}: allowed is {ALLOWED['open_for']}, or None")
    return seconds


EVERY_EXCEPTION_FAILS = Classifier()


def result_name(result: object) -> str:
    """How events call a result that `failure_if` condemns: by its HTTP status where it has one, so
    that 500 and 429 do not look alike.
    """
    for attribute in ("status_code", "status"):
        status: object = None
        # A foreign object may raise anything; then it has no status.
        with suppress(Exception):
            status = getattr(result, attribute, None)
        if isinstance(status, int) and 100 <= status <= 599:
            return f"HTTP {int(status)}"
    return "failure_if"


def _same_text(old: object, new: object) -> str:
    return " (defined anew: another class of the same name)" if repr(old) == repr(new) else ""


def error_name(error: BaseException) -> str:
    """The qualified name of an exception's class; the module is left out for built-ins."""
    cls = type(error)
    return (
        cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"
    )


Group = BaseExceptionGroup[BaseException]


class _Walk:
    """Goes through the causes of one exception and the members of groups, so far and no farther."""

    def __init__(self, classifier: Classifier, on_error: Callable[[str, Exception], None]) -> None:
        self._rules = (
            ("ignore", classifier.ignore, Outcome.IGNORED),
            ("failures", classifier.failures, Outcome.FAILURE),
        )
        self._default = Outcome.FAILURE if classifier.failures is None else Outcome.IGNORED
        self._on_error = on_error
        self._left = MOST_ASKED

    def outcome_of(self, error: BaseException) -> Outcome:
        """Of an exception that is no group, or of a group that a rule names."""
        answer = self._answer(error, MAX_CHAIN)
        if answer is not None:
            return answer
        return self._default if isinstance(error, Exception) else Outcome.CANCELLED

    def _answer(self, error: BaseException, links: int) -> Outcome | None:
        """What the rules say of an exception and of what it was raised from, outermost first."""
        link: BaseException | None = error
        while link is not None and links > 0 and self._left > 0:
            if isinstance(link, BaseExceptionGroup):
                answer = self._of_group_below(cast("Group", link), links - 1)
            else:
                answer = self._ask(link)
            if answer is not None:
                return answer
            link, links = link.__cause__, links - 1
        return None

    def _of_group_below(self, group: Group, links: int) -> Outcome | None:
        if (answer := self.ask_about_group(group)) is not None:
            return answer
        answers = [self._answer(member, links) for member in self.members_of(group)]
        return min((a for a in answers if a is not None), key=GRAVITY.index, default=None)

    def members_of(self, group: Group) -> Iterator[BaseException]:
        """What is in a group and in the groups in it, at any depth. A group that a rule names
        stands for its members.
        """
        waiting: list[BaseException] = [group]
        while waiting:
            member = waiting.pop()
            if not isinstance(member, BaseExceptionGroup):
                yield member
                continue
            inner = cast("Group", member)
            if self.ask_about_group(inner) is None:
                waiting.extend(reversed(inner.exceptions))
            else:
                yield inner

    def ask_about_group(self, group: Group) -> Outcome | None:
        """What the rules say that name a class of groups."""
        for _, rule, outcome in self._rules:
            groups = [cls for cls in _classes(rule) if _is_group(cls)]
            if isinstance(group, tuple(groups)):
                return outcome
        return None

    def _ask(self, error: BaseException) -> Outcome | None:
        self._left -= 1
        for name, rule, outcome in self._rules:
            if rule is not None and _matches(name, rule, error, self._on_error):
                return outcome
        # The dependency of a breaker that rejected was not called.
        return Outcome.IGNORED if isinstance(error, CircuitBreakerOpenError) else None


def _classes(rule: Any) -> tuple[type[BaseException], ...]:
    """The classes that a rule names."""
    if isinstance(rule, type):
        return (cast("type[BaseException]", rule),)
    return cast("tuple[type[BaseException], ...]", rule) if isinstance(rule, tuple) else ()


def _is_group(cls: type[BaseException]) -> bool:
    return issubclass(cls, BaseExceptionGroup)


def _is_cancellation(cls: type) -> bool:
    """Whether this class, or one that it comes from, says that somebody wants an end."""
    if issubclass(cls, GeneratorExit | KeyboardInterrupt | SystemExit):
        return True
    return any((base.__module__, base.__name__) in CANCELLATIONS for base in cls.__mro__)


def _is_exception_rule(rule: object) -> bool:
    if isinstance(rule, type):
        return issubclass(rule, BaseException)
    if isinstance(rule, tuple):
        members = cast("tuple[object, ...]", rule)
        return all(isinstance(cls, type) and issubclass(cls, BaseException) for cls in members)
    return callable(rule)


def _matches(
    name: str,
    rule: ExceptionRule,
    error: BaseException,
    on_error: Callable[[str, Exception], None],
) -> bool:
    try:
        if isinstance(rule, type | tuple):
            if _is_cancellation(type(error)):
                # Only a rule that names a cancellation means one.
                rule = tuple(cls for cls in _classes(rule) if _is_cancellation(cls))
            return isinstance(error, rule)
        return isinstance(error, Exception) and bool(rule(error))
    except Exception as broken:
        on_error(name, broken)
        return False
