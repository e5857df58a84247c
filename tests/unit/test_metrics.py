"""prometheus_client: what a scrape shows, and what a bad set-up is told."""

from __future__ import annotations

import http.client
import logging
import math
import os
import signal
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import prometheus_client
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Gauge, start_http_server
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.exposition import generate_latest as openmetrics_text
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse_text

import breakerscope as bs
from breakerscope.registry import default_registry
from breakerscope.telemetry.metrics import DuplicateMetricError
from breakerscope.telemetry.settings import MAX_BREAKERS
from tests.servers.process import binary
from tests.unit.support import BIDI_CONTROLS, fail_times, succeed

pytestmark = pytest.mark.usefixtures("fresh_breakers")
NAME = "payment_api"
CALLS = "circuit_breaker_calls_total"
DOCUMENT = Path(__file__).parents[2] / "docs" / "telemetry-prometheus.md"

Labels = tuple[tuple[str, str], ...]


@pytest.fixture
def registry() -> Iterator[CollectorRegistry]:
    registry = CollectorRegistry()
    with bs.setup_telemetry(registry=registry):
        yield registry


def scrape(registry: CollectorRegistry) -> dict[tuple[str, Labels], float]:
    """The value of each series that a text scrape shows."""
    text = prometheus_client.generate_latest(registry).decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in parse_text(text)
        for sample in family.samples
    }


def of(series: dict[tuple[str, Labels], float], name: str, label: str) -> dict[str, float]:
    """The values of one metric by one of its labels, added up over the others."""
    found: Counter[str] = Counter()
    for (sample, labels), value in series.items():
        if sample == name:
            found[dict(labels)[label]] += value  # type: ignore[assignment]
    return dict(found)


# -- how many series ------------------------------------------------------------------------------


def test_the_number_of_series_per_breaker(registry: CollectorRegistry) -> None:
    """Each of them costs memory in Prometheus, so more of them is a decision; the document tells
    the number.
    """
    bs.instrumented_breaker(NAME)
    series = Counter(name for name, labels in scrape(registry) if dict(labels).get("breaker"))
    assert dict(series) == {
        "circuit_breaker_calls_total": 5,
        "circuit_breaker_call_duration_seconds_bucket": 64,
        "circuit_breaker_call_duration_seconds_count": 4,
        "circuit_breaker_call_duration_seconds_sum": 4,
        "circuit_breaker_slow_calls_total": 1,
        "circuit_breaker_would_reject_total": 1,
        "circuit_breaker_fallbacks_total": 2,
        "circuit_breaker_state": 5,
        "circuit_breaker_transitions_total": 20,
        "circuit_breaker_state_seconds_total": 5,
        "circuit_breaker_state_entered_timestamp_seconds": 1,
        "circuit_breaker_failure_ratio": 1,
        "circuit_breaker_slow_call_ratio": 1,
        "circuit_breaker_failure_ratio_threshold": 1,
        "circuit_breaker_slow_call_ratio_threshold": 1,
        "circuit_breaker_open_wait_seconds": 1,
        "circuit_breaker_in_flight_calls": 1,
        "circuit_breaker_info": 1,
    }
    assert f"**{series.total()} series**" in DOCUMENT.read_text(encoding="utf-8")


def test_calls_add_no_series(registry: CollectorRegistry) -> None:
    breaker = bs.instrumented_breaker(NAME, consecutive_failures=2)
    before = scrape(registry).keys()
    breaker.call(succeed)
    fail_times(breaker, 2)
    with pytest.raises(bs.CircuitBreakerOpenError):
        breaker.call(succeed)
    breaker.reset()
    assert scrape(registry).keys() == before


# -- from one scrape to the next ------------------------------------------------------------------


def test_each_scrape_says_how_it_is_now(registry: CollectorRegistry) -> None:
    breaker = bs.instrumented_breaker(NAME, consecutive_failures=2, min_calls=1, failure_rate=0.9)
    seen = []
    for act in (lambda: breaker.call(succeed), lambda: fail_times(breaker, 2), lambda: None):
        act()
        found = scrape(registry)
        seen.append(
            (
                of(found, CALLS, "outcome"),
                of(found, "circuit_breaker_state", "state"),
                of(found, "circuit_breaker_failure_ratio", "breaker")[NAME],
            )
        )
    zero = dict.fromkeys(bs.Outcome, 0.0)
    states = dict.fromkeys(bs.State, 0.0)
    after_a_success = (zero | {"success": 1}, states | {"closed": 1}, 0.0)
    opened = (zero | {"success": 1, "failure": 2}, states | {"open": 1})
    assert seen[0] == after_a_success
    assert [two[:2] for two in seen[1:]] == [opened, opened]


