"""Both windows beside plain lists of calls; windows and counters when an interrupt strikes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import floor, inf
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from breakerscope.core.counters import Counters, Exemplar
from breakerscope.core.events import Cause, Outcome, State
from breakerscope.core.journal import Entry, Journal, Run, Tokens, failed
from breakerscope.core.permits import SharedPermit
from breakerscope.core.windows import CountWindow, TimeWindow, Window
from tests.unit.support import each_interrupt, recounted


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


@given(
    size=st.integers(1, 12),
    before=st.lists(CALLS, max_size=30),
    n=st.integers(0, 40),
    bad=st.booleans(),
)
def test_a_batch_is_worth_as_much_as_its_calls(
    size: int, before: list[Call], n: int, bad: bool
) -> None:
    batch, singles = CountWindow(size), CountWindow(size)
    for call in before:
        for window in (batch, singles):
            window.add(failed=call.failed, slow=call.slow)
    batch.add_batch(n, failed=bad)
    for _ in range(n):
        singles.add(failed=bad, slow=False)
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
        assert window.bucket(seen) == now


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


# -- an interrupt strikes a window -----------------------------------------------------------------


def full_ring() -> CountWindow:
    """Its oldest call, a slow failure, stands in the middle of the ring."""
    window = CountWindow(4)
    for bad, slow in [(0, 0), (1, 0), (1, 1), (0, 1), (1, 0), (0, 0)]:
        window.add(failed=bool(bad), slow=bool(slow))
    return window


def good_ring() -> CountWindow:
    """Calls that a batch of successes need not look at."""
    window = CountWindow(4)
    window.add_batch(3)
    return window


def buckets() -> TimeWindow:
    """Calls in the first, the fourth and the present bucket."""
    window = TimeWindow(10.0)
    for now, slow in [(0.5, True), (3.5, False), (9.5, True)]:
        window.advance(now)
        window.add(failed=True, slow=slow)
        window.add_batch(2)
    return window


ACTS: list[Callable[[Any], object]] = [
    lambda window: window.add(failed=True, slow=True),
    lambda window: window.add(failed=False, slow=False),
    lambda window: window.add_batch(2),
    lambda window: window.add_batch(3, failed=True),
    lambda window: window.clear(),
    lambda window: window.advance(10.5),
    lambda window: window.advance(1e6),
]


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("make", [full_ring, good_ring, buckets, lambda: TimeWindow(10.0)])
def test_a_window_holds_all_of_a_change_or_nothing_of_it(
    make: Callable[[], Window], act: Callable[[Window], object]
) -> None:
    done = make()
    act(done)
    whole = [make().dump(), done.dump()]
    for window, was in each_interrupt(make, act):
        rows = window.dump()
        assert figures(window) == recounted(window)
        assert rows in whole
        assert was or rows == whole[1]
        goes_on(window)


def goes_on(window: Window) -> None:
    """Calls that come later find their places."""
    rows = window.dump()
    for mark in ((1, 1), (0, 0), (0, 1), (1, 0), (0, 0)):
        window.add(failed=bool(mark[0]), slow=bool(mark[1]))
        if isinstance(window, CountWindow):
            rows = [*rows, [*mark]][-4:]
        else:
            calls, failures, slow_calls = rows[-1]
            rows = [*rows[:-1], [calls + 1, failures + mark[0], slow_calls + mark[1]]]
        assert window.dump() == rows
        assert figures(window) == recounted(window)


@pytest.mark.parametrize(("make", "whole"), [(full_ring, False), (buckets, True)])
def test_rows_that_are_loaded(make: Callable[[], Window], whole: bool) -> None:
    """A window of time takes them over at once, a window of calls one by one."""
    before, rows = make().dump(), make().dump()[1:]
    rows = rows if isinstance(make(), CountWindow) else [*rows, [7, 3, 5]]
    for window, was in each_interrupt(make, lambda window: window.load(rows)):
        found = window.dump()
        assert figures(window) == recounted(window)
        assert found in ([before, rows] if whole else [before, *(rows[:n] for n in range(4))])
        assert was or found == rows
        goes_on(window)


# -- an interrupt strikes the counters -------------------------------------------------------------

TRIP = (State.CLOSED, State.OPEN, Cause.FAILURE_RATE)
BOUNDS = (0.1, 1.0)


@dataclass
class Books:
    """The counters of a breaker, and the journal of its present stay in a state."""

    counters: Counters
    journal: Journal


def books(*entries: Entry, single: int = 0, failures: int = 0) -> Books:
    """Two successes and a slow failure were counted before; `entries` have settled since, and
    `single` calls are in flight that were admitted under the lock.
    """
    kept = Books(Counters(BOUNDS, state=State.CLOSED, now=100.0), Journal())
    kept.journal.single = 3 + single
    for outcome, duration in [(Outcome.SUCCESS, 0.05), (Outcome.SUCCESS, 0.5)]:
        kept.counters.add(outcome, duration, kept.journal, slow=False)
    kept.counters.add(Outcome.FAILURE, 5.0, kept.journal, slow=True)
    kept.journal.tokens.lay_out([None] * 8)
    kept.journal.failure_tokens.lay_out([None] * 4)
    for entry in entries:
        kept.journal.tokens.take()
        if failed(entry):
            kept.journal.failure_tokens.take()
        kept.journal.entries.append(entry)
    return kept


def told(kept: Books) -> dict[str, Any]:
    """All that can be read, and what is still to be done."""
    counters, journal = kept.counters, kept.journal
    return {
        "durations": counters.durations(),
        "slow": counters.slow,
        "rejected": (counters.rejected, counters.would_reject),
        "fallbacks": dict(counters.fallbacks),
        "transitions": dict(counters.transitions),
        "seconds": counters.state_seconds(200.0),
        "unjudged": list(counters.unjudged),
        "settled": (journal.settled, journal.failures, list(journal.entries)),
    }


def calls(kept: Books) -> int:
    """All calls that have settled, counted or not."""
    durations = kept.counters.durations().values()
    return sum(sum(one.counts) for one in durations) + len(kept.journal.entries)


def runs_of(entries: list[Entry], mixed: bool) -> list[Run]:
    assert mixed == any(failed(entry) for entry in entries)
    return [(1, failed(entry), -inf) for entry in entries]


EXEMPLAR = Exemplar({"trace_id": "1"}, 0.5, 9.0)

BOOKKEEPING: list[Callable[[Books], object]] = [
    lambda kept: kept.counters.add(
        Outcome.SUCCESS, 0.5, kept.journal, slow=True, exemplar=EXEMPLAR
    ),
    lambda kept: kept.counters.add(Outcome.CANCELLED, 9.0, kept.journal, slow=False),
    lambda kept: kept.counters.add_fallback(Outcome.FAILURE),
    lambda kept: kept.counters.add_transition(*TRIP, 150.0),
]


@pytest.mark.parametrize("act", BOOKKEEPING)
def test_one_thing_is_counted_wholly_or_not_at_all(act: Callable[[Books], object]) -> None:
    before, after = told(books(single=1)), books(single=1)
    act(after)
    assert told(after) != before
    for kept, was in each_interrupt(lambda: books(single=1), act):
        found = told(kept)
        assert found in [before, told(after)]
        assert was or found == told(after)
        # A call is counted or in flight, never both and never neither.
        assert calls(kept) + kept.journal.in_flight == 4


JOURNALS: list[tuple[Entry, ...]] = [
    (),
    (0.05, 0.02),
    (0.5, 2.0, 0.01),
    ((0.5,), (2.0,)),
    (0.5, (0.05,), 2.0, (0.01,)),
]


@pytest.mark.parametrize("entries", JOURNALS)
@pytest.mark.parametrize("judged", [runs_of, None])
@pytest.mark.parametrize("timed", [False, True])
def test_a_journal_is_drained_wholly_or_not_at_all(
    entries: tuple[Any, ...], judged: Callable[..., list[Run]] | None, timed: bool
) -> None:
    """What was interrupted can be done again, and nothing is lost or counted twice."""

    def make() -> Books:
        if not timed:
            return books(*entries)
        both = [(entry, False) if isinstance(entry, float) else (*entry, True) for entry in entries]
        return books(*((7.0, each, True) if bad else (7.0, each) for each, bad in both))

    def drain(kept: Books) -> None:
        kept.counters.drain(kept.journal, judged, timed=timed)

    before, after = told(make()), make()
    drain(after)
    assert after.journal.entries == []
    for kept, was in each_interrupt(make, drain):
        found = told(kept)
        assert found in [before, told(after)]
        assert was or found == told(after)
        assert calls(kept) == 3 + len(entries)
        assert kept.journal.in_flight == 0
        if found != told(after):
            drain(kept)
            assert told(kept) == told(after)
        assert not kept.journal.may_hold_failures


# -- an interrupt strikes tokens -------------------------------------------------------------------


def tokens() -> Tokens:
    """Three of them are left, two were taken."""
    laid_out = Tokens()
    laid_out.lay_out([None] * 5)
    laid_out.take()
    laid_out.take()
    return laid_out


def test_tokens_are_laid_out_wholly_or_not_at_all() -> None:
    seen = {
        (len(laid_out), laid_out.taken)
        for laid_out, _ in each_interrupt(tokens, lambda laid_out: laid_out.lay_out([None] * 4))
    }
    assert seen == {(3, 2), (7, 2)}


def test_at_most_one_token_is_lost_as_they_are_withdrawn() -> None:
    for laid_out, was in each_interrupt(tokens, Tokens.withdraw):
        lost = laid_out.taken - 2
        assert lost in ((0, 1) if was else (0,))
        assert was or len(laid_out) == 0
        laid_out.withdraw()
        assert (len(laid_out), laid_out.taken) == (0, 2 + lost)


def permit() -> SharedPermit:
    """A token of each kind is left, and one of each is taken."""
    shared = SharedPermit(3, State.CLOSED)
    for each in (shared.tokens, shared.failure_tokens):
        each.lay_out([shared] * 2)
        each.take()
    return shared


def test_a_permit_that_is_retired_can_be_retired_again() -> None:
    for shared, _ in each_interrupt(permit, SharedPermit.retire):
        shared.retire()
        assert (len(shared.tokens), len(shared.failure_tokens)) == (0, 0)
        # One of them may be lost.
        assert shared.tokens.taken + shared.failure_tokens.taken == 2
        assert (shared.generation, shared.state) == (3, State.CLOSED)
        with pytest.raises(IndexError):
            shared.take()


@pytest.mark.parametrize(("room", "allowed"), [(0, False), (1, True), (2, True), (9, True)])
def test_no_more_failures_are_allowed_than_there_is_room(room: int, allowed: bool) -> None:
    """One failure is on its way in any case: it has its token."""
    for shared, was in each_interrupt(permit, lambda shared: shared.allow_failures(room, 16)):
        lost = shared.failure_tokens.taken - 1
        assert lost in ((0, 1) if was else (0,))
        assert shared.failures_out <= max(room, 2)
        # What is lost takes room, and gives none.
        assert shared.allow_failures(room, 16) is (allowed and lost < room)
        assert shared.failures_out <= max(room, 1 + lost)
