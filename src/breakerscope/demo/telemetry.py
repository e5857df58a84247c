"""Where the demo's metrics and logs go: /metrics, and a file of JSON lines."""

from __future__ import annotations

import errno
import ipaddress
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

LOOPBACK = {4: "127.0.0.1", 6: "::1"}
GRPC_PORT = "4317"


@contextmanager
def metrics_server(
    registry: CollectorRegistry, port: int, address: str
) -> Generator[str, None, None]:
    """Serve /metrics at this IP address inside the block; raises DemoError.

    Yields the URL at which this machine reaches it.
    """
    try:
        server, thread = start_http_server(port, addr=address, registry=registry)
    except OSError as error:
        raise DemoError(
            f"cannot serve metrics on {address}:{port}: {error.strerror or error};"
            " choose another --metrics-port, or 0 for a free one"
        ) from error
    try:
        ip = ipaddress.ip_address(address)
        host = LOOPBACK[ip.version] if ip.is_unspecified else address
        shown = f"[{host}]" if ip.version == 6 else host
        yield f"http://{shown}:{server.server_port}/metrics"
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
    try:
        with file:
            yield file
    except OSError as error:
        if error.filename is not None or error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            raise
        raise DemoError(f"cannot write logs to {name}: {error.strerror}") from error