def test_an_adopted_state_shows_its_transition(registry: CollectorRegistry) -> None:
    """No rule makes such a change, so its series appears with it."""
    forced = bs.CircuitBreaker(NAME)
    forced.force_open()
    breaker = bs.instrumented_breaker(NAME)
    before = scrape(registry)
    breaker.adopt(forced.snapshot())
    after = scrape(registry)
    (new,) = after.keys() - before.keys()
    change = {"from_state": "closed", "to_state": "forced_open", "cause": "adopt"}
    assert (new[0], dict(new[1]), after[new]) == (
        "circuit_breaker_transitions_total",
        {"breaker": NAME, **change},
        1.0,
    )


def test_removal_takes_the_series_and_a_new_breaker_begins_at_zero(
    registry: CollectorRegistry,
) -> None:
    empty = scrape(registry)
    bs.instrumented_breaker(NAME).call(succeed)
    assert of(scrape(registry), CALLS, "outcome")["success"] == 1
    bs.remove_breaker(NAME)
    assert scrape(registry) == empty
    bs.instrumented_breaker(NAME)
    assert set(of(scrape(registry), CALLS, "outcome").values()) == {0.0}


def test_before_or_after_the_set_up_is_the_same() -> None:
    bs.setup_telemetry(registry=CollectorRegistry()).close()
    early = bs.instrumented_breaker("early")
    early.call(succeed)
    registry = CollectorRegistry()
    with bs.setup_telemetry(registry=registry), bs.setup_telemetry(registry=registry):
        bs.instrumented_breaker("late").call(succeed)
        found = scrape(registry)
    by_name: dict[str, dict[tuple[str, Labels], float]] = {"early": {}, "late": {}}
    for (name, labels), value in found.items():
        breaker = dict(labels).get("breaker")
        if breaker and "second" not in name and not math.isnan(value):
            rest = tuple(pair for pair in labels if pair[0] != "breaker")
            by_name[breaker][name, rest] = value
    assert by_name["early"] == by_name["late"]
    assert by_name["late"][CALLS, (("outcome", "success"),)] == 1


# -- names ----------------------------------------------------------------------------------------

TRICKY = [
    'quo"te',
    "back\\slash",
    "dot.ted",
    "🔌",
    "{a='b'}",
    "a,b",
    "\\n",
    " x ",
    "é",
    "\u00a0nbsp",
    "👩\u200d💻",
]
IN_NAMES = st.characters(
    exclude_categories=["Cc", "Cs", "Zl", "Zp"], exclude_characters=BIDI_CONTROLS
)


@pytest.mark.parametrize("escaping", ["underscores", "allow-utf-8"])
def test_names_survive_both_formats(registry: CollectorRegistry, escaping: str) -> None:
    for name in TRICKY:
        bs.instrumented_breaker(name)
    old = prometheus_client.generate_latest(registry, escaping).decode()
    new = openmetrics_text(registry, escaping).decode()
    for families in (parse_text(old), parse_openmetrics(new)):
        names = {s.labels.get("breaker") for family in families for s in family.samples}
        assert names - {None} == set(TRICKY)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)
@given(name=st.text(IN_NAMES, min_size=1).filter(str.strip).filter(lambda name: name != "_OTHER"))
def test_any_name_survives(registry: CollectorRegistry, name: str) -> None:
    bs.instrumented_breaker(name)
    try:
        (family,) = [f for f in registry.collect() if f.name == "circuit_breaker_info"]
        assert [s.labels["breaker"] for s in family.samples] == [name]
        assert {dict(labels).get("breaker") for _, labels in scrape(registry)} >= {name}
    finally:
        bs.remove_breaker(name)


