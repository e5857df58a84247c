"""gRPC channels with breakers, sync and aio, against a real server that fails."""

from __future__ import annotations

import asyncio
import gc
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from contextvars import ContextVar
from typing import Any, Self

import grpc
import grpc.aio
import pytest

import breakerscope as bs
from breakerscope import Outcome, State
from breakerscope.breaker import CircuitBreaker
from breakerscope.core.events import CallRejected, CallSettled
from breakerscope.core.policy import Policy
from breakerscope.integrations.grpc import (
    BreakerInterceptor,
    RpcRejectedError,
    aio_interceptors,
)
from breakerscope.testing import FakeClock, capture_events
from tests.servers.process import free_port, wait_until
from tests.servers.rpc import RpcServer, methods

pytestmark = pytest.mark.usefixtures("fresh_breakers")

TIMEOUT = 5.0
caller: ContextVar[str] = ContextVar("caller")
ENDS = {
    "ok": Outcome.SUCCESS,
    "NOT_FOUND": Outcome.SUCCESS,
    "INVALID_ARGUMENT": Outcome.SUCCESS,
    "UNAUTHENTICATED": Outcome.SUCCESS,
    "UNAVAILABLE": Outcome.FAILURE,
    "INTERNAL": Outcome.FAILURE,
    "RESOURCE_EXHAUSTED": Outcome.FAILURE,
    "CANCELLED": Outcome.CANCELLED,
}


@pytest.fixture
def server() -> Iterator[RpcServer]:
    with RpcServer() as server:
        yield server


def own(**options: Any) -> CircuitBreaker:
    """The one of this test; the options are said once."""
    if (breaker := bs.get_breaker("own")) is not None:
        return breaker
    return bs.instrumented_breaker("own", **(options or {"failure_count": 100}))


