"""httpx, httpx under asyncio and requests, with breakers, against a server that fails."""

from __future__ import annotations

import gc
import random
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

import breakerscope as bs
from breakerscope import Outcome, State
from breakerscope.breaker import CircuitBreaker
from breakerscope.core.classification import Classifier
from breakerscope.core.events import CallRejected, CallSettled
from breakerscope.core.policy import Policy
from breakerscope.instrument import CLASSIFIER_OPTIONS
from breakerscope.integrations import httpx as for_httpx
from breakerscope.integrations import requests as for_requests
from breakerscope.integrations._http import host_key
from breakerscope.testing import FakeClock, capture_events
from tests.integration.clients import CLIENTS, Client, Httpx, Requests, always, tried
from tests.servers.faulty import FaultyServer
from tests.servers.process import free_port, wait_until

pytestmark = pytest.mark.usefixtures("fresh_breakers")

each_client = pytest.mark.parametrize("make", CLIENTS)
PATIENT = {"failure_count": 100}
"""A policy that never opens here."""


@pytest.fixture(scope="module")
def shared_server() -> Iterator[FaultyServer]:
    with FaultyServer("127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4") as server:
        yield server


@pytest.fixture
def server(shared_server: FaultyServer) -> FaultyServer:
    """A server whose counts begin at 0."""
    shared_server.connections = 0
    shared_server.requests.clear()
    return shared_server


def breaker_with(clock: FakeClock, make: Any, **policy: Any) -> CircuitBreaker:
    """A breaker with the rules of a client, and a clock that stands still."""
    rules = (for_requests if make is Requests else for_httpx).RULES
    classifier = Classifier(**{name: rules.get(name) for name in CLASSIFIER_OPTIONS})
    return CircuitBreaker("api", Policy(**policy), classifier=classifier, clock=clock.clock)


def outcomes(events: list[Any]) -> list[str]:
    return [e.outcome.value if isinstance(e, CallSettled) else "rejected" for e in events]


# -- what is a failure --------------------

FAULTS = {
    "/ok": Outcome.SUCCESS,
    "/gzip": Outcome.SUCCESS,
    "/stream": Outcome.SUCCESS,
    "/status/204": Outcome.SUCCESS,
    "/status/404": Outcome.SUCCESS,
    "/status/429": Outcome.FAILURE,
    "/status/500": Outcome.FAILURE,
    "/status/503": Outcome.FAILURE,
    "/slow": Outcome.FAILURE,
    "/reset": Outcome.FAILURE,
    "/half": Outcome.FAILURE,
    "/half-chunked": Outcome.FAILURE,
    "/stream-slow": Outcome.FAILURE,
}


@each_client
def test_each_fault_is_one_call_with_one_outcome(
    make: Callable[..., Client], server: FaultyServer
) -> None:
    seen: dict[str, list[str]] = {}
    with make(**PATIENT) as client, capture_events(CallSettled, CallRejected) as events:
        for path in FAULTS:
            tried(client, server.url(path))
            seen[path] = outcomes(events)
            events.clear()
    assert seen == {path: [outcome.value] for path, outcome in FAULTS.items()}
    assert server.requests == dict.fromkeys(FAULTS, 1)


@each_client
def test_a_refused_connection_is_a_failure(make: Any) -> None:
    url = f"http://127.0.0.1:{free_port()}/ok"
    with (
        make(**PATIENT) as client,
        capture_events(CallSettled) as events,
        pytest.raises(make.errors),
    ):
        client.get(url)
    assert outcomes(events) == ["failure"]


@each_client
def test_what_the_caller_gets_wrong_says_nothing(make: Callable[..., Client]) -> None:
    with (
        make(**PATIENT) as client,
        capture_events(CallSettled) as events,
        pytest.raises(Exception, match=r"(?i)host|url|protocol"),
    ):
        client.get("http:///ok")
    assert [outcome for outcome in outcomes(events) if outcome != "ignored"] == []


