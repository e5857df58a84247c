"""CircuitBreaker: what an application holds in its hands."""

from __future__ import annotations

from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from contextlib import AbstractContextManager, ContextDecorator
from typing import Any, NamedTuple, ParamSpec, TypedDict, TypeVar, Unpack, overload

from breakerscope.core.classification import EVERY_EXCEPTION_FAILS, Classifier
from breakerscope.core.clock import Clock, default_clock
from breakerscope.core.controller import Controller
from breakerscope.core.counters import DEFAULT_BUCKETS, checked_buckets
from breakerscope.core.events import EventType, Outcome, State
from breakerscope.core.executor import Executor
from breakerscope.core.policy import Policy
from breakerscope.core.reading import Reading
from breakerscope.event_bus import EventBus, Subscription, default_bus
from breakerscope.fallback import Fallback
from breakerscope.names import checked_name
from breakerscope.snapshots import checked, to_snapshot
from breakerscope.subscription_options import SubscribeOptions

P = ParamSpec("P")
R = TypeVar("R")
NO_LABELS: Mapping[str, str] = {}


Options = tuple[tuple[str, Any], ...]


class Requested(NamedTuple):
    """What a breaker was asked for as: the options of the code, the policy that they make alone,
    and what operators have set.
    """

    code: Options
    policy: Policy
    outside: Options


class Parts(TypedDict, total=False):
    """What a breaker can be built from, besides its name and policy."""

    classifier: Classifier
    buckets: Sequence[float]
    labels: Mapping[str, str]
    clock: Clock
    random: Callable[[], float]
    bus: EventBus


def _random() -> float:
    # Here, since only jitter needs it.
    from random import random

    return random()  # noqa: S311 - spreads waits, keeps no secret


class _Holder:
    """Keeps an isolation in force as long as it exists."""


class _Isolation(ContextDecorator, AbstractContextManager[None]):
    """Not a generator: an interrupt could end it between the command and the block."""

    def __init__(self, controller: Controller, reason: str | None) -> None:
        self._controller = controller
        self._reason = reason
        self._holders: list[_Holder] = []

    def __enter__(self) -> None:
        holder = _Holder()
        self._holders.append(holder)
        self._controller.command(lambda machine, now: machine.isolate(holder, now, self._reason))

    def __exit__(self, *exc_info: object) -> None:
        holder = self._holders.pop()
        self._controller.command(
            lambda machine, now: machine.end_isolation(holder, now, self._reason)
        )


