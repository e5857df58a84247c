"""Breakers behind an ASGI application (Starlette, FastAPI, Quart, ...): what its users are told.

`app.add_middleware(BreakerMiddleware)` answers a refused call with 503 and `Retry-After`, and
`breaker_health()` is the state of all breakers, for a page of one's own or as `HealthApp()`.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from datetime import UTC, datetime
from math import ceil, isnan
from typing import Any, cast

from breakerscope.core.errors import CircuitBreakerOpenError
from breakerscope.core.events import State
from breakerscope.registry import default_registry

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

REFUSING = (State.OPEN, State.HALF_OPEN, State.FORCED_OPEN)


class BreakerMiddleware:
    """Answers with 503 where a CircuitBreakerOpenError leaves the application.

    `Retry-After` says for how many seconds, rounded up; it is missing where no time is known. The
    answer names no breaker, since names may be those of hosts. A group of exceptions counts if all
    in it are rejections. A response that has begun cannot be taken back: then, and for anything but
    HTTP, the exception goes on.
    """

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        begun = False

        async def watch(message: Message) -> None:
            nonlocal begun
            begun = begun or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, watch)
        except Exception as error:
            refused = _refusal(error)
            if refused is None or begun or scope["type"] != "http":
                raise
            wait = refused.retry_after
            after = [] if wait is None else [(b"retry-after", str(ceil(wait)).encode())]
            await _send_json(send, 503, {"detail": "Service Unavailable"}, after)


def breaker_health() -> dict[str, Any]:
    """All breakers, also bridged ones, with their states and since when, as data for JSON.

    `{"status": "degraded", "breakers": {"payment_api": {"state": "open", "since": "2026-..."}}}`;
    "degraded" while some breaker refuses calls, otherwise "ok"; "since" is None for a bridged
    breaker that has not changed its state since. Nothing else is told: no policy,
    no address, no error. Thread-safe.
    """
    readings = [source.read() for source in default_registry.shown()]
    return {
        "status": "degraded" if any(r.state in REFUSING for r in readings) else "ok",
        "breakers": {
            reading.breaker: {
                "state": reading.state.value,
                "since": None
                if isnan(reading.entered_at)
                else datetime.fromtimestamp(reading.entered_at, UTC).isoformat(),
            }
            for reading in sorted(readings, key=lambda reading: reading.breaker)
        },
    }


class HealthApp:
    """An ASGI application that answers every request with `breaker_health()`: a page to mount.

    The status is always 200: a probe that failed would take away a service that still works, for
    a dependency that does not.
    """

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """Serve one connection. Raises ValueError for anything but HTTP."""
        if scope["type"] != "http":
            raise ValueError(f"scope {scope['type']!r}: allowed is 'http'")
        await _send_json(send, 200, breaker_health(), [(b"cache-control", b"no-store")])


async def _send_json(
    send: Send, status: int, data: dict[str, Any], headers: list[tuple[bytes, bytes]]
) -> None:
    body = json.dumps(data).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        *headers,
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _refusal(error: BaseException) -> CircuitBreakerOpenError | None:
    """The rejection that an exception is; of a group of nothing else, the one with most to wait."""
    if isinstance(error, CircuitBreakerOpenError):
        return error
    if not isinstance(error, BaseExceptionGroup):
        return None
    members = cast("BaseExceptionGroup[BaseException]", error).exceptions
    refusals = [refusal for member in members if (refusal := _refusal(member)) is not None]
    if len(refusals) < len(members):
        return None
    return max(refusals, key=lambda refusal: refusal.retry_after or 0.0)
