"""Text from outside cannot break the exposition, nor make a line lie."""

from __future__ import annotations

import io
import json
import logging
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from enum import Enum
from pathlib import Path
from typing import Any
from weakref import ref

import opentelemetry._logs
import prometheus_client
import pytest
import structlog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.exposition import generate_latest as openmetrics_text
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse_text

import breakerscope as bs
from breakerscope import bridges
from breakerscope.bridges.foreign import BLIND, ForeignBreaker
from breakerscope.bridges.libraries import PYBREAKER
from breakerscope.compat.llm_circuit_breaker import LLMCircuitBreaker
from breakerscope.compat.metrics_prometheus import PrometheusMetricsCollector
from breakerscope.compat.otel_integration import OTelTracer, SpanStatus
from breakerscope.core.counters import DEFAULT_BUCKETS
from breakerscope.event_bus import EventBus, default_bus
from breakerscope.integrations.httpx import BreakerTransport
from breakerscope.registry import Registry, default_registry
from breakerscope.telemetry.metrics import BreakerCollector
from breakerscope.telemetry.series import PARTS_TO_MERGE, Layout
from breakerscope.telemetry.settings import MetricsSettings
from breakerscope.telemetry.spans import internal_span
from breakerscope.telemetry.totals import Place, Totals
from tests.unit.bridged import KINDS, Kind
from tests.unit.support import BIDI_CONTROLS, Boom, succeed

pytestmark = pytest.mark.usefixtures("fresh_breakers")

CALLS = "circuit_breaker_calls_total"
DROPPED = "circuit_breaker_events_dropped_total"
ERRORS = "circuit_breaker_listener_errors_total"
LIE = "api\n2026-01-01 CRITICAL all is lost"
SURROGATE = "\udc80"

SOME_REFUSED = ["\x00", "\t", "\n", "\r", "\x1b", "\x7f", "\x85", "\x9f", "\u2028", "\u2029"]
SOME_REFUSED += ["\ud83d\ude00", "\ud800", "\udc80", "\udfff", *BIDI_CONTROLS]
ALLOWED = [
    "payment_api",
    "é",
    "日本語",
    "a\u00a0b",
    "👩\u200d💻",
    "\u0645\u06cc\u200c\u062e\u0648",  # a Persian word has such a joiner
    "🏴\U000e0067\U000e0062\U000e007f",
    'quo"te',
    "{a='b'}",
    "back\\slash",
    "\\n",
    "\\udc80",
    "\ufeff",
    "\ue000",
    "\uffff",
]

each_kind = pytest.mark.parametrize("kind", KINDS, ids=str)


@pytest.fixture
def registry() -> Iterator[CollectorRegistry]:
    registry = CollectorRegistry()
    with bs.setup_telemetry(registry=registry, logs=False, traces=False):
        yield registry


def shown(registry: CollectorRegistry, sample: str = CALLS, label: str = "breaker") -> set[str]:
    """The values of a label, in both formats, through their parsers."""
    found = [
        {
            each.labels[label]
            for family in families
            for each in family.samples
            if each.name == sample
        }
        for families in (
            parse_text(prometheus_client.generate_latest(registry).decode()),
            parse_openmetrics(openmetrics_text(registry).decode()),
        )
    ]
    assert found[0] == found[1]
    return found[0]


def counted(registry: CollectorRegistry, listener: str = "metrics", **labels: str) -> float:
    return registry.get_sample_value(ERRORS, {"listener": listener, **labels}) or 0.0


# -- names at the door ----------------------------------------------------------------------------


def test_every_hostile_character_is_refused_and_no_other() -> None:
    hostile: list[str] = []
    others: list[str] = []
    for character in map(chr, range(sys.maxunicode + 1)):
        refusable = unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")
        (hostile if refusable or character in BIDI_CONTROLS else others).append(character)
    assert len(hostile) == 65 + 2048 + 2 + 12
    refused: list[str] = []
    for character in hostile:
        try:
            bs.CircuitBreaker(f"a{character}b")
        except bs.BreakerNameError:
            refused.append(character)
    assert refused == hostile
    harmless = "".join(others)
    assert bs.CircuitBreaker(harmless).name == harmless


