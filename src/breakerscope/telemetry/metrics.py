"""prometheus_client: a collector that reads the breakers' own exact counters at scrape time.

Nothing is counted twice and nothing is pushed: a call costs the same with and without Prometheus.
In prometheus_client's multiprocess mode, which asks no collectors, `multiprocess` takes its place.

From one scrape to the next a breaker's samples are kept, and those with a new value are replaced:
to make all of them anew takes three times as long as to read the breaker. They go with the breaker.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING
from weakref import WeakSet

from breakerscope import catalogue
from breakerscope.catalogue import Metric
from breakerscope.core.reading import Reading, WatchedBreaker
from breakerscope.event_bus import EventBus
from breakerscope.names import OTHER, escaped
from breakerscope.registry import Registry
from breakerscope.telemetry import multiprocess
from breakerscope.telemetry.series import PARTS, Column, Layout, exemplars_of, shape_of
from breakerscope.telemetry.settings import MetricsSettings
from breakerscope.telemetry.totals import COUNTED_AS, Place, Totals, count_errors, labels_of

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client import Metric as Family
    from prometheus_client.registry import Collector
    from prometheus_client.samples import Sample

Columns = tuple[tuple[Column, ...], ...]


class DuplicateMetricError(ValueError):
    """The registry has a metric with one of our names already. The message names the metric and
    the settings that help.
    """


class Exposition:
    """The breakers of `breakers` in `registry`, or in prometheus_client's multiprocess mode: from
    `begin` to `close`.

    Raises MultiprocessError without a folder for that mode.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        breakers: Registry,
        bus: EventBus,
        settings: MetricsSettings,
    ) -> None:
        self._registry = registry
        self._collector: Collector = BreakerCollector(breakers, bus, settings)
        self._begin_to_push: Callable[[], multiprocess.Pusher] | None = None
        self._pusher: multiprocess.Pusher | None = None
        if multiprocess.is_on():
            self._collector = _NamesOnly(self._collector)
            self._begin_to_push = partial(multiprocess.attach, breakers, bus, settings)

    def begin(self) -> None:
        """Raises DuplicateMetricError on a clash of names."""
        _register(self._registry, self._collector)
        if self._begin_to_push is not None:
            self._pusher = self._begin_to_push()

    def flush(self) -> None:
        """Bring up to date what is not read at each scrape."""
        if self._pusher is not None:
            self._pusher.push()

    def close(self) -> None:
        """Undo what `begin` did, all of it or the part that it came to. Twice does no harm."""
        if self._pusher is not None:
            self._pusher.close()
        with suppress(KeyError):  # It is not registered.
            self._registry.unregister(self._collector)


def _register(registry: CollectorRegistry, collector: Collector) -> None:
    try:
        registry.register(collector)
    except ValueError as error:
        names = getattr(error, "duplicates", None)
        which = ", ".join(sorted(names)) if names else str(error)
        raise DuplicateMetricError(
            f"the Prometheus registry has a metric of this name already: {which};"
            ' give setup_telemetry a prefix (prefix="myapp") or another registry'
        ) from error


