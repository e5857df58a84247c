"""A server process: started in a folder of its own, watched until it is ready, and stopped."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self, TypeVar

import pytest

T = TypeVar("T")

READY_SECONDS = 30.0
STOP_SECONDS = 10.0
POLL_SECONDS = 0.05
STARTS = 3


class ServerEndedError(RuntimeError):
    """A server ended before it was ready."""


def free_port() -> int:
    """A port that nobody uses at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def require(path: str | None, what: str) -> str:
    """The path of a server's binary. Without it the test skips; under CI it fails."""
    if path is None:
        reason = f"missing: {what}"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return path


def binary(name: str) -> str:
    """The path of a program, or see `require`."""
    return require(shutil.which(name), f"{name}; `make servers` installs it where it can")


def wait_until(ask: Callable[[], T], what: str, seconds: float = READY_SECONDS) -> T:
    """Ask until the answer is true, and return it; raise TimeoutError after so many seconds."""
    deadline = time.monotonic() + seconds
    while not (answer := ask()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds} s: {what}")
        time.sleep(POLL_SECONDS)
    return answer


def start(begin: Callable[[], T]) -> T:
    """Begin again if the server ends at once: another program may have taken its free port."""
    for _ in range(STARTS - 1):
        try:
            return begin()
        except ServerEndedError:
            continue
    return begin()


class ServerProcess:
    """One server. `output()` is all it has printed so far."""

    def __init__(
        self,
        command: list[str],
        folder: Path,
        is_ready: Callable[[], bool],
        env: dict[str, str] | None = None,
    ) -> None:
        self._env = env
        self._log = folder / f"{Path(command[0]).name}.log"
        self._command = command
        self._is_ready = is_ready
        self._folder = folder

    def __enter__(self) -> Self:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=self._folder,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._env,
            )
        try:
            wait_until(self._ready_or_dead, f"{self._command[0]} is ready")
        except BaseException as error:
            self._stop()
            error.add_note(self.output())
            raise
        if self._process.poll() is not None:
            raise ServerEndedError(f"{self._command[0]} ended at once:\n{self.output()}")
        return self

    def _ready_or_dead(self) -> bool:
        return self._process.poll() is not None or self._is_ready()

    def __exit__(self, *exc_info: object) -> None:
        self._stop()

    def _stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def output(self) -> str:
        return self._log.read_text(errors="replace")
