from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.servers.otlp import OtlpReceiver
from tests.servers.prometheus import Prometheus


@pytest.fixture
def prometheus(tmp_path: Path) -> Iterator[Callable[[dict[str, list[str]]], Prometheus]]:
    """Starts a Prometheus for targets ("host:port") by job."""
    with ExitStack() as stack:
        yield lambda targets: stack.enter_context(Prometheus(targets, tmp_path))


@pytest.fixture
def otlp_receiver(tmp_path: Path) -> Iterator[OtlpReceiver]:
    with OtlpReceiver(tmp_path) as receiver:
        yield receiver
