"""Running totals into which breakers are read, each time by the difference to the time before.

So a total never falls: not when a breaker is removed, not when another one of its name is made, not
when several breakers share one total. It serves where prometheus_client cannot ask the breakers
themselves (see `multiprocess`), and where there are too many of them to show each.
"""

from __future__ import annotations

import dataclasses
import logging
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Generic, NamedTuple, Protocol, TypeVar

from breakerscope.catalogue import BREAKER, LISTENER, Kind, Metric
from breakerscope.core.counters import DEFAULT_BUCKETS, Durations
from breakerscope.core.reading import Reading, WatchedBreaker
from breakerscope.event_bus import EventBus
from breakerscope.names import OTHER, escaped, is_utf8
from breakerscope.telemetry.series import Layout, shape_of
from breakerscope.telemetry.settings import LabelError, MetricsSettings

_log = logging.getLogger("breakerscope")

COUNTED_AS = "metrics"
"""The name under which errors of the metrics themselves are counted."""


class Cell(Protocol):
    """One series. prometheus_client's own values are such cells."""

    def get(self) -> float:
        """Its value."""
        ...

    def set(self, value: float) -> None:
        """Replace it."""
        ...


C = TypeVar("C", bound=Cell)


class _Series(Generic[C]):
    """A cell and the total that was written into it. To write a total again does no harm, to add a
    difference again would: an interrupt can come between the writing and the remembering.
    """

    __slots__ = ("cell", "total")

    def __init__(self, cell: C) -> None:
        self.cell = cell
        self.total: float | None = None
        """None: what the cell says."""

    def with_added(self, difference: float) -> float:
        """Write the total with this added to it. Whoever remembers that sets `total` as well."""
        if self.total is None:
            self.total = self.cell.get()
        total = self.total + difference
        self.cell.set(total)
        return total


class Place(NamedTuple):
    """Which series a cell is for. `adds_up` as in `Part`."""

    metric: Metric
    name: str
    labels: dict[str, str]
    adds_up: bool = True


@dataclasses.dataclass(slots=True)
class _Entry(Generic[C]):
    """Where one breaker is read into, and what it said last, for each part."""

    labels: Mapping[str, str]
    cells: list[list[_Series[C]]]
    last: list[list[float]]


