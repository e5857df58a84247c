"""A breaker per host inside httpx: transports that wrap any other transport.

`httpx.Client(transport=BreakerTransport())`. A request is one call of the breaker of its host; it
ends with the body of the response, or when the response is closed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from types import TracebackType
from typing import Self, Unpack, cast

from breakerscope.core.errors import CircuitBreakerOpenError
from breakerscope.core.events import State
from breakerscope.core.guard import Exchange
from breakerscope.instrument import BreakerOptions
from breakerscope.integrations._http import PerHost, Rules, bounded, host_key, is_failure
from breakerscope.integrations._proxies import proxies_of
from breakerscope.retry_after import http_retry_after
from breakerscope.telemetry.errors import MissingExtraError

try:
    import httpx
except ImportError as error:
    raise MissingExtraError(__name__, "httpx", "'breakerscope[httpx]'") from error

RULES: Rules = {
    "failures": (httpx.TransportError, ConnectionError, TimeoutError),
    # The caller's mistakes, and the wait for a place in the caller's own pool.
    "ignore": (httpx.UnsupportedProtocol, httpx.LocalProtocolError, httpx.PoolTimeout),
    "failure_if": is_failure,
    "retry_after_from": http_retry_after,
}
"""What is a failure: transport errors, time-outs, 5xx and 429. Options for a breaker of one's own:
`instrumented_breaker("search", **RULES)`.
"""


class TransportOptions(BreakerOptions, total=False):
    """The options of `BreakerTransport`."""

    per_host: PerHost | None
    prefix: str
    limit: int


class RequestRejectedError(CircuitBreakerOpenError, httpx.TransportError):
    """The breaker refused the request, and nothing was sent. Also an `httpx.TransportError`, so
    that code which handles a host that is down handles this too.
    """

    def __init__(
        self,
        breaker: str,
        state: State,
        retry_after: float | None,
        *,
        request: httpx.Request | None = None,
    ) -> None:
        httpx.TransportError.__init__(self, "", request=request)
        self.args = breaker, state, retry_after


def _ask(per_host: PerHost, request: httpx.Request) -> Exchange:
    url = request.url
    try:
        return per_host(host_key(url.scheme, url.raw_host.decode("ascii"), url.port)).exchange()
    except CircuitBreakerOpenError as refused:
        raise RequestRejectedError(*refused.args, request=request) from None


class BreakerTransport(httpx.BaseTransport):
    """Wraps a transport (by default `httpx.HTTPTransport()`) with a breaker per host. Thread-safe.

    The breakers are named `prefix:host` or `prefix:host:port`, at most `limit` of them, and shared
    by all transports with the same prefix; further hosts share one, `prefix:other`. The options
    are those of `instrumented_breaker`, with `RULES` as defaults. `per_host` gives the breaker of a
    host instead, for example `breakers_per(...)`, or always the same one.

    Raises ContradictionError for a prefix in use with other options, and what `breakers_per` does.
    """

    def __init__(
        self,
        transport: httpx.BaseTransport | None = None,
        *,
        per_host: PerHost | None = None,
        prefix: str = "httpx",
        limit: int = 100,
        **options: Unpack[BreakerOptions],
    ) -> None:
        self._per_host = bounded(per_host, prefix, limit, RULES, options)
        self._transport = transport or httpx.HTTPTransport()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send the request. Raises RequestRejectedError if the breaker of its host refuses."""
        exchange = _ask(self._per_host, request)
        with exchange:
            response = self._transport.handle_request(request)
        if response.is_closed:
            exchange.end(response)
            return response
        stream = cast("httpx.SyncByteStream", response.stream)
        response.stream = _Body(exchange, response, stream)
        return response

    def close(self) -> None:
        """Close the wrapped transport."""
        self._transport.close()

    def __enter__(self) -> Self:
        self._transport.__enter__()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        self._transport.__exit__(exc_type, exc_value, traceback)


class AsyncBreakerTransport(httpx.AsyncBaseTransport):
    """As `BreakerTransport`, for `httpx.AsyncClient`. A request that is cancelled is CANCELLED."""

    def __init__(
        self,
        transport: httpx.AsyncBaseTransport | None = None,
        *,
        per_host: PerHost | None = None,
        prefix: str = "httpx",
        limit: int = 100,
        **options: Unpack[BreakerOptions],
    ) -> None:
        self._per_host = bounded(per_host, prefix, limit, RULES, options)
        self._transport = transport or httpx.AsyncHTTPTransport()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send the request. Raises RequestRejectedError if the breaker of its host refuses."""
        exchange = _ask(self._per_host, request)
        with exchange:
            response = await self._transport.handle_async_request(request)
        if response.is_closed:
            exchange.end(response)
            return response
        stream = cast("httpx.AsyncByteStream", response.stream)
        response.stream = _AsyncBody(exchange, response, stream)
        return response

    async def aclose(self) -> None:
        """Close the wrapped transport."""
        await self._transport.aclose()

    async def __aenter__(self) -> Self:
        await self._transport.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        await self._transport.__aexit__(exc_type, exc_value, traceback)


def breaker_mounts(
    *, proxy: str | None = None, trust_env: bool = True, **options: Unpack[TransportOptions]
) -> dict[str, httpx.BaseTransport]:
    """Transports for `httpx.Client(mounts=breaker_mounts(...))`, which keep proxies.

    A client that is given a transport takes no proxies from the environment, and one that is given
    `proxy=` sends everything past its transport. So give the proxy here: `proxy`, or else what the
    environment says, unless `trust_env` is false. The options are those of `BreakerTransport`.
    """
    return {
        pattern: BreakerTransport(httpx.HTTPTransport(proxy=url, trust_env=trust_env), **options)
        for pattern, url in proxies_of(proxy, trust_env=trust_env).items()
    }


def async_breaker_mounts(
    *, proxy: str | None = None, trust_env: bool = True, **options: Unpack[TransportOptions]
) -> dict[str, httpx.AsyncBaseTransport]:
    """As `breaker_mounts`, for `httpx.AsyncClient`."""
    return {
        pattern: AsyncBreakerTransport(
            httpx.AsyncHTTPTransport(proxy=url, trust_env=trust_env), **options
        )
        for pattern, url in proxies_of(proxy, trust_env=trust_env).items()
    }


class _Body(httpx.SyncByteStream):
    """The body: each chunk is a step of the call, and the call ends with it."""

    def __init__(
        self, exchange: Exchange, response: httpx.Response, stream: httpx.SyncByteStream
    ) -> None:
        self._exchange = exchange
        self._stream = stream
        self._response = response

    def __iter__(self) -> Iterator[bytes]:
        chunks = iter(self._stream)
        while True:
            with self._exchange:
                chunk = next(chunks, None)
            if chunk is None:
                self._exchange.end(self._response)
                return
            yield chunk

    def close(self) -> None:
        try:
            self._stream.close()
        finally:
            self._exchange.end(self._response)


class _AsyncBody(httpx.AsyncByteStream):
    """As `_Body`."""

    def __init__(
        self, exchange: Exchange, response: httpx.Response, stream: httpx.AsyncByteStream
    ) -> None:
        self._exchange = exchange
        self._stream = stream
        self._response = response

    async def __aiter__(self) -> AsyncIterator[bytes]:
        chunks = aiter(self._stream)
        while True:
            with self._exchange:
                chunk = await anext(chunks, None)
            if chunk is None:
                self._exchange.end(self._response)
                return
            yield chunk

    async def aclose(self) -> None:
        try:
            await self._stream.aclose()
        finally:
            self._exchange.end(self._response)
