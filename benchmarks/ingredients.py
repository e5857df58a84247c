"""The ingredients' floor: what single steps cost on this machine, each called from a loop."""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from contextvars import ContextVar
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Histogram

from benchmarks.loops import Body, calls
from benchmarks.rounds import Subject
from breakerscope.core.events import CallSettled, CallSettledDraft, Outcome, State


@dataclass(frozen=True, slots=True)
class _Event:
    breaker: str
    seq: int
    at: float
    duration: float


def subjects() -> list[Subject]:
    """One subject for each step; the loop itself is in all of them."""
    lock = threading.Lock()
    journal: list[float] = []
    bounds = tuple(0.001 * 2**power for power in range(15))
    variable: ContextVar[object] = ContextVar("variable", default=None)
    registry = CollectorRegistry()
    counter = Counter("calls", "Calls.", ["breaker"], registry=registry).labels("a")
    histogram = Histogram("seconds", "Seconds.", ["breaker"], registry=registry).labels("a")

    def locked() -> None:
        with lock:
            pass

    def bound_lock() -> None:
        acquire()
        release()

    acquire, release = lock.acquire, lock.release

    def append_and_pop() -> None:
        append(1.0)
        pop()

    append, pop = journal.append, journal.pop
    running: list[None] = []

    def counted() -> None:
        if not running:
            running.append(None)
            running.pop()

    def draft_of_an_event() -> None:
        event = CallSettledDraft()
        event.breaker = "a"
        event.seq = 1
        event.at = 1.0
        event.state = State.CLOSED
        event.outcome = Outcome.SUCCESS
        event.duration = 1.0
        event.error = None
        event.slow = event.late = False
        event.__class__ = CallSettled

    def packed(*args: object, **kwargs: object) -> None:
        empty(*args, **kwargs)

    def empty() -> None:
        pass

    steps: dict[str, Body] = {
        "empty function": lambda: None,
        "time.perf_counter()": time.perf_counter,
        "time.monotonic()": time.monotonic,
        "with lock: pass": locked,
        "lock.acquire(), lock.release(), bound": bound_lock,
        "list append and pop, bound": append_and_pop,
        "bisect_left in 15 bounds": lambda: bisect_left(bounds, 0.01),
        "a context variable's get()": variable.get,
        "time.time()": time.time,
        "a call handed on by *args and **kwargs": packed,
        "a frozen dataclass with 4 fields": lambda: _Event("a", 1, 1.0, 1.0),
        "an event as a draft that is filled and frozen": draft_of_an_event,
        "a running listener counted": counted,
        "prometheus_client: bound Counter.inc()": counter.inc,
        "prometheus_client: bound Histogram.observe()": lambda: histogram.observe(0.01),
    }
    return [Subject(name, "floor", lambda _, fn=fn: calls(fn)) for name, fn in steps.items()]  # type: ignore[misc]