@pytest.mark.parametrize("name", ALLOWED)
def test_what_a_name_may_be(registry: CollectorRegistry, name: str) -> None:
    assert bs.instrumented_breaker(name).name == name
    assert shown(registry) == {name}


DOORS: dict[str, tuple[str, Callable[[Any], object]]] = {
    "CircuitBreaker": ("name", bs.CircuitBreaker),
    "instrumented_breaker": ("name", bs.instrumented_breaker),
    "with options": ("name", lambda name: bs.instrumented_breaker(name, open_for=1.0)),
    "breakers_per": ("prefix", bs.breakers_per),
    "transport": ("prefix", lambda prefix: BreakerTransport(prefix=prefix)),
    "compat": ("name", lambda name: LLMCircuitBreaker(name=name)),
}


@pytest.mark.parametrize("text", SOME_REFUSED)
@pytest.mark.parametrize("door", DOORS)
def test_the_message_is_for_people(door: str, text: str) -> None:
    argument, open_door = DOORS[door]
    with pytest.raises(bs.BreakerNameError) as caught:
        open_door(f"api{text}")
    message = str(caught.value)
    assert message.isprintable()
    assert message.encode()
    assert message == (
        f"{argument}={f'api{text}'!r}: {repr(text[0])[1:-1]} is in it; allowed is text without"
        " control characters, line separators, bidirectional controls and surrogates"
    )


@pytest.mark.parametrize("name", ["", " ", "\t\n", "\u2003", None, 7, b"api"])
@pytest.mark.parametrize("door", ["CircuitBreaker", "instrumented_breaker", "breakers_per"])
def test_a_name_has_something_in_it(door: str, name: object) -> None:
    argument, open_door = DOORS[door]
    with pytest.raises(bs.BreakerNameError) as caught:
        open_door(name)
    assert str(caught.value) == f"{argument}={name!r}: allowed is text that is not empty"


def test_a_refused_name_leaves_nothing_behind(registry: CollectorRegistry) -> None:
    bs.instrumented_breaker("fine")
    with pytest.raises(bs.BreakerNameError):
        bs.instrumented_breaker(f"api{SURROGATE}")
    assert [breaker.name for breaker in bs.breakers()] == ["fine"]
    assert shown(registry) == {"fine"}


@each_kind
@pytest.mark.parametrize("name", [LIE, SURROGATE, "a\x85b", "a\u202eb"])
def test_a_bridge_refuses_the_same(kind: Kind, name: str) -> None:
    target, bus = kind.make(60), EventBus()
    before = type(kind.watched(target)), dict(getattr(target, "__dict__", {}))
    with pytest.raises(bs.BreakerNameError):
        kind.attach(target, name=name, bus=bus, registry=Registry())
    assert (type(kind.watched(target)), dict(getattr(target, "__dict__", {}))) == before


@pytest.mark.parametrize("text", SOME_REFUSED)
def test_the_value_of_a_label_is_refused(text: str) -> None:
    told = r"label 'team': .* is in it; allowed is text without control characters"
    registry = CollectorRegistry()
    with pytest.raises(bs.LabelError, match=told):
        bs.setup_telemetry(registry=registry, labels={"team": f"a{text}"})
    with bs.setup_telemetry(registry=registry, labels={"team": "a"}):
        with pytest.raises(bs.LabelError, match=told):
            bs.instrumented_breaker("api", labels={"team": f"a{text}"})
        (kind,) = (kind for kind in KINDS if kind.library is PYBREAKER)
        with pytest.raises(bs.LabelError, match=told):
            kind.attach(kind.make(60), name="theirs", labels={"team": f"a{text}"})
        bs.instrumented_breaker("api", labels={"team": "é"})
        assert shown(registry, label="team") == {"é"}


# -- keys from outside ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "key", [*ALLOWED[:10], "api.example.com:443", "ACME\\user", "a:b", "", " "]
)
def test_a_usual_key_stays_as_it_is(registry: CollectorRegistry, key: str) -> None:
    assert bs.breakers_per("host")(key).name == f"host:{key}"
    assert shown(registry) == {f"host:{key}"}


