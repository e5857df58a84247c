"""An HTTP server that fails as it is told, and counts what reaches it.

The path says what happens: `/ok`, `/status/500`, `/status/429?retry_after=30`, `/slow` (never
answers), `/reset` (the connection is reset), `/half` (half of the promised body, then the end),
`/half-chunked`, `/stream?n=3` (so many chunks), `/stream-slow` (one chunk, then nothing),
`/redirect?to=...`, `/gzip`, `/big`.
"""

from __future__ import annotations

import asyncio
import gzip
import socket
import threading
from collections import Counter
from contextlib import suppress
from typing import Self
from urllib.parse import parse_qs, urlsplit

STOP_SECONDS = 10.0
CHUNK = b"x" * 1000


class FaultyServer:
    """Listens on one port of some loopback addresses, in a thread of its own."""

    def __init__(self, *hosts: str) -> None:
        self._hosts = hosts or ("127.0.0.1",)
        self.connections = 0
        """How many connections were accepted."""
        self.open = 0
        """How many of them are open now."""
        self.requests: Counter[str] = Counter()
        """How many requests came, by path."""

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(STOP_SECONDS)
        return self

    def __exit__(self, *exc_info: object) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(STOP_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(STOP_SECONDS)
        self._loop.close()

    def url(self, path: str, host: str | None = None) -> str:
        """The address of a path, on one of the hosts."""
        return f"http://{host or self._hosts[0]}:{self.port}{path}"

    def total(self) -> int:
        """How many requests came."""
        return self.requests.total()

    async def _start(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()
        first = await asyncio.start_server(self._serve, self._hosts[0], 0)
        self.port: int = first.sockets[0].getsockname()[1]
        self._servers = [first]
        for host in self._hosts[1:]:
            self._servers.append(await asyncio.start_server(self._serve, host, self.port))

    async def _stop(self) -> None:
        for server in self._servers:
            server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        self.open += 1
        try:
            with suppress(OSError, asyncio.IncompleteReadError):
                while await self._answer(reader, writer):
                    await writer.drain()
        except asyncio.CancelledError:
            # The server stops; the stream protocol would complain about a cancelled task.
            pass
        finally:
            self.open -= 1
            self._tasks.discard(task)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; whether the connection may be used again."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        target = head.split(" ", 2)[1]
        for line in head.split("\r\n"):
            if line.lower().startswith("content-length:"):
                await reader.readexactly(int(line.split(":")[1]))
        url = urlsplit(target)
        options = {name: values[0] for name, values in parse_qs(url.query).items()}
        self.requests[url.path] += 1
        match url.path.strip("/").split("/"):
            case ["ok"]:
                self._write(writer, 200, b"fine")
            case ["big"]:
                self._write(writer, 200, CHUNK * 3)
            case ["gzip"]:
                self._write(writer, 200, gzip.compress(b"fine"), "Content-Encoding: gzip")
            case ["status", "204"]:
                self._write(writer, 204, b"")
            case ["status", status]:
                again = options.get("retry_after")
                self._write(
                    writer, int(status), b"no", *([f"Retry-After: {again}"] if again else [])
                )
            case ["redirect"]:
                self._write(writer, 302, b"", f"Location: {options['to']}")
            case ["slow"]:
                await reader.read()
                return False
            case ["reset"]:
                self._reset(writer)
                return False
            case ["half"]:
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2000\r\n\r\n" + CHUNK)
                await writer.drain()
                return False
            case ["half-chunked"]:
                self._write_chunks(writer, 2)
                await writer.drain()
                return False
            case ["stream"]:
                self._write_chunks(writer, int(options.get("n", "3")))
                writer.write(b"0\r\n\r\n")
            case ["stream-slow"]:
                self._write_chunks(writer, 1)
                await writer.drain()
                await reader.read()
                return False
            case _:
                self._write(writer, 404, b"nothing here")
        return True

    def _write(self, writer: asyncio.StreamWriter, status: int, body: bytes, *headers: str) -> None:
        lines = [f"HTTP/1.1 {status} Status", f"Content-Length: {len(body)}", *headers, "", ""]
        writer.write("\r\n".join(lines).encode("latin-1") + body)

    def _write_chunks(self, writer: asyncio.StreamWriter, n: int) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        writer.writelines([b"%x\r\n%s\r\n" % (len(CHUNK), CHUNK)] * n)

    def _reset(self, writer: asyncio.StreamWriter) -> None:
        """Close with a reset, not with an end."""
        connection = writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        writer.transport.abort()
