"""Who hears of events: subscribe, deliver, flush. The only place that calls foreign code.

Two lanes. A queued listener (the default) has a bounded queue and one daemon thread of its own,
started with its first event. It gets the events of each breaker in the order of `seq`, in the
context (contextvars) of the call that caused them. When its queue is full, events are dropped and
counted. An inline listener runs in the thread of the call, after the breaker's lock was released
and before the call returns; it must be fast.

What a listener raises is counted, and logged once a minute for each listener and type of error. It
never reaches the call. Events that a listener causes itself are not delivered to listeners but
counted as dropped: telemetry about telemetry would never end.
"""

from __future__ import annotations

import atexit
import gc
import logging
import os
import threading
import time
import weakref
from _thread import LockType, start_new_thread
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from contextvars import Context, copy_context
from math import inf
from queue import SimpleQueue
from threading import get_ident
from traceback import extract_tb
from types import BuiltinMethodType, MethodWrapperType
from typing import Any, Protocol, Self, Unpack

from breakerscope.core.checks import ALWAYS, NEVER, Check
from breakerscope.core.classification import error_name
from breakerscope.core.counters import Exemplar
from breakerscope.core.events import EVENT_TYPES, Event, EventType, Outcome
from breakerscope.core.subscribers import Subscriber, Subscribers
from breakerscope.names import OTHER, readable
from breakerscope.subscription_options import (
    DEFAULT_QUEUE_SIZE,
    SubscribeOptions,
    check_subscription,
)
from breakerscope.timer import default_timer

ERROR_LOG_INTERVAL = 60.0
MAX_LOGGED_KINDS = 256
MAX_NAMES = 1000
"""How many listeners are counted by name; all further ones together."""
EXIT_FLUSH_SECONDS = 1.0
LOG_SECONDS = 0.1
"""So long a line about an error is waited for."""
START_AGAIN_SECONDS = 0.05
"""After so long a thread that was to be started is missed."""

_log = logging.getLogger("breakerscope")
_log.addHandler(logging.NullHandler())
_delivering: set[int] = set()
"""The threads that run a listener right now."""
_collecting: set[int] = set()
"""The threads in which a garbage collection runs right now."""
_buses: weakref.WeakSet[EventBus] = weakref.WeakSet()


Signal = LockType
"""Taken until something has happened. The time-out of a SimpleQueue can last for ever on CPython
3.11 and 3.12.
"""


def _signal() -> Signal:
    lock = threading.Lock()
    lock.acquire(blocking=False)
    return lock


Job = tuple[Context, Event] | Signal | None
"""What waits in a queue: an event, somebody to wake, or the end."""


