"""What only requests has: bodies that are read by hand, and its own retries."""

from __future__ import annotations

import io
import pickle
import shutil
from collections.abc import Callable
from typing import Any

import pytest
import requests

import breakerscope as bs
from breakerscope import State
from breakerscope.events import CallSettled
from breakerscope.integrations.requests import RULES, BreakerAdapter, RequestRejectedError
from breakerscope.testing import capture_events
from tests.integration.clients import TIMEOUT, always
from tests.servers.faulty import FaultyServer

pytestmark = pytest.mark.usefixtures("fresh_breakers")


def session_with(breaker: bs.CircuitBreaker) -> requests.Session:
    session = requests.Session()
    session.mount("http://", BreakerAdapter(per_host=always(breaker)))
    return session


def own() -> bs.CircuitBreaker:
    return bs.instrumented_breaker("own", failure_count=100, **RULES)


def copied(raw: Any) -> bytes:
    target = io.BytesIO()
    shutil.copyfileobj(raw, target)
    return target.getvalue()


def read_into(raw: Any) -> bytes:
    buffer = bytearray(5000)
    size = 0
    while n := raw.readinto(memoryview(buffer)[size:]):
        size += n
    return bytes(buffer[:size])


def in_a_block(raw: Any) -> bytes:
    with raw:
        return bytes(raw.read())


WAYS: dict[str, Callable[[Any], bytes]] = {
    "read": lambda raw: raw.read(),
    "read in parts": lambda raw: b"".join(iter(lambda: raw.read(700), b"")),
    "read1": lambda raw: b"".join(iter(lambda: raw.read1(700), b"")),
    "copyfileobj": copied,
    "readinto": read_into,
    "data": lambda raw: raw.data,
    "lines": b"".join,
    "stream": lambda raw: b"".join(raw.stream(700)),
    "a buffer": lambda raw: io.BufferedReader(raw).read(),
    "a block": in_a_block,
}


@pytest.mark.parametrize("read", [pytest.param(way, id=name) for name, way in WAYS.items()])
def test_a_body_read_by_hand_is_one_call(read: Callable[[Any], bytes]) -> None:
    with FaultyServer() as server, session_with(own()) as session:
        with capture_events(CallSettled) as events:
            response = session.get(server.url("/big"), stream=True, timeout=TIMEOUT)
            assert (len(events), own().read().in_flight) == (0, 1)
            assert len(read(response.raw)) == 3000
            response.close()
        assert [event.outcome for event in events if isinstance(event, CallSettled)] == ["success"]
        assert own().read().in_flight == 0


def test_chunks_and_drained_connections() -> None:
    with FaultyServer() as server, session_with(own()) as session:
        response = session.get(server.url("/stream"), stream=True, timeout=TIMEOUT)
        assert sum(map(len, response.raw.read_chunked())) == 3000
        session.get(server.url("/stream"), stream=True, timeout=TIMEOUT).raw.drain_conn()
        assert own().read().calls["success"] == 2  # type: ignore[index]
        assert server.connections == 1


def test_a_rejection_survives_pickling() -> None:
    error = RequestRejectedError("api", State.OPEN, 3.0)
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.breaker, copy.state, copy.retry_after) == ("api", State.OPEN, 3.0)
    assert str(copy) == "circuit breaker 'api' is open; retry in 3 s"
