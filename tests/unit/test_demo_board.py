"""The live view of the demo: what the board remembers, and that it fits the terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from breakerscope import CircuitBreaker, Event, Outcome, Policy, State
from breakerscope.demo.board import CELLS, Board, Moment, quantile
from breakerscope.demo.live import LOOK, View, picture
from breakerscope.demo.script import FLAPS, SERVICES, health
from breakerscope.event_bus import EventBus
from breakerscope.testing import FakeClock

DURATION = 60.0


def a_moment() -> Moment:
    """Half-way through a run in which `search` has opened, and was refused once."""
    clock, bus = FakeClock(), EventBus()
    policy = Policy(consecutive_failures=2, failure_rate=0.5, min_calls=2)
    breakers = [CircuitBreaker(name, policy, clock=clock.clock, bus=bus) for name in SERVICES]
    board = Board(breakers, duration=DURATION, clock=clock.clock.monotonic)

    def listen(event: Event) -> None:
        board(event)

    bus.subscribe(listen, inline=True)
    clock.advance(28.0)
    payment, search, _ = breakers
    payment.call(clock.advance, 0.25)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            search.call(lambda: 1 / 0)
    with pytest.raises(Exception, match="is open"):
        search.call(int)
    clock.advance(1.75)
    return board.moment()


def test_the_board_shows_state_rates_latency_and_events() -> None:
    moment = a_moment()
    payment, search, _ = moment.rows
    assert moment.elapsed == 30.0
    assert payment.rates[Outcome.SUCCESS] == 0.25
    assert payment.p50 == payment.p99 == 0.25
    assert payment.strip == (State.CLOSED,) * 31
    assert search.state is State.OPEN
    assert search.rates[Outcome.FAILURE] == 0.5
    assert search.rates[Outcome.REJECTED] == 0.25
    assert search.strip == (State.CLOSED,) * 28 + (State.OPEN,) * 3
    assert [(at, event.new) for at, event in moment.events] == [(28.25, State.OPEN)]


def test_the_strip_is_never_longer_than_the_run() -> None:
    clock = FakeClock()
    breaker = CircuitBreaker("search", clock=clock.clock, bus=EventBus())
    board = Board([breaker], duration=DURATION, clock=clock.clock.monotonic)
    clock.advance(10 * DURATION)
    assert len(board.moment().rows[0].strip) == CELLS


@pytest.mark.parametrize("width", [80, 100, 120, 200])
def test_the_view_fits_the_terminal(width: int) -> None:
    console = Console(width=width, file=io.StringIO(), force_terminal=True, color_system=None)
    with console.capture() as captured:
        console.print(View(a_moment()))
    lines = captured.get().splitlines()
    assert {len(line) for line in lines} == {width}
    assert len(lines) <= 20
    text = "\n".join(lines)
    assert "…" not in text
    for name in SERVICES:
        assert name in text
    assert f"{LOOK[State.OPEN][0]} open" in text
    assert "30 of 60 s" in text


def test_the_picture_is_svg_and_needs_nothing_from_elsewhere() -> None:
    svg = picture(a_moment())
    assert svg.startswith("<svg")
    assert "url(http" not in svg.replace('"', "")
    assert "@font-face" not in svg
    assert svg.count("<style>") == svg.count("</style>") == 1
    assert "payment_api" in svg


def test_states_differ_by_sign_and_colour() -> None:
    assert len({sign for sign, _, _ in LOOK.values()}) == len(State)
    assert len({colour for _, _, colour in LOOK.values()}) == len(State)


def test_the_script_tells_the_three_stories() -> None:
    steps = [step / 200 for step in range(201)]
    phases = {name: [health(name, at).phase for at in steps] for name in SERVICES}
    assert set(phases["payment_api"]) == {"steady"}
    assert list(dict.fromkeys(phases["search"])) == [
        "healthy", "slow", "failing", "refusing", "healed",
    ]  # fmt: skip
    falls = zip(phases["recommendations"], phases["recommendations"][1:], strict=False)
    assert list(falls).count(("up", "down")) == FLAPS
    with pytest.raises(ValueError, match="there are payment_api, search, recommendations"):
        health("mail", 0.5)


def test_quantiles() -> None:
    assert quantile([], 0.5) is None
    assert quantile([1.0, 2.0, 3.0], 0.5) == 2.0
    assert quantile([1.0, 2.0, 3.0], 0.99) == 3.0