class Subscription:
    """One listener. Undo it with `close()` or by leaving it as a context manager. Thread-safe."""

    def __init__(
        self,
        bus: EventBus,
        listener: Callable[[Any], object],
        types: tuple[EventType, ...],
        options: SubscribeOptions,
        publisher: Publisher | None = None,
    ) -> None:
        self.name: str = options.get("name") or str(
            getattr(listener, "__qualname__", type(listener).__qualname__)
        )
        self.types = types
        self.breaker = options.get("breaker")
        self.inline = options.get("inline", False)
        self.outcomes = frozenset(options.get("outcomes", Outcome))
        when = options.get("when", {})
        by_type: Mapping[EventType, Check] = dict.fromkeys(types, when) if callable(when) else when
        guards = {guard: self._checked(guard) for guard in by_type.values()}
        self.guards: Mapping[EventType, Check] = {t: guards[by_type[t]] for t in by_type}
        self.every = options.get("every", 0.0)
        self.drops_what_raises = False
        """Whether an event on which the listener raised is lost: so it is for our own sinks."""
        self._bus = bus
        self._publisher = None if publisher is None else weakref.ref(publisher)
        self._listener = listener
        self._queue_size = options.get("queue_size", DEFAULT_QUEUE_SIZE)
        self.start_over()

    def _checked(self, guard: Check) -> Check:
        """The guard as one that cannot raise. What C code made cannot, and asks no frame."""
        if isinstance(guard, BuiltinMethodType | MethodWrapperType):
            return guard

        def checked() -> object:
            try:
                return guard()
            except Exception as error:
                self._bus.count_error(self.name, error)
                return False

        return checked

    def hears(self, publisher: Publisher) -> bool:
        """Whether this is for the events of this breaker."""
        if self._publisher is not None:
            return self._publisher() is publisher
        return self.breaker in (None, publisher.name)

    def start_over(self) -> None:
        """Begin with an empty queue and no thread."""
        self._queue: SimpleQueue[Job] = SimpleQueue()
        self._worker: threading.Thread | None = None
        self._may_work: list[None] = [None]
        self._start_again = -inf
        self._begun = _signal()

    def close(self, wait: float = 0.0) -> bool:
        """Stop listening. What is already queued is still delivered. Closing twice is harmless.

        Waits up to `wait` seconds until the last event was delivered and the thread has ended, and
        says whether that is so.
        """
        self._bus.unsubscribe(self)
        if self._worker is not None or not self._queue.empty():
            self._bus.closed(self)
            self.ensure_worker()
        self._queue.put(None)
        return self.ended(wait)

    def ended(self, wait: float) -> bool:
        """Whether a closed subscription has delivered its last event, in `wait` seconds at most."""
        worker = self._worker
        if worker is threading.current_thread():
            return False
        if worker is None:
            # It never had a thread, and needs none unless something waits before the end.
            if self._queue.qsize() <= 1:
                return True
            deadline = time.monotonic() + wait
            while self._worker is None and time.monotonic() < deadline:
                self.ensure_worker()
                self._begun.acquire(timeout=0.001)
            worker = self._worker
            if worker is None:
                return False
        if worker.is_alive() and self._queue.empty():
            # An interrupt may have kept the end from being queued; twice does no harm.
            self._queue.put(None)
        if wait > 0:
            worker.join(wait)
        return not worker.is_alive()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def put(self, context: Context, event: Event) -> None:
        """Queue an event. Never blocks and calls no foreign code, so a breaker's lock may be
        held.
        """
        if self._queue.qsize() >= self._queue_size or get_ident() in _delivering:
            self._bus.count_dropped(self.name)
        else:
            self._queue.put((context, event))

    @property
    def working(self) -> bool:
        """Whether the thread of this queue runs."""
        return self._worker is not None

    def ensure_worker(self) -> None:
        """Start the thread if there is none. Not to be called under a breaker's lock."""
        now = time.monotonic()
        if self._worker is not None or now < self._start_again:
            return
        worker = threading.Thread(
            target=self._work,
            args=(self._queue, self._may_work),
            name=f"breakerscope-{self.name}",
            daemon=True,
        )
        try:
            # An interrupt in the middle of `Thread.start` breaks the thread. None reaches another
            # thread, and to make that one is a single step in C.
            start_new_thread(worker.start, ())
            self._start_again = now + START_AGAIN_SECONDS
            # On a busy machine it takes longer; then it will be seen when it runs.
            self._begun.acquire(timeout=START_AGAIN_SECONDS)
        except RuntimeError as error:
            self._bus.count_error(self.name, error)

    def _work(self, queue: SimpleQueue[Job], may_work: list[None]) -> None:
        try:
            may_work.pop()
        except IndexError:
            # It was started twice, since an interrupt kept the first one from being seen.
            return
        self._worker = threading.current_thread()
        self._begun.release()
        while (job := queue.get()) is not None:
            if isinstance(job, tuple):
                job[0].run(self.call, job[1])
            else:
                job.release()
            # The context of a call may hold much: not until the next event comes.
            del job

    def flush(self, deadline: float) -> bool:
        """Wait until all that is queued now was delivered; False if the deadline came first."""
        if self._worker is threading.current_thread():
            return True
        if self._worker is None and self._queue.empty():
            return True
        delivered = _signal()
        self._queue.put(delivered)
        while (left := deadline - time.monotonic()) > 0:
            # An interrupt may have kept the thread from being started.
            self.ensure_worker()
            if delivered.acquire(timeout=min(left, START_AGAIN_SECONDS)):
                return True
        return bool(delivered.acquire(blocking=False))

    def deliver_inline(self, event: Event) -> None:
        """Call the listener in this thread unless its guard says no. Raises no Exception."""
        if self.guards.get(type(event), ALWAYS)():
            self.call(event)

    def call(self, event: Event) -> None:
        """Call the listener in this thread, unless that runs one already. Raises no Exception."""
        ident = get_ident()
        if ident in _delivering:
            self._bus.count_dropped(self.name)
            return
        try:
            _delivering.add(ident)
            self._listener(event)
        except Exception as error:
            if self.drops_what_raises:
                self._bus.count_dropped(self.name)
            self._bus.count_error(self.name, error)
        finally:
            _delivering.discard(ident)


