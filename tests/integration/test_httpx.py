"""What only httpx has: cancellation, other loops, transports around transports."""

from __future__ import annotations

import asyncio
import gc
import pickle
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

import httpx
import pytest
import trio

import breakerscope as bs
from breakerscope import Outcome, State
from breakerscope.core.events import CallSettled
from breakerscope.integrations._proxies import proxies_of
from breakerscope.integrations.httpx import (
    RULES,
    AsyncBreakerTransport,
    BreakerTransport,
    RequestRejectedError,
    async_breaker_mounts,
    breaker_mounts,
)
from breakerscope.testing import capture_events
from tests.integration.clients import AsyncHttpx, always
from tests.servers.faulty import FaultyServer
from tests.servers.process import wait_until

pytestmark = pytest.mark.usefixtures("fresh_breakers")


def outcomes(events: list[Any]) -> list[str]:
    return [event.outcome.value for event in events]


def own() -> bs.CircuitBreaker:
    return bs.instrumented_breaker("own", failure_count=100, **RULES)


@pytest.mark.parametrize("path", ["/slow", "/stream-slow"])
def test_a_cancelled_request_is_cancelled(path: str) -> None:
    async def cancel() -> None:
        transport = AsyncBreakerTransport(per_host=always(own()))
        async with httpx.AsyncClient(transport=transport, timeout=10.0) as client:
            request = asyncio.create_task(client.get(server.url(path)))
            await asyncio.to_thread(
                wait_until, lambda: server.total() > 0, "the server has answered"
            )
            await asyncio.sleep(0.05)
            request.cancel()
            with pytest.raises(asyncio.CancelledError):
                await request
            assert (await client.get(server.url("/ok"))).text == "fine"

    with FaultyServer() as server, capture_events(CallSettled) as events:
        asyncio.run(cancel())
    assert outcomes(events) == ["cancelled", "success"]


def test_trio() -> None:
    async def ask() -> None:
        transport = AsyncBreakerTransport(per_host=always(own()))
        async with httpx.AsyncClient(transport=transport, timeout=10.0) as client:
            assert len((await client.get(server.url("/stream"))).content) == 3000
            with trio.move_on_after(0.1):
                await client.get(server.url("/stream-slow"))
            with pytest.raises(httpx.RemoteProtocolError):
                await client.get(server.url("/half"))
            async with client.stream("GET", server.url("/stream-slow")):
                pass

    with FaultyServer() as server, capture_events(CallSettled) as events:
        trio.run(ask)
    assert outcomes(events) == ["success", "cancelled", "failure", "success"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the open socket
def test_a_response_that_is_forgotten_in_a_loop_was_cancelled_too() -> None:
    with FaultyServer() as server, AsyncHttpx(per_host=always(own())) as client:
        response = client.open(server.url("/stream-slow"))
        assert own().read().in_flight == 1
        del response
        gc.collect()
        assert own().read().in_flight == 0
        assert own().read().calls[Outcome.CANCELLED] == 1


def test_a_response_that_is_closed_by_another_thread_ends_the_call() -> None:
    with FaultyServer() as server, capture_events(CallSettled) as events:
        transport = BreakerTransport(per_host=always(own()))
        with (
            httpx.Client(transport=transport, timeout=1.0) as client,
            client.stream("GET", server.url("/stream-slow")) as response,
        ):
            next(response.iter_raw())
            closing = threading.Thread(target=response.close)
            closing.start()
            closing.join()
        assert outcomes(events) == ["success"]


def test_attempts_of_a_transport_around_are_calls() -> None:
    class Retry(httpx.BaseTransport):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            for _ in range(3):
                response = inner.handle_request(request)
                if response.status_code < 500:
                    break
                response.close()
            return response

    breaker = bs.instrumented_breaker("own", consecutive_failures=2, **RULES)
    inner = BreakerTransport(per_host=always(breaker))
    with FaultyServer() as server, httpx.Client(transport=Retry()) as client, inner:
        with pytest.raises(RequestRejectedError):
            client.get(server.url("/status/503"))
        assert server.total() == 2


def test_a_stream_that_somebody_else_reads_ends_the_call() -> None:
    with FaultyServer() as server, BreakerTransport(per_host=always(own())) as transport:
        response = transport.handle_request(httpx.Request("GET", server.url("/stream")))
        assert isinstance(response.stream, httpx.SyncByteStream)
        assert sum(map(len, response.stream)) == 3000
        assert own().read().calls[Outcome.SUCCESS] == 1


def test_a_transport_of_ones_own_is_entered_and_left() -> None:
    class Own(httpx.MockTransport):
        def __enter__(self) -> Self:
            steps.append("entered")
            return self

        def __exit__(self, *exc_info: object) -> None:
            steps.append("left")

        def close(self) -> None:
            steps.append("closed")

    steps: list[str] = []
    wrapped = Own(lambda request: httpx.Response(200, text="fine"))
    transport = BreakerTransport(wrapped, per_host=always(own()))
    with httpx.Client(transport=transport) as client:
        assert client.get("http://example.com").text == "fine"
    client.close()
    transport.close()
    assert steps == ["entered", "left", "closed"]
    assert own().read().calls[Outcome.SUCCESS] == 1


def test_a_rejection_survives_pickling() -> None:
    request = httpx.Request("GET", "http://example.com")
    error = RequestRejectedError("api", State.OPEN, 3.0, request=request)
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.breaker, copy.state, copy.retry_after) == ("api", State.OPEN, 3.0)
    assert (copy.request.url, str(copy)) == (
        request.url,
        "circuit breaker 'api' is open; retry in 3 s",
    )


