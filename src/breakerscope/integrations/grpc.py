"""A breaker inside gRPC clients: interceptors for channels of `grpc` and of `grpc.aio`.

`grpc.intercept_channel(channel, BreakerInterceptor(breaker))`, or
`grpc.aio.insecure_channel(target, interceptors=aio_interceptors(breaker))`. An RPC of any kind is
one call, and its duration is the life of the RPC. Retries that gRPC makes by itself are part of it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterator
from contextvars import copy_context
from functools import partial
from typing import Any, Self

from breakerscope.breaker import CircuitBreaker
from breakerscope.core.errors import CircuitBreakerOpenError
from breakerscope.core.events import State
from breakerscope.core.guard import Exchange
from breakerscope.telemetry.errors import MissingExtraError

try:
    import grpc
    import grpc.aio
except ImportError as error:
    raise MissingExtraError(__name__, "grpcio", "'breakerscope[grpc]'") from error

FAILURES: frozenset[grpc.StatusCode] = frozenset(
    {
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
    }
)
"""The status codes that are failures of the server; the others are answers to the caller."""


class _EndedError(Exception):
    """Other interceptors take an `RpcError` for the RPC that ended with it, and ask it as such."""

    def result(self, *_timeout: float | None) -> Any:
        raise self

    def exception(self, *_timeout: float | None) -> Exception:
        return self

    def traceback(self, *_timeout: float | None) -> Any:
        return self.__traceback__

    def done(self) -> bool:
        return True

    def running(self) -> bool:
        return False

    is_active = cancelled = cancel = running

    def time_remaining(self) -> float:
        return 0.0

    def add_callback(self, _callback: Callable[[], None]) -> bool:
        return False

    def add_done_callback(self, fn: Callable[[Any], None]) -> None:
        fn(self)


class RpcRejectedError(CircuitBreakerOpenError, grpc.aio.AioRpcError, _EndedError):
    """The breaker refused the RPC, and nothing was sent. Also a `grpc.RpcError` of the code
    UNAVAILABLE, so that code which handles a server that is down handles this too.
    """

    def __init__(self, breaker: str, state: State, retry_after: float | None) -> None:
        none = grpc.aio.Metadata()
        grpc.aio.AioRpcError.__init__(self, grpc.StatusCode.UNAVAILABLE, none, none)
        self.args = breaker, state, retry_after

    def __reduce__(self) -> tuple[type[Self], tuple[Any, ...]]:
        return type(self), self.args

    def details(self) -> str:
        """What the error says."""
        return str(self)


class _Rpc:
    """One RPC as a call of the breaker, from its begin to its end."""

    def __init__(self, breaker: CircuitBreaker, failures: Collection[grpc.StatusCode]) -> None:
        try:
            self._exchange: Exchange = breaker.exchange()
        except CircuitBreakerOpenError as refused:
            raise RpcRejectedError(*refused.args) from None
        self._failures = failures
        self._exchange.__enter__()

    def raised(self, error: BaseException) -> None:
        """It did not even begin."""
        self._exchange.__exit__(type(error), error, None)

    def ended(self, code: grpc.StatusCode, error: BaseException, result: object = None) -> None:
        """It ended with this status; `error` is what the caller sees if that is not OK."""
        self._exchange.__exit__(None, None, None)
        if code is grpc.StatusCode.CANCELLED:
            self._exchange.fail(GeneratorExit())
        elif code in self._failures:
            self._exchange.fail(error)
        else:
            self._exchange.end(result)


class BreakerInterceptor(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    """Puts every RPC of a channel through a breaker. Thread-safe.

    An RPC that ends with a code in `failures` is a failure, sorted by the rules of the breaker as
    an exception; one that was cancelled is CANCELLED; any other code is a success. A stream that
    nobody reads to its end is cancelled. A refused RPC raises RpcRejectedError.
    """

    def __init__(
        self, breaker: CircuitBreaker, *, failures: Collection[grpc.StatusCode] = FAILURES
    ) -> None:
        self._breaker = breaker
        self._failures = failures

    def _unary(self, continuation: Callable[..., Any], details: Any, request: Any) -> Any:
        rpc = _Rpc(self._breaker, self._failures)
        try:
            call = continuation(details, request)
        except BaseException as error:
            rpc.raised(error)
            raise
        # The end of a future comes in a thread of gRPC's own.
        context = copy_context()

        def ended(call: Any) -> None:
            context.run(_settle, rpc, call)

        call.add_done_callback(ended)
        return call

    def _stream(self, continuation: Callable[..., Any], details: Any, request: Any) -> Any:
        rpc = _Rpc(self._breaker, self._failures)
        try:
            call = continuation(details, request)
        except BaseException as error:
            rpc.raised(error)
            raise
        return _Messages(rpc, call)

    # The types of the library follow the messages through; here they just pass.
    intercept_unary_unary: Any = _unary
    intercept_stream_unary: Any = _unary
    intercept_unary_stream: Any = _stream
    intercept_stream_stream: Any = _stream


def _settle(rpc: _Rpc, call: Any) -> None:
    code = call.code()
    if code is grpc.StatusCode.OK:
        rpc.ended(code, StopIteration(), call.result())
    elif code is grpc.StatusCode.CANCELLED:
        rpc.ended(code, GeneratorExit())
    else:
        rpc.ended(code, call.exception())


class _Messages:
    """The messages of a response that streams; otherwise the RPC itself."""

    def __init__(self, rpc: _Rpc, call: Any) -> None:
        self._rpc = rpc
        self._call = call

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        try:
            return next(self._call)
        except StopIteration as end:
            self._rpc.ended(grpc.StatusCode.OK, end)
            raise
        except grpc.RpcError as error:
            self._rpc.ended(self._call.code(), error)
            raise
        except BaseException as error:
            self._rpc.raised(error)
            raise

    next = __next__

    def cancel(self) -> bool:
        cancelled: bool = self._call.cancel()
        if cancelled:
            self._rpc.ended(grpc.StatusCode.CANCELLED, GeneratorExit())
        return cancelled


def aio_interceptors(
    breaker: CircuitBreaker, *, failures: Collection[grpc.StatusCode] = FAILURES
) -> list[grpc.aio.ClientInterceptor]:
    """As `BreakerInterceptor`, for a channel of `grpc.aio`: one interceptor for each kind of RPC.

    An RPC whose task is cancelled, or that is forgotten, is CANCELLED.
    """
    return [kind(breaker, failures) for kind in (_UnaryUnary, _UnaryStream, _StreamUnary, _Streams)]


class _Aio:
    """What the four kinds share: a channel of `grpc.aio` uses an object for one kind only."""

    def __init__(
        self, breaker: CircuitBreaker, failures: Collection[grpc.StatusCode] = FAILURES
    ) -> None:
        self._breaker = breaker
        self._failures = failures

    async def _intercept(
        self, continuation: Callable[..., Awaitable[Any]], details: Any, request: Any
    ) -> Any:
        rpc = _Rpc(self._breaker, self._failures)
        try:
            call = await continuation(details, request)
        except BaseException as error:
            rpc.raised(error)
            raise
        # The end is not awaited here: who streams requests writes them after this has returned.
        if call.done():
            _settle_aio(rpc, call)
        else:
            call.add_done_callback(partial(_settle_aio, rpc))
        return call


class _UnaryUnary(_Aio, grpc.aio.UnaryUnaryClientInterceptor):
    intercept_unary_unary: Any = _Aio._intercept


class _UnaryStream(_Aio, grpc.aio.UnaryStreamClientInterceptor):
    intercept_unary_stream: Any = _Aio._intercept


class _StreamUnary(_Aio, grpc.aio.StreamUnaryClientInterceptor):
    intercept_stream_unary: Any = _Aio._intercept


class _Streams(_Aio, grpc.aio.StreamStreamClientInterceptor):
    intercept_stream_stream: Any = _Aio._intercept


def _settle_aio(rpc: _Rpc, call: Any) -> None:
    code: grpc.StatusCode = _at_once(call.code())
    error = grpc.aio.AioRpcError(
        code,
        _at_once(call.initial_metadata()),
        _at_once(call.trailing_metadata()),
        details=_at_once(call.details()),
    )
    rpc.ended(code, error)


def _at_once(awaitable: Coroutine[Any, Any, Any]) -> Any:
    """The result of a coroutine that has nothing to wait for, since its RPC is done."""
    try:
        awaitable.send(None)
    except StopIteration as stop:
        return stop.value
    awaitable.close()
    return None