def _note_collection(phase: str, _info: object) -> None:
    if phase == "start":
        _collecting.add(get_ident())
    else:
        _collecting.discard(get_ident())


gc.callbacks.append(_note_collection)


class Publisher(Protocol):
    """What the bus needs of a breaker."""

    name: str

    def set_subscribers(self, subscribers: Subscribers, /) -> None:
        """The subscriptions have changed."""
        ...

    def start_over_after_fork(self) -> None:
        """This is a forked child: the other threads and their calls do not exist here."""
        ...

    def ask_again(self) -> None:
        """Every call has to ask from now on."""
        ...


class EventBus:
    """All subscriptions of a process and the breakers that publish. Thread-safe."""

    active = True
    """False while all calls pass unwatched; the same for all. See `set_active`."""

    def __init__(self) -> None:
        self._subscriptions: tuple[Subscription, ...] = ()
        self._indices: dict[tuple[Subscription, ...], Subscribers] = {}
        # Not a WeakSet: a handler that makes a breaker must not disturb who goes through them.
        self._publishers: set[weakref.ref[Publisher]] = set()
        self._forget = self._publishers.discard
        self.trace_ids: Callable[[], Mapping[str, str] | None] | None = None
        """Names the trace of the running call, for exemplars; set by an adapter."""
        self.traced: Check = NEVER
        """Says cheaply whether `trace_ids` may have an answer; set before a subscription."""
        self.raised: list[Exception] | None = None
        """What listeners raised, where a test asked for it."""
        self._start_over()
        _buses.add(self)

    def _start_over(self) -> None:
        self._lock = threading.RLock()
        # A garbage collection may run in the middle of a count, and count.
        self._count_lock = threading.RLock()
        self._dropped: Counter[str] = Counter()
        self._errors: Counter[str] = Counter()
        self._last_logged: dict[tuple[str, str], float] = {}
        self._closed: list[Subscription] = []
        """Closed subscriptions whose last events may be on their way."""
        self.waiting: deque[tuple[Context, Subscriber, Event]] = deque()

    def attach(self, publisher: Publisher) -> None:
        """Tell this breaker who listens, now and at each change."""
        with self._lock:
            self._publishers.add(weakref.ref(publisher, self._forget))
            publisher.set_subscribers(self._subscribers_of(publisher))

    def subscribe(
        self,
        listener: Callable[[Any], object],
        /,
        *types: EventType,
        **options: Unpack[SubscribeOptions],
    ) -> Subscription:
        """Call `listener` with each event of these types; with none named, of all types.

        Raises SubscriptionError for a listener that cannot be called here (a coroutine function,
        say), for an unknown event type or option, and for a value that cannot be.
        """
        return self.subscribe_to(None, listener, types, options)

    def subscribe_to(
        self,
        publisher: Publisher | None,
        listener: Callable[[Any], object],
        types: tuple[EventType, ...],
        options: SubscribeOptions,
    ) -> Subscription:
        """As `subscribe`, for the events of this one breaker; None: of all."""
        check_subscription(listener, types, options)
        subscription = Subscription(self, listener, types or EVENT_TYPES, options, publisher)
        with self._lock:
            self._subscriptions += (subscription,)
            self._reroute()
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """What `Subscription.close` does to the list of subscriptions."""
        with self._lock:
            self._subscriptions = tuple(s for s in self._subscriptions if s is not subscription)
            self._reroute()

    def closed(self, subscription: Subscription) -> None:
        """Its last events may be on their way."""
        with self._lock:
            self._closed = [*(s for s in self._closed if not s.ended(0.0)), subscription]

    def _subscribers_of(self, publisher: Publisher) -> Subscribers:
        """Most listeners hear all breakers, so most breakers share their subscribers."""
        heard_by = tuple(s for s in self._subscriptions if s.hears(publisher))
        if (subscribers := self._indices.get(heard_by)) is None:
            subscribers = self._indices[heard_by] = Subscribers(heard_by, self.traced)
        return subscribers

    def _present(self) -> list[Publisher]:
        # `copy` is one step in C.
        held = [publisher() for publisher in self._publishers.copy()]
        return [publisher for publisher in held if publisher is not None]

    def _reroute(self) -> None:
        self._indices.clear()
        for publisher in self._present():
            publisher.set_subscribers(self._subscribers_of(publisher))

    def exemplar(self, duration: float, wall: Callable[[], float]) -> Exemplar | None:
        """The exemplar for a call that took `duration` seconds and ended in this thread just
        now.
        """
        if self.trace_ids is None:
            return None
        try:
            labels = self.trace_ids()
        except Exception as error:
            self.count_error("trace_ids", error)
            return None
        return None if labels is None else Exemplar(labels, duration, wall())

    @staticmethod
    def collecting() -> bool:
        """Whether this thread is in the middle of a garbage collection: it may hold any lock."""
        return get_ident() in _collecting

    def deliver_later(self, deliveries: Sequence[tuple[Subscriber, Event | None]]) -> None:
        """Deliver these inline and in this context, with the next operation of a breaker or the
        next flush. Calls no foreign code.
        """
        for subscriber, event in deliveries:
            if event is not None:
                self.waiting.append((copy_context(), subscriber, event))

    @staticmethod
    def call_later(seconds: float, callback: Callable[[], object]) -> None:
        """Call this bound method from another thread, unless its object is gone by then."""
        default_timer.call_later(seconds, callback)

    def deliver_waiting(self) -> None:
        """Make the deliveries that were put off."""
        while self.waiting:
            try:
                context, subscriber, event = self.waiting.popleft()
            except IndexError:
                # Another thread took the last one.
                return
            context.run(subscriber.call, event)

    def flush(self, timeout: float = 5.0) -> bool:
        """Wait until every event so far was delivered. False if `timeout` seconds were not
        enough.
        """
        self.deliver_waiting()
        deadline = time.monotonic() + timeout
        delivered = [subscription.flush(deadline) for subscription in self._subscriptions]
        delivered += [s.ended(deadline - time.monotonic()) for s in self._closed]
        return all(delivered)

    # -- telemetry about the telemetry -------------------------------------------------------------

    def count_dropped(self, listener: str) -> None:
        """One event was not delivered to a listener."""
        with self._count_lock:
            self._add(self._dropped, listener)

    @staticmethod
    def _add(counter: Counter[str], listener: str) -> None:
        """Names may be made up as the program goes: beyond so many, they are counted as one."""
        counter[listener if listener in counter or len(counter) < MAX_NAMES else OTHER] += 1

    def count_error(self, listener: str, error: Exception) -> None:
        """A listener or a user's predicate raised: count it, and log it once a minute for each
        type.
        """
        key = (listener, error_name(error))
        now = time.monotonic()
        with self._count_lock:
            self._add(self._errors, listener)
            last = self._last_logged.get(key)
            due = last is None or now - last >= ERROR_LOG_INTERVAL
            if due:
                if len(self._last_logged) >= MAX_LOGGED_KINDS:
                    self._last_logged.clear()
                self._last_logged[key] = now
            if self.raised is not None:
                self.raised.append(error)
        if due:
            _log_elsewhere(
                logging.ERROR,
                "%s raised %s%s; the protected calls go on, what it did with this event is lost",
                readable(listener),
                key[1],
                _place(error),
            )

    def dropped(self) -> Mapping[str, int]:
        """How many events were dropped, by the name of the listener; 0 for those that lost none."""
        return self._counts(self._dropped)

    def errors(self) -> Mapping[str, int]:
        """How many times a listener raised, by its name; 0 for those that never did."""
        return self._counts(self._errors)

    def forget_counts(self) -> None:
        """Begin at 0, as a test may want."""
        with self._count_lock:
            self._dropped.clear()
            self._errors.clear()

    def _counts(self, counter: Counter[str]) -> Mapping[str, int]:
        with self._count_lock:
            return {s.name: 0 for s in self._subscriptions} | dict(counter)

    def start_over_after_fork(self) -> None:
        """In a forked child: new locks, empty queues, no threads; the breakers start over as
        well.
        """
        self._start_over()
        for subscription in self._subscriptions:
            subscription.start_over()
        for publisher in self._present():
            publisher.start_over_after_fork()
        self._reroute()


