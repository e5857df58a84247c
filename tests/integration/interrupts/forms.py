"""What a program does with a breaker: one form for each public way, each one round of it.

A round leaves nothing behind unless it is interrupted, and takes whatever state it finds.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from types import CodeType
from typing import Any, NamedTuple

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics

import breakerscope as bs
from breakerscope.config import read_toml
from breakerscope.testing import force_state
from tests.integration.interrupts.world import Boom, Service, World, drive

Round = Callable[[], object]
_numbers = itertools.count()


class Form(NamedTuple):
    """One way to use a breaker."""

    name: str
    make: Callable[[World], Round]
    """Gives the round; what a round needs that lasts is made here."""
    within: CodeType | None = None
    """An interrupt hits only what this calls: what is around it belongs to somebody else."""
    everywhere: bool = True
    """Whether it may be used by handlers and finalisers too: nothing in it is somebody else's that
    could wait for itself."""
    multiprocess: bool = False
    leaks: bool = False
    """Whether an interrupt may leave a listener behind that nobody got hold of."""


FORMS: dict[str, Form] = {}


def form(
    name: str, **options: Any
) -> Callable[[Callable[[World], Round]], Callable[[World], Round]]:
    def keep(make: Callable[[World], Round]) -> Callable[[World], Round]:
        FORMS[name] = Form(name, make, **options)
        return make

    return keep


# -- calls -----------------------------------------------------------------------------------------


@form("def")
def _def(world: World) -> Round:
    def round_of_def() -> None:
        service = world.service
        service.attempt(service.plain)
        service.attempt(service.plain, "argument")

    return round_of_def


@form("async def")
def _async_def(world: World) -> Round:
    def round_of_async_def() -> None:
        service = world.service
        service.attempt(lambda: drive(service.coroutine()))

    return round_of_async_def


async def _together(service: Service) -> None:
    async def one() -> object:
        try:
            return await service.coroutine()
        except BaseException as error:
            service.attempt(_raise, error)
            return None

    await one()
    await asyncio.gather(one(), one(), one())
    async with asyncio.timeout(10):
        await one()


def _raise(error: BaseException) -> None:
    raise error


def _code_in(fn: Callable[..., Any]) -> CodeType:
    """Of the coroutine in which `_together` awaits."""
    return next(
        each
        for each in fn.__code__.co_consts
        if isinstance(each, CodeType) and each.co_name == "one"
    )


@form("asyncio", within=_code_in(_together), everywhere=False)
def _asyncio(world: World) -> Round:
    of_thread = threading.local()

    def round_of_asyncio() -> None:
        runner = getattr(of_thread, "runner", None)
        if runner is None:
            runner = of_thread.runner = asyncio.Runner()
        runner.run(_together(world.service))

    return round_of_asyncio


@form("generator")
def _generator(world: World) -> Round:
    def round_of_generator() -> None:
        service = world.service
        way = world.chance.randrange(5)
        if way == 0:
            service.attempt(list, service.stream(2))
            return
        stream: Any = service.stream(5)
        if way == 1:
            return  # not begun, so no call
        service.attempt(next, stream)
        if way == 2:
            stream.close()
        elif way == 3:
            service.attempt(stream.throw, Boom())
        # Else it is abandoned.

    return round_of_generator


@form("async generator")
def _async_generator(world: World) -> Round:
    def round_of_async_generator() -> None:
        service = world.service
        way = world.chance.randrange(4)
        stream: Any = service.astream(3)

        async def read() -> None:
            if way == 0:
                async for _ in stream:
                    pass
                return
            await anext(stream)
            if way == 1:
                await stream.aclose()
            elif way == 2:
                await stream.athrow(Boom())

        service.attempt(lambda: drive(read()))
        if way == 3:
            # Nobody but a loop would close it: an async generator has no end of its own.
            service.attempt(lambda: drive(stream.aclose()))

    return round_of_async_generator


@form("call")
def _call(world: World) -> Round:
    def round_of_call() -> None:
        service = world.service
        service.attempt(service.breaker.call, service.work)

    return round_of_call


@form("call of a coroutine")
def _call_of_a_coroutine(world: World) -> Round:
    async def asks(service: Service) -> str:
        return service.work()

    def round_of_call_of_a_coroutine() -> None:
        service = world.service
        call = service.breaker.call
        way = world.chance.randrange(4)
        if way == 0:
            service.attempt(lambda: drive(call(asks, service)))
        elif way == 1:
            service.attempt(lambda: call(lambda: asks(service)).close())
            service.doubtful.append(None)
        else:
            service.attempt(lambda: drive(call(lambda: asks(service))))

    return round_of_call_of_a_coroutine


@form("guard")
def _guard(world: World) -> Round:
    def block(service: Service, way: int) -> None:
        with service.breaker.guard() as guard:
            service.begun.append(None)
            if way == 0:
                guard.fail("no good")
            elif way == 1:
                guard.ignore()
            elif way == 2:
                guard.success()
            service.answer()

    def round_of_guard() -> None:
        service = world.service
        service.attempt(block, service, world.chance.randrange(8))

    return round_of_guard


@form("async guard")
def _async_guard(world: World) -> Round:
    async def block(service: Service) -> None:
        async with service.breaker.guard():
            service.work()

    def round_of_async_guard() -> None:
        service = world.service
        service.attempt(lambda: drive(block(service)))

    return round_of_async_guard


@form("exchange")
def _exchange(world: World) -> Round:
    def steps(service: Service, way: int) -> None:
        exchange = service.breaker.exchange()
        service.begun.append(None)
        with exchange:
            result = service.answer()
        with exchange:
            service.answer()
        if way == 0:
            exchange.end(result)
            exchange.end(result)
        elif way == 1:
            exchange.fail(Boom())
        # Else it is forgotten.

    def round_of_exchange() -> None:
        service = world.service
        service.attempt(steps, service, world.chance.randrange(3))

    return round_of_exchange


@form("fallback")
def _fallback(world: World) -> Round:
    def round_of_fallback() -> None:
        service = world.service
        service.attempt(service.or_else)
        service.attempt(lambda: drive(service.or_else_async()))

    return round_of_fallback


# -- one breaker -----------------------------------------------------------------------------------


@form("state")
def _state(world: World) -> Round:
    def round_of_state() -> None:
        service = world.service
        service.attempt(service.plain)
        assert service.breaker.state in bs.State
        assert service.breaker.name in repr(service.breaker)

    return round_of_state


@form("read")
def _read(world: World) -> Round:
    def round_of_read() -> None:
        service = world.service
        service.attempt(service.plain)
        reading = service.breaker.read()
        assert reading.breaker == service.breaker.name
        assert reading.state in bs.State
        assert reading.in_flight >= 0
        assert min(reading.calls.values()) >= 0

    return round_of_read


@form("snapshot, adopt")
def _snapshot(world: World) -> Round:
    def round_of_snapshot() -> None:
        service = world.service
        service.attempt(service.plain)
        snapshot = service.breaker.snapshot()
        service.breaker.adopt(snapshot)
        if world.chance.random() < 0.1:
            force_state(service.breaker, bs.State.OPEN)
        service.attempt(service.plain)

    return round_of_snapshot


@form("force_open, disable, reset")
def _by_hand(world: World) -> Round:
    def round_of_by_hand() -> None:
        service = world.service
        service.breaker.force_open("maintenance")
        service.attempt(service.plain)
        service.breaker.disable("never mind")
        service.attempt(service.plain)
        service.breaker.reset()
        service.attempt(service.plain)

    return round_of_by_hand


@form("isolated")
def _isolated(world: World) -> Round:
    def round_of_isolated() -> None:
        service = world.service
        with service.breaker.isolated("deployment"):
            service.attempt(service.plain)
            with service.breaker.isolated("another one"):
                service.attempt(service.plain)
        service.attempt(service.plain)

    return round_of_isolated


# -- events ----------------------------------------------------------------------------------------


@form("subscribe", leaks=True)
def _subscribe(world: World) -> Round:
    def round_of_subscribe() -> None:
        service = world.service
        way = world.chance.randrange(4)
        heard: list[bs.Event] = []
        options: Any = [
            {},
            {"inline": True},
            {"when": lambda: True, "every": 0.001},
            {"inline": True, "outcomes": {bs.Outcome.FAILURE}},
        ][way]
        subscribe = service.breaker.subscribe if way % 2 else bs.subscribe
        with subscribe(heard.append, **options) as subscription:
            for _ in range(3):
                service.attempt(service.plain)
            if way == 0:
                subscription.close(0.2)

    return round_of_subscribe


@form("recent", leaks=True)
def _recent(world: World) -> Round:
    lasting = bs.recent(20)

    def round_of_recent() -> None:
        service = world.service
        with bs.recent(2, breaker=service.breaker.name) as last:
            for _ in range(3):
                service.attempt(service.plain)
            assert len(last.events()) <= 2
        assert len(list(lasting)) <= 20

    return round_of_recent


@form("stream", leaks=True)
def _stream(world: World) -> Round:
    def round_of_stream() -> None:
        service = world.service
        with bs.stream(bs.CallSettled, bs.CallRejected, breaker=service.breaker.name) as stream:
            service.attempt(service.plain)
            service.attempt(service.plain)
        for event in stream:
            assert event.breaker == service.breaker.name
        assert stream.dropped >= 0

    return round_of_stream


@form("astream", leaks=True)
def _astream(world: World) -> Round:
    async def read(stream: bs.AsyncStream) -> None:
        async for event in stream:
            assert event.at

    def round_of_astream() -> None:
        service = world.service
        stream = bs.astream(bs.CallSettled, name="an astream")
        service.attempt(service.plain)
        stream.close()
        drive(read(stream))

    return round_of_astream


@form("flush")
def _flush(world: World) -> Round:
    def round_of_flush() -> None:
        service = world.service
        service.attempt(service.plain)
        bs.flush(0.05)

    return round_of_flush


@form("to_jsonl", leaks=True)
def _to_jsonl(world: World) -> Round:
    def round_of_to_jsonl() -> None:
        service = world.service
        path = world.folder / f"{next(_numbers) % 8}.jsonl"
        with bs.to_jsonl(path, max_bytes=10_000, backups=1, name="a file") as sink:
            service.attempt(service.plain)
            service.attempt(service.plain)
            sink.close(0.2)
        assert sink.lost >= 0

    return round_of_to_jsonl


# -- all breakers ----------------------------------------------------------------------------------


@form("scrape")
def _scrape(world: World) -> Round:
    def round_of_scrape() -> None:
        service = world.service
        service.attempt(service.plain)
        world.check_scrape()
        if world.chance.random() < 0.2:
            assert b"# EOF" in generate_openmetrics(world.registry)

    return round_of_scrape


@form("instrumented_breaker, remove_breaker")
def _registry(world: World) -> Round:
    def round_of_registry() -> None:
        name = f"extra {world.chance.randrange(5)}"
        breaker = bs.instrumented_breaker(name, consecutive_failures=2)
        assert breaker.call(str, 7) == "7"
        there = bs.breakers()
        assert all(service.breaker in there for service in world.services)
        found = bs.get_breaker(name)
        assert found is None or found.name == name
        bs.remove_breaker(name)
        again = bs.instrumented_breaker("plain")
        assert again is world.services[0].breaker

    return round_of_registry


@form("breakers_per")
def _breakers_per(world: World) -> Round:
    def round_of_breakers_per() -> None:
        service = world.service
        key = f"{world.chance.randrange(8)}.example.com"
        breaker = world.per_key(key)
        assert breaker.name == f"host:{key}"
        service.attempt(breaker.call, service.answer)
        bs.breakers_per("another", limit=2)("key")

    return round_of_breakers_per


@form("configure")
def _configure(world: World) -> Round:
    file = world.folder / "breakers.toml"
    file.write_text("[breakers.configured]\nopen_for = 4.0\n", encoding="utf-8")
    # What this imports at its first use is there from now on: where an interrupt hits an import,
    # CPython 3.11 can lose a lock of its own.
    read_toml(file)

    def round_of_configure() -> None:
        if world.chance.random() < 0.3:
            bs.configure(file)
        else:
            seconds = float(world.chance.randrange(1, 4))
            bs.configure({"breakers": {"configured": {"open_for": seconds}}})
        try:
            breaker = bs.instrumented_breaker("configured", consecutive_failures=2)
        except bs.ContradictionError:
            pass  # Somebody else has made it meanwhile, by another configuration.
        else:
            assert breaker.policy.open_for in (1.0, 2.0, 3.0, 4.0)
        bs.remove_breaker("configured")

    return round_of_configure


@form("setup_telemetry", leaks=True)
def _setup_telemetry(world: World) -> Round:
    # From the first of them on, the registry of before is no longer asked.
    world.scrapes_list_all = False

    def round_of_setup_telemetry() -> None:
        service = world.service
        registry = CollectorRegistry()
        traces: Any = world.chance.choice(["off", "all"])
        with bs.setup_telemetry(registry=registry, traces=traces, prefix="again"):
            service.attempt(service.plain)
            generate_latest(registry)

    return round_of_setup_telemetry


@form("multiprocess", multiprocess=True)
def _multiprocess(world: World) -> Round:
    def round_of_multiprocess() -> None:
        service = world.service
        service.attempt(service.plain)
        bs.flush(0.05)

    return round_of_multiprocess


@form("otel metrics", everywhere=False, leaks=True)
def _otel(world: World) -> Round:
    """The SDK keeps plain locks while it asks: that is its own affair in handlers."""
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader

    from breakerscope.telemetry.otel_metrics import with_durations

    world.scrapes_list_all = False
    reader = with_durations(InMemoryMetricReader)()
    provider = MeterProvider([reader], shutdown_on_exit=False)

    def round_of_otel() -> None:
        service = world.service
        registry = CollectorRegistry()
        with bs.setup_telemetry(registry=registry, meter_provider=provider):
            service.attempt(service.plain)
            hits = len(world.hits)
            data = reader.get_metrics_data()
            assert data is not None
            assert '"plain"' in data.to_json() or hits != len(world.hits), "it is not told"

    return round_of_otel


# -- clients, other breakers, old names ------------------------------------------------------------


@form("httpx")
def _httpx(world: World) -> Round:
    import httpx

    from breakerscope.integrations.httpx import AsyncBreakerTransport, BreakerTransport

    class Body(httpx.SyncByteStream, httpx.AsyncByteStream):
        def __init__(self, text: str) -> None:
            self.chunks = [text.encode(), b"more"]

        def __iter__(self) -> Iterator[bytes]:
            yield from self.chunks

        async def __aiter__(self) -> AsyncIterator[bytes]:
            for chunk in self.chunks:
                yield chunk

    def answer(_request: httpx.Request) -> httpx.Response:
        try:
            result = world.service.answer()
        except Exception:
            return httpx.Response(503, text="no")
        # A body that is read in steps; text would be read by then.
        return httpx.Response(200, stream=Body(result))

    sync = BreakerTransport(
        httpx.MockTransport(answer), limit=4, consecutive_failures=3, open_for=0.002
    )
    other = AsyncBreakerTransport(
        httpx.MockTransport(answer), limit=4, consecutive_failures=3, open_for=0.002
    )

    # No client around it: that would keep cookies under a lock of the standard library.
    def get(request: httpx.Request) -> int:
        response = sync.handle_request(request)
        response.read()
        return response.status_code

    async def get_async(request: httpx.Request) -> int:
        response = await other.handle_async_request(request)
        await response.aread()
        return response.status_code

    def round_of_httpx() -> None:
        request = httpx.Request("GET", f"http://{world.chance.randrange(8)}.example.com/")
        try:
            if world.chance.random() < 0.5:
                assert get(request) in (200, 503)
            else:
                assert drive(get_async(request)) in (200, 503)
        except httpx.TransportError:
            pass
        own = [b for b in bs.breakers() if b.name.startswith("httpx:")]
        assert len(own) <= 4
        if world.chance.random() < 0.2 and own:
            bs.remove_breaker(own[0].name)

    return round_of_httpx


@form("bridge")
def _bridge(world: World) -> Round:
    import pybreaker

    from breakerscope.bridges.pybreaker import attach

    lasting = pybreaker.CircuitBreaker(fail_max=3, reset_timeout=0.002)
    attach(lasting, "bridged")

    def round_of_bridge() -> None:
        service = world.service
        short = pybreaker.CircuitBreaker(fail_max=3, reset_timeout=0.002)
        with attach(short, f"bridged {next(_numbers)}"):
            for each in (lasting, short):
                try:
                    each.call(service.answer)
                except pybreaker.CircuitBreakerError:
                    pass
                except Exception as error:
                    service.attempt(_raise, error)
        assert all(b.name != "bridged" for b in bs.breakers())

    return round_of_bridge


@form("compat")
def _compat(world: World) -> Round:
    from breakerscope.compat.llm_circuit_breaker import (
        LLMCircuitBreaker,
        get_all_circuit_breaker_stats,
        get_circuit_breaker,
    )
    from breakerscope.compat.metrics_prometheus import PrometheusMetricsCollector
    from breakerscope.compat.otel_integration import get_otel_tracer

    llm = LLMCircuitBreaker("llm", failure_threshold=3, timeout_seconds=0.002)
    collector = PrometheusMetricsCollector()

    def round_of_compat() -> None:
        service = world.service
        service.attempt(llm.call, service.answer)
        try:
            with llm:
                service.answer()
        except Exception as error:
            service.attempt(_raise, error)
        assert llm.get_stats()["name"] == "llm"
        assert llm.metrics.total_calls >= 0
        if world.chance.random() < 0.1:
            llm.reset()
            assert "llm" in get_all_circuit_breaker_stats()
        get_circuit_breaker("old")
        collector.record_circuit_breaker_call("component", 0.1, success=True)
        collector.record_circuit_breaker_state("component", "closed")
        assert math.isfinite(collector.get_metrics_summary("component")["avg_latency"])
        assert get_otel_tracer() is get_otel_tracer()

    return round_of_compat


EVERYDAY = [
    "def",
    "async def",
    "generator",
    "async generator",
    "call",
    "call of a coroutine",
    "guard",
    "async guard",
    "exchange",
    "fallback",
    "state",
    "read",
    "snapshot, adopt",
    "force_open, disable, reset",
    "isolated",
    "subscribe",
    "recent",
    "stream",
    "flush",
    "to_jsonl",
    "scrape",
    "instrumented_breaker, remove_breaker",
    "breakers_per",
    "configure",
]
"""What every program does besides the form it is about."""


def round_of(world: World, name: str) -> Round:
    """A round of this form, the same one each time."""
    if name not in world.rounds:
        world.rounds[name] = FORMS[name].make(world)
    return world.rounds[name]


def everything(world: World, about: Sequence[Form]) -> list[Round]:
    """A round of each everyday form, and of those."""
    names = dict.fromkeys([*EVERYDAY, *(form.name for form in about)])
    return [round_of(world, name) for name in names]