@pytest.mark.parametrize(
    ("key", "name"),
    [
        (SURROGATE, r"\udc80"),
        ("\ud83d\ude00", r"\ud83d\ude00"),
        ("a\nb\rc\td", r"a\nb\rc\td"),
        ("\x00\x1b\x7f\x85", r"\x00\x1b\x7f\x85"),
        ("\u2028\u2029", r"\u2028\u2029"),
        ("\u061c\u202e\u2066", r"\u061c\u202e\u2066"),
        # What could be taken for one of these has its backslashes doubled.
        (r"\udc80", r"\\udc80"),
        (r"C:\new", r"C:\\new"),
        (r"\x85", r"\\x85"),
        ("\\\n", "\\\\\\n"),
        # What could not, has not.
        (r"\\server\share", r"\\server\share"),
        (r"\u", r"\u"),
        (r"\xZZ", r"\xZZ"),
    ],
)
def test_the_escapes_of_a_key(registry: CollectorRegistry, key: str, name: str) -> None:
    breaker = bs.breakers_per("host")(key)
    assert breaker.name == f"host:{name}"
    assert bs.get_breaker(f"host:{name}") is breaker
    assert shown(registry) == {f"host:{name}"}


def test_the_same_key_is_the_same_breaker() -> None:
    per_host = bs.breakers_per("host", limit=3)
    for key in (SURROGATE, "x" * 1000, LIE):
        assert per_host(key) is per_host(key) is bs.breakers_per("host")(key)
    assert len(per_host) == len(bs.breakers()) == 3
    per_host("fourth")
    assert bs.get_breaker(r"host:\udc80") is None
    assert len(per_host) == len(bs.breakers()) == 3


def test_a_long_key_is_shortened_and_stays_its_own(registry: CollectorRegistry) -> None:
    per_host = bs.breakers_per("host", limit=10)
    longest_host = "h" * 253 + ":65535"
    assert per_host(longest_host).name == f"host:{longest_host}"
    long, other = "k" * 1_000_000, "k" * 1_000_000 + "x"
    name = per_host(long).name.removeprefix("host:")
    assert len(name) == 260
    assert name.startswith("k" * 227 + "~")
    # A key that is another's shortened form is another key.
    names = {per_host(key).name for key in (long, other, name, "\udc80" * 100, "\n" * 130)}
    assert len(names) == 5
    assert {len(name) for name in names} == {265}
    assert shown(registry) == names | {f"host:{longest_host}"}
    # The keys themselves are not kept.
    assert max(map(len, per_host._recent)) == 260


class Tenant(str, Enum):  # noqa: UP042 - the old way, which `format` and `==` see differently
    A = "a"


class Loud(str):
    __slots__ = ()

    def __str__(self) -> str:
        return "LOUD"


def test_a_key_that_is_no_text_is_its_text() -> None:
    per_tenant: Any = bs.breakers_per("tenant", limit=4)
    assert per_tenant(7) is per_tenant("7")
    assert per_tenant(None).name == "tenant:None"
    assert per_tenant(Tenant.A) is per_tenant("a") is per_tenant(Loud("a"))
    assert per_tenant(["a\n"]).name == r"tenant:['a\\n']"
    assert len(per_tenant) == len(bs.breakers()) == 4
    assert {type(breaker.name) for breaker in bs.breakers()} == {str}


ANY_TEXT = st.text(
    st.one_of(st.characters(exclude_categories=()), st.sampled_from("\\nrtxu08dcDC~\n\udc80\u202e"))
)
KEYS = st.one_of(ANY_TEXT, ANY_TEXT.map(lambda text: text * 50))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(keys=st.lists(KEYS, min_size=1, max_size=6, unique=True))
def test_any_keys_have_breakers_of_their_own_that_a_scrape_gives_back(
    registry: CollectorRegistry, keys: list[str]
) -> None:
    default_registry.clear()
    per_key = bs.breakers_per("k")
    found = [per_key(key) for key in keys]
    assert len(set(found)) == len(keys)
    assert [per_key(key) for key in keys] == found
    names = {breaker.name for breaker in found}
    assert len(names) == len(keys)
    assert not any(character in name for name in names for character in SOME_REFUSED)
    assert shown(registry) == names