class BreakerCollector:
    """A custom collector in prometheus_client's sense. Thread-safe; no lock is held while a breaker
    with series of its own is read.
    """

    def __init__(self, breakers: Registry, bus: EventBus, settings: MetricsSettings) -> None:
        self._breakers = breakers
        self._bus = bus
        self._settings = settings
        self._layout = Layout(PARTS, settings.prefix)
        # Not a WeakKeyDictionary: a finaliser that scrapes must not disturb who goes through it.
        self._shown: dict[WatchedBreaker, tuple[Columns, list[list[Sample]]]] = {}
        self.start_over_after_fork()
        _collectors.add(self)

    def start_over_after_fork(self) -> None:
        """In a forked child the breakers begin at 0, and nobody is in the middle of a scrape."""
        self._lock = threading.RLock()
        self._others = Totals(self._layout, self._settings, _Sum, room=0)

    def describe(self) -> Iterable[Family]:
        """The families without samples: lets the registry see a clash before the first scrape."""
        return [self._family(metric) for metric in catalogue.METRICS]

    def collect(self) -> Iterable[Family]:
        """All series of all breakers, each read once. A breaker that cannot be shown costs its own
        series, and is counted.
        """
        return self.families().values()

    def families(self) -> dict[Metric, Family]:
        """The same, by the metrics of the catalogue."""
        from prometheus_client.samples import Sample

        families = {part.metric: self._family(part.metric) for part in PARTS}
        own, of_others = self._divide()
        for breaker in own:
            try:
                samples_by_part = self._samples(breaker)
            except Exception as error:
                self._bus.count_error(COUNTED_AS, error)
                continue
            for family, samples in zip(families.values(), samples_by_part, strict=True):
                family.samples += samples
        for cell in self._others:
            place = cell.place
            families[place.metric].samples.append(Sample(place.name, place.labels, cell.value))
        count_errors(self._bus, of_others)
        for metric, counts in (
            (catalogue.EVENTS_DROPPED, self._bus.dropped()),
            (catalogue.LISTENER_ERRORS, self._bus.errors()),
        ):
            family = families[metric] = self._family(metric)
            family.samples = [
                Sample(
                    family.name + "_total",
                    {**self._settings.labels, catalogue.LISTENER.name: escaped(listener)},
                    count,
                )
                for listener, count in counts.items()
            ]
        return families

    def _divide(self) -> tuple[list[WatchedBreaker], list[Exception]]:
        """The breakers with series of their own. The others are added to their sum; what went wrong
        there comes second.

        A breaker never moves from one side to the other: a counter that falls looks like a restart.
        """
        with self._lock:
            breakers = self._breakers.shown()
            for gone in set(self._shown) - set(breakers):
                self._shown.pop(gone, None)
            own: list[WatchedBreaker] = []
            others: list[WatchedBreaker] = []
            room = self._settings.max_breakers - len(self._shown)
            for breaker in breakers:
                fits = room > 0 and breaker.name != OTHER and breaker not in self._others
                if fits and breaker not in self._shown:
                    self._shown[breaker] = ((), [])
                    room -= 1
                (own if breaker in self._shown else others).append(breaker)
            return own, self._others.update(others)

    def _samples(self, breaker: WatchedBreaker) -> list[list[Sample]]:
        """All samples of a breaker, by part; those that say what they said before are the same."""
        from prometheus_client.samples import Sample

        reading = breaker.read()
        shape = shape_of(reading)
        columns = self._layout.columns(shape)
        known, samples = self._shown.get(breaker, ((), []))
        if known is not columns:
            own = labels_of(breaker, self._settings.labels)
            samples = [
                [Sample(name, {**own, **labels}, 0.0) for name, labels in of_part]
                for of_part in columns
            ]
        samples = [
            [
                old if old[2] == value else Sample(old[0], old[1], value)
                for old, value in zip(of_part, part.told(reading, shape), strict=True)
            ]
            for part, of_part in zip(PARTS, samples, strict=True)
        ]
        with self._lock:
            if breaker in self._shown:
                self._shown[breaker] = columns, samples
        return _with_exemplars(samples, reading)

    def _family(self, metric: Metric) -> Family:
        from prometheus_client import Metric as Family

        return Family(self._layout.family(metric), metric.help, metric.kind.value)


_collectors: WeakSet[BreakerCollector] = WeakSet()


def _after_fork_in_child() -> None:
    for collector in _collectors:
        collector.start_over_after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


def _with_exemplars(samples: list[list[Sample]], reading: Reading) -> list[list[Sample]]:
    at_histogram = [part.metric for part in PARTS].index(catalogue.CALL_DURATION)
    exemplars = list(exemplars_of(reading))
    if not exemplars:
        return samples
    from prometheus_client.samples import Exemplar

    histogram = list(samples[at_histogram])
    for column, seen in exemplars:
        exemplar = Exemplar(dict(seen.labels), seen.value, seen.at)
        histogram[column] = histogram[column]._replace(exemplar=exemplar)
    return [*samples[:at_histogram], histogram, *samples[at_histogram + 1 :]]


class _NamesOnly:
    """Keeps our names free in a registry that is not asked for our series."""

    def __init__(self, collector: BreakerCollector) -> None:
        self.describe = collector.describe

    def collect(self) -> Iterable[Family]:
        """Nothing."""
        return ()


class _Sum:
    """A series of the sum of many breakers."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.value = 0.0

    def get(self) -> float:
        return self.value

    def set(self, value: float) -> None:
        self.value = value
