"""What an exception or a result says about the dependency: exception or result -> Outcome.

The rules, in their order:

1. What is not an `Exception` (`asyncio.CancelledError`, `GeneratorExit`, `KeyboardInterrupt`, the
   `Cancelled` of trio) says nothing about the dependency: CANCELLED.
2. A group of exceptions is a failure if any exception in it is one, otherwise ignored if any is,
   otherwise cancelled.
3. `ignore` and `failures` are asked about the exception, then about the exceptions it was raised
   `from`, outermost first. The first answer counts; for one exception `ignore` goes first.
4. With no answer: IGNORED where `failures` was given, FAILURE otherwise.

A rule that raises must not hide the caller's own exception: it counts as "no answer", and
the error is handed to `on_error`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from functools import partial
from math import isfinite
from types import FunctionType, MethodType
from typing import Any, cast

from breakerscope.core.events import Outcome

ExceptionRule = type[BaseException] | tuple[type[BaseException], ...] | Callable[[Any], bool]
ResultRule = Callable[[Any], bool]
HintRule = Callable[[Any], float | None]

MAX_CHAIN = 16
"""How many links of a chain of causes are followed."""


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
    seconds the dependency asks to be left alone, or None; it lengthens the open wait.
    Raises ClassifierError for anything else.
    """

    failures: ExceptionRule | None = None
    ignore: ExceptionRule | None = None
    failure_if: ResultRule | None = None
    retry_after_from: HintRule | None = None

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

    def differences(self, other: Classifier) -> list[str]:
        """The rules in which two classifiers differ, each with both values."""
        pairs = [(f.name, getattr(self, f.name), getattr(other, f.name)) for f in fields(self)]
        return [
            f"{name}: {old!r} and {new!r}{_same_text(old, new)}"
            for name, old, new in pairs
            if not _same_rule(old, new)
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
        if isinstance(error, BaseExceptionGroup):
            members = cast("BaseExceptionGroup[BaseException]", error).exceptions
            found = [self.of_error(member, on_error) for member in members]
            return min(found, key=GRAVITY.index)
        if not isinstance(error, Exception):
            return Outcome.CANCELLED
        if self.ignore is None and self.failures is None:
            return Outcome.FAILURE
        for link in _chain(error):
            if self.ignore is not None and _matches("ignore", self.ignore, link, on_error):
                return Outcome.IGNORED
            if self.failures is not None and _matches("failures", self.failures, link, on_error):
                return Outcome.FAILURE
        return Outcome.FAILURE if self.failures is None else Outcome.IGNORED

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


EVERY_EXCEPTION_FAILS = Classifier()


def _same_rule(old: Any, new: Any) -> bool:
    """Whether two rules are the same code. A line that runs again makes another function of it."""
    if old == new:
        return True
    if isinstance(old, MethodType) and isinstance(new, MethodType):
        return old.__self__ is new.__self__ and _same_rule(old.__func__, new.__func__)
    if isinstance(old, partial) and isinstance(new, partial):
        one, other = cast("partial[object]", old), cast("partial[object]", new)
        same = one.args == other.args and one.keywords == other.keywords
        return same and _same_rule(one.func, other.func)
    if not (isinstance(old, FunctionType) and isinstance(new, FunctionType)):
        return False
    return (
        old.__code__ == new.__code__
        and old.__defaults__ == new.__defaults__
        and old.__kwdefaults__ == new.__kwdefaults__
        and _captured(old) == _captured(new)
    )


def _captured(function: FunctionType) -> list[object]:
    """What the variables of enclosing functions hold."""
    try:
        return [cell.cell_contents for cell in function.__closure__ or ()]
    except ValueError:
        # One of them has no value yet: it is like no other.
        return [object()]


def _same_text(old: object, new: object) -> str:
    return " (defined anew: another class of the same name)" if repr(old) == repr(new) else ""


def error_name(error: BaseException) -> str:
    """The qualified name of an exception's class; the module is left out for built-ins."""
    cls = type(error)
    return (
        cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"
    )


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
    if isinstance(rule, type | tuple):
        return isinstance(error, rule)
    try:
        return bool(rule(error))
    except Exception as broken:
        on_error(name, broken)
        return False


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The exception and what it was raised from. Bounded, since a chain can be a ring."""
    link: BaseException | None = error
    for _ in range(MAX_CHAIN):
        if link is None:
            return
        yield link
        link = link.__cause__