@settings(max_examples=250)
@given(first=KEYS, second=KEYS)
def test_a_name_can_be_read_back(first: str, second: str) -> None:
    """What is escaped says which text it was, if it is not cut: so no two are alike."""
    names = [bs.breakers_per("k")(key).name.removeprefix("k:") for key in (first, second)]
    assert (names[0] == names[1]) == (first == second)
    for key, name in zip((first, second), names, strict=True):
        if len(name) < 260 and name != key:
            encoded = name.encode("latin-1", "backslashreplace") if name.isascii() else None
            assert encoded is None or encoded.decode("unicode-escape") == key
    default_registry.clear()


def test_the_circuits_of_a_factory_are_keys() -> None:
    purgatory = pytest.importorskip("purgatory")
    registry = CollectorRegistry()
    bus, breakers = EventBus(), Registry()
    registry.register(BreakerCollector(breakers, bus, MetricsSettings()))
    factory = purgatory.SyncCircuitBreakerFactory()
    with bridges.purgatory.attach(factory, name="shop", bus=bus, registry=breakers):
        for circuit in ("payments", SURROGATE, LIE, "x" * 1000):
            with factory.get_breaker(circuit):
                pass
        names = shown(registry)
    assert {"shop:payments", r"shop:\udc80", "shop:" + LIE.replace("\n", r"\n")} < names
    assert sorted(map(len, names)) == [11, 13, 41, 265]
    assert bus.errors() == {}


# -- listeners ------------------------------------------------------------------------------------


def test_the_name_of_a_listener_cannot_end_a_scrape(registry: CollectorRegistry) -> None:
    def listen(_: object) -> None:
        raise Boom

    breaker = bs.instrumented_breaker("api")
    names = [SURROGATE, LIE, "a\udc80.<locals>.b\u2028"]
    for name in names:
        with pytest.raises(bs.SubscriptionError, match="allowed is text without control"):
            bs.subscribe(listen, name=name, inline=True)
    # What a function calls itself is not refused.
    subscriptions: list[bs.Subscription] = []
    for name in (*names, "usual", "x" * 1000):
        listen.__qualname__ = name
        subscriptions += [bs.subscribe(listen, inline=True), breaker.subscribe(listen, inline=True)]
    breaker.call(succeed)
    for sample in (DROPPED, ERRORS):
        listeners = shown(registry, sample, "listener")
        assert {r"\udc80", LIE.replace("\n", r"\n"), "usual"} < listeners
        assert r"a\udc80.<locals>.b\u2028" in listeners
        assert max(map(len, listeners)) == 260
    assert counted(registry, r"\udc80") == 2.0
    for subscription in subscriptions:
        subscription.close()


# -- what slips through ---------------------------------------------------------------------------


class Renamed(bs.CircuitBreaker):
    """A breaker that says another name than it was made with."""

    said: Any = SURROGATE

    @property
    def name(self) -> str:
        return self.said  # type: ignore[no-any-return]


class Numbered(Renamed):
    said = 7


class Unreadable(bs.CircuitBreaker):
    def read(self) -> bs.Reading:
        raise Boom


def foreign(name: str, bus: EventBus, labels: Mapping[str, str]) -> ForeignBreaker:
    """A bridged breaker as no bridge would make it."""
    return ForeignBreaker(
        name,
        PYBREAKER,
        bus=bus,
        state=bs.State.CLOSED,
        buckets=DEFAULT_BUCKETS,
        labels=labels,
        look=lambda: BLIND,
    )


class World:
    """A registry with a good breaker between bad ones, and telemetry of its own."""

    def __init__(self, **options: Any) -> None:
        self.bus, self.breakers, self.prometheus = EventBus(), Registry(), CollectorRegistry()
        self.settings = MetricsSettings(labels={"team": "a"}, **options)
        self.prometheus.register(BreakerCollector(self.breakers, self.bus, self.settings))
        bus = self.bus
        bad_labels: list[Any] = [{"team": SURROGATE}, {"team": None}, {"team": 7}, ["team"]]
        bad: list[bs.CircuitBreaker] = [
            *(bs.CircuitBreaker(f"l{n}", labels=x, bus=bus) for n, x in enumerate(bad_labels)),
            Renamed("a", bus=bus),
            Numbered("b", bus=bus),
            Unreadable("c", bus=bus),
        ]
        self.good = bs.CircuitBreaker("good", bus=bus)
        for breaker in (*bad[:4], self.good, *bad[4:]):
            self.breakers.add(breaker)
        self.bridged = [foreign("\udfff", bus, {}), foreign("theirs", bus, {"team": SURROGATE})]
        for source in self.bridged:
            self.breakers.bridge(source, source)
        self.good.call(succeed)
        self.bad = len(bad) + len(self.bridged)


