"""The last events, and events one after the other, for threads and for both kinds of tasks."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import AsyncIterator

import anyio
import anyio.to_thread
import pytest

import breakerscope as bs
from breakerscope.core.events import CallSettled, Event, StateChanged
from breakerscope.event_bus import EventBus
from breakerscope.streams import AsyncStream, Recent, Stream
from breakerscope.testing import capture_events, strict_listeners
from tests.unit.support import Boom, fail_times, make_breaker, succeed

WAIT = 10.0


def stream_of(bus: EventBus, queue_size: int = 1_000) -> Stream:
    return Stream(bus, (), queue_size, "stream", {})


def astream_of(bus: EventBus, queue_size: int = 1_000) -> AsyncStream:
    return AsyncStream(bus, (), queue_size, "astream", {})


# -- the last ones --------------------------------------------------------------------------------


def test_the_last_events_of_all_breakers() -> None:
    with bs.recent(3) as last, capture_events() as events:
        for name in ("a", "b"):
            breaker = bs.CircuitBreaker(name, bs.Policy(consecutive_failures=1))
            breaker.call(succeed)
            fail_times(breaker, 1)
            assert last.events() == events[-3:]
    breaker.reset()
    assert list(last) == events[-3:]
    assert len(last) == 3
    assert [e.breaker for e in last] == ["b", "b", "b"]


def test_the_last_events_of_one_kind() -> None:
    bus = EventBus()
    breaker = make_breaker(bus=bus, consecutive_failures=1)
    other = make_breaker(bus=bus, name="other", consecutive_failures=1)
    last = Recent(bus, 10, StateChanged, breaker="payment_api")
    fail_times(other, 1)
    fail_times(breaker, 1)
    assert [(type(e), e.breaker) for e in last] == [(StateChanged, "payment_api")]


def test_a_ring_needs_room() -> None:
    with pytest.raises(bs.SubscriptionError, match="size=0: allowed is 1 or more"):
        bs.recent(0)
    with pytest.raises(TypeError, match="inline"):
        bs.recent(1, inline=False)  # type: ignore[call-arg]


# -- one after the other --------------------------------------------------------------------------


def test_a_stream_tells_each_event_and_ends() -> None:
    breaker = bs.CircuitBreaker("payment_api", bs.Policy(consecutive_failures=1))
    told: list[Event] = []
    with bs.stream(CallSettled) as stream:
        reader = threading.Thread(target=lambda: told.extend(stream))
        reader.start()
        with capture_events(CallSettled) as events:
            for _ in range(100):
                breaker.call(succeed)
            fail_times(breaker, 1)
    reader.join(WAIT)
    assert told == events
    assert stream.dropped == 0
    assert list(stream) == []


def test_several_readers_share_a_stream() -> None:
    bus = EventBus()
    breaker = make_breaker(bus=bus)
    shares: list[list[Event]] = [[], [], []]
    with stream_of(bus) as stream:
        readers = [threading.Thread(target=share.extend, args=(stream,)) for share in shares]
        for reader in readers:
            reader.start()
        for _ in range(300):
            breaker.call(succeed)
    for reader in readers:
        reader.join(WAIT)
        assert not reader.is_alive()
    assert sorted(event.seq for share in shares for event in share) == [*range(1, 301)]


def test_a_stream_that_nobody_reads_keeps_the_first_and_counts_the_rest() -> None:
    bus = EventBus()
    breaker = make_breaker(bus=bus)
    with stream_of(bus, queue_size=10) as stream:
        for _ in range(5):
            breaker.call(succeed)
            assert bus.flush(WAIT)
        for _ in range(20):
            breaker.call(succeed)
        assert bus.flush(WAIT)
    kept = [event.seq for event in stream]
    assert len(kept) == 10
    assert kept[:5] == [1, 2, 3, 4, 5]
    assert stream.dropped == bus.dropped()["stream"] == 15


def test_the_calls_of_a_reader_are_events_like_others() -> None:
    bus = EventBus()
    breaker = make_breaker(bus=bus)
    stream = stream_of(bus)
    breaker.call(succeed)
    assert next(stream).seq == 1
    breaker.call(succeed)
    assert next(stream).seq == 2
    stream.close()
    stream.close()
    assert list(stream) == []


# -- for tasks ------------------------------------------------------------------------------------

both_loops = pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])


@both_loops
@pytest.mark.anyio
async def test_tasks_read_what_threads_do(anyio_backend: str) -> None:
    breaker = bs.CircuitBreaker("payment_api")
    told: list[Event] = []

    def calls() -> None:
        for _ in range(200):
            breaker.call(succeed)
        stream.close()

    async def read(stream: AsyncIterator[Event]) -> None:
        async for event in stream:
            told.append(event)

    stream = bs.astream(breaker="payment_api")
    with anyio.fail_after(WAIT), capture_events() as events:
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(read, stream)
            await anyio.to_thread.run_sync(calls)
    assert sorted(told, key=lambda event: event.seq) == events
    assert len(told) == 200


@both_loops
@pytest.mark.anyio
async def test_a_cancelled_reader_loses_nothing(anyio_backend: str) -> None:
    bus = EventBus()
    breaker = make_breaker(bus=bus)
    async with astream_of(bus) as stream:
        with anyio.move_on_after(0.01):
            await anext(stream)
        for _ in range(3):
            breaker.call(succeed)
        with anyio.fail_after(WAIT):
            assert [(await anext(stream)).seq for _ in range(3)] == [1, 2, 3]


@both_loops
@pytest.mark.anyio
async def test_an_async_stream_ends_for_all_its_readers(anyio_backend: str) -> None:
    bus = EventBus()
    stream = astream_of(bus)

    async def read() -> None:
        async for _ in stream:
            pass

    with anyio.fail_after(WAIT):
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(read)
            await anyio.wait_all_tasks_blocked()
            stream.close()


def test_a_loop_that_has_ended_hurts_nobody() -> None:
    bus = EventBus()
    breaker = make_breaker(bus=bus)
    stream = astream_of(bus)
    loop = asyncio.new_event_loop()
    waiting = loop.create_task(anext(stream))
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    assert breaker.call(succeed) == "fine"
    assert bus.flush(WAIT)
    assert bus.errors() == {"astream": 0}
    assert not waiting.done()

    async def read() -> Event:
        return await anext(stream)

    assert asyncio.run(read()).seq == 1
    stream.close()


# -- for tests ------------------------------------------------------------------------------------


@pytest.mark.parametrize("inline", [True, False])
def test_strict_listeners(inline: bool) -> None:
    bus = EventBus()
    breaker = make_breaker(bus=bus)

    def raising(event: Event) -> None:
        raise Boom(event.seq)

    bus.subscribe(raising, inline=inline)
    with pytest.raises(ExceptionGroup, match="listeners raised") as caught:  # noqa: SIM117
        with strict_listeners(bus=bus):
            assert breaker.call(succeed) == "fine"
            assert breaker.call(succeed) == "fine"
    assert [type(error) for error in caught.value.exceptions] == [Boom, Boom]
    with strict_listeners(bus=bus):
        pass


def test_the_strict_fixture(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import breakerscope as bs

        def test_one(strict_breaker_listeners):
            with bs.subscribe(lambda event: 1 / 0):
                assert bs.CircuitBreaker("x").call(len, "") == 0
        """
    )
    pytester.runpytest_inprocess("-p", "no:randomly").assert_outcomes(passed=1, errors=1)


IMPORT = """
import sys, breakerscope
print({"asyncio", "trio", "json", "breakerscope.streams", "breakerscope.codec"} & set(sys.modules))
print([name for name in breakerscope.__all__ if not hasattr(breakerscope, name)])
print(hasattr(breakerscope, "nonsense"))
"""


def test_the_import_takes_along_only_what_everybody_needs() -> None:
    run = subprocess.run([sys.executable, "-c", IMPORT], check=True, capture_output=True, text=True)
    assert run.stdout.splitlines() == ["set()", "[]", "False"]
