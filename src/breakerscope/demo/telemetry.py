"""Where the demo's metrics and logs go: /metrics on loopback, and a file of JSON lines."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import structlog
from prometheus_client import CollectorRegistry, start_http_server

from breakerscope.demo.options import DemoError

HOST = "127.0.0.1"
GRPC_PORT = "4317"


@contextmanager
def metrics_server(registry: CollectorRegistry, port: int) -> Generator[str, None, None]:
    """Serve /metrics on loopback inside the block. Yields its URL; raises DemoError."""
    try:
        server, thread = start_http_server(port, addr=HOST, registry=registry)
    except OSError as error:
        raise DemoError(
            f"cannot serve metrics on {HOST}:{port}: {error.strerror or error};"
            " choose another --metrics-port, or 0 for a free one"
        ) from error
    try:
        yield f"http://{HOST}:{server.server_port}/metrics"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def json_logs(name: str | None) -> Generator[str, None, None]:
    """Write structlog's lines as JSON inside the block. Yields where to; raises DemoError.

    Each line has a time, a level and what is bound in the context of the call, here the request id.
    """
    with _open(name) as file:
        before = structlog.get_config() if structlog.is_configured() else None
        structlog.configure(
            processors=[
                structlog.contextvars.merge_contextvars,
                structlog.processors.add_log_level,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                structlog.processors.JSONRenderer(),
            ],
            logger_factory=structlog.WriteLoggerFactory(file=file),
        )
        try:
            yield file.name
        finally:
            structlog.reset_defaults()
            if before is not None:
                structlog.configure(**before)


@contextmanager
def _open(name: str | None) -> Generator[TextIO, None, None]:
    if name == "-":
        yield sys.stderr
        return
    try:
        if name is None:
            # Kept after the run: it is what the user wants to look into.
            number, name = tempfile.mkstemp(prefix="breakerscope-demo-", suffix=".jsonl")
            os.close(number)
        file = Path(name).open("w", encoding="utf-8")  # noqa: SIM115 - closed below
    except OSError as error:
        raise DemoError(f"cannot write logs to {name}: {error.strerror or error}") from error
    with file:
        yield file
