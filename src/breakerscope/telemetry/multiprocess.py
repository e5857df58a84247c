"""prometheus_client's multiprocess mode, for servers that fork: gunicorn, uWSGI.

There, every process writes its values into files of its own, and any of them answers a scrape with
the sum of all files. Collectors are not asked. So this reads the breakers ten times a second and
writes what has changed since; the protected call knows nothing of it. The files outlive a process
that is killed: what is lost is what happened after the last push, so the calls of `PUSH_SECONDS`
or, with many breakers, of up to `LONGEST_SECONDS`. A process that ends by itself pushes once more.

One inside of prometheus_client is needed, `values.ValueClass`: no public class can add more than
one observation to the bucket of a histogram. Its documentation has people replace that very name,
and a test calls it as this does.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
import weakref
from typing import Any

from breakerscope import catalogue
from breakerscope.catalogue import Kind
from breakerscope.event_bus import EventBus
from breakerscope.registry import Registry
from breakerscope.telemetry.multiprocess_files import OwnFiles
from breakerscope.telemetry.series import PARTS_TO_MERGE, Layout
from breakerscope.telemetry.settings import MetricsSettings
from breakerscope.telemetry.totals import COUNTED_AS, Place, Totals, count_errors

PUSH_SECONDS = 0.1
LONGEST_SECONDS = 1.0
"""Between two pushes, however long one takes."""
SHARE = 50
"""Up to that pause, pushing takes at most one part in so many of one core."""


def is_on() -> bool:
    """Whether prometheus_client was imported in its multiprocess mode."""
    from prometheus_client import values

    return values.ValueClass is not values.MutexValue


def attach(breakers: Registry, bus: EventBus, settings: MetricsSettings) -> Pusher:
    """Begin to push. Raises MultiprocessError if there is no folder for the files."""
    return Pusher(breakers, bus, _totals_for(settings))


class Pusher:
    """Keeps the files of this process up to date, in this process and in all that are forked from
    it. Thread-safe.
    """

    def __init__(self, breakers: Registry, bus: EventBus, totals: Totals[Any]) -> None:
        self._breakers = breakers
        self._bus = bus
        self._totals = totals
        self._files = OwnFiles()
        self.push()
        self._begin()
        _pushers.add(self)
        atexit.register(self.push)

    def _begin(self) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(
            target=self._run, args=(self._stop,), name="breakerscope-metrics", daemon=True
        )
        self._thread.start()

    def push(self) -> None:
        """Write what has changed since the last push. Raises nothing: an error is counted, and what
        could not be written is written next time.
        """
        if _lock._is_owned():
            # A handler or a finaliser in the middle of a push of this thread, which goes on. It
            # must not wait for prometheus_client's own lock, which is not re-entrant.
            return
        try:
            with _lock:
                errors = self._totals.update(self._breakers.shown())
            count_errors(self._bus, errors)
            with _lock:
                self._totals.count(catalogue.EVENTS_DROPPED, self._bus.dropped())
                self._totals.count(catalogue.LISTENER_ERRORS, self._bus.errors())
        except Exception as error:
            self._bus.count_error(COUNTED_AS, error)

    def close(self) -> None:
        """Push for the last time and stop. What was counted stays; no breaker is in any state."""
        atexit.unregister(self.push)
        _pushers.discard(self)
        self._stop.set()
        self._thread.join()
        self.push()
        if not _lock._is_owned():
            with _lock:
                self._totals.withdraw()

    def start_over_after_fork(self) -> None:
        """In a forked child: a thread of its own."""
        self._begin()

    def _run(self, stop: threading.Event) -> None:
        wait = PUSH_SECONDS
        while not stop.wait(wait):
            # Of this thread alone: beside a busy one, most of the time is spent on waiting.
            start = time.thread_time()
            self.push()
            self._files.look()
            spent = time.thread_time() - start
            wait = min(max(PUSH_SECONDS, SHARE * spent), LONGEST_SECONDS)


class _Cells:
    """Opens the cells of prometheus_client's files."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def __call__(self, place: Place) -> Any:
        from prometheus_client import values

        metric = place.metric
        # "live": a process that has ended is in no state and has nothing in flight.
        mode = "livesum" if place.adds_up else "livemax"
        return values.ValueClass(
            metric.kind.value,
            self._layout.family(metric),
            place.name,
            tuple(place.labels),
            tuple(place.labels.values()),
            metric.help,
            multiprocess_mode=mode if metric.kind is Kind.GAUGE else "",
        )


_lock: Any = threading.RLock()
"""Around every push, and around a fork: a child must not inherit a lock that a push has taken."""
_pushers: weakref.WeakSet[Pusher] = weakref.WeakSet()
_known: dict[tuple[str, tuple[tuple[str, str], ...]], Totals[Any]] = {}
"""What was pushed under a prefix and labels: another set-up goes on from there."""


def _totals_for(settings: MetricsSettings) -> Totals[Any]:
    key = settings.prefix, tuple(settings.labels.items())
    if (totals := _known.get(key)) is None:
        layout = Layout(PARTS_TO_MERGE, settings.prefix)
        totals = _known[key] = Totals(layout, settings, _Cells(layout), room=0)
    totals.settings, totals.room = settings, settings.max_breakers
    return totals


def _before_fork() -> None:
    _lock.acquire()


def _after_fork_in_parent() -> None:
    _lock.release()


def _after_fork_in_child() -> None:
    _lock.release()
    for totals in _known.values():
        totals.start_over_after_fork()
    for pusher in _pushers:
        pusher.start_over_after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=_after_fork_in_parent,
        after_in_child=_after_fork_in_child,
    )