@each_client
def test_the_rules_can_be_others(make: Callable[..., Client], server: FaultyServer) -> None:
    def not_found(response: Any) -> bool:
        return bool(response.status_code == 404)

    with make(**PATIENT, failure_if=not_found) as client, capture_events(CallSettled) as events:
        tried(client, server.url("/status/404"))
        tried(client, server.url("/status/500"))
        tried(client, server.url("/reset"))
    assert outcomes(events) == ["failure", "success", "failure"]


# -- opening, waiting, closing --------------------


@each_client
def test_a_rejected_call_opens_no_socket(make: Any, server: FaultyServer) -> None:
    with make(consecutive_failures=2, open_for=60.0) as client:
        tried(client, server.url("/reset"), times=2)
        assert (server.connections, server.total()) == (2, 2)
        for _ in range(20):
            with pytest.raises(make.rejected) as caught:
                client.get(server.url("/ok"))
        assert (server.connections, server.total()) == (2, 2)
    error = caught.value
    assert isinstance(error, bs.CircuitBreakerOpenError)
    assert isinstance(error, make.errors)
    assert error.state is State.OPEN
    assert error.retry_after is not None
    assert 59.0 < error.retry_after <= 60.0
    assert error.request.url == server.url("/ok")
    assert str(error) == f"circuit breaker {error.breaker!r} is open; retry in 60 s"


@each_client
def test_an_outage_and_its_end(make: Any, server: FaultyServer) -> None:
    clock = FakeClock()
    breaker = breaker_with(clock, make, consecutive_failures=3, open_for=10.0, jitter=0.0)
    with make(per_host=always(breaker)) as client:
        tried(client, server.url("/status/503"), times=5)
        assert (breaker.state, server.total()) == (State.OPEN, 3)
        clock.advance(10.0)
        tried(client, server.url("/half"), times=2)
        assert (breaker.state, server.total()) == (State.OPEN, 4)
        clock.advance(20.0)
        assert client.get(server.url("/ok")) == (200, 4)
        assert breaker.state is State.CLOSED
    calls = breaker.read().calls
    assert (calls[Outcome.SUCCESS], calls[Outcome.FAILURE], calls[Outcome.REJECTED]) == (1, 4, 3)


@each_client
def test_a_probe_that_streams_holds_its_place(make: Any, server: FaultyServer) -> None:
    clock = FakeClock()
    breaker = breaker_with(clock, make, consecutive_failures=1, open_for=10.0)
    with make(per_host=always(breaker)) as client:
        tried(client, server.url("/reset"))
        clock.advance(10.0)
        response = client.open(server.url("/stream"))
        with pytest.raises(make.rejected):
            client.get(server.url("/ok"))
        assert sum(map(len, client.chunks(response))) == 3000
        assert breaker.state is State.CLOSED


@each_client
def test_a_429_says_how_long_to_wait(make: Any, server: FaultyServer) -> None:
    breaker = breaker_with(FakeClock(), make, consecutive_failures=1, open_for=5.0)
    with make(per_host=always(breaker)) as client:
        assert client.get(server.url("/status/429?retry_after=30")) == (429, 2)
        with pytest.raises(make.rejected) as caught:
            client.get(server.url("/ok"))
    assert (breaker.read().open_wait, caught.value.args[2]) == (30.0, 30.0)


# -- streams --------------------


@each_client
def test_a_stream_is_one_call_that_ends_with_the_stream(
    make: Callable[..., Client], server: FaultyServer
) -> None:
    with make(**PATIENT) as client, capture_events(CallSettled) as events:
        response = client.open(server.url("/stream?n=5"))
        (breaker,) = bs.breakers()
        chunks = client.chunks(response)
        next(chunks)
        assert (breaker.read().in_flight, events) == (1, [])
        assert sum(map(len, chunks)) == 4000
        assert (breaker.read().in_flight, outcomes(events)) == (0, ["success"])
        client.close(response)
    assert outcomes(events) == ["success"]


