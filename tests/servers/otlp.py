"""A real OTLP receiver, and the spans that it says it got."""

from __future__ import annotations

import importlib.util
import re
import socket
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from tests.servers.process import ServerProcess, free_port, require


@dataclass
class SpanEvent:
    name: str
    attributes: dict[str, str] = field(default_factory=dict)


@dataclass
class Span:
    name: str = ""
    trace_id: str = ""
    events: list[SpanEvent] = field(default_factory=list)


class OtlpReceiver:
    """Takes OTLP over gRPC (`grpc_url`) and HTTP (`http_url`)."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        grpc, http = free_port(), free_port()
        self.grpc_url = f"http://127.0.0.1:{grpc}"
        self.http_url = f"http://127.0.0.1:{http}"
        command = [
            require(_agent(), "the OTLP receiver rotel"),
            "start",
            *("--exporter", "blackhole"),
            *("--debug-log", "traces"),
            *("--debug-log-verbosity", "detailed"),
            *("--otlp-grpc-endpoint", f"127.0.0.1:{grpc}"),
            *("--otlp-http-endpoint", f"127.0.0.1:{http}"),
        ]
        ready = [grpc, http]
        self._server = self._stack.enter_context(
            ServerProcess(command, self._folder, lambda: all(_listens(port) for port in ready))
        )
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    def spans(self) -> list[Span]:
        """All spans received so far."""
        return parse(self._server.output())


def _agent() -> str | None:
    spec = importlib.util.find_spec("rotel")
    if spec is None or spec.origin is None:
        return None
    return str(Path(spec.origin).parent / "rotel-agent")


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


SPAN = re.compile(r"^Span #\d+$")
SPAN_FIELD = re.compile(r"^    (Trace ID|Name) +: (.*)$")
EVENT = re.compile(r"^SpanEvent #\d+$")
EVENT_NAME = re.compile(r"^     -> Name: (.*)$")
EVENT_ATTRIBUTE = re.compile(r"^          -> (\S+): \w+\((.*)\)$")


def parse(output: str) -> list[Span]:
    """The spans in the receiver's detailed log. The values of attributes stay text."""
    spans: list[Span] = []
    for line in output.splitlines():
        if SPAN.match(line):
            spans.append(Span())
        elif EVENT.match(line):
            spans[-1].events.append(SpanEvent(""))
        elif found := EVENT_ATTRIBUTE.match(line):
            spans[-1].events[-1].attributes[found[1]] = found[2]
        elif found := EVENT_NAME.match(line):
            spans[-1].events[-1].name = found[1]
        elif found := SPAN_FIELD.match(line):
            setattr(spans[-1], {"Trace ID": "trace_id", "Name": "name"}[found[1]], found[2])
    return spans