class CircuitBreaker(Executor):
    """A circuit breaker. Thread-safe and task-safe; one object serves sync and async calls.

    `@breaker` protects a function of any kind, `breaker.call(fn, ...)` one call,
    `with breaker.guard():` a block. A refused call raises CircuitBreakerOpenError.

    Raises BreakerNameError or BucketsError for what cannot be. `clock` and
    `random` are for tests: seconds, and a number from 0 to 1 for the jitter.
    """

    __slots__ = ("__weakref__", "_event_bus", "labels", "requested")

    def __init__(self, name: str, policy: Policy | None = None, **parts: Unpack[Parts]) -> None:
        checked_name(name)
        clock = parts.get("clock") or default_clock()
        bus = parts.get("bus", default_bus)
        controller = Controller(
            name,
            policy or Policy(),
            buckets=checked_buckets(parts.get("buckets", DEFAULT_BUCKETS)),
            clock=clock,
            random=parts.get("random", _random),
            bus=bus,
        )
        controller.classifier = classifier = parts.get("classifier", EVERY_EXCEPTION_FAILS)
        controller.asks_for_wait = classifier.open_for is not None
        self._event_bus = bus
        super().__init__(controller, classifier, clock, bus)
        self.labels: Mapping[str, str] = parts.get("labels") or NO_LABELS
        """Labels of this breaker's metrics, besides those of the set-up."""
        self.requested: Requested | None = None

    @property
    def name(self) -> str:
        """The name, which is the label `breaker` in all telemetry."""
        return self._controller.name

    @property
    def policy(self) -> Policy:
        """The rules."""
        return self._controller.policy

    @property
    def classifier(self) -> Classifier:
        """What is a failure."""
        return self._classifier

    @property
    def buckets(self) -> tuple[float, ...]:
        """The upper bounds of the duration histogram, in seconds."""
        return self._controller.buckets

    @property
    def state(self) -> State:
        """The present state. An open breaker whose wait is over stays open until a call asks,
        unless the policy says `probe_when_due`.
        """
        return self._controller.state

    @property
    def would_admit(self) -> bool:
        """Whether a call would be admitted now. Takes no place and changes nothing.

        For choices such as "skip this host". `state` is no answer to that: an open breaker whose
        wait is over stays open until a call asks, so code that asks only while the state is not
        open never recovers. Another call may take the last place in between, so be ready for
        CircuitBreakerOpenError all the same. Thread-safe.
        """
        return self._controller.would_admit

    def read(self) -> Reading:
        """All counters and figures at this moment, exact and consistent with each other."""
        return self._controller.read()

    # -- protected calls ---------------------------------------------------------------------------

    def __call__(self, fn: Callable[P, R]) -> Callable[P, R]:
        """Protect a function: def, async def, generator, async generator, method or classmethod.

        The result takes, returns and raises what the function does, and raises
        CircuitBreakerOpenError where the breaker refuses. Thread-safe and task-safe.
        """
        return self._wrap(fn)

    protect = __call__

    @overload
    def with_fallback(
        self, fallback: Callable[P, Coroutine[Any, Any, R]], *, on: Collection[Outcome] = ...
    ) -> Fallback[P, R]: ...
    @overload
    def with_fallback(
        self, fallback: Callable[P, R], *, on: Collection[Outcome] = ...
    ) -> Fallback[P, R]: ...
    def with_fallback(
        self, fallback: Callable[P, Any], *, on: Collection[Outcome] = (Outcome.REJECTED,)
    ) -> Fallback[P, Any]:
        """A decorator that protects a function and calls `fallback` in its place.

        By default only where this breaker refuses; with `Outcome.FAILURE` in `on` also where the
        call fails. The fallback gets the same arguments, and what it raises reaches the caller. For
        a coroutine function it may be either kind of function. Each use is an event. Raises
        FallbackError for what cannot be.
        """
        return Fallback(
            fallback,
            on=on,
            protect=self._wrap,
            controller=self._controller,
            classifier=self._classifier,
        )

    # -- manual control ----------------------------------------------------------------------------

    def force_open(self, reason: str | None = None) -> None:
        """Refuse every call until `reset`, `disable` or `adopt`. `reason` goes into the event."""
        self._controller.command(lambda machine, now: machine.force_open(now, reason))

    def disable(self, reason: str | None = None) -> None:
        """Admit every call, and go on observing, until `reset`, `force_open` or `adopt`."""
        self._controller.command(lambda machine, now: machine.disable(now, reason))

    def reset(self, reason: str | None = None) -> None:
        """Close, and forget the window and the back-off. Counters go on."""
        self._controller.command(lambda machine, now: machine.reset(now, reason))

    def update(self, policy: Policy, reason: str | None = None) -> None:
        """Change the rules while the breaker runs; told as a `PolicyChanged` event.

        The state goes on, and so does the wait of an open breaker, but for no longer than the new
        `open_for_max`. The window goes on if `window` and `slow_call` stay as they are, else it
        begins empty. Calls in flight are counted and have no say. An equal policy changes nothing.
        After another `slow_call` or kind of window, functions that were decorated before take a
        lock for each call. Raises TypeError for what is no policy.
        """
        if not isinstance(policy, Policy):
            raise TypeError(f"update({policy!r}): allowed is a Policy")
        if policy != self.policy:
            self._controller.command(lambda machine, now: machine.update(policy, now, reason))

    def _follow(self, requested: Requested) -> None:
        """What operators set goes before what the code says, also before a function of it."""
        self.requested = requested
        set_outside = "open_for" in dict(requested.outside)
        self._controller.asks_for_wait = not set_outside and self._classifier.open_for is not None

    def isolated(self, reason: str | None = None) -> _Isolation:
        """Reject every call inside the block. Blocks may nest and overlap, also between threads.

        A manual command given meanwhile changes the state when the last block has ended (a reset
        forgets window and back-off at once); without one, the breaker goes on as it was before (an
        open one with the rest of its wait).
        """
        return _Isolation(self._controller, reason)

    def snapshot(self) -> dict[str, Any]:
        """The whole state as plain data that JSON can hold; see `adopt`."""
        return to_snapshot(self.name, self.policy, self._controller.dump())

    def adopt(self, snapshot: Mapping[str, Any]) -> None:
        """Take over a state from `snapshot()`, of this or another process.

        The state, the window, the back-off and the rest of a wait are taken over; counters and
        calls in flight are not. Raises SnapshotError with all problems, and then changes nothing.
        """
        state = checked(snapshot, self.policy)
        self._controller.adopt(state)

    # -- events ------------------------------------------------------------------------------------

    def subscribe(
        self,
        listener: Callable[[Any], object],
        /,
        *types: EventType,
        **options: Unpack[SubscribeOptions],
    ) -> Subscription:
        """Call `listener` with the events of this breaker, and of no other that has the same name;
        see `breakerscope.subscribe`.
        """
        return self._event_bus.subscribe_to(self._controller, listener, types, options)

    def __copy__(self) -> CircuitBreaker:
        """A breaker is one thing: a copy of what holds it holds the same one."""
        return self

    def __deepcopy__(self, _memo: object) -> CircuitBreaker:
        """As `__copy__`."""
        return self

    def __repr__(self) -> str:
        return f"<CircuitBreaker {self.name!r} {self.state}>"
