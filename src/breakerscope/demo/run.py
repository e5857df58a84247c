"""The whole demo, from the first port to the exit code."""

from __future__ import annotations

import secrets
import signal
import sys
import threading
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType

from prometheus_client import CollectorRegistry

import breakerscope
from breakerscope.catalogue import LogEvent
from breakerscope.demo.board import Board
from breakerscope.demo.live import LiveView, picture
from breakerscope.demo.options import DemoError, Options
from breakerscope.demo.report import ASKED, OUTCOMES, Source, differences, table, verdict
from breakerscope.demo.shop import Shop
from breakerscope.demo.sources import EventCounts, scrape
from breakerscope.demo.telemetry import json_logs, metrics_server
from breakerscope.demo.tracing import Tracing, tracing
from breakerscope.demo.traffic import Traffic
from breakerscope.demo.upstreams import Upstreams

EVENT_QUEUE = 1_000_000
FLUSH_SECONDS = 30.0
TICK = 0.125
PICTURE_AT = 0.6
KNOWN_TO_CALLERS = (ASKED, *OUTCOMES)
EVERY_CALL: dict[str, breakerscope.LogLevel] = {
    LogEvent.CALL_SUCCEEDED: "debug",
    LogEvent.CALL_IGNORED: "debug",
    LogEvent.CALL_CANCELLED: "debug",
}
"""The file can be counted: a line for each call, and for rejections a line that says how many."""


def run(options: Options) -> int:
    """Run the demo. The table goes to stdout, everything else for people to stderr.

    Returns 0 if all sources agree, else 1. Raises DemoError.
    """
    live = sys.stdout.isatty() and not options.headless
    seed = options.seed if options.seed is not None else secrets.randbelow(1_000_000)
    with ExitStack() as stack:
        enter = stack.enter_context
        stop = enter(_signals())
        _check_writable(options.picture)
        spans = enter(tracing(endless=options.repeat))
        registry = CollectorRegistry()
        url = enter(metrics_server(registry, options.metrics_port, options.metrics_address))
        log_name = enter(json_logs(options.log_file))
        upstreams = enter(Upstreams(duration=options.duration, seed=seed, repeat=options.repeat))
        telemetry = enter(breakerscope.setup_telemetry(registry=registry, log_levels=EVERY_CALL))
        shop = enter(_shop(upstreams, options.duration))
        events = EventCounts()
        enter(breakerscope.subscribe(events, name="demo_counts", queue_size=EVENT_QUEUE))
        board = Board(shop.breakers, duration=options.duration, repeat=options.repeat)
        enter(breakerscope.subscribe(board, name="demo_board", queue_size=EVENT_QUEUE))
        _say(f"metrics: {url}\nlogs: {log_name}\nseed: {seed}, {options.duration:g} s")
        traffic = Traffic(shop, spans.tracer, seed=seed)
        upstreams.go()
        board.start()
        traffic.start()
        try:
            with ExitStack() as screen:
                view = screen.enter_context(LiveView()) if live else None
                _watch(board, stop, options, view)
        finally:
            stuck = traffic.stop()
        code = _finish(traffic, stuck, events, url, spans)
        stop.wait(options.hold)
        # Before the shop takes its breakers away: the last lines are about them.
        telemetry.close()
        return code


def _watch(board: Board, stop: threading.Event, options: Options, view: LiveView | None) -> None:
    """Let time pass, and show it, until the end of the script or a signal."""
    picture_file = options.picture
    said: dict[str, str] = {}
    while (options.repeat or board.elapsed < options.duration) and not stop.wait(TICK):
        moment = board.moment()
        if view is not None:
            view.update(moment)
        else:
            for row in moment.rows:
                if said.get(row.name) != row.phase:
                    said[row.name] = row.phase
                    _say(f"{moment.elapsed:6.1f} s  {row.name} {row.phase}")
        if picture_file is not None and moment.elapsed >= PICTURE_AT * options.duration:
            Path(picture_file).write_text(picture(moment), encoding="utf-8")
            picture_file = None


def _finish(traffic: Traffic, stuck: int, events: EventCounts, url: str, spans: Tracing) -> int:
    """Bring everything in, print the table, and judge. Nobody calls a breaker any more."""
    delivered = breakerscope.flush(FLUSH_SECONDS)
    scraped = scrape(url)
    sources = [
        Source("callers", traffic.tally, KNOWN_TO_CALLERS),
        Source("events", events.tally),
        Source("metrics", scraped.tally),
        Source("spans", spans.counted.tally),
    ]
    losses = {
        **scraped.losses,
        "users that did not end": stuck,
        "listeners that did not end": int(not delivered),
        "events on spans with too many": spans.counted.events_dropped,
    }
    found = differences(sources)
    print(table(sources), verdict(found, losses), sep="\n\n", flush=True)
    # The collector comes last: one that does not answer takes its time.
    spans.flush()
    if spans.export is not None:
        _say(f"OTLP: {spans.export.sent} of {spans.counted.spans} spans sent")
    return 1 if found or any(losses.values()) else 0


@contextmanager
def _shop(upstreams: Upstreams, duration: float) -> Generator[Shop, None, None]:
    shop = Shop(upstreams.urls, duration=duration)
    try:
        yield shop
    finally:
        shop.close()


@contextmanager
def _signals() -> Generator[threading.Event, None, None]:
    """Inside the block, Ctrl-C and SIGTERM set the event. The second Ctrl-C interrupts as usual."""
    stop = threading.Event()

    def end(_number: int, _frame: FrameType | None) -> None:
        stop.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _check_writable(name: str | None) -> None:
    if name is not None:
        try:
            Path(name).write_text("", encoding="utf-8")
        except OSError as error:
            raise DemoError(f"cannot write the picture to {name}: {error.strerror}") from error


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