def set_active(active: bool) -> None:  # noqa: FBT001 - as stamina has it
    """Let all breakers of this process do their work, or let all calls pass unwatched.

    While they are not active no call is refused, counted, classified or told, whatever the state of
    its breaker; states, windows and counters stay as they are. For tests, and for an emergency in
    which a breaker does harm. Calls that have begun before end as they would have, and bridged
    breakers of other libraries go on. Told by a line in the log. Raises TypeError for anything but
    True and False. Thread-safe.
    """
    if not isinstance(active, bool):
        raise TypeError(f"set_active({active!r}): allowed are True and False")
    changed, EventBus.active = EventBus.active is not active, active
    for bus in list(_buses):
        for publisher in bus._present():
            publisher.ask_again()
    if changed:
        what = "breakers work again" if active else "all calls pass unwatched"
        _log_elsewhere(logging.WARNING, "set_active(%s): %s", active, what)


def is_active() -> bool:
    """Whether breakers do their work; False after `set_active(False)`. Thread-safe."""
    return EventBus.active


def _log_elsewhere(level: int, message: str, *arguments: object) -> None:
    """Log a line in a thread that no interrupt reaches: `logging` takes its locks in a way that
    one can lose. Waits a moment for it, so that lines keep their order.
    """
    written = _signal()
    context = copy_context()

    def write() -> None:
        try:
            context.run(_log.log, level, message, *arguments)
        finally:
            written.release()

    try:
        start_new_thread(write, ())
    except RuntimeError:
        # The interpreter is about to end, and starts no threads any more.
        _log.log(level, message, *arguments)
        return
    written.acquire(timeout=LOG_SECONDS)


def _place(error: Exception) -> str:
    """Where it was raised. Never its message: that may tell what nobody should read."""
    frames = extract_tb(error.__traceback__)
    return f" in {frames[-1].filename}:{frames[-1].lineno}" if frames else ""


default_bus = EventBus()


def _after_fork_in_child() -> None:
    # The listeners of other threads do not run on here.
    _delivering.intersection_update({get_ident()})
    default_timer.start_over_after_fork()
    for bus in _buses:
        bus.start_over_after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
atexit.register(default_bus.flush, EXIT_FLUSH_SECONDS)
