"""A function that returns what ends later: the call ends when that ends."""

from __future__ import annotations

import asyncio
import functools
import gc
from collections.abc import Awaitable, Callable, Generator
from concurrent.futures import Future as ThreadFuture
from contextlib import suppress
from functools import partial
from typing import Any, cast

import pytest

from breakerscope.breaker import CircuitBreaker
from breakerscope.core.events import FallbackUsed, Outcome
from breakerscope.event_bus import EventBus
from breakerscope.testing import FakeClock, capture_events
from tests.unit.support import Boom, make_breaker

Work = Callable[[], Any]
CLOCK = FakeClock()


async def work(fails: bool) -> str:
    await asyncio.sleep(0)
    CLOCK.advance(2.0)
    if fails:
        raise Boom
    return "fine"


class Custom:
    """Neither a coroutine nor a future, and more than an awaitable."""

    url = "http://example.com"

    def __init__(self, fails: bool) -> None:
        self.fails = fails
        self.awaited = 0

    def __await__(self) -> Generator[Any, None, str]:
        self.awaited += 1
        return work(self.fails).__await__()

    def cancel(self) -> str:
        return "cancelled by itself"


class Request(Custom):
    """As those of aiohttp: to be awaited or to be entered."""

    async def __aenter__(self) -> str:
        return await self

    async def __aexit__(self, *exc_info: object) -> None: ...


def future(fails: bool) -> asyncio.Future[str]:
    made: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    task = asyncio.ensure_future(work(fails))

    def done(_: object) -> None:
        if fails:
            made.set_exception(Boom())
        else:
            made.set_result("fine")
        task.exception()

    task.add_done_callback(done)
    return made


KINDS: dict[str, Callable[[bool], Any]] = {
    "coroutine": work,
    "task": lambda fails: asyncio.ensure_future(work(fails)),
    "future": future,
    "custom": Custom,
    "request": Request,
}


def decorated(breaker: CircuitBreaker, fn: Work) -> Any:
    return breaker(fn)()


def called(breaker: CircuitBreaker, fn: Work) -> Any:
    return breaker.call(fn)


def called_twice(breaker: CircuitBreaker, fn: Work) -> Any:
    """By then there are tokens: what asks does so without the lock."""
    breaker.call(str)
    return breaker.call(fn)


def with_fallback(breaker: CircuitBreaker, fn: Work) -> Any:
    return breaker.with_fallback(lambda: "cached", on=[Outcome.REJECTED])(fn)()


FORMS = {f.__name__: f for f in (decorated, called, called_twice, with_fallback)}


def settled(breaker: CircuitBreaker) -> dict[Outcome, int]:
    return {outcome: n for outcome, n in breaker.read().calls.items() if n}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fails", [False, True])
def test_the_call_ends_when_the_awaitable_ends(form: str, kind: str, fails: bool) -> None:
    breaker = make_breaker(CLOCK, consecutive_failures=5, slow_call=1.0)

    async def main() -> None:
        awaitable = FORMS[form](breaker, lambda: KINDS[kind](fails))
        assert settled(breaker) == ({Outcome.SUCCESS: 1} if form == "called_twice" else {})
        with suppress(Boom):
            assert await awaitable == "fine"
        await asyncio.sleep(0)

    asyncio.run(main())
    before = {Outcome.SUCCESS: 1} if form == "called_twice" else {}
    ended = {Outcome.FAILURE if fails else Outcome.SUCCESS: 1}
    assert settled(breaker) == ({Outcome.SUCCESS: 2} if before == ended else before | ended)
    reading = breaker.read()
    assert (reading.in_flight, reading.slow) == (0, 1)


def test_a_function_that_says_what_it_returns_is_believed_and_one_that_says_awaitable_watched() -> (
    None
):
    breaker = make_breaker(CLOCK)

    @breaker
    def plain(n: int) -> int:
        return n

    @breaker
    def honest() -> Awaitable[str]:
        return work(True)

    @breaker
    def anything() -> Any:
        return work(True)

    @breaker
    def some_object() -> object:
        return work(True)

    assert plain(3) == 3

    async def main() -> None:
        for fn in (honest, anything, some_object):
            with pytest.raises(Boom):
                await cast("Any", fn)()

    asyncio.run(main())
    assert settled(breaker) == {Outcome.SUCCESS: 1, Outcome.FAILURE: 3}