@each_client
def test_the_duration_is_the_work_and_not_the_reading(make: Any, server: FaultyServer) -> None:
    clock = FakeClock()
    breaker = breaker_with(clock, make)
    with make(per_host=always(breaker)) as client, capture_events(CallSettled) as events:
        for _ in client.chunks(client.open(server.url("/stream"))):
            clock.advance(60.0)
    assert [event.duration for event in events if isinstance(event, CallSettled)] == [0.0]


@each_client
@pytest.mark.parametrize(
    ("path", "outcome"), [("/stream-slow", "success"), ("/status/500", "failure")]
)
def test_a_reader_who_closes_early_is_judged_by_the_head(
    make: Callable[..., Client], server: FaultyServer, path: str, outcome: str
) -> None:
    with make(**PATIENT) as client, capture_events(CallSettled) as events:
        client.close(client.open(server.url(path)))
        assert outcomes(events) == [outcome]
        assert client.get(server.url("/ok")) == (200, 4)


@each_client
def test_a_body_that_breaks_is_one_failure(make: Any, server: FaultyServer) -> None:
    with make(**PATIENT) as client, capture_events(CallSettled) as events:
        response = client.open(server.url("/half"))
        with pytest.raises(make.errors):
            list(client.chunks(response))
        client.close(response)
        assert outcomes(events) == ["failure"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the open socket
@pytest.mark.parametrize("make", [Httpx, Requests])
def test_a_response_that_is_forgotten_was_cancelled(
    make: Callable[..., Client], server: FaultyServer
) -> None:
    with make(**PATIENT) as client, capture_events(CallSettled) as events:
        response = client.open(server.url("/stream-slow"))
        gone = weakref.ref(response)
        del response
        gc.collect()
        assert gone() is None
        (breaker,) = bs.breakers()
        assert breaker.read().in_flight == 0
        assert breaker.read().calls[Outcome.CANCELLED] == 1
    # In the middle of a garbage collection no inline listener is called.
    assert set(outcomes(events)) <= {"cancelled"}


@each_client
def test_the_pool_stays_healthy(make: Callable[..., Client], server: FaultyServer) -> None:
    with make(**PATIENT) as client:
        for path in [*FAULTS, *FAULTS]:
            tried(client, server.url(path))
        client.close(client.open(server.url("/stream-slow")))
        (breaker,) = bs.breakers()
        breaker.force_open()
        tried(client, server.url("/ok"), times=5)
        breaker.reset()
        before = server.connections
        for _ in range(5):
            assert client.get(server.url("/ok")) == (200, 4)
        assert server.connections <= before + 1
    gc.collect()  # of requests itself, with or without a breaker
    wait_until(lambda: server.open == 0, "all connections are closed", 5.0)


# -- hosts --------------------


@each_client
def test_each_host_has_its_breaker(make: Any, server: FaultyServer) -> None:
    with make(prefix="api", consecutive_failures=1, open_for=60.0) as client:
        tried(client, server.url("/reset", "127.0.0.2"))
        for host in ("127.0.0.1", "127.0.0.3", "LOCALHOST", "localhost"):
            assert client.get(server.url("/ok?anything=else", host)) == (200, 4)
        with pytest.raises(make.rejected):
            client.get(server.url("/ok", "127.0.0.2"))
    assert sorted((breaker.name, breaker.state) for breaker in bs.breakers()) == [
        (f"api:127.0.0.1:{server.port}", "closed"),
        (f"api:127.0.0.2:{server.port}", "open"),
        (f"api:127.0.0.3:{server.port}", "closed"),
        (f"api:localhost:{server.port}", "closed"),
    ]


@each_client
def test_hosts_are_bounded_however_many_clients_there_are(
    make: Callable[..., Client], server: FaultyServer
) -> None:
    for host in ("127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.1"):
        with make(prefix="api", limit=3) as client:
            assert client.get(server.url("/ok", host)) == (200, 4)
    counts = {breaker.name: breaker.read().calls[Outcome.SUCCESS] for breaker in bs.breakers()}
    assert counts == {
        f"api:127.0.0.1:{server.port}": 2,
        f"api:127.0.0.2:{server.port}": 1,
        "api:other": 2,
    }


@each_client
def test_each_hop_of_a_redirect_is_a_call(
    make: Callable[..., Client], server: FaultyServer
) -> None:
    to = server.url("/ok", "127.0.0.2")
    with make(prefix="api") as client:
        assert client.get(server.url(f"/redirect?to={to}")) == (200, 4)
    counts = {breaker.name: breaker.read().calls[Outcome.SUCCESS] for breaker in bs.breakers()}
    assert counts == {f"api:127.0.0.1:{server.port}": 1, f"api:127.0.0.2:{server.port}": 1}


@pytest.mark.parametrize(
    ("scheme", "host", "port", "key"),
    [
        ("http", "Example.COM", None, "example.com"),
        ("http", "example.com", 80, "example.com"),
        ("https", "example.com", 443, "example.com"),
        ("HTTPS", "example.com.", 443, "example.com"),
        ("https", "example.com", 80, "example.com:80"),
        ("http", "example.com", 8080, "example.com:8080"),
        ("http", "::1", 8080, "[::1]:8080"),
        ("http", "[::1]", None, "[::1]"),
        ("http", "xn--bcher-kva.example", None, "xn--bcher-kva.example"),
        ("http", "a" * 254, None, "other"),
        ("http", "", None, "other"),
        ("http", "a b", None, "other"),
        ("http", 'x"} 1\n', None, "other"),
        ("http", "bücher.example", None, "other"),
        ("http", "example.com", 0, "other"),
        ("http", "example.com", 70000, "other"),
    ],
)
def test_host_keys(scheme: str, host: str, port: int | None, key: str) -> None:
    assert host_key(scheme, host, port) == key


@each_client
def test_a_prefix_with_other_options_is_an_error(
    make: Callable[..., Client], server: FaultyServer
) -> None:
    for _ in range(2):
        with make(prefix="api", open_for=5.0) as client:
            client.get(server.url("/ok"))
    with pytest.raises(bs.ContradictionError, match=r": open_for: 5\.0 and 6\.0"):
        make(prefix="api", open_for=6.0)


@each_client
def test_options_that_cannot_be(make: Callable[..., Client]) -> None:
    with pytest.raises(TypeError, match="open_for, jitter: beside per_host no options are allowed"):
        make(per_host=bs.get_breaker, open_for=5.0, jitter=0.2)
    with pytest.raises(bs.LimitError):
        make(limit=0)
    with pytest.raises(bs.PolicyError):
        make(open_for=-1.0)


# -- conservation --------------------


@each_client
def test_requests_are_events_are_metrics(make: Callable[..., Client], server: FaultyServer) -> None:
    registry = CollectorRegistry()
    chance = random.Random(7)
    hosts = ("127.0.0.1", "127.0.0.2", "localhost")
    paths = ("/ok", "/stream", "/status/404", "/status/500", "/reset", "/half")
    asks = [
        [server.url(chance.choice(paths), chance.choice(hosts)) for _ in range(60)]
        for _ in range(4)
    ]

    def ask(urls: list[str]) -> None:
        with make(prefix="api", consecutive_failures=4, open_for=0.02) as client:
            for url in urls:
                tried(client, url)

    with (
        bs.setup_telemetry(registry=registry, logs=False, traces=False),
        capture_events(CallSettled, CallRejected) as events,
    ):
        threads = [threading.Thread(target=ask, args=[urls]) for urls in asks]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        samples = [sample for metric in registry.collect() for sample in metric.samples]
    told = Counter(outcomes(events))
    metrics = Counter[str]()
    for sample in samples:
        if sample.name == "circuit_breaker_calls_total" and sample.value:
            metrics[sample.labels["outcome"]] += int(sample.value)
    assert metrics == told
    assert told.total() == 240
    assert told["rejected"] > 0
    assert server.total() == 240 - told["rejected"]
    assert sum(breaker.read().in_flight for breaker in bs.breakers()) == 0