@pytest.mark.server
def test_promtool_accepts_the_text(registry: CollectorRegistry) -> None:
    for name in TRICKY:
        bs.instrumented_breaker(name).call(succeed)
    checked = subprocess.run(
        [binary("promtool"), "check", "metrics"],
        input=prometheus_client.generate_latest(registry),
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, b"")


def test_bounds_are_spelled_as_prometheus_client_does(registry: CollectorRegistry) -> None:
    buckets = (0.5, 1, 2.5, 10_000_000)
    bs.instrumented_breaker(NAME, buckets=buckets)
    other = CollectorRegistry()
    prometheus_client.Histogram("h", "h", buckets=buckets, registry=other)

    def bounds(name: str, registry: CollectorRegistry) -> set[str]:
        found = scrape(registry)
        return {dict(labels)["le"] for sample, labels in found if sample == f"{name}_bucket"}

    assert bounds("circuit_breaker_call_duration_seconds", registry) == bounds("h", other)


# -- clashes and prefix ---------------------------------------------------------------------------


def test_a_clash_names_the_metric_and_the_way_out() -> None:
    registry = CollectorRegistry()
    Gauge("circuit_breaker_state", "of another library", ["circuit_name"], registry=registry)
    with pytest.raises(DuplicateMetricError) as caught:
        bs.setup_telemetry(registry=registry)
    assert str(caught.value) == (
        "the Prometheus registry has a metric of this name already: circuit_breaker_state;"
        ' give setup_telemetry a prefix (prefix="myapp") or another registry'
    )
    with bs.setup_telemetry(registry=registry, prefix="shop"):
        bs.instrumented_breaker(NAME).call(succeed)
        found = scrape(registry)
    ours = {name for name, labels in found if dict(labels).get("breaker") == NAME}
    assert {name.startswith("shop_circuit_breaker_") for name in ours} == {True}
    assert of(found, f"shop_{CALLS}", "outcome")["success"] == 1


@pytest.mark.parametrize("prefix", ["1a", "a-b", "a_", "_a", "a b", "a:b", "é", 3, None])
def test_a_prefix_that_cannot_be(prefix: object) -> None:
    with pytest.raises(bs.TelemetryError, match="prefix="):
        bs.setup_telemetry(registry=CollectorRegistry(), prefix=prefix)  # type: ignore[arg-type]


# -- labels ---------------------------------------------------------------------------------------


def test_labels_of_the_set_up_and_of_a_breaker() -> None:
    registry = CollectorRegistry()
    early = bs.instrumented_breaker("early")
    with bs.setup_telemetry(registry=registry, labels={"team": "checkout", "tier": ""}):
        bs.instrumented_breaker("plain")
        bs.instrumented_breaker("own", labels={"team": "search", "tier": "1"})
        found = scrape(registry)
    teams = {
        (dict(labels)["breaker"], dict(labels)["team"], dict(labels).get("tier", ""))
        for name, labels in found
        if "breaker" in dict(labels)
    }
    assert teams == {
        (early.name, "checkout", ""),
        ("plain", "checkout", ""),
        ("own", "search", "1"),
    }
    listeners = [dict(labels) for _, labels in found if "listener" in dict(labels)]
    assert listeners
    assert {of_listener["team"] for of_listener in listeners} == {"checkout"}


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        ({"breaker": "x"}, "'breaker': the metrics have it already"),
        ({"outcome": "x"}, "'outcome': the metrics have it already"),
        ({"le": "x"}, "'le': the metrics have it already"),
        ({"__name__": "x"}, "'__name__': names that begin with __"),
        ({"a-b": "x"}, "'a-b': allowed are letters"),
        ({"1a": "x"}, "'1a': allowed are letters"),
        ({"": "x"}, "'': allowed are letters"),
        ({3: "x"}, "3: allowed are letters"),
        ({"team": 3}, "'team': 3: allowed is text"),
        ("team", "labels='team': allowed is a mapping"),
    ],
)
def test_labels_that_cannot_be(labels: object, told: str) -> None:
    with pytest.raises(bs.LabelError) as caught:
        bs.setup_telemetry(registry=CollectorRegistry(), labels=labels)  # type: ignore[arg-type]
    assert told in str(caught.value)
    with (
        bs.setup_telemetry(registry=CollectorRegistry(), labels={"team": ""}),
        pytest.raises(bs.LabelError) as caught,
    ):
        bs.instrumented_breaker("x", labels=labels)  # type: ignore[arg-type]
    assert told in str(caught.value)
    assert bs.get_breaker("x") is None