def test_a_function_may_return_now_this_now_that() -> None:
    breaker = make_breaker(CLOCK)
    answers: list[Any] = []

    @breaker
    def either():  # type: ignore[no-untyped-def]
        return answers.pop()

    async def main() -> None:
        answers.extend([work(True), "b", 1, work(False), "a"])
        assert either() == "a"
        assert await either() == "fine"
        assert [either(), either()] == [1, "b"]
        with pytest.raises(Boom):
            await either()

    asyncio.run(main())
    assert settled(breaker) == {Outcome.SUCCESS: 4, Outcome.FAILURE: 1}


def test_a_task_comes_back_itself_and_can_be_cancelled() -> None:
    breaker = make_breaker(CLOCK)
    made: list[asyncio.Task[str]] = []

    @breaker
    def start():  # type: ignore[no-untyped-def]
        made.append(asyncio.ensure_future(work(False)))
        return made[0]

    async def main() -> None:
        task = start()
        assert task is made[0]
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0)

    asyncio.run(main())
    assert settled(breaker) == {Outcome.CANCELLED: 1}


def test_asyncio_still_tells_of_an_exception_that_nobody_retrieves() -> None:
    breaker = make_breaker(CLOCK)
    told: list[str] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(
            lambda _, context: told.append(context["message"])
        )
        breaker.call(lambda: asyncio.ensure_future(work(True)))
        await asyncio.sleep(0.01)
        gc.collect()

    asyncio.run(main())
    assert told == ["Task exception was never retrieved"]
    assert settled(breaker) == {Outcome.FAILURE: 1}


def test_a_custom_awaitable_stays_what_it_was() -> None:
    breaker = make_breaker(CLOCK)
    original = Custom(False)

    async def main() -> None:
        cover = breaker.call(lambda: original)
        assert (cover.url, cover.cancel()) == (original.url, "cancelled by itself")
        assert [await cover, await cover] == ["fine", "fine"]

    asyncio.run(main())
    assert original.awaited == 2
    assert settled(breaker) == {Outcome.SUCCESS: 1}


@pytest.mark.parametrize("fails", [False, True])
def test_a_request_may_be_entered_instead(fails: bool) -> None:
    breaker = make_breaker(CLOCK)

    async def main() -> None:
        async with breaker.call(Request, fails) as answer:
            assert answer == "fine"

    with suppress(Boom):
        asyncio.run(main())
    assert settled(breaker) == {Outcome.FAILURE if fails else Outcome.SUCCESS: 1}


def test_the_future_of_a_thread_ends_the_call_too() -> None:
    breaker = make_breaker(CLOCK)
    futures: list[ThreadFuture[str]] = [ThreadFuture() for _ in range(3)]
    for each in futures:
        assert breaker.call(lambda each=each: each) is each  # type: ignore[misc]
    assert breaker.read().in_flight == 3
    futures[0].set_result("fine")
    futures[1].set_exception(Boom())
    futures[2].cancel()
    assert settled(breaker) == {
        Outcome.SUCCESS: 1,
        Outcome.FAILURE: 1,
        Outcome.CANCELLED: 1,
    }


@pytest.mark.parametrize("kind", ["custom", "thread future"])
def test_what_is_forgotten_was_cancelled(kind: str) -> None:
    breaker = make_breaker(CLOCK)
    made: Any = breaker.call(lambda: ThreadFuture() if kind == "thread future" else Custom(False))
    assert breaker.read().in_flight == 1
    del made
    gc.collect()
    assert settled(breaker) == {Outcome.CANCELLED: 1}


@pytest.mark.parametrize("kind", KINDS)
def test_a_fallback_stands_in_for_what_fails_later(kind: str) -> None:
    bus = EventBus()
    breaker = make_breaker(CLOCK, bus=bus, consecutive_failures=1)

    @breaker.with_fallback(lambda: "cached", on=[Outcome.REJECTED, Outcome.FAILURE])
    def start():  # type: ignore[no-untyped-def]
        return KINDS[kind](True)

    async def main() -> list[str]:
        return [await cast("Any", start)(), await cast("Any", start)()]

    with capture_events(FallbackUsed, bus=bus) as events:
        assert asyncio.run(main()) == ["cached", "cached"]
    assert [event.outcome for event in events] == [Outcome.FAILURE, Outcome.REJECTED]


