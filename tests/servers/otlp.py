"""A real OTLP receiver, and the spans that it says it got."""

from __future__ import annotations

import importlib.util
import os
import re
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from tests.servers.process import (
    READY_SECONDS,
    ServerProcess,
    free_port,
    require,
    start,
    wait_until,
)

VERSION_SECONDS = 10.0


@dataclass
class SpanEvent:
    name: str
    attributes: dict[str, str] = field(default_factory=dict)


@dataclass
class Span:
    name: str = ""
    trace_id: str = ""
    span_id: str = ""
    parent_id: str = ""
    status: str = ""
    """UNSET, OK or ERROR."""
    attributes: dict[str, str] = field(default_factory=dict)
    events: list[SpanEvent] = field(default_factory=list)


class OtlpReceiver:
    """Takes OTLP over gRPC (`grpc_url`) and HTTP (`http_url`), and prints one signal in detail."""

    def __init__(self, folder: Path, signal: str = "traces") -> None:
        self._folder = folder
        self._signal = signal
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._server = start(self._begin)
        return self

    def _begin(self) -> ServerProcess:
        self._ports = free_port(), free_port()
        self.grpc_url, self.http_url = (f"http://127.0.0.1:{port}" for port in self._ports)
        return self._run(self._folder)

    def stop(self) -> None:
        """Die."""
        self._stack.close()

    def start_again(self) -> None:
        """Come back at the same address; what was received before is forgotten."""
        self._folder = self._folder / "again"
        self._folder.mkdir()
        self._server = self._run(self._folder)

    def _run(self, folder: Path) -> ServerProcess:
        grpc, http = self._ports
        command = [
            require(_agent(), "a rotel that runs with this Python"),
            "start",
            *("--exporter", "blackhole"),
            *("--debug-log", self._signal),
            *("--debug-log-verbosity", "detailed"),
            *("--otlp-grpc-endpoint", f"127.0.0.1:{grpc}"),
            *("--otlp-http-endpoint", f"127.0.0.1:{http}"),
        ]
        return self._stack.enter_context(
            ServerProcess(
                command,
                folder,
                lambda: _listens(grpc) and _listens(http),
                env=_environment(),
            )
        )

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    def output(self) -> str:
        """All that it printed."""
        return self._server.output()

    def spans(self) -> list[Span]:
        """All spans received so far."""
        return parse(self._server.output())

    def wait_for_spans(self, at_least: int, seconds: float = READY_SECONDS) -> list[Span]:
        """The spans, as soon as there are so many and the last one is printed to its end."""
        seen = ""

        def settled() -> list[Span] | None:
            nonlocal seen
            before, seen = seen, self._server.output()
            spans = parse(seen)
            return spans if seen == before and len(spans) >= at_least else None

        found = wait_until(settled, f"{at_least} spans", seconds)
        assert found is not None
        return found


def _agent() -> str | None:
    """The receiver, if it can run: it needs the interpreter as a shared library."""
    spec = importlib.util.find_spec("rotel")
    if spec is None or spec.origin is None:
        return None
    agent = str(Path(spec.origin).parent / "rotel-agent")
    try:
        subprocess.run(
            [agent, "--version"],
            capture_output=True,
            check=True,
            timeout=VERSION_SECONDS,
            env=_environment(),
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return agent


def _environment() -> dict[str, str]:
    """Without the settings of an agent that runs here for other ends: they win over arguments."""
    return {key: value for key, value in os.environ.items() if not key.startswith("ROTEL_")}


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


SECTION = re.compile(r"(ResourceSpans|ScopeSpans|Span|SpanEvent|SpanLink) #\d+$")
FIELD = re.compile(r"    (Name|Trace ID|ID|Parent ID|Status code) +: (.*)$", re.DOTALL)
EVENT_NAME = re.compile(r"     -> Name: (.*)$", re.DOTALL)
ATTRIBUTE = re.compile(r" +-> (.+?): [A-Z]\w*\((.*)\)$", re.DOTALL)
OPEN_ATTRIBUTE = re.compile(r" +-> .+?: [A-Z]\w*\(")
STRUCTURE = re.compile(
    r"(ResourceSpans|ScopeSpans|Span|SpanEvent|SpanLink) #\d+$|(     |          )-> "
    r"|    [A-Z][\w ]{14}: |(Resource|ScopeSpans) SchemaURL:|Resource attributes:$"
    r"|InstrumentationScope |(Attributes|Events|Links):$|(Start|End) time: \d|\x1b\["
)
FIELDS = {"Name": "name", "Trace ID": "trace_id", "ID": "span_id", "Parent ID": "parent_id"}


def parse(output: str) -> list[Span]:
    """The spans in the receiver's detailed log. The values of attributes stay text."""
    spans: list[Span] = []
    section = ""
    for entry in _entries(output):
        if found := SECTION.match(entry):
            section = found[1]
            if section == "Span":
                spans.append(Span())
            elif section == "SpanEvent":
                spans[-1].events.append(SpanEvent(""))
        elif section == "Span":
            if found := FIELD.match(entry):
                if found[1] == "Status code":
                    spans[-1].status = found[2].removeprefix("STATUS_CODE_")
                else:
                    setattr(spans[-1], FIELDS[found[1]], found[2])
            elif found := ATTRIBUTE.match(entry):
                spans[-1].attributes[found[1]] = found[2]
        elif section == "SpanEvent":
            if found := EVENT_NAME.match(entry):
                spans[-1].events[-1].name = found[1]
            elif found := ATTRIBUTE.match(entry):
                spans[-1].events[-1].attributes[found[1]] = found[2]
    return spans


def _entries(output: str) -> Iterator[str]:
    """The lines of the log; a name or value of several lines, such as a stack trace, is one."""
    entry = ""
    # Only "\n" ends a line here: values may hold the other separators that splitlines() knows.
    for line in output.split("\n")[:-1]:
        is_open = OPEN_ATTRIBUTE.match(entry) and not entry.endswith(")")
        if STRUCTURE.match(line) and not is_open:
            yield entry
            entry = line
        else:
            entry = f"{entry}\n{line}"
    yield entry
