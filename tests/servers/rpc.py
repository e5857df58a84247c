"""A gRPC server that fails as it is told, and counts what reaches it. Messages are plain bytes.

The request of `/faults/Unary` and `/faults/Stream` says what happens: `ok`, the name of a status
code, `sleep` (never answers), `half` (some messages, then UNAVAILABLE), or `stay` (some messages,
then nothing).
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self

import grpc

STOP_SECONDS = 10.0


class RpcServer:
    """Listens on a free port of 127.0.0.1."""

    def __init__(self) -> None:
        self.requests: Counter[str] = Counter()
        """How many RPCs came, by what they asked for."""
        self.over: Counter[str] = Counter()
        """How many of them are over, for the server, by what they asked for."""

    def __enter__(self) -> Self:
        self._server = grpc.server(ThreadPoolExecutor(8))
        handlers: dict[str, Any] = {
            "Unary": grpc.unary_unary_rpc_method_handler(self._unary),
            "Stream": grpc.unary_stream_rpc_method_handler(self._stream),
            "Upload": grpc.stream_unary_rpc_method_handler(self._upload),
            "Chat": grpc.stream_stream_rpc_method_handler(self._chat),
        }
        service = grpc.method_handlers_generic_handler("faults", handlers)
        self._server.add_generic_rpc_handlers((service,))
        self.target = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._server.stop(None).wait(STOP_SECONDS)

    def _act(self, wish: str, context: grpc.ServicerContext) -> None:
        self.requests[wish] += 1
        context.add_callback(lambda: self.over.update([wish]))
        if wish == "sleep":
            _wait_for_end(context)
        elif wish not in ("ok", "half", "stay"):
            context.abort(grpc.StatusCode[wish], "as you wished")

    def _unary(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        self._act(request.decode(), context)
        return b"fine"

    def _stream(self, request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        self._act(request.decode(), context)
        for number in range(3):
            yield b"%d" % number
        if request == b"half":
            context.abort(grpc.StatusCode.UNAVAILABLE, "as you wished")
        if request == b"stay":
            _wait_for_end(context)

    def _upload(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        self._act(next(requests).decode(), context)
        return b"%d" % sum(1 for _ in requests)

    def _chat(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        for request in requests:
            self._act(request.decode(), context)
            yield request


def _wait_for_end(context: grpc.ServicerContext) -> None:
    over = threading.Event()
    if context.add_callback(over.set):
        over.wait(STOP_SECONDS)


def methods(channel: Any) -> tuple[Any, Any, Any, Any]:
    """What to call for the four kinds of RPC, on a channel of `grpc` or `grpc.aio`."""
    return (
        channel.unary_unary("/faults/Unary"),
        channel.unary_stream("/faults/Stream"),
        channel.stream_unary("/faults/Upload"),
        channel.stream_stream("/faults/Chat"),
    )
