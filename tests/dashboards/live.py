"""Processes to look at: the demo under a real Prometheus."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.servers.process import free_port
from tests.servers.prometheus import Prometheus

ROOT = Path(__file__).parents[2]


@contextmanager
def scraped(commands: Sequence[Sequence[str]], folder: Path) -> Iterator[Prometheus]:
    """Run Python with these arguments; {port} is where Prometheus looks for metrics."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("OTEL_")}
    ports = [free_port() for _ in commands]
    targets = [f"127.0.0.1:{port}" for port in ports]
    with ExitStack() as stack:
        prometheus = stack.enter_context(Prometheus({"demo": targets}, folder))
        for at, (command, port) in enumerate(zip(commands, ports, strict=True)):
            log = stack.enter_context((folder / f"demo-{at}.log").open("w"))
            process = subprocess.Popen(
                [sys.executable, *(part.format(port=port) for part in command)],
                cwd=ROOT,
                env=environment,
                stdout=log,
                stderr=log,
            )
            stack.callback(process.wait)
            stack.callback(process.kill)
        yield prometheus
