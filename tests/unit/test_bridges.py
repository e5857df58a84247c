"""Breakers of other libraries that joined: nothing lost, nothing made up, nothing disturbed.

`tests/integration/test_bridges.py` runs the same tests with the oldest version of each library.
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import pybreaker
import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry, generate_latest

import breakerscope as bs
from breakerscope import (
    CallRejected,
    CallSettled,
    Outcome,
    State,
    StateChanged,
    bridges,
    catalogue,
)
from breakerscope.breaker import CircuitBreaker
from breakerscope.bridges import BridgeError
from breakerscope.bridges.foreign import ForeignBreaker
from breakerscope.bridges.libraries import (
    CIRCUITBREAKER,
    INTERLOCK,
    LIBRARIES,
    NOPANIC,
    PURGATORY,
    PYBREAKER,
)
from breakerscope.catalogue import LogEvent, Metric, SpanEventName
from breakerscope.core.reading import Reading
from breakerscope.event_bus import EventBus
from breakerscope.names import BreakerNameError
from breakerscope.registry import ContradictionError, Registry
from breakerscope.telemetry import logs, otel_metrics, traces
from breakerscope.telemetry.errors import MissingExtraError
from breakerscope.telemetry.log_settings import LogSettings
from breakerscope.telemetry.metrics import BreakerCollector
from breakerscope.telemetry.series import PARTS_TO_MERGE, Layout
from breakerscope.telemetry.settings import MetricsSettings
from breakerscope.telemetry.totals import Place, Totals
from breakerscope.testing import capture_events
from tests.servers.process import free_port
from tests.unit.bridged import ASYNC_KINDS, CIRCUIT, KINDS, TASK_KINDS, Fn, Kind

pytestmark = pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow:DeprecationWarning")

each_kind = pytest.mark.parametrize("kind", KINDS, ids=str)
each_kind_of_call = pytest.mark.parametrize(
    "kind", [*KINDS, *TASK_KINDS], ids=[str(k) for k in KINDS] + [f"{k} async" for k in TASK_KINDS]
)


class Boom(Exception):
    pass


class World:
    """Telemetry of its own."""

    def __init__(self) -> None:
        self.bus, self.registry = EventBus(), Registry()
        self.bus.raised = []
        self.prometheus = CollectorRegistry()
        self.prometheus.register(BreakerCollector(self.registry, self.bus, MetricsSettings()))

    def join(self, kind: Kind, target: Any) -> bridges.Bridge:
        return kind.join(target, bus=self.bus, registry=self.registry)

    def read(self) -> Reading:
        (source,) = self.registry.shown()
        return source.read()

    def families(self) -> set[str]:
        """The metrics that have any series of a breaker."""
        return {
            family.name
            for family in self.prometheus.collect()
            if any("breaker" in sample.labels for sample in family.samples)
        }

    def value(self, metric: Metric, **labels: str) -> float | None:
        return self.prometheus.get_sample_value(metric.name, {"breaker": CIRCUIT, **labels})

    def calls(self) -> dict[Outcome, int]:
        found = {o: self.value(catalogue.CALLS, outcome=o.value) for o in Outcome}
        return {outcome: int(n) for outcome, n in found.items() if n}


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    assert made.bus.raised == []


def good() -> str:
    return "good"


def bad() -> None:
    raise Boom


def ending(call: Fn) -> object:
    try:
        return call()
    except Exception as error:
        return type(error).__name__


def trip(kind: Kind, target: Any) -> None:
    """Open it: one success, and failures until it refuses."""
    call, fail = kind.protect(target, good), kind.protect(target, bad)
    ending(call)
    while ending(fail) != kind.refusal().__name__ or ending(fail) != kind.refusal().__name__:
        pass


# -- conservation ----------------------------------------------------------------------------------


class Upstream:
    """A server on loopback that can go away: then its port refuses connections."""

    def __init__(self) -> None:
        self.port = free_port()
        self._server: socket.socket | None = None
        self.start()

    def start(self) -> None:
        server = self._server = socket.create_server(("127.0.0.1", self.port), backlog=64)

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.sendall(b"ok")

        self._thread = threading.Thread(target=serve, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        assert self._server is not None
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._thread.join()

    def ask(self) -> bytes:
        with socket.create_connection(("127.0.0.1", self.port), timeout=2) as connection:
            return connection.recv(2)


@each_kind_of_call
def test_an_outage_over_sockets_is_told_to_the_unit(kind: Kind, world: World) -> None:
    upstream, target = Upstream(), kind.make(0.05)
    ran: Counter[Outcome] = Counter()
    asked = 0

    def ask() -> bytes:
        try:
            answer = upstream.ask()
        except OSError:
            ran[Outcome.FAILURE] += 1
            raise
        ran[Outcome.SUCCESS] += 1
        return answer

    protected = kind.protect(target, ask)
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("test")

    def call() -> None:
        nonlocal asked
        asked += 1
        with tracer.start_as_current_span("request"):
            ending(protected)

    def until(state: str) -> None:
        deadline = time.monotonic() + 10
        while world.read().state.value != state:
            assert time.monotonic() < deadline
            call()

    subscriptions = traces.attach(world.bus, policy="all")
    try:
        with world.join(kind, target), capture_events(bus=world.bus) as events:
            for _ in range(5):
                call()
            upstream.stop()
            until("open")
            for _ in range(5):
                call()
            upstream.start()
            until("closed")
            call()
            expected = {**ran, Outcome.REJECTED: asked - ran.total()}
            assert world.calls() == expected
            reading = world.read()
            settled = reading.durations[Outcome.FAILURE]
            assert sum(settled.counts) == ran[Outcome.FAILURE]
            assert settled.total_seconds > 0
            assert reading.in_flight == 0
            changes = Counter((e.old, e.new, e.cause) for e in events if type(e) is StateChanged)
            assert reading.transitions == changes
    finally:
        upstream.stop()
        traces.detach(world.bus, subscriptions)
    told = [e.outcome for e in events if type(e) is CallSettled]
    told += [Outcome.REJECTED for e in events if type(e) is CallRejected]
    assert Counter(told) == expected
    assert [e.seq for e in events] == sorted({e.seq for e in events})
    spans: Counter[str] = Counter(e.name for s in exporter.get_finished_spans() for e in s.events)
    assert spans == {
        SpanEventName.CALL: ran.total(),
        SpanEventName.REJECTION: asked - ran.total(),
        SpanEventName.STATE_CHANGE: changes.total(),
    }
    assert expected[Outcome.REJECTED] >= 4
    assert min(ran.values()) >= 3


@each_kind
def test_threads_lose_nothing(kind: Kind, world: World) -> None:
    target = kind.make(0.001)
    ran: Counter[Outcome] = Counter()
    lock = threading.Lock()
    threads, calls = 6, 300
    rolls = random.Random(7)
    script = [rolls.random() for _ in range(calls)]

    def protected(chance: float) -> Fn:
        return kind.protect(target, lambda: work(chance))

    def work(chance: float) -> None:
        outcome = Outcome.FAILURE if chance < 0.2 else Outcome.IGNORED if chance < 0.3 else None
        with lock:
            ran[outcome or Outcome.SUCCESS] += 1
        if outcome is Outcome.FAILURE:
            raise Boom
        if outcome is Outcome.IGNORED:
            raise KeyError

    def run() -> None:
        for chance in script:
            ending(protected(chance))

    with world.join(kind, target):
        running = [threading.Thread(target=run) for _ in range(threads)]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()
        rejected = threads * calls - ran.total()
        assert world.calls() == {**ran, **({Outcome.REJECTED: rejected} if rejected else {})}
        assert world.read().in_flight == 0


@pytest.mark.parametrize("kind", ASYNC_KINDS, ids=str)
def test_tasks_and_cancellations_lose_nothing(kind: Kind, world: World) -> None:
    target = kind.make(60)

    async def main() -> None:
        async def quick() -> None:
            await asyncio.sleep(0.001)

        async def slow() -> None:
            await asyncio.sleep(60)

        fast, stuck = kind.protect(target, quick), kind.protect(target, slow)
        tasks = [asyncio.ensure_future(stuck()) for _ in range(5)]
        await asyncio.gather(*(fast() for _ in range(20)))
        assert world.read().in_flight == 5
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    with world.join(kind, target):
        asyncio.run(main())
        # Purgatory counts a cancelled call as a failure.
        cancelled = Outcome.FAILURE if kind.library is PURGATORY else Outcome.CANCELLED
        assert world.calls() == {Outcome.SUCCESS: 20, cancelled: 5}
        assert world.read().in_flight == 0


@pytest.mark.parametrize("kind", [k for k in KINDS if k.block], ids=str)
def test_blocks_are_calls_and_may_nest(kind: Kind, world: World) -> None:
    assert kind.block is not None
    target = kind.make(60)
    if kind.library is PYBREAKER and not hasattr(target, "calling"):
        pytest.skip("this version knows no blocks")
    with world.join(kind, target):
        with kind.block(target):
            time.sleep(0.02)
            with kind.block(target):
                assert world.read().in_flight == 2
        with pytest.raises(Boom), kind.block(target):
            raise Boom
        durations = world.read().durations
        assert world.calls() == {Outcome.SUCCESS: 2, Outcome.FAILURE: 1}
        assert 0.02 <= durations[Outcome.SUCCESS].total_seconds < 0.2


@pytest.mark.parametrize(
    "kind", [k for k in KINDS if k.library in (PYBREAKER, CIRCUITBREAKER)], ids=str
)
def test_a_generator_is_one_call_that_ends_with_it(kind: Kind, world: World) -> None:
    target = kind.make(60)

    def items(n: int) -> Iterator[int]:
        yield from range(n)
        if n == 2:
            raise Boom

    stream: Any = kind.protect(target, items)  # type: ignore[arg-type]
    with world.join(kind, target):
        first, second = stream(3), stream(4)
        assert (next(first), next(second), next(first)) == (0, 0, 1)
        assert world.read().in_flight == 2
        assert list(first) == [2]
        assert list(second) == [1, 2, 3]
        with pytest.raises(Boom):
            list(stream(2))
        assert world.calls() == {Outcome.SUCCESS: 2, Outcome.FAILURE: 1}
        del first, second
        stream(5)  # Never begun, and dropped.
        gc.collect()
        assert world.read().in_flight == 0


# -- what is told ----------------------------------------------------------------------------------


@each_kind
def test_what_a_library_cannot_tell_is_absent(kind: Kind, world: World) -> None:
    target = kind.make(60)
    with world.join(kind, target):
        trip(kind, target)
        untold = set(kind.library.untold)
        if kind.library is NOPANIC:
            untold |= {
                catalogue.SLOW_CALLS,
                catalogue.SLOW_CALL_RATIO,
                catalogue.SLOW_CALL_RATIO_THRESHOLD,
            }
        of_breakers = {m for m in catalogue.METRICS if catalogue.BREAKER in m.labels}
        assert world.families() == {m.family for m in of_breakers - untold}
        assert world.value(catalogue.OPEN_WAIT) == 60
        assert world.value(catalogue.STATE_NOW, state="open") == 1
        assert generate_latest(world.prometheus)
        with capture_events(CallRejected, bus=world.bus) as events:
            assert ending(kind.protect(target, good)) == kind.refusal().__name__
        waits = [event.retry_after or 0 for event in events if type(event) is CallRejected]
        assert [59 < wait <= 60 for wait in waits] == [True]
    assert world.families() == set()


@each_kind
def test_what_is_absent_is_so_by_every_way(kind: Kind, world: World) -> None:
    """Through OpenTelemetry, and in the files of many processes."""
    target, reader = kind.make(60), InMemoryMetricReader()
    untold = {m.name for m in kind.library.untold}
    told = {m.name for m in catalogue.METRICS if catalogue.BREAKER in m.labels} - untold
    if kind.library is NOPANIC:
        told = {name for name in told if "slow" not in name}
    with world.join(kind, target):
        trip(kind, target)
        provider = MeterProvider([reader])
        otel_metrics.attach(provider, world.registry, world.bus, MetricsSettings())
        data = reader.get_metrics_data()
        assert data is not None
        shown = {
            metric.name
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if any("breaker" in (point.attributes or {}) for point in metric.data.data_points)
        }
        # A histogram joins at a reader of ours.
        numbers = told - {catalogue.CALL_DURATION.name}
        assert shown == {m.instrument for m in catalogue.METRICS if m.name in numbers}
        provider.shutdown()
        layout = Layout(PARTS_TO_MERGE)
        totals = Totals(layout, MetricsSettings(), _Cell, room=10)
        totals.update(world.registry.shown())
        assert {cell.place.metric.name for cell in totals} == told


class _Cell:
    """A series of a file."""

    def __init__(self, place: Place) -> None:
        self.place = place

    def get(self) -> float:
        return 0.0

    def set(self, value: float) -> None:
        """Replace it."""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@each_kind
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_begins_at_zero(kind: Kind, world: World) -> None:
    target = kind.make(60)
    with world.join(kind, target):
        work = kind.protect(target, good)
        work()
        child = os.fork()
        if not child:
            try:
                work()
                work()
                right = world.calls() == {Outcome.SUCCESS: 2}
            finally:
                # Whatever happens, this process runs no further test.
                os._exit(not locals().get("right"))
        assert os.waitpid(child, 0)[1] == 0
        work()
        assert world.calls() == {Outcome.SUCCESS: 2}


@each_kind
def test_when_the_state_was_entered_is_told_from_the_first_change_on(
    kind: Kind, world: World
) -> None:
    target = kind.make(60)
    with world.join(kind, target):
        ending(kind.protect(target, good))
        assert world.value(catalogue.STATE_ENTERED) is None
        trip(kind, target)
        entered = world.value(catalogue.STATE_ENTERED)
        assert entered is not None
        assert abs(entered - time.time()) < 5


def test_ratios_and_thresholds_of_libraries_with_a_window(world: World) -> None:
    for kind in (k for k in KINDS if k.library in (NOPANIC, INTERLOCK)):
        world = World()
        target = kind.make(60)
        with world.join(kind, target):
            assert world.value(catalogue.FAILURE_RATIO_THRESHOLD) == 0.75
            trip(kind, target)
            assert world.value(catalogue.FAILURE_RATIO) == 0.75
            (state,) = {e.value for e in State if world.value(catalogue.STATE_NOW, state=e.value)}
            assert state == "open"


def test_slow_calls_of_nopanic_are_told_where_it_looks_for_them(world: World) -> None:
    import nopanic

    target = nopanic.CircuitBreaker(slow_call_duration=0.001, slow_call_threshold=0.5, min_calls=2)
    with bridges.nopanic.attach(target, CIRCUIT, bus=world.bus, registry=world.registry):
        with capture_events(StateChanged, bus=world.bus) as events:
            for _ in range(2):
                target(lambda: time.sleep(0.002))()
        assert world.value(catalogue.SLOW_CALLS) == 2
        assert [e.cause.value for e in events if type(e) is StateChanged] == ["slow_call_rate"]


@each_kind
def test_changes_by_hand_are_told_as_such(kind: Kind, world: World) -> None:
    target = kind.make(60)
    by_hand = {
        "pybreaker": ["open", "half_open", "close"],
        "aiobreaker": ["open", "half_open", "close"],
        "nopanic": ["force_open", "disable", "reset"],
        "interlock-cb": ["force_open", "disable", "reset"],
        "circuitbreaker": ["reset"],
        "purgatory": [],
    }[kind.library.name]
    with world.join(kind, target), capture_events(StateChanged, bus=world.bus) as events:
        trip(kind, target)
        events.clear()
        for command in by_hand[1:] if by_hand[:1] == ["open"] else by_hand:
            getattr(target, command)()
        told = [(e.new.value, e.cause.value) for e in events if type(e) is StateChanged]
        allowed = {(new, cause) for _, new, cause in kind.library.changes}
    assert {(n, c) for n, c in told} <= {(n.value, c.value) for n, c in allowed}
    assert (
        told
        == {
            "pybreaker": [("half_open", "release"), ("closed", "reset")],
            "aiobreaker": [("half_open", "release"), ("closed", "reset")],
            "nopanic": [
                ("forced_open", "force_open"),
                ("disabled", "disable"),
                ("closed", "reset"),
            ],
            "interlock-cb": [
                ("forced_open", "force_open"),
                ("disabled", "disable"),
                ("closed", "reset"),
            ],
            "circuitbreaker": [("closed", "reset")],
            "purgatory": [],
        }[kind.library.name]
    )


def test_fallbacks_of_circuitbreaker_are_told(world: World) -> None:
    import circuitbreaker

    target = circuitbreaker.CircuitBreaker(failure_threshold=1, fallback_function=lambda: "instead")
    work = target(bad)
    with bridges.circuitbreaker.attach(target, CIRCUIT, bus=world.bus, registry=world.registry):
        ending(work)
        assert [work(), work()] == ["instead", "instead"]
        assert world.calls() == {Outcome.FAILURE: 1, Outcome.REJECTED: 2}
        assert world.value(catalogue.FALLBACKS, outcome="rejected") == 2
        # Whoever just asks for the state is no call.
        assert target.opened
        assert world.calls()[Outcome.REJECTED] == 2


@each_kind
def test_log_lines_add_up(kind: Kind, world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", logger="breakerscope")
    target = kind.make(60)
    lines = logs.attach(world.bus, LogSettings(rejections_every=60))
    with world.join(kind, target):
        trip(kind, target)
        for _ in range(5):
            ending(kind.protect(target, good))
        lines.close(world.registry.shown(), wait=5)
        calls = world.calls()
    of: Counter[str] = Counter()
    for record in caplog.records:
        name = record.getMessage().partition(" ")[0]
        of[name] += getattr(record, "breakerscope_rejections", 1)
        assert getattr(record, "breakerscope_breaker", None) == CIRCUIT
    assert of == {
        LogEvent.CALL_FAILED.value: calls[Outcome.FAILURE],
        LogEvent.CALL_REJECTED.value: calls[Outcome.REJECTED],
        LogEvent.STATE_CHANGED.value: 1,
    }


# -- nothing is disturbed --------------------------------------------------------------------------


@each_kind_of_call
def test_a_bridged_breaker_does_what_it_did(kind: Kind, world: World) -> None:
    def story(target: Any) -> list[object]:
        seen: list[object] = []
        key_error = KeyError("mine")

        def ignored() -> None:
            raise key_error

        calls = {
            "good": kind.protect(target, good),
            "bad": kind.protect(target, bad),
            "ignored": kind.protect(target, ignored),
        }
        rolls = random.Random(11)
        for at in range(40):
            which = rolls.choice(["good", "bad", "bad", "ignored"])
            try:
                seen.append(calls[which]())
            except Exception as error:
                if which == "ignored" and isinstance(error, KeyError):
                    assert error is key_error
                seen.append(type(error))
            if at in (13, 27):
                time.sleep(wait + 0.03)
        return seen

    # Long enough for a slow machine to make 14 calls.
    wait = 0.1
    alone = story(kind.make(wait))
    target = kind.make(wait)
    with world.join(kind, target):
        assert story(target) == alone
    assert len({str(each) for each in alone}) >= 3


@each_kind
def test_undoing_leaves_the_breaker_as_it_was(kind: Kind, world: World) -> None:
    target = kind.make(60)
    watched = kind.watched(target)

    def shape() -> object:
        own = {k: repr(v) for k, v in getattr(watched, "__dict__", {}).items()}
        return type(watched), own, getattr(target, "listeners", None)

    before = shape()
    handle = world.join(kind, target)
    assert shape() != before
    work = kind.protect(target, good)
    work()
    # In purgatory a breaker is for one call; who keeps one is heard no more either.
    kept = kind.block(target) if kind.library is PURGATORY and kind.block else None
    handle.close()
    handle.close()
    assert shape() == before
    assert world.registry.shown() == []
    with capture_events(bus=world.bus) as events:
        assert work() == "good"
        with kept or nullcontext():
            pass
    assert events == []
    with world.join(kind, target):
        work()
        assert world.calls() == {Outcome.SUCCESS: 1}


@each_kind
def test_attached_twice_is_counted_once(kind: Kind, world: World) -> None:
    target = kind.make(60)
    with world.join(kind, target) as handle:
        assert world.join(kind, target) is handle
        kind.protect(target, good)()
        assert world.calls() == {Outcome.SUCCESS: 1}
        with pytest.raises(BridgeError, match="attached already"):
            kind.attach(target, name="other", bus=world.bus, registry=world.registry)


@each_kind
def test_a_name_that_is_taken_is_refused(kind: Kind, world: World) -> None:
    first, second = kind.make(60), kind.make(60)
    with world.join(kind, first):
        if kind.library.name == "purgatory":
            # Its circuits come with their calls, which must not be touched.
            kind.protect(first, good)()
            with world.join(kind, second):
                assert kind.protect(second, good)() == "good"
                assert world.calls() == {Outcome.SUCCESS: 1}
                assert [type(error) for error in world.bus.raised or []] == [ContradictionError]
            world.bus.raised = []
        else:
            with pytest.raises(ContradictionError, match=f"'{CIRCUIT}'"):
                world.join(kind, second)
            assert type(kind.watched(second)) is type(kind.watched(kind.make(60)))


@each_kind
def test_a_fault_of_the_telemetry_does_not_reach_the_call(
    kind: Kind, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = kind.make(60)

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("telemetry")

    with world.join(kind, target):
        work = kind.protect(target, good)
        work()
        for method in ("settled", "rejected", "look", "admitted", "_changed_locked"):
            monkeypatch.setattr(ForeignBreaker, method, broken)
        assert work() == "good"
        ends = [ending(kind.protect(target, bad)) for _ in range(9)]
        assert ends[0] == "Boom"
        assert ends[-1] == kind.refusal().__name__
        monkeypatch.undo()
    raised = world.bus.raised or []
    assert {type(error) for error in raised} == {RuntimeError}
    assert world.bus.errors()["bridges"] == len(raised)
    world.bus.raised = []


@each_kind
def test_a_listener_of_ours_that_raises_does_not_reach_the_call(kind: Kind, world: World) -> None:
    target = kind.make(60)

    def raises(_event: object) -> None:
        raise RuntimeError

    with world.join(kind, target), world.bus.subscribe(raises, inline=True, name="bad"):
        assert kind.protect(target, good)() == "good"
        trip(kind, target)
    assert world.bus.errors()["bad"] >= 6
    world.bus.raised = []


@each_kind
def test_a_dropped_breaker_is_collected_and_its_series_go(kind: Kind, world: World) -> None:
    target = kind.make(60)
    handle = world.join(kind, target)
    kind.protect(target, good)()
    assert world.families()
    # The files of many processes go on with what was there before.
    totals = Totals(Layout(PARTS_TO_MERGE), MetricsSettings(), _Cell, room=10)
    totals.update(world.registry.shown())
    if kind.library is CIRCUITBREAKER:
        # The library itself keeps each breaker that protects a function.
        import circuitbreaker

        circuitbreaker.CircuitBreakerMonitor.circuit_breakers.clear()
    del target
    gc.collect()
    assert world.registry.shown() == []
    assert world.families() == set()
    handle.close()


# -- bad input -------------------------------------------------------------------------------------


@each_kind
def test_another_object_is_refused(kind: Kind, world: World) -> None:
    with pytest.raises(BridgeError, match=f"allowed is a .*{kind.library.module}"):
        kind.join(object(), bus=world.bus, registry=world.registry)


@each_kind
def test_a_version_that_is_too_old_is_named(
    kind: Kind, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("breakerscope.bridges.libraries.version", lambda _name: "0.0.7")
    name, oldest = kind.library.name, kind.library.oldest
    with pytest.raises(BridgeError) as caught:
        world.join(kind, kind.make(60))
    assert str(caught.value) == (
        f"{name} 0.0.7: allowed are versions from {oldest};"
        f" run: pip install -U 'breakerscope[{name}]'"
    )


@each_kind
def test_a_missing_library_is_named_with_the_command(
    kind: Kind, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, name = kind.make(60), kind.library.name
    monkeypatch.setitem(sys.modules, kind.library.module, None)
    with pytest.raises(MissingExtraError) as caught:
        world.join(kind, target)
    assert str(caught.value) == (
        f"bridges.{kind.library.module}.attach needs {name};"
        f" run: pip install 'breakerscope[{name}]'"
    )


def test_a_name_is_taken_by_ours_or_by_theirs() -> None:
    world, (kind, *_) = World(), KINDS
    world.registry.add(CircuitBreaker(CIRCUIT, bus=world.bus))
    target = kind.make(60)
    with pytest.raises(ContradictionError, match="a breaker of breakerscope has this name"):
        world.join(kind, target)
    world.registry.remove(CIRCUIT)
    bridge, taken = world.join(kind, target), "a bridged breaker of another library"
    with bridge, pytest.raises(ContradictionError, match=taken):
        world.registry.add(CircuitBreaker(CIRCUIT, bus=world.bus))
    world.registry.add(CircuitBreaker(CIRCUIT, bus=world.bus))


@each_kind
def test_an_impossible_name_is_refused_and_nothing_is_changed(kind: Kind, world: World) -> None:
    if kind.library is PURGATORY:
        pytest.skip("its circuits have their names")
    target = kind.make(60)
    before = type(kind.watched(target)), dict(getattr(target, "__dict__", {}))
    for name in ("", "  ", None):
        with pytest.raises(BreakerNameError):
            kind.attach(target, name=name, bus=world.bus, registry=world.registry)
    assert (type(kind.watched(target)), dict(getattr(target, "__dict__", {}))) == before


def test_to_import_the_bridges_imports_no_library() -> None:
    program = (
        "import sys, breakerscope.bridges as bridges;"
        "from breakerscope.bridges.libraries import LIBRARIES;"
        "print([each.module for each in LIBRARIES if each.module in sys.modules])"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=60
    )
    assert ran.stdout.strip() == "[]"


def test_all_libraries_are_tested() -> None:
    assert {kind.library for kind in KINDS} == set(LIBRARIES)


def test_bridged_breakers_are_listed_where_they_are_asked_for(fresh_breakers: None) -> None:
    own = bs.instrumented_breaker("own")
    stock = pybreaker.CircuitBreaker(fail_max=1)
    bridge = bridges.pybreaker.attach(stock, name="stock")
    try:
        assert bs.breakers() == [own]
        assert [each.name for each in bs.breakers(bridged=True)] == ["own", "stock"]
        with pytest.raises(pybreaker.CircuitBreakerError):
            stock.call(lambda: 1 / 0)
        assert [each.read().state for each in bs.breakers(bridged=True)] == ["closed", "open"]
    finally:
        bridge.close()
    assert bs.breakers(bridged=True) == [own]