def test_a_breaker_cannot_add_label_names() -> None:
    with (
        bs.setup_telemetry(registry=CollectorRegistry(), labels={"team": ""}),
        pytest.raises(bs.LabelError) as caught,
    ):
        bs.instrumented_breaker(NAME, labels={"region": "eu"})
    assert str(caught.value) == (
        "breaker 'payment_api': label 'region' is not in setup_telemetry(labels=...);"
        " allowed are team"
    )


def test_labels_belong_to_the_breaker_but_not_to_its_policy() -> None:
    with bs.setup_telemetry(registry=CollectorRegistry(), labels={"team": ""}):
        breaker = bs.instrumented_breaker(NAME, labels={"team": "search"})
        assert breaker.policy == bs.Policy()
        with pytest.raises(bs.ContradictionError, match="labels:"):
            bs.instrumented_breaker(NAME, labels={"team": "checkout"})


# -- the cap --------------------------------------------------------------------------------------


def test_breakers_beyond_the_cap_are_one(caplog: pytest.LogCaptureFixture) -> None:
    registry = CollectorRegistry()
    with (
        caplog.at_level(logging.WARNING, logger="breakerscope"),
        bs.setup_telemetry(registry=registry, max_breakers=2, logs=False),
    ):
        for number in range(5):
            breaker = bs.instrumented_breaker(f"b{number}", buckets=(0.2 * (number + 1), 100))
            for _ in range(10**number):
                breaker.call(succeed)
        bs.instrumented_breaker("b4").force_open()
        first = scrape(registry)
        calls = of(first, CALLS, "breaker")
        assert calls == {"b0": 1, "b1": 10, "_OTHER": 11_100}
        counted = "circuit_breaker_call_duration_seconds_count"
        assert of(first, counted, "breaker") == calls
        per_state = {
            dict(labels)["state"]: value
            for (name, labels), value in first.items()
            if name == "circuit_breaker_state" and dict(labels)["breaker"] == "_OTHER"
        }
        assert per_state == dict.fromkeys(bs.State, 0) | {"closed": 2, "open": 0, "forced_open": 1}
        # What is gone was counted, and room that became free is for new breakers only.
        bs.instrumented_breaker("b3").call(succeed)
        bs.remove_breaker("b0")
        bs.remove_breaker("b3")
        bs.instrumented_breaker("b5").call(succeed)
        bs.instrumented_breaker("b6").call(succeed)
        calls = of(scrape(registry), CALLS, "breaker")
        assert calls == {"b1": 10, "b5": 1, "_OTHER": 11_102}
    told = [record.getMessage() for record in caplog.records]
    assert told == [
        "more than 2 breakers: in metrics, the others are one, breaker='_OTHER';"
        " setup_telemetry(max_breakers=...) sets the limit"
    ]


def test_beyond_the_cap_a_call_is_never_in_a_bucket_too_low() -> None:
    """Buckets that differ have no sum, so the sum has the default ones."""
    registry = CollectorRegistry()
    with bs.setup_telemetry(registry=registry, max_breakers=1):
        bs.instrumented_breaker("first")
        bs.instrumented_breaker("second", buckets=(0.3, 70)).call(succeed)
        found = scrape(registry)
    labels = {"breaker": "_OTHER", "outcome": "success"}
    buckets = {
        dict(key)["le"]: value
        for (name, key), value in found.items()
        if name == "circuit_breaker_call_duration_seconds_bucket" and labels.items() <= set(key)
    }
    held = {bound: float(float(bound) >= 0.5) for bound in buckets}
    assert len(buckets) == 16
    assert buckets == held


def test_a_scrape_in_the_middle_of_a_scrape() -> None:
    """To read a breaker can tell an inline listener of a change, and that one may scrape."""
    registry = CollectorRegistry()
    heard: list[dict[str, float]] = []

    class Telling(bs.CircuitBreaker):
        def read(self) -> bs.Reading:
            if len(heard) < 3:
                heard.append({})
                heard.append(of(scrape(registry), CALLS, "breaker"))
            return super().read()

    with bs.setup_telemetry(registry=registry, max_breakers=1):
        bs.instrumented_breaker("first")
        default_registry.add(Telling("second")).call(succeed)
        after = [of(scrape(registry), CALLS, "breaker") for _ in range(2)]
    assert after == [{"first": 0, "_OTHER": 1}] * 2
    assert heard == [{}, {"first": 0}, {}, {"first": 0, "_OTHER": 1}]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork.*:DeprecationWarning")
