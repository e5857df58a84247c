"""Never executed: what mypy and pyright have to understand of the integrations."""

from __future__ import annotations

from typing import Any, assert_type

import grpc
import grpc.aio
import httpx
import requests
import stamina
import tenacity

import breakerscope as bs
from breakerscope.integrations import asgi
from breakerscope.integrations import grpc as for_grpc
from breakerscope.integrations import httpx as for_httpx
from breakerscope.integrations import requests as for_requests
from breakerscope.integrations.stamina import unless_rejected
from breakerscope.integrations.tenacity import RetryUnlessRejected, WaitForBreaker


def http() -> None:
    transport = for_httpx.BreakerTransport(
        httpx.HTTPTransport(http2=True), prefix="search", limit=10, consecutive_failures=5
    )
    httpx.Client(transport=transport)
    httpx.AsyncClient(transport=for_httpx.AsyncBreakerTransport(open_for=5.0))
    api = bs.instrumented_breaker("api", failure_rate=0.2, **for_httpx.RULES)
    for_httpx.BreakerTransport(per_host=lambda host: api)
    for_httpx.BreakerTransport(per_host=bs.breakers_per("api", limit=5, **for_httpx.RULES))
    for_httpx.BreakerTransport(open_fr=5.0)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    session = requests.Session()
    session.mount("https://", for_requests.BreakerAdapter(pool_maxsize=20, open_for=5.0))
    try:
        session.get("https://example.com")
    except for_requests.RequestRejectedError as error:
        assert_type(error.retry_after, float | None)


def retries() -> None:
    @tenacity.retry(
        wait=WaitForBreaker(tenacity.wait_random_exponential()),
        retry=RetryUnlessRejected(tenacity.retry_if_exception_type(OSError), max_wait=30)
        | tenacity.retry_if_result(bool),
    )
    def by_tenacity() -> int:
        return 1

    @stamina.retry(on=unless_rejected((OSError, KeyError), max_wait=30))
    def by_stamina() -> int:
        return 1

    assert_type(by_tenacity() + by_stamina(), int)


def rpc(breaker: bs.CircuitBreaker, channel: grpc.Channel) -> None:
    grpc.intercept_channel(channel, for_grpc.BreakerInterceptor(breaker))
    grpc.aio.insecure_channel("x", interceptors=for_grpc.aio_interceptors(breaker))


def health() -> None:
    assert_type(asgi.breaker_health(), dict[str, Any])
    with bs.instrumented_breaker("x").exchange() as exchange:
        assert_type(exchange, bs.Exchange)
