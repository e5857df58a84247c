"""One face for the HTTP clients, so that each test runs through all of them.

Their pools hold one connection, and nobody waits long for it: a connection that is not given back
shows as a time-out of the pool.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, Protocol, Self

import httpx
import requests

from breakerscope.breaker import CircuitBreaker
from breakerscope.integrations import httpx as for_httpx
from breakerscope.integrations import requests as for_requests

TIMEOUT = 0.3


class Client(Protocol):
    """A client with breakers. Errors are those of the library."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *exc_info: object) -> None: ...

    def get(self, url: str) -> tuple[int, int]:
        """Status and size of a response that was read to its end."""
        ...

    def open(self, url: str) -> Any:
        """A response of which only the head was read."""
        ...

    def chunks(self, response: Any) -> Iterator[bytes]: ...

    def close(self, response: Any) -> None: ...


class Httpx:
    """httpx, synchronous."""

    errors = httpx.TransportError
    rejected: type[Exception] = for_httpx.RequestRejectedError

    def __init__(self, **options: Any) -> None:
        wrapped = httpx.HTTPTransport(limits=httpx.Limits(max_connections=1))
        self.transport = for_httpx.BreakerTransport(wrapped, **options)
        self._client = httpx.Client(transport=self.transport, timeout=TIMEOUT)

    def __enter__(self) -> Self:
        self._client.__enter__()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._client.__exit__(None, None, None)

    def get(self, url: str) -> tuple[int, int]:
        response = self._client.get(url, follow_redirects=True)
        return response.status_code, len(response.content)

    def open(self, url: str) -> httpx.Response:
        return self._client.send(self._client.build_request("GET", url), stream=True)

    def chunks(self, response: httpx.Response) -> Iterator[bytes]:
        return response.iter_raw()

    def close(self, response: httpx.Response) -> None:
        response.close()


class AsyncHttpx:
    """httpx under asyncio."""

    errors = httpx.TransportError
    rejected: type[Exception] = for_httpx.RequestRejectedError

    def __init__(self, **options: Any) -> None:
        self.runner = asyncio.Runner()
        wrapped = httpx.AsyncHTTPTransport(limits=httpx.Limits(max_connections=1))
        self.transport = for_httpx.AsyncBreakerTransport(wrapped, **options)
        self.client = httpx.AsyncClient(transport=self.transport, timeout=TIMEOUT)

    def __enter__(self) -> Self:
        self.runner.run(self.client.__aenter__())
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.runner.run(self.client.__aexit__(None, None, None))
        self.runner.close()

    def get(self, url: str) -> tuple[int, int]:
        response = self.runner.run(self.client.get(url, follow_redirects=True))
        return response.status_code, len(response.content)

    def open(self, url: str) -> httpx.Response:
        request = self.client.build_request("GET", url)
        return self.runner.run(self.client.send(request, stream=True))

    def chunks(self, response: httpx.Response) -> Iterator[bytes]:
        chunks = response.aiter_raw()

        async def step() -> bytes | None:
            return await anext(chunks, None)

        while (chunk := self.runner.run(step())) is not None:
            yield chunk

    def close(self, response: httpx.Response) -> None:
        self.runner.run(response.aclose())


class Requests:
    """requests."""

    errors = requests.RequestException
    rejected: type[Exception] = for_requests.RequestRejectedError

    def __init__(self, **options: Any) -> None:
        self.adapter = for_requests.BreakerAdapter(pool_maxsize=1, **options)
        self._session = requests.Session()
        self._session.mount("http://", self.adapter)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._session.close()

    def get(self, url: str) -> tuple[int, int]:
        response = self._session.get(url, timeout=TIMEOUT)
        return response.status_code, len(response.content)

    def open(self, url: str) -> requests.Response:
        return self._session.get(url, timeout=TIMEOUT, stream=True)

    def chunks(self, response: requests.Response) -> Iterator[bytes]:
        return response.iter_content(1000)

    def close(self, response: requests.Response) -> None:
        response.close()


CLIENTS = (Httpx, AsyncHttpx, Requests)


def tried(client: Client, url: str, times: int = 1) -> None:
    """Ask so many times, whatever comes of it."""
    for _ in range(times):
        with suppress(httpx.TransportError, requests.RequestException):
            client.get(url)


def always(breaker: CircuitBreaker) -> Callable[[str], CircuitBreaker]:
    """The same breaker for every host."""
    return lambda host: breaker
