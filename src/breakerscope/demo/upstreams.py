"""The other process: three HTTP services on free loopback ports that live by the script.

`python -m breakerscope.demo.upstreams` is the child, `Upstreams` is the parent's handle on it. The
child prints its ports as one line of JSON and starts the script when its stdin says "go". It lives
as long as its stdin is open: the system closes that when the parent ends, however it ends.
"""

from __future__ import annotations

import asyncio
import json
import random
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import IO, Self, cast

from breakerscope.demo.options import DemoError
from breakerscope.demo.script import SERVICES, Health, health, progress

HOST = "127.0.0.1"
TICK = 0.02
STOP_SECONDS = 3.0
REASONS = {200: "OK", 402: "Payment Required", 404: "Not Found", 500: "Internal Server Error"}
DECLINE_STATUS = {"payment_api": 402, "search": 404, "recommendations": 404}


class Upstreams:
    """The child process. A context manager; `urls` says where each service is."""

    def __init__(self, *, duration: float, seed: int, repeat: bool = False) -> None:
        module = "breakerscope.demo.upstreams"
        command = [sys.executable, "-m", module, str(duration), str(seed), str(int(repeat))]
        # A session of its own: Ctrl-C in the terminal is for the parent, who ends the child.
        self._process = subprocess.Popen(  # noqa: S603 - our own module
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._stdin = cast("IO[str]", self._process.stdin)
        self._stdout = cast("IO[str]", self._process.stdout)
        line = self._stdout.readline()
        if not line:
            self.__exit__()
            raise DemoError("the process with the upstream services did not start")
        self.urls = {name: f"http://{HOST}:{port}" for name, port in json.loads(line).items()}

    def go(self) -> None:
        """Start the script."""
        self._stdin.write("go\n")
        self._stdin.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        with suppress(BrokenPipeError):
            self._stdin.close()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._stdout.close()


class Service:
    """One HTTP service: GET only, keep-alive, one port for its whole life."""

    def __init__(self, name: str, seed: str, now: Callable[[], Health]) -> None:
        self._name = name
        self._random = random.Random(seed)
        self._now = now
        self._server: asyncio.Server | None = None
        # Holds the port while nobody listens on it, so that connections are refused, not stolen.
        self._holder = _bound_socket(0)
        self.port: int = self._holder.getsockname()[1]
        self._open: set[asyncio.StreamWriter] = set()

    async def listen(self) -> None:
        """Accept connections."""
        if self._server is None:
            self._server = await asyncio.start_server(
                self._converse, sock=_bound_socket(self.port), backlog=256
            )

    def refuse(self) -> None:
        """Accept no more connections, and reset those that are open."""
        if self._server is not None and CAN_REFUSE:
            self._server.close()
            self._server = None
            for writer in list(self._open):
                _reset(writer)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                if not await self._answer(writer):
                    return
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError):
            return  # the client has gone: nobody is left to be told
        except asyncio.CancelledError:
            return  # the process ends; asyncio would report this as an error
        finally:
            self._open.discard(writer)
            writer.close()

    async def _answer(self, writer: asyncio.StreamWriter) -> bool:
        """Answer one request. False if the connection is lost."""
        now, chance = self._now(), self._random.random()
        await asyncio.sleep(now.latency * self._random.lognormvariate(0.0, 0.35))
        if chance < now.resets:
            _reset(writer)
            return False
        if chance < now.resets + now.errors:
            status = 500
        elif chance < now.resets + now.errors + now.declines:
            status = DECLINE_STATUS[self._name]
        else:
            status = 200
        # Some answers are old: the caller, not the protocol, knows that these are no good.
        body = json.dumps({"service": self._name, "stale": self._random.random() < 0.004}).encode()
        head = f"HTTP/1.1 {status} {REASONS[status]}\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        await writer.drain()
        return True


CAN_REFUSE = hasattr(socket, "SO_REUSEPORT")


def _bound_socket(port: int) -> socket.socket:
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    if CAN_REFUSE:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    bound.bind((HOST, port))
    return bound


def _reset(writer: asyncio.StreamWriter) -> None:
    """End the connection by RST: linger for no time at all."""
    end: socket.socket | None = writer.get_extra_info("socket")
    if end is not None and end.fileno() >= 0:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def serve(duration: float, seed: int, *, repeat: bool) -> None:
    """Serve until stdin ends."""
    loop = asyncio.get_running_loop()
    stdin = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stdin), sys.stdin)
    started: list[float] = []

    def now() -> float:
        return progress(time.monotonic() - started[0], duration, repeat=repeat) if started else 0.0

    def watch(name: str) -> Callable[[], Health]:
        return lambda: health(name, now())

    services = {name: Service(name, f"{seed} {name}", watch(name)) for name in SERVICES}
    for service in services.values():
        await service.listen()
    print(json.dumps({name: service.port for name, service in services.items()}), flush=True)

    async def direct() -> None:
        while True:
            for name, service in services.items():
                if health(name, now()).refusing:
                    service.refuse()
                else:
                    await service.listen()
            await asyncio.sleep(TICK)

    directing = asyncio.create_task(direct())
    while line := await stdin.readline():
        if line.strip() == b"go" and not started:
            started.append(time.monotonic())
    directing.cancel()


if __name__ == "__main__":
    # The parent decides when to end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    asyncio.run(serve(float(sys.argv[1]), int(sys.argv[2]), repeat=sys.argv[3] == "1"))
