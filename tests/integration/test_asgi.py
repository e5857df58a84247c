"""Starlette and FastAPI applications behind a real server, and what they tell of a rejection."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import httpx
import pybreaker
import pytest
import uvicorn
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

import breakerscope as bs
from breakerscope import State, bridges
from breakerscope.breaker import CircuitBreaker
from breakerscope.integrations.asgi import BreakerMiddleware, HealthApp, breaker_health
from breakerscope.testing import FakeClock, force_state
from tests.servers.process import STOP_SECONDS, wait_until

pytestmark = pytest.mark.usefixtures("fresh_breakers")


def refused(retry_after: float | None) -> bs.CircuitBreakerOpenError:
    state = State.FORCED_OPEN if retry_after is None else State.OPEN
    return bs.CircuitBreakerOpenError("secret-host", state, retry_after)


ERRORS: dict[str, Exception] = {
    "open": refused(2.3),
    "soon": refused(0.01),
    "forced": refused(None),
    "group": ExceptionGroup("two", [refused(2.0), ExceptionGroup("more", [refused(9.5)])]),
    "mixed": ExceptionGroup("two", [refused(2.0), KeyError()]),
    "other": KeyError("other"),
}


async def fail(request: Request) -> Response:
    if (name := request.path_params["name"]) in ERRORS:
        raise ERRORS[name]
    return PlainTextResponse("fine")


async def stream(_request: Request) -> Response:
    async def body() -> AsyncIterator[bytes]:
        yield b"begun"
        raise refused(2.0)

    return StreamingResponse(body())


async def talk(websocket: WebSocket) -> None:
    await websocket.accept()
    raise refused(2.0)


def starlette() -> Starlette:
    routes = [
        Route("/fail/{name}", fail),
        Route("/stream", stream),
        WebSocketRoute("/talk", talk),
        Route("/health", HealthApp()),
    ]
    app = Starlette(routes=routes)
    app.add_middleware(BreakerMiddleware)
    return app


def ask(app: Any, path: str) -> httpx.Response:
    async def get() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://app") as client:
            return await client.get(path)

    return asyncio.run(get())


@pytest.mark.parametrize(
    ("name", "retry_after"), [("open", "3"), ("soon", "1"), ("forced", None), ("group", "10")]
)
def test_a_rejection_is_503(name: str, retry_after: str | None) -> None:
    response = ask(starlette(), f"/fail/{name}")
    assert (response.status_code, response.json()) == (503, {"detail": "Service Unavailable"})
    assert response.headers.get("Retry-After") == retry_after
    assert "secret" not in str(response.headers)


@pytest.mark.parametrize("name", ["mixed", "other"])
def test_another_error_goes_on(name: str) -> None:
    with pytest.raises(type(ERRORS[name])) as caught:
        ask(starlette(), f"/fail/{name}")
    assert caught.value is ERRORS[name]


def test_what_works_is_left_alone() -> None:
    response = ask(starlette(), "/fail/not")
    assert (response.status_code, response.text) == (200, "fine")


def test_a_response_that_has_begun_is_not_answered_twice() -> None:
    # Older releases of Starlette raise it in a group.
    with pytest.raises((bs.CircuitBreakerOpenError, ExceptionGroup)):
        ask(starlette(), "/stream")


def test_only_a_start_is_a_begin() -> None:
    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.debug", "info": {}})
        raise refused(2.0)

    async def send(message: Any) -> None:
        sent.append(message["type"])

    asyncio.run(BreakerMiddleware(app)({"type": "http"}, None, send))  # type: ignore[arg-type]
    assert sent == ["http.response.debug", "http.response.start", "http.response.body"]


def test_a_websocket_is_left_alone() -> None:
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message["type"])

    async def connect() -> None:
        scope = {"type": "websocket", "path": "/talk", "headers": [], "query_string": b""}
        await starlette()(scope, receive, send)

    with pytest.raises(bs.CircuitBreakerOpenError):
        asyncio.run(connect())
    assert sent == ["websocket.accept"]


def test_the_health_of_all_breakers() -> None:
    assert breaker_health() == {"status": "ok", "breakers": {}}
    for name in ("b", "a", "c"):
        bs.instrumented_breaker(name)
    bs.instrumented_breaker("c").disable()
    response = ask(starlette(), "/health")
    assert response.json()["status"] == "ok"
    bs.instrumented_breaker("a").force_open("the password is in here")
    response = ask(starlette(), "/health")
    assert (response.status_code, response.headers["Cache-Control"]) == (200, "no-store")
    health = response.json()
    since = [breaker.pop("since") for breaker in health["breakers"].values()]
    assert health == {
        "status": "degraded",
        "breakers": {
            "a": {"state": "forced_open"},
            "b": {"state": "closed"},
            "c": {"state": "disabled"},
        },
    }
    ages = [(datetime.now(UTC) - datetime.fromisoformat(stamp)).total_seconds() for stamp in since]
    assert all(0.0 <= age < 60.0 for age in ages)


@pytest.mark.parametrize("state", [State.OPEN, State.HALF_OPEN])
def test_a_breaker_that_refuses_is_degraded(state: State) -> None:
    force_state(bs.instrumented_breaker("a"), state)
    assert breaker_health()["status"] == "degraded"


def test_a_bridged_breaker_that_refuses_is_degraded() -> None:
    stock = pybreaker.CircuitBreaker()
    with bridges.pybreaker.attach(stock, name="stock"):
        assert breaker_health()["breakers"]["stock"]["state"] == "closed"
        stock.open()
        health = breaker_health()
    assert (health["status"], health["breakers"]["stock"]["state"]) == ("degraded", "open")
    assert breaker_health()["status"] == "ok"


def test_the_health_page_is_for_http() -> None:
    with pytest.raises(ValueError, match="scope 'lifespan': allowed is 'http'"):
        asyncio.run(HealthApp()({"type": "lifespan"}, None, None))  # type: ignore[arg-type]


# -- a real server --------------------


@contextmanager
def served(app: Any) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_level="critical", ws="none"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            wait_until(lambda: server.started, "uvicorn serves")
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(STOP_SECONDS)
            assert not thread.is_alive()


def test_fastapi_behind_uvicorn() -> None:
    clock = FakeClock()
    payments = CircuitBreaker(
        "payments", bs.Policy(consecutive_failures=1, open_for=7.5), clock=clock.clock
    )
    app = FastAPI()
    app.add_middleware(BreakerMiddleware)

    @app.api_route("/pay", methods=["GET", "HEAD"])
    def pay() -> str:
        @payments
        def charge() -> None:
            raise ConnectionError

        charge()
        return "paid"

    @app.get("/health")
    def health() -> dict[str, Any]:
        return breaker_health()

    # uvicorn hangs up after an exception, perhaps while the next request is on its way.
    once = {"Connection": "close"}
    with served(app) as url, httpx.Client(base_url=url, headers=once) as client:
        assert client.get("/pay").status_code == 500
        response = client.get("/pay")
        assert (response.status_code, response.headers["Retry-After"]) == (503, "8")
        assert response.json() == {"detail": "Service Unavailable"}
        assert client.head("/pay").status_code == 503
        assert client.get("/health").json() == {"status": "ok", "breakers": {}}
        assert client.get("/pay").status_code == 503