def test_a_breaker_that_cannot_be_shown_costs_its_own_series() -> None:
    world = World()
    assert shown(world.prometheus) == {"good"}
    # Both formats were asked for.
    assert world.bus.errors() == {"metrics": 2 * world.bad}
    assert counted(world.prometheus, team="a") == 3 * world.bad
    labels = {"breaker": "good", "outcome": "success", "team": "a"}
    assert world.prometheus.get_sample_value(CALLS, labels) == 1.0


def test_the_sum_of_many_takes_all_that_can_be_read() -> None:
    world = World(max_breakers=1)
    late = bs.CircuitBreaker("late", bus=world.bus)
    world.breakers.add(late)
    late.call(succeed)
    assert "_OTHER" in shown(world.prometheus)
    labels = {"breaker": "_OTHER", "outcome": "success", "team": "a"}
    # The first one has the only place, and the sum has no label of the others.
    assert world.prometheus.get_sample_value(CALLS, labels) == 2.0
    assert counted(world.prometheus, team="a") > 0


def test_a_breaker_is_shown_when_it_can_be() -> None:
    world = World()
    assert shown(world.prometheus) == {"good"}
    for breaker in world.breakers:
        if type(breaker) is bs.CircuitBreaker:
            breaker.labels = {"team": "b"}
    assert shown(world.prometheus) == {"good", "l0", "l1", "l2", "l3"}


