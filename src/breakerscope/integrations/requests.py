"""A breaker per host inside requests: an adapter to mount.

`session.mount("https://", BreakerAdapter())`. A request is one call of the breaker of its host; it
ends with the body of the response, or when the response is closed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextvars import ContextVar
from copy import copy
from typing import Any, Self, TypeVar, Unpack
from urllib.parse import urlsplit

from breakerscope.breaker import CircuitBreaker
from breakerscope.core.errors import CircuitBreakerOpenError
from breakerscope.core.events import State
from breakerscope.core.guard import Exchange
from breakerscope.instrument import BreakerOptions
from breakerscope.integrations._http import (
    SHARED,
    PerHost,
    Rules,
    bounded,
    host_key,
    is_failure,
)
from breakerscope.retry_after import http_retry_after
from breakerscope.telemetry.errors import MissingExtraError

try:
    import requests
    import urllib3.exceptions
    from requests.adapters import HTTPAdapter
except ImportError as error:
    raise MissingExtraError(__name__, "requests", "'breakerscope[requests]'") from error

T = TypeVar("T")

RULES: Rules = {
    "failures": (
        requests.ConnectionError,
        requests.Timeout,
        requests.exceptions.RetryError,
        # What breaks a body, or an attempt that is not the last, is named by urllib3.
        urllib3.exceptions.ProtocolError,
        urllib3.exceptions.TimeoutError,
        urllib3.exceptions.SSLError,
        urllib3.exceptions.NewConnectionError,
        urllib3.exceptions.ProxyError,
        ConnectionError,
        TimeoutError,
    ),
    "failure_if": is_failure,
    "retry_after_from": http_retry_after,
}
"""What is a failure: connection errors, time-outs, broken bodies, 5xx and 429. Options for a
breaker of one's own: `instrumented_breaker("search", **RULES)`.
"""


class RequestRejectedError(CircuitBreakerOpenError, requests.ConnectionError):
    """The breaker refused the request, and nothing was sent. Also a `requests.ConnectionError`, so
    that code which handles a host that is down handles this too.
    """

    def __init__(
        self,
        breaker: str,
        state: State,
        retry_after: float | None,
        *,
        request: requests.PreparedRequest | None = None,
    ) -> None:
        requests.ConnectionError.__init__(self, request=request)
        # An `OSError` of three arguments would take them for a number, a text and a file.
        self.args = breaker, state, retry_after


class BreakerAdapter(HTTPAdapter):
    """An `HTTPAdapter` with a breaker per host. Thread-safe as far as `HTTPAdapter` is.

    Positional arguments and `pool_connections`, `pool_maxsize`, `max_retries`, `pool_block` are
    those of `HTTPAdapter`. The breakers are named `prefix:host` or `prefix:host:port`, at most
    `limit` of them, and shared by all adapters with the same prefix; further hosts share one,
    `prefix:other`. The options are those of `instrumented_breaker`, with `RULES` as defaults.
    `per_host` gives the breaker of a host instead, for example `breakers_per(...)`.

    Raises ContradictionError for a prefix in use with other options, and what `breakers_per` does.
    """

    def __init__(
        self,
        pool_connections: int = 10,
        pool_maxsize: int = 10,
        max_retries: urllib3.Retry | int = 0,
        pool_block: bool = False,  # noqa: FBT001, FBT002 - as `HTTPAdapter` has it
        *,
        per_host: PerHost | None = None,
        prefix: str = "requests",
        limit: int = 100,
        **options: Unpack[BreakerOptions],
    ) -> None:
        super().__init__(pool_connections, pool_maxsize, max_retries, pool_block)
        self._per_host = bounded(per_host, prefix, limit, RULES, options)

    @property
    def max_retries(self) -> urllib3.Retry:
        """The retries of urllib3. Each attempt is a call, and one that is refused is the last."""
        return self._max_retries

    @max_retries.setter
    def max_retries(self, retries: urllib3.Retry) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        self._max_retries = _per_attempt(retries)

    def __getstate__(self) -> dict[str, Any]:
        """For a pickle, which a pool of processes makes of a session."""
        state = {name: getattr(self, name, None) for name in self.__attrs__}
        return {**state, "max_retries": _untold(self._max_retries), "_per_host": self._per_host}

    def __setstate__(self, state: dict[str, Any]) -> None:
        parent: Any = super()
        parent.__setstate__(state)

    def send(
        self, request: requests.PreparedRequest, *args: Any, **kwargs: Any
    ) -> requests.Response:
        """Send the request. Raises RequestRejectedError if the breaker of its host refuses."""
        breaker = self._per_host(_key(request.url))

        def end(exchange: Exchange, response: Any) -> None:
            exchange.end(self.build_response(request, response))

        attempt = _Attempt(breaker, end)
        token = _present.set(attempt)
        try:
            attempt.begin()
            response = super().send(request, *args, **kwargs)
        except CircuitBreakerOpenError as refused:
            raise RequestRejectedError(*refused.args, request=request) from None
        except BaseException as error:
            attempt.failed(error)
            raise
        finally:
            _present.reset(token)
        body: Any = _Body(attempt.done(), response)
        response.raw = body
        return response


def _key(url: str | None) -> str:
    try:
        parts = urlsplit(url or "")
        return host_key(parts.scheme, parts.hostname or "", parts.port)
    except ValueError:
        return SHARED


class _Attempt:
    """The attempt that a request is at: urllib3 makes more of them by itself."""

    _exchange: Exchange

    def __init__(self, breaker: CircuitBreaker, end: Callable[[Exchange, Any], None]) -> None:
        self._breaker = breaker
        self._end = end

    def begin(self) -> None:
        self._exchange = self._breaker.exchange()
        self._exchange.__enter__()

    def done(self) -> Exchange:
        self._exchange.__exit__(None, None, None)
        return self._exchange

    def failed(self, error: BaseException) -> None:
        self._exchange.__exit__(type(error), error, None)

    def answered(self, response: Any) -> None:
        self._end(self.done(), response)


_present: ContextVar[_Attempt | None] = ContextVar("_present", default=None)


class _PerAttempt(urllib3.Retry):
    """Retries that are told of: `increment` when one has ended, `sleep` before the next one."""

    def increment(
        self,
        method: str | None = None,
        url: str | None = None,
        response: Any = None,
        error: Exception | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Self:
        following = super().increment(method, url, response, error, *args, **kwargs)
        if (attempt := _present.get()) is not None:
            if error is not None:
                attempt.failed(error)
            else:
                attempt.answered(response)
        return following

    def sleep(self, response: Any = None) -> None:
        super().sleep(response)
        if (attempt := _present.get()) is not None:
            attempt.begin()


def _per_attempt(retries: urllib3.Retry) -> urllib3.Retry:
    """The same retries, of the same class, and told of."""
    told_of = copy(retries)
    if not isinstance(retries, _PerAttempt):
        told_of.__class__ = type("PerAttempt", (_PerAttempt, type(retries)), {})
    return told_of


def _untold(retries: urllib3.Retry) -> urllib3.Retry:
    """The same retries as somebody gave them."""
    plain = copy(retries)
    plain.__class__ = type(retries).__bases__[-1]
    return plain


class _Body:
    """urllib3's response: each read is a step of the call, and the call ends with the body."""

    def __init__(self, exchange: Exchange, response: requests.Response) -> None:
        self._exchange = exchange
        self._response = response
        self._raw = response.raw

    def __getattr__(self, name: str) -> Any:
        return getattr(self._raw, name)

    def _step(self, read: Callable[[], T]) -> T:
        with self._exchange:
            part = read()
        if self._raw.closed:
            self._exchange.end(self._response)
        return part

    def _iterate(self, parts: Iterator[T]) -> Iterator[T]:
        end = object()
        while (part := self._step(lambda: next(parts, end))) is not end:
            yield part  # type: ignore[misc]
        self._exchange.end(self._response)

    def read(self, *args: Any, **kwargs: Any) -> bytes:
        return self._step(lambda: self._raw.read(*args, **kwargs))

    def read1(self, *args: Any, **kwargs: Any) -> bytes:
        return self._step(lambda: self._raw.read1(*args, **kwargs))

    def readinto(self, buffer: Any) -> int:
        return self._step(lambda: self._raw.readinto(buffer))

    @property
    def data(self) -> bytes:
        return self._step(lambda: self._raw.data)

    def stream(self, *args: Any, **kwargs: Any) -> Iterator[bytes]:
        return self._iterate(self._raw.stream(*args, **kwargs))

    def read_chunked(self, *args: Any, **kwargs: Any) -> Iterator[bytes]:
        return self._iterate(self._raw.read_chunked(*args, **kwargs))

    def __iter__(self) -> Iterator[bytes]:
        return self._iterate(iter(self._raw))

    def _last(self, act: Callable[[], None]) -> None:
        try:
            act()
        finally:
            self._exchange.end(self._response)

    def drain_conn(self) -> None:
        self._last(self._raw.drain_conn)

    def release_conn(self) -> None:
        self._last(self._raw.release_conn)

    def close(self) -> None:
        self._last(self._raw.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()
