"""Never executed: what mypy and pyright have to understand of the public functions."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import assert_type

import breakerscope as bs

breaker = bs.instrumented_breaker("x", consecutive_failures=5, open_for=10.0, ignore=KeyError)
bs.instrumented_breaker("y", labels={"team": "search"})
bs.setup_telemetry(prefix="shop", labels={"team": "checkout"}, max_breakers=10).close()


@breaker
def plain(amount: int, *, note: str = "") -> str:
    return note * amount


@breaker
async def coroutine(amount: int) -> float:
    return amount


@breaker
def stream(amount: int) -> Iterator[int]:
    yield amount


@breaker
async def async_stream(amount: int) -> AsyncIterator[int]:
    yield amount


class Service:
    @breaker
    def method(self, amount: int) -> bytes:
        return bytes(amount)


def cached(amount: int, *, note: str = "") -> str:
    return note


async def cached_async(amount: int) -> float:
    return 0.0


def cached_sync(amount: int) -> float:
    return 0.0


def nothing(amount: int) -> None: ...


async def fall_back() -> None:
    assert_type(breaker.with_fallback(cached)(plain)(1, note="n"), str)
    assert_type(await breaker.with_fallback(cached_async)(coroutine)(1), float)
    assert_type(await breaker.with_fallback(cached_sync)(coroutine)(1), float)
    assert_type(breaker.with_fallback(cached_sync)(plain)(1), str | float)
    assert_type(breaker.with_fallback(nothing)(plain)(1), str | None)
    assert_type(await breaker.with_fallback(nothing)(coroutine)(1), float | None)
    breaker.with_fallback(plain)(nothing)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def use() -> None:
    assert_type(breaker.protect(plain)(1), str)
    assert_type(bs.internal_span(breaker)(plain)(1, note="n"), str)
    assert_type(bs.setup_telemetry(events="both", otel_metrics=True, otlp=True), bs.Telemetry)
    bs.setup_telemetry(events="trace")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert_type(await bs.internal_span(breaker)(coroutine)(1), float)
    assert_type(bs.breakers_per("host", limit=10)("a"), bs.CircuitBreaker)
    assert_type(plain(1, note="n"), str)
    assert_type(await coroutine(1), float)
    assert_type(stream(1), Iterator[int])
    assert_type(async_stream(1), AsyncIterator[int])
    assert_type(Service().method(1), bytes)
    assert_type(breaker.call(int, "1"), int)
    assert_type(await breaker.call(coroutine, 1), float)
    plain("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    breaker.call(plain, 1, not_there=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    with breaker.guard() as guard:
        assert_type(guard, bs.Guard)
    async with breaker.guard() as guard:
        guard.fail("stale")
    with breaker.isolated(reason="maintenance"):
        assert_type(breaker.state, bs.State)
    try:
        plain(1)
    except bs.CircuitBreakerOpenError as error:
        assert_type(error.retry_after, float | None)


def events(event: bs.Event) -> None:
    assert_type(bs.event_to_json(event), str)
    assert_type(bs.event_from_json("{}"), bs.Event)
    assert_type(bs.event_from_dict(bs.event_to_dict(event)), bs.Event)
    with bs.to_jsonl("events.jsonl", bs.StateChanged, max_bytes=None) as lines:
        assert_type(lines.lost, int)
    assert_type(bs.recent(10, bs.StateChanged, breaker="x").events(), list[bs.Event])
    with bs.stream(queue_size=10) as stream:
        for event in stream:
            assert_type(event, bs.Event)


async def events_for_tasks() -> None:
    async with bs.astream(bs.CallSettled, outcomes={bs.Outcome.FAILURE}) as stream:
        async for event in stream:
            assert_type(event, bs.Event)


def logs() -> None:
    levels: dict[str, bs.LogLevel] = {"circuit_breaker.call_succeeded": "debug"}
    assert_type(bs.setup_telemetry(log_levels=levels, log_rejections_every=5), bs.Telemetry)
    bs.setup_telemetry(log_levels={"circuit_breaker.call_failed": "loud"})  # type: ignore[dict-item]  # pyright: ignore[reportArgumentType]