def test_the_full_pool_of_a_client_is_not_the_hosts_failure() -> None:
    limits = httpx.Limits(max_connections=1)
    transport = BreakerTransport(httpx.HTTPTransport(limits=limits), per_host=always(own()))
    with FaultyServer() as server, httpx.Client(transport=transport, timeout=0.1) as client:
        with (
            client.stream("GET", server.url("/stream-slow")),
            pytest.raises(httpx.PoolTimeout),
        ):
            client.get(server.url("/ok"))
        calls = own().read().calls
        assert (calls[Outcome.IGNORED], calls[Outcome.FAILURE]) == (1, 0)
        wait_until(lambda: server.open <= 1, "the connection is given up", 5.0)


# -- proxies ---------------------------------------------------------------------------------------


class _Proxy(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = f"via proxy: {self.path}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


@contextmanager
def proxy_server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Proxy) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


PROXY_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


@pytest.fixture
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROXY_VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


def ask(url: str, is_async: bool, **options: Any) -> str:
    if not is_async:
        with httpx.Client(mounts=breaker_mounts(prefix="out", **options)) as client:
            return client.get(url).text

    async def asked() -> str:
        async with httpx.AsyncClient(
            mounts=async_breaker_mounts(prefix="out", **options)
        ) as client:
            return (await client.get(url)).text

    return asyncio.run(asked())


@pytest.mark.usefixtures("no_proxies")
@pytest.mark.parametrize("is_async", [False, True])
def test_mounts_keep_the_proxies_of_the_environment(
    is_async: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with proxy_server() as proxy, FaultyServer() as server:
        monkeypatch.setenv("HTTP_PROXY", proxy)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        assert ask("http://shop.test/x", is_async) == "via proxy: http://shop.test/x"
        assert ask(server.url("/ok"), is_async) == "fine"
        assert ask("http://127.0.0.1:1/", is_async, proxy=proxy) == "via proxy: http://127.0.0.1:1/"
        names = ["out:shop.test", f"out:127.0.0.1:{server.port}", "out:127.0.0.1:1"]
    successes = {b.name: b.read().calls[Outcome.SUCCESS] for b in bs.breakers()}
    assert successes == dict.fromkeys(names, 1)


@pytest.mark.usefixtures("no_proxies")
@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"HTTP_PROXY": "http://proxy:3128", "HTTPS_PROXY": "proxy:3129"},
        {"ALL_PROXY": "socks5://proxy:1080", "NO_PROXY": "*"},
        {
            "ALL_PROXY": "http://proxy",
            "NO_PROXY": ".a.com, b.com,localhost, 10.0.0.1,::1, http://c",
        },
        {"ALL_PROXY": "http://proxy", "NO_PROXY": "192.168.0.0/16"},
    ],
)
def test_the_patterns_are_those_that_httpx_has_itself(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    expected: dict[str, str | None] = httpx._utils.get_environment_proxies()
    assert proxies_of(None, trust_env=True) == {"all://": None} | expected
    assert proxies_of(None, trust_env=False) == dict.fromkeys({"all://", *expected})
    named = proxies_of("http://other", trust_env=True)
    assert named == dict.fromkeys({"all://", *expected}, "http://other")
