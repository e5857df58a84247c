"""Both windows beside plain lists of calls."""

from __future__ import annotations

from dataclasses import dataclass
from math import floor

from hypothesis import given
from hypothesis import strategies as st

from breakerscope.core.windows import CountWindow, TimeWindow, Window


@dataclass(frozen=True)
class Call:
    failed: bool = False
    slow: bool = False


@dataclass(frozen=True)
class Batch:
    n: int
    failed: bool


@dataclass(frozen=True)
class Pass:
    seconds: float


@dataclass(frozen=True)
class Clear:
    pass


@dataclass(frozen=True)
class Move:
    """Dump it, and go on with a new window that loaded the dump."""


Deed = Call | Batch | Pass | Clear | Move

CALLS = st.builds(Call, st.booleans(), st.booleans())
BATCHES = st.builds(Batch, st.integers(0, 40), st.booleans())
STEPS = st.builds(
    Pass,
    st.sampled_from([0.0, 1 / 64, 0.25, 0.5, 1.0, 2.0, 7.75, 9.0, 10.0, 1e6, -0.25, -5.0])
    | st.floats(-3, 30),
)
DEEDS: st.SearchStrategy[list[Deed]] = st.lists(
    st.one_of(CALLS, CALLS, BATCHES, STEPS, st.just(Clear()), st.just(Move())), max_size=60
)


def figures(window: Window) -> tuple[int, int, int]:
    return window.calls, window.failures, window.slow_calls


def naive(calls: list[Call]) -> tuple[int, int, int]:
    return len(calls), sum(call.failed for call in calls), sum(call.slow for call in calls)


@given(size=st.integers(1, 12), deeds=DEEDS)
def test_a_count_window_is_the_end_of_a_list(size: int, deeds: list[Deed]) -> None:
    window = CountWindow(size)
    past: list[Call] = []
    for deed in deeds:
        match deed:
            case Call(failed, slow):
                window.add(failed=failed, slow=slow)
                past.append(deed)
            case Batch(n, failed):
                window.add_batch(n, failed=failed)
                past += [Call(failed)] * n
            case Pass(seconds):
                window.advance(seconds)
            case Clear():
                window.clear()
                past.clear()
            case Move():
                rows, window = window.dump(), CountWindow(size)
                window.load(rows)
        assert figures(window) == naive(past[-size:])
        assert window.dump() == [[call.failed, call.slow] for call in past[-size:]]


@given(size=st.integers(1, 12), before=st.lists(CALLS, max_size=30), n=st.integers(0, 40))
def test_a_batch_is_worth_as_much_as_its_calls(size: int, before: list[Call], n: int) -> None:
    batch, singles = CountWindow(size), CountWindow(size)
    for call in before:
        for window in (batch, singles):
            window.add(failed=call.failed, slow=call.slow)
    batch.add_batch(n)
    for _ in range(n):
        singles.add(failed=False, slow=False)
    assert batch.dump() == singles.dump()
    assert figures(batch) == figures(singles)


@given(
    seconds=st.sampled_from([0.1, 1.0, 2.5, 3.0, 10.0, 60.0]),
    start=st.sampled_from([0.0, 5.5, -123.25, 1e6]),
    deeds=DEEDS,
)
def test_a_time_window_is_what_happened_in_its_buckets(
    seconds: float, start: float, deeds: list[Deed]
) -> None:
    width = seconds / 10
    window, clock, seen = TimeWindow(seconds), start, start
    window.advance(start)
    past: list[tuple[int, Call]] = []
    for deed in deeds:
        bucket = floor(seen / width)
        match deed:
            case Call(failed, slow):
                window.add(failed=failed, slow=slow)
                past.append((bucket, deed))
            case Batch(n, failed):
                window.add_batch(n, failed=failed)
                past += [(bucket, Call(failed))] * n
            case Pass(turned):
                clock += turned
                seen = max(seen, clock)
                # The clock as it is: the window itself has to see that it ran backwards.
                window.advance(clock)
            case Clear():
                window.clear()
                past.clear()
            case Move():
                # Into another process, whose clock shows something else.
                rows, window = window.dump(), TimeWindow(seconds)
                window.advance(seen)
                window.load(rows)
                other = TimeWindow(seconds)
                other.advance(seen + 7777 * width)
                other.load(rows)
                assert other.dump() == rows
                assert figures(other) == figures(window)
        now = floor(seen / width)
        inside = [(at, call) for at, call in past if at > now - 10]
        assert figures(window) == naive([call for _, call in inside])
        assert window.dump() == [
            list(naive([call for at, call in inside if at == bucket]))
            for bucket in range(now - 9, now + 1)
        ]


@given(
    seconds=st.sampled_from([1.0, 2.5, 10.0, 60.0]),
    start=st.floats(0, 1e6),
    calls=st.lists(CALLS, min_size=1, max_size=5),
    later=st.floats(0, 100),
)
def test_a_call_counts_for_nine_tenths_of_the_window_and_no_longer_than_all_of_it(
    seconds: float, start: float, calls: list[Call], later: float
) -> None:
    window = TimeWindow(seconds)
    window.advance(start)
    for call in calls:
        window.add(failed=call.failed, slow=call.slow)
    window.advance(start + later)
    if later < 0.899 * seconds:
        assert figures(window) == naive(calls)
    if later > 1.001 * seconds:
        assert figures(window) == (0, 0, 0)


@given(seconds=st.sampled_from([0.7, 1.0, 2.5, 3.0, 10.0]), start=st.floats(0, 1e4))
def test_calls_of_the_same_bucket_are_forgotten_together(seconds: float, start: float) -> None:
    window = TimeWindow(seconds)
    width = seconds / 10
    window.advance(start)
    for at in (start, start + 0.3 * width, start + 0.9 * width):
        window.advance(at)
        window.add(failed=False, slow=False)
    same = [window.bucket(start + part * width) for part in (0.0, 0.3, 0.9)]
    window.advance((same[0] + 10) * width + width / 1000)
    assert window.calls == same.count(same[0] + 1)


def test_a_window_without_a_time_begins_with_the_first() -> None:
    window = TimeWindow(10.0)
    window.add(failed=True, slow=False)
    window.advance(1234.5)
    assert figures(window) == (1, 1, 0)
