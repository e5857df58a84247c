from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.servers.otlp import OtlpReceiver
from tests.servers.prometheus import Prometheus

# A proxy of the surroundings knows nothing of the servers on this machine.
os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1,localhost"


@pytest.fixture
def prometheus(tmp_path: Path) -> Iterator[Callable[[dict[str, list[str]]], Prometheus]]:
    """Starts a Prometheus for targets ("host:port") by job."""
    with ExitStack() as stack:
        yield lambda targets: stack.enter_context(Prometheus(targets, tmp_path))


@pytest.fixture
def otlp_receiver(tmp_path: Path) -> Iterator[OtlpReceiver]:
    with OtlpReceiver(tmp_path) as receiver:
        yield receiver