class Totals(Generic[C]):
    """See the top of the file. Not thread-safe: its owner holds a re-entrant lock around each
    method.
    """

    def __init__(
        self,
        layout: Layout,
        settings: MetricsSettings,
        open_cell: Callable[[Place], C],
        *,
        room: int,
    ) -> None:
        """`room` is for how many names get series of their own here; the others are summed."""
        self.settings = settings
        self.room = room
        self._layout = layout
        self._open = open_cell
        self._warned = False
        self._updating = False
        self._names: set[str] = set()
        self._entries: dict[WatchedBreaker, _Entry[C]] = {}
        self._listeners: dict[tuple[str, str], float] = {}
        self._cells: dict[tuple[str, tuple[str, ...]], _Series[C]] = {}

    def __contains__(self, breaker: WatchedBreaker) -> bool:
        return breaker in self._entries

    def __iter__(self) -> Iterator[C]:
        return iter([series.cell for series in self._cells.values()])

    def update(self, breakers: Collection[WatchedBreaker]) -> list[Exception]:
        """Read these breakers, and for the last time those that were here before and are gone.

        Returns what went wrong: a breaker that cannot be read or written now takes nothing from the
        others, and is tried again next time. To read a breaker may tell inline listeners of a
        change. One that comes back here finds nothing to do.
        """
        errors: list[Exception] = []
        if self._updating:
            return errors
        self._updating = True
        try:
            gone = self._entries.keys() - set(breakers)
            for breaker in (*gone, *breakers):
                try:
                    reading = breaker.read()
                except Exception as error:
                    errors.append(error)
                    reading = None
                try:
                    if reading is not None:
                        self._add(breaker, reading)
                    if breaker in gone:
                        self._withdraw(self._entries[breaker])
                        del self._entries[breaker]
                except Exception as error:
                    errors.append(error)
        finally:
            self._updating = False
        return errors

    def count(self, metric: Metric, counts: Mapping[str, int]) -> None:
        """Read counters that go by the name of a listener."""
        name = self._layout.family(metric) + "_total"
        for listener, count in counts.items():
            labels = {**self.settings.labels, LISTENER.name: escaped(listener)}
            series = self._series(Place(metric, name, labels))
            total = series.with_added(count - self._listeners.get((name, listener), 0))
            series.total, self._listeners[name, listener] = total, count

    def start_over_after_fork(self) -> None:
        """The breakers of a forked child begin at 0, and so do its cells."""
        self._entries.clear()
        self._listeners.clear()
        for series in self._cells.values():
            series.total = None

    def withdraw(self) -> None:
        """No breaker is in any state any more; what was counted stays."""
        for entry in self._entries.values():
            self._withdraw(entry)

    # -- one breaker -------------------------------------------------------------------------------

    def _add(self, breaker: WatchedBreaker, reading: Reading) -> None:
        entry = self._entries.get(breaker)
        if entry is None:
            entry = self._entries[breaker] = self._enter(breaker)
        other = entry.labels[BREAKER.name] == OTHER
        if other:
            reading = in_default_buckets(reading)
        shape = shape_of(reading)
        for at, (part, columns) in enumerate(
            zip(self._layout.parts, self._layout.columns(shape), strict=True)
        ):
            if other and not part.adds_up:
                continue
            cells, last = entry.cells[at], entry.last[at]
            for name, labels in columns[len(cells) :]:
                place = Place(part.metric, name, {**entry.labels, **labels}, part.adds_up)
                cells.append(self._series(place))
                last.append(0.0)
            values = list(part.told(reading, shape))
            if values != last:
                _write(cells, last, values, adds_up=part.adds_up)

    def _enter(self, breaker: WatchedBreaker) -> _Entry[C]:
        name = breaker.name
        if name != OTHER and (name in self._names or len(self._names) < self.room):
            labels = labels_of(breaker, self.settings.labels)
            self._names.add(name)
        else:
            labels = {BREAKER.name: OTHER, **self.settings.labels}
            self._warn_once()
        parts = self._layout.parts
        return _Entry(labels, [[] for _ in parts], [[] for _ in parts])

    def _warn_once(self) -> None:
        if not self._warned:
            self._warned = True
            _log.warning(
                "more than %d breakers: in metrics, the others are one, breaker=%r;"
                " setup_telemetry(max_breakers=...) sets the limit",
                self.settings.max_breakers,
                OTHER,
            )

    def _withdraw(self, entry: _Entry[C]) -> None:
        for part, cells, last in zip(self._layout.parts, entry.cells, entry.last, strict=True):
            if part.metric.kind is not Kind.GAUGE:
                continue
            _write(cells, last, [0.0] * len(cells), adds_up=part.adds_up)

    def _series(self, place: Place) -> _Series[C]:
        key = (place.name, tuple(place.labels.values()))
        if (series := self._cells.get(key)) is None:
            series = self._cells[key] = _Series(self._open(place))
        return series


def _write(
    cells: list[_Series[C]], last: list[float], values: list[float], *, adds_up: bool
) -> None:
    """Each value is remembered once it is written: what fails half-way is made up for later."""
    for column, (series, old, new) in enumerate(zip(cells, last, values, strict=True)):
        # NaN is not equal to itself, but it is always the same object.
        if new is old or new == old:
            continue
        if adds_up:
            series.total, last[column] = series.with_added(new - old), new
        else:
            series.cell.set(new)
            last[column] = new


def count_errors(bus: EventBus, errors: list[Exception]) -> None:
    """Count what went wrong with the metrics, outside of the lock under which it happened."""
    for error in errors:
        bus.count_error(COUNTED_AS, error)
    # Each knows the frame that knows this list: without it, nobody waits for a garbage collection.
    errors.clear()


def labels_of(breaker: WatchedBreaker, labels: Mapping[str, str]) -> dict[str, str]:
    """The labels of all series of a breaker; `labels` are those of the set-up.

    Raises LabelError for a value that would end the scrape of all breakers.
    """
    own = breaker.labels
    found = {BREAKER.name: breaker.name, **{key: own.get(key, labels[key]) for key in labels}}
    for label, value in found.items():
        if not is_utf8(value):
            raise LabelError(f"label {label!r}: {value!r}: allowed is text that UTF-8 can hold")
    return found


def in_default_buckets(reading: Reading) -> Reading:
    """As if the breaker had the default buckets: each count goes to the first that surely holds
    it.
    """
    default: tuple[float, ...] = DEFAULT_BUCKETS
    if reading.buckets == default:
        return reading
    places = [*(bisect_left(default, bound) for bound in reading.buckets), len(default)]
    durations = {
        outcome: dataclasses.replace(of, counts=_moved(of, places), exemplars={})
        for outcome, of in reading.durations.items()
    }
    return dataclasses.replace(reading, buckets=DEFAULT_BUCKETS, durations=durations)


def _moved(durations: Durations, places: Iterable[int]) -> tuple[int, ...]:
    counts = [0] * (len(DEFAULT_BUCKETS) + 1)
    for place, count in zip(places, durations.counts, strict=True):
        counts[place] += count
    return tuple(counts)
