"""What can be asked of the demo, and what is refused before anything starts."""

from __future__ import annotations

import importlib
import ipaddress
import math
from dataclasses import dataclass

SHORTEST, LONGEST = 3.0, 3600.0
HIGHEST_PORT = 65535
NEEDED = ("httpx", "rich", "opentelemetry.sdk.trace")


class DemoError(Exception):
    """The demo cannot run as asked. The message is one line for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """See `breakerscope demo --help`."""

    duration: float = 60.0
    repeat: bool = False
    headless: bool = False
    metrics_port: int = 0
    metrics_address: str = "127.0.0.1"
    seed: int | None = None
    log_file: str | None = None
    picture: str | None = None
    hold: float = 0.0


def check(options: Options) -> None:
    """Raise DemoError, naming all problems at once, if a value is out of range."""
    problems: list[str] = []
    if not (math.isfinite(options.duration) and SHORTEST <= options.duration <= LONGEST):
        problems.append(
            f"--duration {options.duration:g}: allowed are {SHORTEST:g} to {LONGEST:g} seconds"
        )
    if options.repeat and not options.headless:
        problems.append("--repeat: allowed only with --headless, the live view shows one run")
    if not 0 <= options.metrics_port <= HIGHEST_PORT:
        problems.append(
            f"--metrics-port {options.metrics_port}: allowed are 1 to {HIGHEST_PORT},"
            " and 0 for a free port"
        )
    try:
        ipaddress.ip_address(options.metrics_address)
    except ValueError:
        problems.append(
            f"--metrics-address {options.metrics_address!r}: allowed is an IP address of this"
            " machine, and 0.0.0.0 for all of them"
        )
    if options.log_file == "":
        problems.append("--log-file is empty: allowed is a file name, or - for stderr")
    if options.log_file == "-" and not options.headless:
        problems.append(
            "--log-file -: allowed only with --headless, the live view needs the screen"
        )
    if not (math.isfinite(options.hold) and 0 <= options.hold <= LONGEST):
        problems.append(f"--hold {options.hold:g}: allowed are 0 to {LONGEST:g} seconds")
    if options.picture == "":
        problems.append("--picture is empty: allowed is a file name")
    if problems:
        raise DemoError("; ".join(problems))


def require_extra() -> None:
    """Raise DemoError with the pip command if a library that the demo needs is not installed."""
    for name in NEEDED:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise missing(name) from error


def missing(name: str) -> DemoError:
    """The error for a library that is not installed."""
    return DemoError(
        f"the demo needs {name.partition('.')[0]}, which is not installed;"
        " run: pip install 'breakerscope[demo]'"
    )
