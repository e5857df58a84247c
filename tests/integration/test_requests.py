"""What only requests has: bodies that are read by hand, and its own retries."""

from __future__ import annotations

import io
import pickle
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import requests
import urllib3

import breakerscope as bs
from breakerscope import Outcome, State
from breakerscope.core.events import CallSettled
from breakerscope.integrations.requests import RULES, BreakerAdapter, RequestRejectedError
from breakerscope.testing import capture_events, force_state
from tests.integration.clients import TIMEOUT, always
from tests.servers.faulty import FaultyServer
from tests.servers.process import free_port

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
            assert own().read().in_flight == 0
            response.close()
        assert [event.outcome for event in events if isinstance(event, CallSettled)] == ["success"]


def test_chunks_and_drained_connections() -> None:
    with FaultyServer() as server, session_with(own()) as session:
        response = session.get(server.url("/stream"), stream=True, timeout=TIMEOUT)
        assert sum(map(len, response.raw.read_chunked())) == 3000
        session.get(server.url("/stream"), stream=True, timeout=TIMEOUT).raw.drain_conn()
        assert own().read().calls[Outcome.SUCCESS] == 2
        assert server.connections == 1


# -- the retries of urllib3 --------------------


def retrying(breaker: bs.CircuitBreaker, **options: Any) -> requests.Session:
    session = requests.Session()
    retry = urllib3.Retry(
        **{"total": 3, "status_forcelist": [503], "raise_on_status": False, **options}
    )
    adapter = BreakerAdapter(1, 1, retry, pool_block=True, per_host=always(breaker))
    session.mount("http://", adapter)
    return session


@pytest.mark.parametrize("path", ["/status/503", "/reset", "/slow"])
def test_each_attempt_is_a_call(path: str) -> None:
    with (
        FaultyServer() as server,
        retrying(own()) as session,
        capture_events(CallSettled) as events,
    ):
        with suppress(requests.RequestException):
            assert session.get(server.url(path), timeout=0.1).status_code == 503
        assert server.total() == 4
    assert [event.outcome for event in events if isinstance(event, CallSettled)] == ["failure"] * 4
    assert own().read().in_flight == 0


def test_attempts_to_connect_are_calls() -> None:
    with retrying(own()) as session, pytest.raises(requests.ConnectionError):
        session.get(f"http://127.0.0.1:{free_port()}", timeout=TIMEOUT)
    assert own().read().calls[Outcome.FAILURE] == 4


def test_an_attempt_that_is_refused_is_the_last() -> None:
    breaker = bs.instrumented_breaker("own", consecutive_failures=2, **RULES)
    with FaultyServer() as server, retrying(breaker) as session:
        for path, total in (("/status/503", 2), ("/reset", 3)):
            with pytest.raises(RequestRejectedError) as caught:
                session.get(server.url(path), timeout=TIMEOUT)
            assert caught.value.state is State.OPEN
            assert server.total() == total
            force_state(breaker, State.HALF_OPEN)
        # Nothing leaked: the pool has one connection, and gives it.
        assert session.get(server.url("/ok"), timeout=TIMEOUT).text == "fine"
        assert server.open <= 1


def test_the_wait_between_attempts_is_nobodys_duration() -> None:
    with (
        FaultyServer() as server,
        retrying(own(), total=2, backoff_factor=0.2) as session,
        capture_events(CallSettled) as events,
    ):
        start = time.monotonic()
        session.get(server.url("/status/503"), timeout=TIMEOUT)
        assert time.monotonic() - start >= 0.4
    durations = [event.duration for event in events if isinstance(event, CallSettled)]
    assert len(durations) == 3
    assert max(durations) < 0.2


def test_retries_of_a_class_of_ones_own_stay_so() -> None:
    class Own(urllib3.Retry):
        pass

    adapter = BreakerAdapter(per_host=always(own()), max_retries=Own(total=2))
    assert isinstance(adapter.max_retries, Own)
    assert (adapter.max_retries.total, adapter.max_retries.new().total) == (2, 2)
    adapter.max_retries = Own(total=5)
    with FaultyServer() as server, requests.Session() as session:
        session.mount("http://", adapter)
        with pytest.raises(requests.ConnectionError):
            session.get(server.url("/reset"))
        # Outside of a request, they are plain retries.
        adapter.max_retries.increment("GET", "/", error=ConnectionError()).sleep()
    assert (own().read().calls[Outcome.FAILURE], own().read().in_flight) == (6, 0)


def test_a_rejection_survives_pickling() -> None:
    error = RequestRejectedError("api", State.OPEN, 3.0)
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.breaker, copy.state, copy.retry_after) == ("api", State.OPEN, 3.0)
    assert str(copy) == "circuit breaker 'api' is open; retry in 3 s"