def test_a_child_forked_in_the_middle_of_a_scrape(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = CollectorRegistry()
    reading, go_on = threading.Event(), threading.Event()
    read = bs.CircuitBreaker.read

    def slow(breaker: bs.CircuitBreaker) -> bs.Reading:
        if breaker.name == "second" and not reading.is_set():
            reading.set()
            go_on.wait(10)
        return read(breaker)

    monkeypatch.setattr(bs.CircuitBreaker, "read", slow)
    with bs.setup_telemetry(registry=registry, max_breakers=1):
        for name in ("first", "second"):
            bs.instrumented_breaker(name).call(succeed)
        scraping = threading.Thread(target=scrape, args=(registry,))
        scraping.start()
        assert reading.wait(10)
        child = os.fork()
        if child == 0:
            signal.alarm(10)
            code = 1
            try:
                bs.instrumented_breaker("second").call(succeed)
                shown = of(scrape(registry), CALLS, "breaker")
                code = 0 if shown == {"first": 0.0, "_OTHER": 1.0} else 2
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        go_on.set()
        scraping.join()
        assert of(scrape(registry), CALLS, "breaker") == {"first": 1.0, "_OTHER": 1.0}


def test_a_breaker_that_is_called_as_the_others() -> None:
    registry = CollectorRegistry()
    with bs.setup_telemetry(registry=registry):
        bs.instrumented_breaker("_OTHER").call(succeed)
        assert of(scrape(registry), CALLS, "breaker") == {"_OTHER": 1}


@pytest.mark.parametrize("limit", [0, -1, 1.5, True, "10", None])
def test_a_cap_that_cannot_be(limit: object) -> None:
    with pytest.raises(bs.TelemetryError, match="max_breakers="):
        bs.setup_telemetry(registry=CollectorRegistry(), max_breakers=limit)  # type: ignore[arg-type]


def test_the_document_tells_the_cap() -> None:
    assert f"first {MAX_BREAKERS} breakers" in DOCUMENT.read_text(encoding="utf-8")


# -- what must not hurt the calls -----------------------------------------------------------------


def test_a_registry_that_raises_is_the_scrapes_problem(registry: CollectorRegistry) -> None:
    class Broken:
        def collect(self) -> Iterator[Metric]:
            raise OSError
            yield

    breaker = bs.instrumented_breaker(NAME)
    registry.register(Broken())
    for _ in range(3):
        breaker.call(succeed)
        with pytest.raises(OSError):
            prometheus_client.generate_latest(registry)
    assert breaker.read().calls[bs.Outcome.SUCCESS] == 3


def test_a_registry_that_refuses_leaves_nothing_behind() -> None:
    class Refusing(CollectorRegistry):
        def register(self, collector: object) -> None:
            raise RuntimeError

    with pytest.raises(RuntimeError):
        bs.setup_telemetry(registry=Refusing())
    bs.setup_telemetry(registry=CollectorRegistry()).close()


def test_a_scrape_that_hangs_half_way_holds_up_nothing(registry: CollectorRegistry) -> None:
    """The client asks and does not read. The answer is larger than what the sockets take."""
    breakers = [bs.instrumented_breaker(f"b{number}") for number in range(200)]
    server, thread = start_http_server(0, addr="127.0.0.1", registry=registry)
    try:
        with socket.create_connection(("127.0.0.1", server.server_port), timeout=10) as idle:
            idle.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            idle.sendall(b"GET /metrics HTTP/1.0\r\nHost: x\r\n\r\n")
            assert idle.recv(64).startswith(b"HTTP/1.0 200")
            start = time.monotonic()
            for breaker in breakers:
                breaker.call(succeed)
            assert of(scrape(registry), CALLS, "outcome")["success"] == len(breakers)
            other = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
            other.request("GET", "/metrics")
            assert other.getresponse().status == 200
            other.close()
            assert time.monotonic() - start < 20
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