class _Cell:
    """A series of a file."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.value = 0.0

    def get(self) -> float:
        return self.value

    def set(self, value: float) -> None:
        self.value = value


def test_nothing_hostile_is_written_for_other_processes() -> None:
    """Who merges the files reads whatever somebody wrote, until they are deleted."""
    world = World()
    totals = Totals(Layout(PARTS_TO_MERGE), world.settings, _Cell, room=100)
    for _ in range(2):
        assert len(totals.update(world.breakers.shown())) == world.bad
    assert {cell.place.labels["breaker"] for cell in totals} == {"good"}
    calls = [cell for cell in totals if cell.place.name == CALLS]
    assert Counter({cell.place.labels["outcome"]: cell.value for cell in calls})["success"] == 1.0


def test_a_breaker_that_goes_is_read_for_the_last_time_whatever_others_do() -> None:
    world = World()
    totals = Totals(Layout(PARTS_TO_MERGE), world.settings, _Cell, room=100)
    totals.update(world.breakers.shown())
    world.good.call(succeed)
    world.breakers.remove("good")
    totals.update(world.breakers.shown())
    values = {
        (cell.place.name, cell.place.labels.get("outcome"), cell.place.labels.get("state")): (
            cell.value
        )
        for cell in totals
    }
    assert values[CALLS, "success", None] == 2.0
    assert values["circuit_breaker_state", None, "closed"] == 0.0
    assert world.good not in totals


def test_no_error_keeps_a_breaker() -> None:
    """The error of a scrape knows its frames, and they know the breaker."""
    prometheus, breakers, bus = CollectorRegistry(), Registry(), EventBus()
    collector = BreakerCollector(breakers, bus, MetricsSettings(max_breakers=1))
    prometheus.register(collector)
    for name in ("first", "second"):
        breakers.add(Unreadable(name, bus=bus))
    prometheus_client.generate_latest(prometheus)
    gone = [ref(breaker) for breaker in breakers]
    breakers.clear()
    prometheus_client.generate_latest(prometheus)
    assert [each() for each in gone] == [None, None]


# -- OpenTelemetry --------------------------------------------------------------------------------


class Exported:
    """Spans and log records in memory, by way of the global providers."""

    def __init__(self) -> None:
        self.spans, self.records = InMemorySpanExporter(), InMemoryLogRecordExporter()  # type: ignore[no-untyped-call]

    def events(self) -> list[dict[str, Any]]:
        """The attributes of the span events, after a journey through OTLP."""
        spans = [
            span
            for resource in encode_spans(self.spans.get_finished_spans()).resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]
        return [
            {pair.key: pair.value.string_value for pair in event.attributes}
            for span in spans
            for event in span.events
        ]


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> Iterator[Exported]:
    exported = Exported()
    tracers, loggers = TracerProvider(shutdown_on_exit=False), LoggerProvider()
    tracers.add_span_processor(SimpleSpanProcessor(exported.spans))
    loggers.add_log_record_processor(SimpleLogRecordProcessor(exported.records))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", tracers)
    monkeypatch.setattr(opentelemetry._logs._internal, "_LOGGER_PROVIDER", loggers)
    yield exported
    tracers.shutdown()
    loggers.shutdown()


class Misnamed(Exception):
    pass


Misnamed.__module__, Misnamed.__qualname__ = "m\udc80", "n\ud800"


def outside_says(breaker: bs.CircuitBreaker) -> None:
    """Errors and reasons as somebody outside may have worded them."""

    def misnamed() -> None:
        raise Misnamed

    with suppress(Misnamed):
        breaker.call(misnamed)
    with breaker.guard() as guard:
        guard.fail("stale \udc80\nanswer")
    breaker.force_open("by \udc80\nhand")
    assert breaker.with_fallback(succeed)(succeed)() == "fine"


ERROR_TYPES = [r"m\udc80.n\ud800", "stale \\udc80\nanswer"]
REASON = "by \\udc80\nhand"


@pytest.mark.parametrize("route", ["span", "log"])
def test_no_attribute_is_lost(
    exported: Exported, route: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with bs.setup_telemetry(metrics=False, logs=False, events=route):
        breaker = bs.breakers_per("host")(SURROGATE)
        with trace.get_tracer("test").start_as_current_span("request"):
            outside_says(breaker)
    if route == "span":
        told = exported.events()
    else:
        records = exported.records.get_finished_logs()
        assert encode_logs(records).SerializeToString()
        told = [dict(record.log_record.attributes or {}) for record in records]
    assert {each["circuit_breaker.name"] for each in told} == {r"host:\udc80"}
    assert [each["error.type"] for each in told if "error.type" in each][:2] == ERROR_TYPES
    reasons = [each.get("circuit_breaker.reason") for each in told]
    assert [reason for reason in reasons if reason] == [REASON]
    assert "surrogates" not in caplog.text


def test_a_span_of_ours_cannot_lose_its_batch(exported: Exported) -> None:
    breaker = Renamed("api")

    @internal_span(breaker)
    def raising() -> None:
        raise Misnamed

    with pytest.raises(Misnamed):
        raising()
    (span,) = exported.spans.get_finished_spans()
    assert span.name == r"circuit_breaker \udc80"
    assert dict(span.attributes or {}) == {
        "circuit_breaker.name": r"\udc80",
        "error.type": ERROR_TYPES[0],
    }
    assert encode_spans([span]).SerializeToString()


def test_metrics_through_opentelemetry() -> None:
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    with bs.setup_telemetry(
        registry=CollectorRegistry(), logs=False, traces=False, meter_provider=provider
    ):
        bs.breakers_per("host")(SURROGATE)
        default_registry.add(Renamed("api"))
        data = reader.get_metrics_data()
        assert data is not None
        names = {
            (point.attributes or {}).get("breaker")
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == "circuit_breaker.calls"
            for point in metric.data.data_points
        }
        assert names == {r"host:\udc80"}
        assert encode_metrics(data).SerializeToString()
    assert default_bus.errors()["metrics"] >= 1
    provider.shutdown()


# -- lines ----------------------------------------------------------------------------------------


def test_a_file_of_events_gives_back_what_was_said(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    breaker = bs.breakers_per("host")(SURROGATE)
    with bs.to_jsonl(path):
        outside_says(breaker)
    lines = path.read_bytes().splitlines()
    events = [bs.event_from_json(line) for line in lines]
    assert all(line.isascii() for line in lines)
    changes = [event for event in events if isinstance(event, bs.StateChanged)]
    assert [change.reason for change in changes] == ["by \udc80\nhand"]
    calls = [event for event in events if isinstance(event, bs.CallSettled)]
    assert [call.error for call in calls] == ["m\udc80.n\ud800", "stale \udc80\nanswer"]
    assert {event.breaker for event in events} == {r"host:\udc80"}


def lines_of(caplog: pytest.LogCaptureFixture, act: Callable[[], object]) -> list[str]:
    with (
        caplog.at_level(logging.DEBUG, logger="breakerscope"),
        bs.setup_telemetry(metrics=False, traces=False, log_levels=dict.fromkeys(LOGS, "info")),
    ):
        act()
    return [record.getMessage() for record in caplog.records if record.name == "breakerscope"]


LOGS = ("circuit_breaker.call_succeeded", "circuit_breaker.fallback_used")


def test_an_event_is_one_line_that_says_what_happened(caplog: pytest.LogCaptureFixture) -> None:
    breaker = bs.breakers_per("host")(LIE)
    lines = lines_of(caplog, lambda: outside_says(breaker))
    assert len(lines) == 5
    assert all(line.isprintable() for line in lines)
    assert r" error=m\udc80.n\ud800 " in lines[0]
    assert ' error="stale \\\\udc80\\\\nanswer" ' in lines[1]
    assert lines[2].endswith(' reason="by \\\\udc80\\\\nhand"')


def test_a_key_from_outside_adds_no_fields_to_a_line(caplog: pytest.LogCaptureFixture) -> None:
    breaker = bs.breakers_per("host")('api" state=open\u00a0outcome=failure')
    (line,) = lines_of(caplog, lambda: breaker.call(succeed))
    name = r'"host:api\" state=open' + "\u00a0" + 'outcome=failure"'
    assert line.startswith(f"circuit_breaker.call_succeeded breaker={name} seq=1 at=")
    (record,) = caplog.records
    assert vars(record)["breakerscope_breaker"] == breaker.name


def test_structlog_gets_text_that_any_stream_can_hold(registry: CollectorRegistry) -> None:
    file = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    structlog.configure(
        processors=[structlog.processors.JSONRenderer(ensure_ascii=False)],
        logger_factory=structlog.WriteLoggerFactory(file),
    )
    try:
        with bs.setup_telemetry(metrics=False, traces=False):
            outside_says(bs.breakers_per("host")(LIE))
    finally:
        structlog.reset_defaults()
    file.seek(0)
    lines = [json.loads(line) for line in file.read().splitlines()]
    assert [line.get("error") for line in lines[:2]] == [ERROR_TYPES[0], r"stale \udc80\nanswer"]
    assert lines[2]["reason"] == r"by \udc80\nhand"
    assert "structlog" not in {name for name, count in default_bus.errors().items() if count}


# -- the old names --------------------------------------------------------------------------------


def test_the_collector_of_the_guide() -> None:
    collector = PrometheusMetricsCollector()
    for component in ("good", SURROGATE):
        collector.record_circuit_breaker_call(component, 0.1, True)
    registry = collector.registry()
    assert shown(registry, "circuit_breaker_calls_success_total", "component") == {
        "good",
        r"\udc80",
    }
    assert collector.get_metrics_summary(SURROGATE)["total_calls"] == 1
    collector.reset_component(SURROGATE)
    assert collector.get_components() == {"good"}


def test_the_tracer_of_the_guide(exported: Exported) -> None:
    tracer = OTelTracer("shop")
    span = tracer.start_span(f"a{SURROGATE}")
    tracer.record_event(span, f"event{SURROGATE}")
    tracer.record_error(span, f"no such file: {SURROGATE}", f"Error{SURROGATE}")
    tracer.end_span(span, SpanStatus.OK)
    with tracer.span_context(f"b{SURROGATE}"):
        pass
    spans = exported.spans.get_finished_spans()
    assert [span.name for span in spans] == [r"a\udc80", r"b\udc80"]
    assert spans[0].status.description == r"Error\udc80"
    assert encode_spans(spans).SerializeToString()
    (_, error) = spans[0].events
    assert (error.attributes or {})["error.message"] == r"no such file: \udc80"


def test_nobody_else_looks() -> None:
    """What is tried here does break prometheus_client and the exporter, if it comes that far."""
    gauge = prometheus_client.Gauge("g", "h", ["l"], registry=(own := CollectorRegistry()))
    gauge.labels(SURROGATE).set(1)
    with pytest.raises(UnicodeEncodeError):
        prometheus_client.generate_latest(own)
    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    provider.get_tracer("test").start_span(SURROGATE).end()
    with pytest.raises(UnicodeEncodeError):
        encode_spans(exporter.get_finished_spans())
