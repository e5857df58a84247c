"""A protected function looks like the function, to people and to `inspect`."""

from __future__ import annotations

import functools
import inspect
import pickle
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from breakerscope import CircuitBreakerOpenError, Outcome, State
from breakerscope.breaker import CircuitBreaker
from breakerscope.registry import Registry
from tests.unit.support import make_breaker, refused


def plain(one: int, /, two: str = "2", *rest: int, key: list[int], **others: object) -> str:
    """Says it plainly."""
    return f"{one} {two} {rest} {key} {others}"


async def coroutine(value: int = 1) -> int:
    """Waits."""
    return value


def stream(upto: int) -> Iterator[int]:
    """Counts."""
    yield from range(upto)


async def async_stream(upto: int) -> AsyncIterator[int]:
    """Counts and waits."""
    for number in range(upto):
        yield number


KINDS: list[Callable[[object], bool]] = [
    inspect.isfunction,
    inspect.iscoroutinefunction,
    inspect.isgeneratorfunction,
    inspect.isasyncgenfunction,
]


@pytest.mark.parametrize("fn", [plain, coroutine, stream, async_stream])
def test_it_looks_the_same(fn: Callable[..., Any]) -> None:
    protected = make_breaker()(fn)
    assert protected is not fn
    assert inspect.signature(protected) == inspect.signature(fn)
    for attribute in ("__name__", "__qualname__", "__doc__", "__module__", "__annotations__"):
        assert getattr(protected, attribute) == getattr(fn, attribute)
    assert [kind(protected) for kind in KINDS] == [kind(fn) for kind in KINDS]
    assert inspect.unwrap(protected) is fn


def test_all_kinds_of_arguments_arrive() -> None:
    breaker = make_breaker()
    key = [1]
    through_call: Any = lambda *args, **kwargs: breaker.call(plain, *args, **kwargs)  # noqa: E731
    forms: list[Any] = [breaker(plain), breaker.protect(plain), through_call]
    for call in forms:
        assert call(1, "b", 3, 4, key=key, start=5, result=6, fn=7) == plain(
            1, "b", 3, 4, key=key, start=5, result=6, fn=7
        )
        assert call(1, key=key) == plain(1, key=key)


def test_callables_that_are_no_functions() -> None:
    class Callables:
        def __call__(self, value: int) -> int:
            return value

        def method(self, value: int) -> int:
            return value

    breaker = make_breaker()
    some = Callables()
    assert [
        breaker(some)(1),
        breaker(some.method)(2),
        breaker(functools.partial(some.method, 3))(),
        breaker(int)("4"),
        breaker(len)([1, 2, 3, 4, 5]),
    ] == [1, 2, 3, 4, 5]
    assert breaker.read().calls[Outcome.SUCCESS] == 5
    with pytest.raises(TypeError, match="cannot protect 3"):
        breaker(3)  # type: ignore[arg-type]


def test_arguments_that_do_not_fit_are_no_call() -> None:
    breaker = make_breaker()
    forms: list[Any] = [breaker(plain), breaker(coroutine)]
    for form in forms:
        with pytest.raises(TypeError):
            form(nonsense=1)
    streams: list[Any] = [breaker(stream)]
    for form in streams:
        with pytest.raises(TypeError):
            next(form(nonsense=1))
    reading = breaker.read()
    assert (sum(reading.calls.values()), reading.in_flight) == (0, 0)


def test_a_refusal_has_no_other_error_behind_it() -> None:
    breaker = make_breaker()
    breaker.force_open()
    for _ in range(200):
        error = refused(breaker)
        assert (error.__context__, error.__cause__) == (None, None)
    assert breaker.read().rejected == 200


def test_a_refusal_can_be_pickled_and_read() -> None:
    error = CircuitBreakerOpenError("payment_api", State.OPEN, 1.23456)
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.breaker, copy.state, copy.retry_after) == ("payment_api", State.OPEN, 1.23456)
    assert str(copy) == "circuit breaker 'payment_api' is open; retry in 1.23 s"
    forced = CircuitBreakerOpenError("payment_api", State.FORCED_OPEN, None)
    assert str(forced) == "circuit breaker 'payment_api' is forced_open"


def test_a_registry_may_grow_while_somebody_iterates() -> None:
    registry = Registry()
    done = threading.Event()

    def grow() -> None:
        for number in range(500):
            registry.add(CircuitBreaker(f"{number}"))
        done.set()

    thread = threading.Thread(target=grow)
    thread.start()
    seen = 0
    while not done.is_set():
        names = [breaker.name for breaker in registry]
        assert names == [f"{number}" for number in range(len(names))]
        seen = max(seen, len(names))
    thread.join()
    assert len(registry) == len(list(registry)) == 500
    assert registry.remove("7") is not None
    assert registry.remove("7") is None
    assert registry.get("7") is None
