"""One breaker met twice in one call: what is inside a probe goes in under its permission.

It is admitted and counted, and has no say. Whoever is outside meanwhile is refused as ever.
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import anyio
import httpx
import pytest

import breakerscope as bs
from breakerscope import Cause, CircuitBreakerOpenError, Outcome, State
from breakerscope.breaker import CircuitBreaker
from breakerscope.integrations.httpx import (
    RULES,
    AsyncBreakerTransport,
    BreakerTransport,
    RequestRejectedError,
)
from breakerscope.testing import FakeClock, force_state
from tests.unit.support import Boom, fail, fail_times, make_breaker, refused, succeed

WAIT = 10.0

Body = Callable[[], object]
AsyncBody = Callable[[], Awaitable[object]]


def wait_over(**policy: Any) -> tuple[CircuitBreaker, FakeClock]:
    """A breaker that admits one probe now."""
    clock = FakeClock()
    breaker = make_breaker(clock, consecutive_failures=1, open_for=10.0, **policy)
    fail_times(breaker, 1)
    clock.advance(10.0)
    return breaker, clock


def outsiders_are_refused(breaker: CircuitBreaker) -> None:
    """Another thread, and another context of this one."""
    with ThreadPoolExecutor(1) as pool, pytest.raises(CircuitBreakerOpenError) as caught:
        pool.submit(breaker.call, succeed).result(WAIT)
    assert caught.value.state is State.HALF_OPEN
    with pytest.raises(CircuitBreakerOpenError):
        contextvars.Context().run(breaker.call, succeed)


def settled(breaker: CircuitBreaker) -> dict[Outcome, int]:
    """How often each outcome was counted, but for refusals and the failure that opened."""
    calls = breaker.read().calls
    calls[Outcome.FAILURE] -= 1
    return {outcome: n for outcome, n in calls.items() if n and outcome is not Outcome.REJECTED}


# -- forms of a call -------------------------------------------------------------------------------


def decorated(breaker: CircuitBreaker, body: Body) -> None:
    @breaker
    def protected() -> object:
        return body()

    protected()


def called(breaker: CircuitBreaker, body: Body) -> None:
    breaker.call(body)


def guarded(breaker: CircuitBreaker, body: Body) -> None:
    with breaker.guard():
        body()


def exchanged(breaker: CircuitBreaker, body: Body) -> None:
    exchange = breaker.exchange()
    with exchange:
        result = body()
    exchange.end(result)


def streamed(breaker: CircuitBreaker, body: Body) -> None:
    @breaker
    def protected() -> Iterator[object]:
        yield "first"
        yield body()

    assert len(list(protected())) == 2


def with_fallback(breaker: CircuitBreaker, body: Body) -> None:
    def instead() -> str:
        pytest.fail("it was refused")

    @breaker.with_fallback(instead)
    def protected() -> str:
        return str(body())

    protected()


FORMS = [decorated, called, guarded, exchanged, streamed, with_fallback]


async def async_decorated(breaker: CircuitBreaker, body: AsyncBody) -> None:
    @breaker
    async def protected() -> object:
        return await body()

    await protected()


async def async_called(breaker: CircuitBreaker, body: AsyncBody) -> None:
    async def fn() -> object:
        return await body()

    await breaker.call(fn)


async def async_called_hidden(breaker: CircuitBreaker, body: AsyncBody) -> None:
    async def fn() -> object:
        return await body()

    def hiding() -> Any:
        return fn()

    await breaker.call(hiding)


async def async_guarded(breaker: CircuitBreaker, body: AsyncBody) -> None:
    async with breaker.guard():
        await body()


async def async_exchanged(breaker: CircuitBreaker, body: AsyncBody) -> None:
    exchange = breaker.exchange()
    with exchange:
        result = await body()
    exchange.end(result)


async def async_streamed(breaker: CircuitBreaker, body: AsyncBody) -> None:
    @breaker
    async def protected() -> AsyncIterator[object]:
        yield "first"
        yield await body()

    assert len([item async for item in protected()]) == 2


ASYNC_FORMS = [
    async_decorated,
    async_called,
    async_called_hidden,
    async_guarded,
    async_exchanged,
    async_streamed,
]


# -- one in the other ------------------------------------------------------------------------------


@pytest.mark.parametrize("inner", FORMS)
@pytest.mark.parametrize("outer", FORMS)
class TestOneInTheOther:
    def test_it_is_admitted_and_the_outer_success_closes(self, outer: Any, inner: Any) -> None:
        breaker, _ = wait_over()

        def body() -> None:
            outsiders_are_refused(breaker)
            inner(breaker, succeed)
            # The inner success is not that of the probe.
            assert breaker.state is State.HALF_OPEN
            assert breaker.read().in_flight == 1
            outsiders_are_refused(breaker)

        outer(breaker, body)
        assert breaker.state is State.CLOSED
        assert settled(breaker) == {Outcome.SUCCESS: 2}
        assert (breaker.read().in_flight, breaker.read().rejected) == (0, 4)
        breaker.call(succeed)

    def test_an_inner_failure_has_no_say(self, outer: Any, inner: Any) -> None:
        breaker, _ = wait_over()

        def body() -> None:
            with pytest.raises(Boom):
                inner(breaker, fail)
            assert breaker.state is State.HALF_OPEN
            outsiders_are_refused(breaker)

        outer(breaker, body)
        assert breaker.state is State.CLOSED
        assert settled(breaker) == {Outcome.SUCCESS: 1, Outcome.FAILURE: 1}
        reading = breaker.read()
        assert (reading.in_flight, reading.figures.failures) == (0, 0)

    @pytest.mark.parametrize("inner_fails", [False, True])
    def test_the_outer_failure_opens(self, outer: Any, inner: Any, *, inner_fails: bool) -> None:
        breaker, clock = wait_over()

        def body() -> None:
            with suppress(Boom):
                inner(breaker, fail if inner_fails else succeed)
            assert breaker.state is State.HALF_OPEN
            raise Boom

        with pytest.raises(Boom):
            outer(breaker, body)
        assert breaker.state is State.OPEN
        changes = breaker.read().transitions
        assert changes[State.HALF_OPEN, State.OPEN, Cause.PROBE_FAILED] == 1
        assert sum(settled(breaker).values()) == 2
        assert breaker.read().in_flight == 0
        # What was inside is so no more.
        assert refused(breaker).state is State.OPEN
        clock.advance(10.0)
        breaker.call(succeed)
        assert breaker.state is State.CLOSED

    def test_the_same_error_ends_both(self, outer: Any, inner: Any) -> None:
        breaker, _ = wait_over()
        with pytest.raises(Boom):
            outer(breaker, lambda: inner(breaker, fail))
        assert breaker.state is State.OPEN
        assert settled(breaker) == {Outcome.FAILURE: 2}
        assert breaker.read().in_flight == 0


@pytest.mark.parametrize("inner", ASYNC_FORMS)
@pytest.mark.parametrize("outer", ASYNC_FORMS)
class TestOneInTheOtherWithTasks:
    def test_it_is_admitted_and_the_outer_success_closes(self, outer: Any, inner: Any) -> None:
        breaker, _ = wait_over()

        async def fine() -> str:
            await asyncio.sleep(0)
            return "fine"

        async def body() -> None:
            await inner(breaker, fine)
            assert breaker.state is State.HALF_OPEN
            outsiders_are_refused(breaker)
            guarded(breaker, succeed)

        asyncio.run(outer(breaker, body))
        assert breaker.state is State.CLOSED
        assert settled(breaker) == {Outcome.SUCCESS: 3}
        assert breaker.read().in_flight == 0

    def test_the_outer_failure_opens(self, outer: Any, inner: Any) -> None:
        breaker, _ = wait_over()

        async def body() -> None:
            await inner(breaker, lambda: asyncio.sleep(0))
            raise Boom

        with pytest.raises(Boom):
            asyncio.run(outer(breaker, body))
        assert breaker.state is State.OPEN
        assert settled(breaker) == {Outcome.SUCCESS: 1, Outcome.FAILURE: 1}


def test_it_goes_on_inwards() -> None:
    breaker, _ = wait_over()

    @breaker
    def down(levels: int) -> int:
        return 0 if levels == 0 else 1 + down(levels - 1)

    assert down(20) == 20
    assert breaker.state is State.CLOSED
    assert settled(breaker) == {Outcome.SUCCESS: 21}


def test_an_inner_call_by_way_of_another_breaker() -> None:
    breaker, _ = wait_over()
    other = make_breaker(name="other", consecutive_failures=1)
    other_probing, _ = wait_over()
    with breaker.guard(), other.guard(), other_probing.guard():
        breaker.call(succeed)
        other_probing.call(succeed)
        outsiders_are_refused(other_probing)
    assert {each.state for each in (breaker, other, other_probing)} == {State.CLOSED}


def test_an_inner_call_takes_no_place_of_another_probe() -> None:
    breaker, _ = wait_over(probes=2)
    with breaker.guard(), ThreadPoolExecutor(1) as pool:
        held = breaker.guard()
        held.__enter__()
        second = breaker.guard()
        pool.submit(second.__enter__).result(WAIT)
        outsiders_are_refused(breaker)
        held.__exit__(None, None, None)
        outsiders_are_refused(breaker)
        pool.submit(second.__exit__, None, None, None).result(WAIT)
        # One of two probes has succeeded; what was inside the other does not count.
        assert breaker.state is State.HALF_OPEN
    assert breaker.state is State.CLOSED


def test_only_the_outer_success_counts() -> None:
    breaker, _ = wait_over(probe_successes=2)
    with breaker.guard():
        for _ in range(5):
            breaker.call(succeed)
    assert breaker.state is State.HALF_OPEN
    with breaker.guard():
        pass
    assert breaker.state is State.CLOSED


def test_an_inner_call_gives_no_place_back() -> None:
    """One that says nothing, or was cancelled, was no probe."""
    breaker, _ = wait_over()
    with breaker.guard():
        with breaker.guard() as inner:
            inner.ignore()
        with pytest.raises(asyncio.CancelledError), breaker.guard():
            raise asyncio.CancelledError
        breaker.exchange()  # is forgotten
        gc.collect()
        outsiders_are_refused(breaker)
    assert breaker.state is State.CLOSED
    assert settled(breaker) == {Outcome.SUCCESS: 1, Outcome.IGNORED: 1, Outcome.CANCELLED: 2}


def test_an_outer_call_that_says_nothing_gives_its_place_back() -> None:
    breaker, _ = wait_over()
    with breaker.guard() as outer:
        breaker.call(succeed)
        outer.ignore()
    assert breaker.state is State.HALF_OPEN
    with breaker.guard():
        outsiders_are_refused(breaker)
    assert breaker.state is State.CLOSED


def test_who_was_inside_once_is_outside_of_the_next_probe() -> None:
    breaker, _ = wait_over()
    with breaker.guard() as outer:
        outer.ignore()
    probe = breaker.guard()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(probe.__enter__).result(WAIT)
        refused(breaker)
        pool.submit(probe.__exit__, None, None, None).result(WAIT)
    assert breaker.state is State.CLOSED


def test_a_thread_that_the_probe_starts_is_outside() -> None:
    breaker, _ = wait_over()
    errors: list[CircuitBreakerOpenError] = []
    with breaker.guard():
        thread = threading.Thread(target=lambda: errors.append(refused(breaker)))
        thread.start()
        thread.join(WAIT)
    assert [error.state for error in errors] == [State.HALF_OPEN]


def test_a_command_in_the_middle_ends_the_permission() -> None:
    breaker, _ = wait_over()
    with breaker.guard():
        breaker.force_open()
        assert refused(breaker).state is State.FORCED_OPEN
        breaker.reset()
        fail_times(breaker, 1)
        assert refused(breaker).state is State.OPEN
    assert breaker.state is State.OPEN


# -- streams and exchanges -------------------------------------------------------------------------


def test_the_reader_of_a_stream_is_outside() -> None:
    breaker, _ = wait_over()

    @breaker
    def protected() -> Iterator[str]:
        yield breaker.call(succeed)
        yield breaker.call(succeed)

    stream = protected()
    for _ in stream:
        assert refused(breaker).state is State.HALF_OPEN
        outsiders_are_refused(breaker)
    assert breaker.state is State.CLOSED
    assert settled(breaker) == {Outcome.SUCCESS: 3}


def test_the_reader_of_an_async_stream_is_outside() -> None:
    breaker, _ = wait_over()

    @breaker
    async def protected() -> AsyncIterator[str]:
        yield breaker.call(succeed)
        await asyncio.sleep(0)
        yield breaker.call(succeed)

    async def read() -> None:
        async for _ in protected():
            assert refused(breaker).state is State.HALF_OPEN
            await asyncio.sleep(0)

    asyncio.run(read())
    assert breaker.state is State.CLOSED
    assert settled(breaker) == {Outcome.SUCCESS: 3}


def test_what_closes_a_stream_is_inside() -> None:
    breaker, _ = wait_over()
    told: list[str] = []

    @breaker
    def protected() -> Iterator[str]:
        try:
            yield "first"
        finally:
            told.append(breaker.call(succeed))

    stream: Any = protected()
    next(stream)
    stream.close()
    assert told == ["fine"]
    assert settled(breaker) == {Outcome.SUCCESS: 1, Outcome.CANCELLED: 1}
    # The place is free again: nobody is inside any more.
    breaker.call(succeed)
    assert breaker.state is State.CLOSED


def test_between_the_steps_of_an_exchange_one_is_outside() -> None:
    breaker, _ = wait_over()
    exchange = breaker.exchange()
    refused(breaker)
    for _ in range(2):
        with exchange:
            breaker.call(succeed)
        refused(breaker)
    exchange.end()
    assert breaker.state is State.CLOSED
    assert settled(breaker) == {Outcome.SUCCESS: 3}


def test_a_stream_inside_that_is_read_later_is_late() -> None:
    breaker, _ = wait_over()

    @breaker
    def inner() -> Iterator[str]:
        yield "first"
        raise Boom

    with breaker.guard():
        stream = inner()
        next(stream)
    assert breaker.state is State.CLOSED
    with pytest.raises(Boom):
        next(stream)
    assert breaker.state is State.CLOSED
    assert breaker.read().figures.failures == 0
    assert settled(breaker) == {Outcome.SUCCESS: 1, Outcome.FAILURE: 1}


# -- tasks -----------------------------------------------------------------------------------------


async def in_a_task(breaker: CircuitBreaker) -> None:
    await asyncio.create_task(async_decorated(breaker, lambda: asyncio.sleep(0)))


async def in_tasks(breaker: CircuitBreaker) -> None:
    await asyncio.gather(*(async_decorated(breaker, lambda: asyncio.sleep(0)) for _ in range(3)))


async def in_a_group(breaker: CircuitBreaker) -> None:
    async with asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(async_guarded(breaker, lambda: asyncio.sleep(0)))


async def in_time(breaker: CircuitBreaker) -> None:
    await asyncio.wait_for(async_called(breaker, lambda: asyncio.sleep(0)), WAIT)


@pytest.mark.parametrize("tasks", [in_a_task, in_tasks, in_a_group, in_time])
def test_tasks_that_the_probe_starts_are_inside(tasks: Any) -> None:
    breaker, _ = wait_over()

    async def main() -> None:
        begun, go_on = asyncio.Event(), asyncio.Event()

        async def outsider() -> None:
            await begun.wait()
            refused(breaker)
            go_on.set()

        async def body() -> None:
            begun.set()
            await go_on.wait()
            await tasks(breaker)
            assert breaker.state is State.HALF_OPEN

        other = asyncio.create_task(outsider())
        await async_decorated(breaker, body)
        await other

    asyncio.run(main())
    assert breaker.state is State.CLOSED
    assert set(settled(breaker)) == {Outcome.SUCCESS}
    assert breaker.read().in_flight == 0


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_tasks_of_both_libraries(backend: str) -> None:
    breaker, _ = wait_over()

    @breaker
    async def inner() -> None:
        await anyio.lowlevel.checkpoint()

    @breaker
    async def outer() -> None:
        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(inner)
        outsiders_are_refused(breaker)

    anyio.run(outer, backend=backend)
    assert breaker.state is State.CLOSED
    assert settled(breaker) == {Outcome.SUCCESS: 4}


@pytest.mark.parametrize("outer_fails", [False, True])
def test_a_task_that_ends_after_the_probe_is_late(*, outer_fails: bool) -> None:
    breaker, _ = wait_over()

    async def main() -> None:
        go_on = asyncio.Event()
        tasks: list[asyncio.Task[None]] = []

        async def later() -> None:
            await go_on.wait()
            raise Boom

        async def body() -> None:
            tasks.append(asyncio.create_task(async_decorated(breaker, later)))
            await asyncio.sleep(0)
            if outer_fails:
                raise Boom

        with suppress(Boom):
            await async_decorated(breaker, body)
        state = breaker.state
        assert state is (State.OPEN if outer_fails else State.CLOSED)
        go_on.set()
        with pytest.raises(Boom):
            await tasks[0]
        assert breaker.state is state
        assert breaker.read().figures.failures == outer_fails

    asyncio.run(main())
    assert sum(settled(breaker).values()) == 2
    assert breaker.read().in_flight == 0


def test_a_task_that_calls_after_the_probe_is_an_ordinary_caller() -> None:
    breaker, clock = wait_over()

    async def after(probe_fails: bool, call: Body) -> object:
        """What a task does that a probe has started, when that probe is over."""
        go_on = asyncio.Event()

        async def later() -> object:
            await go_on.wait()
            return call()

        async def body() -> asyncio.Task[object]:
            task = asyncio.create_task(later())
            if probe_fails:
                self_made.append(task)
                raise Boom
            return task

        self_made: list[asyncio.Task[object]] = []
        try:
            task: Any = await breaker.call(body)
        except Boom:
            [task] = self_made
        go_on.set()
        return await task

    assert isinstance(asyncio.run(after(True, lambda: refused(breaker))), CircuitBreakerOpenError)
    clock.advance(10.0)
    # Of the breaker that has closed it has its say like everybody.
    asyncio.run(after(False, lambda: fail_times(breaker, 1)))
    assert breaker.state is State.OPEN


# -- clients ---------------------------------------------------------------------------------------


def answering(statuses: list[int]) -> httpx.MockTransport:
    return httpx.MockTransport(lambda _: httpx.Response(statuses.pop(0), text="body"))


def breaker_of_a_client() -> tuple[CircuitBreaker, FakeClock]:
    clock = FakeClock()
    breaker = CircuitBreaker(
        "api:example.com",
        bs.Policy(consecutive_failures=1, open_for=10.0),
        classifier=bs.Classifier(**RULES),
        clock=clock.clock,
    )
    with pytest.raises(httpx.ConnectError), breaker.guard():
        raise httpx.ConnectError("down")
    clock.advance(10.0)
    return breaker, clock


@pytest.mark.parametrize("status", [200, 503])
@pytest.mark.parametrize("outer_fails", [False, True])
def test_a_client_inside_a_function(status: int, *, outer_fails: bool) -> None:
    breaker, _ = breaker_of_a_client()
    transport = BreakerTransport(answering([status]), per_host=lambda _: breaker)
    with httpx.Client(transport=transport) as client:

        @breaker
        def ask() -> httpx.Response:
            assert client.get("http://example.com/").status_code == status
            assert breaker.state is State.HALF_OPEN
            with ThreadPoolExecutor(1) as pool, pytest.raises(RequestRejectedError):
                pool.submit(client.get, "http://example.com/").result(WAIT)
            if outer_fails:
                raise httpx.ConnectError("down")
            return httpx.Response(200)

        with suppress(httpx.ConnectError):
            ask()
    assert breaker.state is (State.OPEN if outer_fails else State.CLOSED)
    assert sum(settled(breaker).values()) == 2
    assert breaker.read().in_flight == 0


@pytest.mark.parametrize("status", [200, 503])
def test_an_async_client_inside_a_coroutine(status: int) -> None:
    breaker, _ = breaker_of_a_client()
    transport = AsyncBreakerTransport(answering([status]), per_host=lambda _: breaker)

    async def main() -> None:
        async with httpx.AsyncClient(transport=transport) as client:

            @breaker
            async def ask() -> httpx.Response:
                assert (await client.get("http://example.com/")).status_code == status
                assert breaker.state is State.HALF_OPEN
                return httpx.Response(200)

            await ask()

    asyncio.run(main())
    assert breaker.state is State.CLOSED
    assert sum(settled(breaker).values()) == 2


@pytest.mark.usefixtures("fresh_breakers")
def test_a_client_with_a_breaker_of_the_same_name() -> None:
    options: Any = {"consecutive_failures": 1, "open_for": 0.001}
    breaker = bs.instrumented_breaker("api:example.com", **RULES, **options)
    transport = BreakerTransport(answering([200, 503]), prefix="api", **options)
    with httpx.Client(transport=transport) as client:

        @breaker
        def ask_twice() -> httpx.Response:
            assert client.get("http://example.com/one").status_code == 200
            assert client.get("http://example.com/two").status_code == 503
            assert breaker.state is State.HALF_OPEN
            return httpx.Response(200)

        force_state(breaker, State.OPEN)
        time.sleep(0.002)
        ask_twice()
    assert breaker.state is State.CLOSED
    calls = breaker.read().calls
    assert (calls[Outcome.SUCCESS], calls[Outcome.FAILURE]) == (2, 1)