def test_a_task_with_a_fallback_is_a_task_that_can_be_cancelled() -> None:
    breaker = make_breaker(CLOCK)

    @breaker.with_fallback(lambda: "cached", on=[Outcome.FAILURE])
    def start():  # type: ignore[no-untyped-def]
        return asyncio.ensure_future(asyncio.sleep(60))

    async def main() -> None:
        task = cast("Any", start)()
        await asyncio.sleep(0)
        assert task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert settled(breaker) == {Outcome.CANCELLED: 1}


# -- what cannot be called so ----------------------------------------------------------------------


def two(a: int, b: int) -> int:
    return a // b


async def two_async(a: int, b: int) -> int:
    return a // b


def raises_a_type_error(a: int) -> int:
    return a + cast("int", "b")


UNFIT: dict[str, Callable[[CircuitBreaker], object]] = {
    "call(None)": lambda breaker: breaker.call(cast("Any", None)),
    "call": lambda breaker: cast("Any", breaker.call)(two, 1),
    "call, keyword": lambda breaker: cast("Any", breaker.call)(two, 1, c=2),
    "call of C": lambda breaker: cast("Any", breaker.call)(len, 1, 2),
    "decorated": lambda breaker: cast("Any", breaker(two))(1),
    "decorated object": lambda breaker: cast("Any", breaker(Callback()))(1),
    "fallback": lambda breaker: cast("Any", fallen_back(breaker))(1),
    "call, async": lambda breaker: asyncio.run(cast("Any", breaker.call)(two_async, 1)),
}


class Callback:
    def __call__(self) -> None: ...


def fallen_back(breaker: CircuitBreaker) -> Callable[..., object]:
    return breaker.with_fallback(lambda *_: 7, on=[Outcome.FAILURE])(cast("Any", two))


@pytest.mark.parametrize("form", UNFIT)
@pytest.mark.parametrize("warm", [False, True])
def test_a_call_that_cannot_be_is_the_callers_mistake(form: str, warm: bool) -> None:
    breaker = make_breaker(CLOCK, consecutive_failures=1)
    if warm:
        breaker.call(str)
    with pytest.raises(TypeError):
        UNFIT[form](breaker)
    assert settled(breaker) == ({Outcome.SUCCESS: 1} if warm else {})
    assert breaker.read().in_flight == 0


def test_a_type_error_from_inside_is_a_failure() -> None:
    for form in (decorated, called):
        breaker = make_breaker(CLOCK)
        with pytest.raises(TypeError):
            form(breaker, lambda: raises_a_type_error(1))
        with pytest.raises(TypeError):
            breaker.call(raises_a_type_error, 1)
        assert settled(breaker) == {Outcome.FAILURE: 2}


def test_a_decorator_that_adds_an_argument_hides_no_failure() -> None:
    """Its signature is not what it can be called with."""

    def injected(fn: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(fn)
        def inner(*args: Any) -> Any:
            return fn("session", *args)

        return inner

    @injected
    def ask(session: str, n: int) -> int:
        return raises_a_type_error(n)

    breaker = make_breaker(CLOCK)
    for call in (partial(breaker.call, ask), breaker(ask)):
        with pytest.raises(TypeError):
            call(1)
    assert settled(breaker) == {Outcome.FAILURE: 2}


def test_what_a_fallback_raises_has_the_original_behind_it() -> None:
    breaker = make_breaker(CLOCK)

    def broken() -> None:
        raise KeyError

    @breaker.with_fallback(broken, on=[Outcome.FAILURE])
    def fails() -> None:
        raise Boom

    @breaker.with_fallback(broken, on=[Outcome.FAILURE])
    async def fails_async() -> None:
        raise Boom

    for call in (fails, lambda: asyncio.run(fails_async())):
        with pytest.raises(KeyError) as caught:
            call()
        assert isinstance(caught.value.__context__, Boom)