class Sync:
    """The four kinds of RPC, each read to its end, and a future."""

    KINDS = ("unary", "stream", "upload", "chat", "future")

    def __init__(self, target: str, breaker: CircuitBreaker, **options: Any) -> None:
        self.plain = grpc.insecure_channel(target)
        self.channel = grpc.intercept_channel(self.plain, BreakerInterceptor(breaker, **options))
        self.unary, self.stream, self.upload, self.chat = methods(self.channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.plain.close()

    def call(self, kind: str, wish: str, timeout: float = TIMEOUT) -> Any:
        request = wish.encode()
        match kind:
            case "unary":
                return self.unary(request, timeout=timeout)
            case "future":
                return self.unary.future(request, timeout=timeout).result()
            case "stream":
                return list(self.stream(request, timeout=timeout))
            case "upload":
                return self.upload(iter([request]), timeout=timeout)
            case _:
                return list(self.chat(iter([request]), timeout=timeout))


class Aio:
    """The same, in a loop of its own."""

    KINDS = ("unary", "stream", "upload", "chat")

    def __init__(self, target: str, breaker: CircuitBreaker, **options: Any) -> None:
        self.runner = asyncio.Runner()
        self.runner.run(self._open(target, aio_interceptors(breaker, **options)))

    async def _open(self, target: str, interceptors: Any) -> None:
        self.channel = grpc.aio.insecure_channel(target, interceptors=interceptors)
        self.unary, self.stream, self.upload, self.chat = methods(self.channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.runner.run(self.channel.close())
        self.runner.close()

    def call(self, kind: str, wish: str, timeout: float = TIMEOUT) -> Any:
        return self.runner.run(self._call(kind, wish.encode(), timeout))

    async def _call(self, kind: str, request: bytes, seconds: float) -> Any:
        async def requests() -> AsyncIterator[bytes]:
            yield request

        match kind:
            case "unary":
                return await self.unary(request, timeout=seconds)
            case "stream":
                return [message async for message in self.stream(request, timeout=seconds)]
            case "upload":
                return await self.upload(requests(), timeout=seconds)
            case _:
                return [message async for message in self.chat(requests(), timeout=seconds)]


KINDS = [
    pytest.param(make, kind, id=f"{make.__name__}-{kind}")
    for make in (Sync, Aio)
    for kind in make.KINDS
]
each_kind = pytest.mark.parametrize(("make", "kind"), KINDS)
both = pytest.mark.parametrize("make", [Sync, Aio])


def outcomes(events: list[Any]) -> list[str]:
    return [e.outcome.value if isinstance(e, CallSettled) else "rejected" for e in events]


def settled(events: list[Any], n: int = 1) -> list[str]:
    """The end of a future comes in a thread of gRPC's own, perhaps after its result."""
    wait_until(lambda: len(events) >= n, "the call is settled", 5.0)
    return outcomes(events)


@each_kind
def test_each_status_is_one_call_with_one_outcome(make: Any, kind: str, server: RpcServer) -> None:
    seen: dict[str, list[str]] = {}
    with make(server.target, own()) as client, capture_events(CallSettled, CallRejected) as events:
        for wish in ENDS:
            try:
                client.call(kind, wish)
            except grpc.RpcError as error:
                assert error.code() is grpc.StatusCode[wish]
            seen[wish] = settled(events)
            events.clear()
    assert seen == {wish: [outcome.value] for wish, outcome in ENDS.items()}
    assert server.requests == dict.fromkeys(ENDS, 1)
    assert own().read().in_flight == 0


@each_kind
def test_a_server_that_does_not_answer(make: Any, kind: str, server: RpcServer) -> None:
    with make(server.target, own()) as client, capture_events(CallSettled) as events:
        with pytest.raises(grpc.RpcError) as caught:
            client.call(kind, "sleep", timeout=0.1)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert settled(events) == ["failure"]
    (event,) = events
    assert isinstance(event, CallSettled)
    assert 0.05 < event.duration < 2.0


@each_kind
def test_a_server_that_is_not_there(make: Any, kind: str) -> None:
    target = f"127.0.0.1:{free_port()}"
    with make(target, own()) as client, capture_events(CallSettled) as events:
        with pytest.raises(grpc.RpcError) as caught:
            client.call(kind, "ok")
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert settled(events) == ["failure"]


@each_kind
def test_a_rejected_rpc_reaches_no_server(make: Any, kind: str, server: RpcServer) -> None:
    with make(server.target, own(consecutive_failures=1, open_for=60.0)) as client:
        with pytest.raises(grpc.RpcError):
            client.call(kind, "UNAVAILABLE")
        wait_until(lambda: own().state is State.OPEN, "the breaker is open", 5.0)
        for _ in range(5):
            with pytest.raises(RpcRejectedError) as caught:
                client.call(kind, "ok")
    assert server.requests == {"UNAVAILABLE": 1}
    error = caught.value
    assert isinstance(error, bs.CircuitBreakerOpenError)
    assert isinstance(error, grpc.RpcError)
    assert (error.breaker, error.state) == ("own", State.OPEN)
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert error.details() == str(error) == "circuit breaker 'own' is open; retry in 60 s"


@both
def test_a_rejected_rpc_opens_no_socket(make: Any) -> None:
    breaker = own()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.2)
        with make(f"127.0.0.1:{listener.getsockname()[1]}", breaker) as client:
            breaker.force_open()
            for kind in client.KINDS:
                with pytest.raises(RpcRejectedError):
                    client.call(kind, "ok")
            with pytest.raises(TimeoutError):
                listener.accept()
            breaker.reset()
            with pytest.raises(grpc.RpcError):
                client.call("unary", "ok", timeout=0.2)
            # A call that is not refused does open one.
            listener.accept()[0].close()


@both
def test_an_outage_and_its_end(make: Any, server: RpcServer) -> None:
    clock = FakeClock()
    policy = Policy(consecutive_failures=2, open_for=10.0)
    breaker = CircuitBreaker("inventory", policy, clock=clock.clock)
    with make(server.target, breaker) as client:
        for _ in range(4):
            with pytest.raises(grpc.RpcError):
                client.call("unary", "UNAVAILABLE")
        assert (breaker.state, server.requests) == (State.OPEN, {"UNAVAILABLE": 2})
        clock.advance(10.0)
        assert client.call("stream", "ok") == [b"0", b"1", b"2"]
        assert breaker.state is State.CLOSED


@both
def test_a_stream_that_breaks_is_one_failure(make: Any, server: RpcServer) -> None:
    with make(server.target, own()) as client, capture_events(CallSettled) as events:
        with pytest.raises(grpc.RpcError):
            client.call("stream", "half")
        assert settled(events) == ["failure"]


@both
def test_other_codes_can_be_failures(make: Any, server: RpcServer) -> None:
    failures = {grpc.StatusCode.NOT_FOUND}
    with make(server.target, own(), failures=failures) as client:
        for wish in ("NOT_FOUND", "UNAVAILABLE"):
            with pytest.raises(grpc.RpcError):
                client.call("unary", wish)
    calls = own().read().calls
    assert (calls[Outcome.FAILURE], calls[Outcome.SUCCESS]) == (1, 1)


def test_the_rules_of_the_breaker_see_the_error_and_the_response(server: RpcServer) -> None:
    def condemned(response: Any) -> bool:
        return bool(response == b"fine")

    def quota(error: Any) -> bool:
        return isinstance(error, grpc.RpcError) and "wished" in str(error)

    breaker = bs.instrumented_breaker("rules", failure_if=condemned, ignore=quota)
    with Sync(server.target, breaker) as client, capture_events(CallSettled) as events:
        assert client.call("unary", "ok") == b"fine"
        with pytest.raises(grpc.RpcError):
            client.call("unary", "UNAVAILABLE")
    assert outcomes(events) == ["failure", "ignored"]


# -- streams, and who leaves them --------------------


def test_a_stream_is_in_flight_until_it_ends(server: RpcServer) -> None:
    with Sync(server.target, own()) as client:
        messages = client.stream(b"ok", timeout=TIMEOUT)
        assert next(messages) == b"0"
        assert own().read().in_flight == 1
        assert list(messages) == [b"1", b"2"]
        assert (own().read().in_flight, messages.code()) == (0, grpc.StatusCode.OK)


def test_a_stream_that_is_cancelled(server: RpcServer) -> None:
    with Sync(server.target, own()) as client, capture_events(CallSettled) as events:
        messages = client.stream(b"stay", timeout=TIMEOUT)
        assert next(messages) == b"0"
        assert (messages.cancel(), messages.cancel()) == (True, False)
        wait_until(lambda: server.over["stay"] == 1, "the server is told", 5.0)
        assert outcomes(events) == ["cancelled"]


def test_a_stream_that_is_forgotten_was_cancelled(server: RpcServer) -> None:
    with Sync(server.target, own()) as client:
        messages = client.stream(b"stay", timeout=TIMEOUT)
        assert next(messages) == b"0"
        del messages
        gc.collect()
        wait_until(lambda: server.over["stay"] == 1, "the server is told", 5.0)
        assert own().read().in_flight == 0
        assert own().read().calls[Outcome.CANCELLED] == 1


def test_a_future_that_is_cancelled(server: RpcServer) -> None:
    with Sync(server.target, own()) as client, capture_events(CallSettled) as events:
        future = client.unary.future(b"sleep", timeout=TIMEOUT)
        wait_until(lambda: server.requests["sleep"] == 1, "the server works", 5.0)
        assert own().read().in_flight == 1
        future.cancel()
        assert settled(events) == ["cancelled"]


def test_tasks_that_are_cancelled_and_streams_that_are_left(server: RpcServer) -> None:
    async def leave(client: Aio) -> None:
        task = asyncio.ensure_future(client.unary(b"sleep", timeout=TIMEOUT))
        await asyncio.to_thread(wait_until, lambda: server.requests["sleep"] == 1, "it works")
        assert own().read().in_flight == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        call = client.stream(b"stay", timeout=TIMEOUT)
        assert await anext(aiter(call)) == b"0"
        call.cancel()

    with Aio(server.target, own()) as client, capture_events(CallSettled) as events:
        client.runner.run(leave(client))
        assert settled(events, 2) == ["cancelled", "cancelled"]
        wait_until(lambda: server.over["stay"] == 1, "the server is told", 5.0)


def test_requests_that_are_written_one_by_one(server: RpcServer) -> None:
    async def write(client: Aio) -> bytes:
        call = client.upload(timeout=TIMEOUT)
        for _ in range(3):
            await call.write(b"ok")
        await call.done_writing()
        response: bytes = await call
        return response

    with Aio(server.target, own()) as client, capture_events(CallSettled) as events:
        assert client.runner.run(write(client)) == b"2"
        assert settled(events) == ["success"]


def test_the_end_of_a_future_is_told_in_the_context_of_its_caller(server: RpcServer) -> None:
    heard: list[str] = []
    with (
        bs.subscribe(lambda event: heard.append(caller.get()), CallSettled, inline=True),
        Sync(server.target, own()) as client,
    ):
        # The thread of gRPC begins in the context of whoever needs it first, and stays.
        caller.set("somebody else")
        messages = client.stream(b"stay", timeout=TIMEOUT)
        assert next(messages) == b"0"
        caller.set("the caller")
        assert client.call("future", "ok") == b"fine"
        wait_until(lambda: heard, "the call is settled", 5.0)
        assert heard == ["the caller"]
        messages.cancel()


# -- together with other interceptors --------------------


class Replying(grpc.aio.UnaryUnaryClientInterceptor):
    """Answers by itself."""

    async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        return b"from the cache"


def test_an_interceptor_inside_that_answers_by_itself() -> None:
    async def ask() -> Any:
        interceptors: Any = [*aio_interceptors(own()), Replying()]
        async with grpc.aio.insecure_channel("127.0.0.1:1", interceptors=interceptors) as channel:
            return await methods(channel)[0](b"ok")

    assert asyncio.run(ask()) == b"from the cache"
    assert own().read().calls[Outcome.SUCCESS] == 1


class Outer(grpc.UnaryUnaryClientInterceptor):
    """Looks at every RPC as interceptors do."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def intercept_unary_unary(
        self, continuation: Any, client_call_details: Any, request: Any
    ) -> Any:
        call = continuation(client_call_details, request)
        call.add_done_callback(lambda done: self.seen.append((done.code(), done.exception())))
        assert call.done()
        assert not any([call.running(), call.cancelled(), call.cancel(), call.is_active()])
        assert not call.add_callback(list)
        assert call.time_remaining() == 0.0
        assert call.traceback() is not None
        return call


def test_an_interceptor_around_sees_a_rejection_as_an_rpc_that_ended() -> None:
    breaker, outer = own(), Outer()
    breaker.force_open()
    with Sync("127.0.0.1:1", breaker) as client:
        unary, *_ = methods(grpc.intercept_channel(client.channel, outer))
        with pytest.raises(RpcRejectedError) as caught:
            unary(b"ok")
    assert outer.seen == [(grpc.StatusCode.UNAVAILABLE, caught.value)]


@both
def test_the_rejection_of_a_breaker_inside_says_nothing_outside(make: Any) -> None:
    inner, outer = own(), bs.instrumented_breaker("outer")
    inner.force_open()
    with make("127.0.0.1:1", inner) as client:
        interceptors: Any = aio_interceptors(outer) + aio_interceptors(inner)

        async def ask_aio() -> None:
            async with grpc.aio.insecure_channel("127.0.0.1:1", interceptors=interceptors) as both:
                await methods(both)[0](b"ok")

        def ask_sync() -> None:
            methods(grpc.intercept_channel(client.channel, BreakerInterceptor(outer)))[0](b"ok")

        ask: Callable[[], None] = ask_sync
        if isinstance(client, Aio):
            runner = client.runner

            def ask() -> None:
                runner.run(ask_aio())

        with pytest.raises(RpcRejectedError) as caught:
            ask()
    assert caught.value.breaker == "own"
    assert outer.read().calls[Outcome.IGNORED] == 1


# -- conservation --------------------


@both
def test_rpcs_are_events_are_readings(make: Any, server: RpcServer) -> None:
    breaker = own(consecutive_failures=2, open_for=0.01)
    asked = 0
    with (
        capture_events(CallSettled, CallRejected) as events,
        make(server.target, breaker) as client,
    ):
        for _ in range(10):
            for kind in make.KINDS:
                for wish in ("ok", "NOT_FOUND", "UNAVAILABLE", "INTERNAL", "ok"):
                    asked += 1
                    with suppress(grpc.RpcError):
                        client.call(kind, wish)
        wait_until(lambda: len(events) == asked, "all calls are settled", 5.0)
    told = Counter(outcomes(events))
    read = {outcome.value: n for outcome, n in breaker.read().calls.items() if n}
    assert read == told
    assert told["rejected"] > 0
    assert server.requests.total() == asked - told["rejected"]
