"""Which events a listener asks for, and how it is called: the options, and what they may be."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from inspect import iscoroutinefunction
from typing import Any, TypedDict, cast

from breakerscope.core.checks import Check
from breakerscope.core.events import EVENT_TYPES, EventType, Outcome
from breakerscope.names import nearest, problem_of

DEFAULT_QUEUE_SIZE = 10_000


class SubscriptionError(ValueError):
    """A subscription cannot be. The message says what is wrong and what is allowed."""


def check_subscription(listener: object, types: Sequence[Any], options: Mapping[str, Any]) -> None:
    """Raises SubscriptionError, which names what is wrong and what is allowed."""
    if not callable(listener):
        raise SubscriptionError(f"listener={listener!r}: allowed is a callable with one argument")
    called = getattr(type(listener), "__call__", None)  # noqa: B004 - asks what a call of it runs
    if iscoroutinefunction(listener) or iscoroutinefunction(called):
        raise SubscriptionError(
            f"listener={listener!r}: nobody would await it; allowed is a plain function,"
            " or `astream` in place of a listener"
        )
    if unknown := [t for t in types if t not in EVENT_TYPES]:
        allowed = ", ".join(t.__name__ for t in EVENT_TYPES)
        raise SubscriptionError(f"event type {unknown[0]!r}: allowed are {allowed}")
    for option, value in options.items():
        if option not in _OPTIONS:
            near = nearest(option, _OPTIONS)
            hint = f"did you mean {near!r}? " if near else ""
            allowed = ", ".join(_OPTIONS)
            raise SubscriptionError(f"unknown option {option!r}: {hint}Allowed are {allowed}")
        allowed, admits = _OPTIONS[option]
        if not admits(value):
            raise SubscriptionError(f"{option}={value!r}: {allowed}")
    if problem := problem_of(options.get("name") or ""):
        raise SubscriptionError(f"name={options['name']!r}: {problem}")


def _is_seconds(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0


def _are_outcomes(value: Any) -> bool:
    if not isinstance(value, Collection) or isinstance(value, str):
        return False
    return set(cast("Collection[object]", value)) <= set(Outcome)


def _is_guard(value: Any) -> bool:
    if isinstance(value, Mapping):
        guards = cast("Mapping[Any, object]", value)
        return all(t in EVENT_TYPES and callable(guard) for t, guard in guards.items())
    return callable(value)


_OPTIONS: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "name": ("allowed is text", lambda v: v is None or isinstance(v, str)),
    "breaker": ("allowed is the name of a breaker", lambda v: v is None or isinstance(v, str)),
    "outcomes": (
        f"allowed is a collection of {', '.join(Outcome)}",
        _are_outcomes,
    ),
    "when": ("allowed is a function without arguments, or one for each event type", _is_guard),
    "every": ("allowed are seconds, 0 or more", _is_seconds),
    "inline": ("allowed are True and False", lambda v: isinstance(v, bool)),
    "queue_size": (
        "allowed is 1 or more",
        lambda v: isinstance(v, int) and not isinstance(v, bool) and v >= 1,
    ),
}


class SubscribeFilter(TypedDict, total=False):
    """Which events a listener asks for."""

    name: str
    """How the listener is called in metrics and logs; by default the name of the function."""
    breaker: str
    """Only events of the breaker with this name; by default of all, also of future ones."""
    outcomes: Collection[Outcome]
    """Only `CallSettled` events with these outcomes."""
    when: Check | Mapping[EventType, Check]
    """Only if this returns a true value in the thread of the call: one guard for all types, or
    guards for some of them. Must be cheap; one that raises says no, and is counted."""
    every: float
    """At most one `CallRejected` of each breaker in so many seconds, the first one at once."""


class SubscribeOptions(SubscribeFilter, total=False):
    """The options of `subscribe`."""

    inline: bool
    """Call the listener in the thread of the call; by default it has a queue and a thread."""
    queue_size: int
    """How many events may wait before further ones are dropped and counted."""
