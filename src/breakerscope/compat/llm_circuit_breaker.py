"""The guide's breaker: its names and defaults, around a `breakerscope.CircuitBreaker`.

Every call goes through the real breaker, so that its events, metrics, log lines and span events are
there without a line more. What the old module did wrong is not copied: one probe is let through in
HALF_OPEN, `with cb:` refuses while open, and an `async def` counts when it has been awaited.
"""

from __future__ import annotations

import functools
import inspect
import math
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, MutableMapping
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from enum import Enum
from types import TracebackType
from typing import Any, NamedTuple, ParamSpec, Self, TypedDict, TypeVar, Unpack, cast, overload

from breakerscope.breaker import CircuitBreaker
from breakerscope.compat._figures import CircuitBreakerMetrics, Notes, Totals
from breakerscope.compat._replaced import replaced
from breakerscope.core.errors import CircuitBreakerOpenError
from breakerscope.core.events import Outcome, State
from breakerscope.core.guard import Guard
from breakerscope.core.policy import Policy
from breakerscope.registry import ContradictionError, default_registry
from breakerscope.setup import set_up_once
from breakerscope.testing import force_state

__all__ = [
    "CircuitBreakerMetrics",
    "CircuitBreakerOpenError",
    "CircuitState",
    "FailureThreshold",
    "LLMCircuitBreaker",
    "get_all_circuit_breaker_stats",
    "get_circuit_breaker",
    "reset_all_circuit_breakers",
]

P = ParamSpec("P")
R = TypeVar("R")

DEFAULT_NAME = "llm_circuit_breaker"
DEFAULT_PERCENTAGE = 5.0
DEFAULT_TIMEOUT = 10.0
MIN_CALLS = 5
"""A percentage says nothing before so many calls: else the first failure of all would be 100 %."""
GUIDE_ORDER = (
    "name",
    "failure_threshold",
    "timeout_seconds",
    "exponential_backoff",
    "success_threshold",
    "fallback",
)
OLD_ORDER = ("failure_threshold", "timeout_seconds", "success_threshold", "fallback", "name")
"""What positional arguments mean: that of the guide if the first one is a name."""
BACKOFF, JITTER = 2.0, 0.1


class CircuitState(Enum):
    """The three states of the guide. A breaker that was opened by hand is OPEN, one that was
    disabled is CLOSED.
    """

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


_STATES = {
    State.CLOSED: CircuitState.CLOSED,
    State.OPEN: CircuitState.OPEN,
    State.HALF_OPEN: CircuitState.HALF_OPEN,
    State.FORCED_OPEN: CircuitState.OPEN,
    State.DISABLED: CircuitState.CLOSED,
}


@dataclass(frozen=True, slots=True)
class FailureThreshold:
    """When to open: after `count` failures in a row, or when `percentage` (0 to 100) of the last
    100 calls failed, once there were 5. Whichever comes first; without either, at 5 %.

    Raises ValueError for values that cannot be.
    """

    count: int | None = None
    percentage: float | None = None

    def __post_init__(self) -> None:
        """Check both."""
        replaced("FailureThreshold", stacklevel=4)
        if self.count is not None:
            _check_count("count", self.count)
        percentage = self.percentage
        if percentage is not None and not (_is_number(percentage) and 0 < percentage <= 100):
            raise ValueError(f"percentage={percentage!r}: allowed is above 0, up to 100")


class BreakerOptions(TypedDict, total=False):
    """What `LLMCircuitBreaker` takes, by keyword, besides the name and the fallback."""

    failure_threshold: FailureThreshold | int | None
    timeout_seconds: float
    success_threshold: int
    exponential_backoff: bool


class LLMCircuitBreaker:
    """A breaker by the guide: `LLMCircuitBreaker("payment_api", timeout_seconds=30.0)`.

    If the first positional argument is no text it is, as in the old module, the failure threshold:
    a `FailureThreshold`, or a number of failures in a row; by default 5 % of the calls, once there
    were 5. `timeout_seconds`: how long it stays open. `success_threshold`: how many probes,
    one after the other, must succeed. `fallback`: called without arguments where a call is refused.
    `exponential_backoff`: twice as long after each probe that fails, up to 300 seconds, give or
    take 10 %.

    The first breaker of a name is the one in the metrics and in `_circuit_breakers`. Raises
    ValueError, which names the argument. Thread-safe and task-safe.
    """

    @overload
    def __init__(
        self,
        name: str = ...,
        failure_threshold: FailureThreshold | int | None = ...,
        timeout_seconds: float = ...,
        exponential_backoff: bool = ...,  # noqa: FBT001 - the order of the guide
        success_threshold: int = ...,
        fallback: Callable[[], Any] | None = ...,
    ) -> None: ...
    @overload
    def __init__(
        self,
        failure_threshold: FailureThreshold | int,
        timeout_seconds: float = ...,
        success_threshold: int = ...,
        fallback: Callable[[], Any] | None = ...,
        name: str = ...,
        *,
        exponential_backoff: bool = ...,
    ) -> None: ...
    def __init__(self, *positional: Any, **options: Any) -> None:
        replaced("LLMCircuitBreaker")
        order = GUIDE_ORDER if positional and isinstance(positional[0], str) else OLD_ORDER
        if len(positional) > len(order):
            raise TypeError(
                f"{len(positional)} positional arguments: allowed are {', '.join(order)}"
            )
        given = dict(zip(order, positional, strict=False))
        if twice := sorted(given.keys() & options.keys()):
            raise TypeError(f"given twice: {', '.join(twice)}")
        options |= given
        if unknown := sorted(options.keys() - set(GUIDE_ORDER)):
            raise TypeError(f"unknown: {', '.join(unknown)}; allowed are {', '.join(GUIDE_ORDER)}")
        fallback = options.pop("fallback", None)
        breaker = _build(options.pop("name", DEFAULT_NAME), **options)
        # Another one may have the name already: then this one goes on without metrics.
        with suppress(ContradictionError):
            default_registry.add(breaker)
        self._begin(breaker, fallback)

    @classmethod
    def around(cls, breaker: CircuitBreaker, fallback: Callable[[], Any] | None = None) -> Self:
        """The old form of a breaker that is there already: both are one."""
        made = cls.__new__(cls)
        made._begin(breaker, fallback)
        return made

    def _begin(self, breaker: CircuitBreaker, fallback: Callable[[], Any] | None) -> None:
        self.breaker = breaker
        """The breaker itself, with all that the guide does not know."""
        self._notes = Notes()
        self._before = Totals(0, 0, 0)
        self._call: Callable[..., Any] = breaker.call
        self._call_async: Callable[..., Any] = breaker.call
        self._protect: Callable[[Callable[..., Any]], Callable[..., Any]] = breaker
        if fallback is not None:
            self._protect = breaker.with_fallback(lambda *_, **__: fallback())
            self._call = _without_first(self._protect(self._run))
            self._call_async = _without_first(self._protect(self._run_async))

    @property
    def name(self) -> str:
        """The name, which is the label `breaker` in all telemetry."""
        return self.breaker.name

    @property
    def state(self) -> CircuitState:
        """The present state. An open breaker whose wait is over stays OPEN until a call asks."""
        return _STATES[self.breaker.state]

    def refresh_state(self) -> CircuitState:
        """The same as `state`: nothing has to be refreshed."""
        return self.state

    # -- protected calls ---------------------------------------------------------------------------

    def call(self, func: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call `func` through the breaker; for a coroutine function, returns an awaitable.

        Raises CircuitBreakerOpenError if the breaker refuses and there is no fallback.
        """
        if inspect.iscoroutinefunction(func):
            return cast("R", self._call_async(self._run_async, func, *args, **kwargs))
        return cast("R", self._call(self._run, func, *args, **kwargs))

    def protected(self, func: Callable[P, R]) -> Callable[P, R]:
        """Protect a function: def, async def, generator or async generator."""
        if inspect.isgeneratorfunction(func) or inspect.isasyncgenfunction(func):
            return self.breaker(cast("Callable[P, R]", func))

        if inspect.iscoroutinefunction(func):

            @functools.wraps(func)
            async def noted_async(*args: P.args, **kwargs: P.kwargs) -> Any:
                return await self._run_async(func, *args, **kwargs)

            return cast("Callable[P, R]", self._protect(noted_async))

        @functools.wraps(func)
        def noted(*args: P.args, **kwargs: P.kwargs) -> Any:
            return self._run(func, *args, **kwargs)

        return cast("Callable[P, R]", self._protect(noted))

    def __enter__(self) -> Self:
        guard = self.breaker.guard()
        guard.__enter__()
        _blocks.set((*_blocks.get(), _Block(guard, time.perf_counter())))
        return self

    def __exit__(
        self, cls: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        *before, block = _blocks.get()
        _blocks.set(tuple(before))
        block.guard.__exit__(cls, error, tb)
        self._note(error, time.perf_counter() - block.start)

    def _run(self, func: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """What the breaker protects: the call, and a note of how it went."""
        start = time.perf_counter()
        try:
            result = func(*args, **kwargs)
        except BaseException as error:
            self._note(error, time.perf_counter() - start)
            raise
        if inspect.iscoroutine(result):
            return self._noted(result)
        self._note(None, time.perf_counter() - start)
        return result

    async def _run_async(self, func: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        return await self._noted(func(*args, **kwargs))

    async def _noted(self, coroutine: Coroutine[Any, Any, R]) -> R:
        start = time.perf_counter()
        try:
            result = await coroutine
        except BaseException as error:
            self._note(error, time.perf_counter() - start)
            raise
        self._note(None, time.perf_counter() - start)
        return result

    def _note(self, error: BaseException | None, seconds: float) -> None:
        outcome = Outcome.SUCCESS if error is None else self.breaker.classifier.of_error(error)
        self._notes.add(outcome, seconds)

    # -- by hand -----------------------------------------------------------------------------------

    def reset(self) -> None:
        """Close, and begin the figures of `metrics` and `get_stats` anew. Those in Prometheus go
        on, as counters do.
        """
        self.breaker.reset()
        self._before = self._totals()
        self._notes.clear()

    def force_open(self) -> None:
        """Open now, for `timeout_seconds`; then probes decide, as after any other opening.

        `breaker.force_open()` is the one that lasts until somebody ends it.
        """
        force_state(self.breaker, State.OPEN)

    # -- figures -----------------------------------------------------------------------------------

    @property
    def metrics(self) -> CircuitBreakerMetrics:
        """What was counted so far, as a copy."""
        totals, before = self._totals(), self._before
        grown = (now - then for now, then in zip(totals, before, strict=True))
        return self._notes.beside(Totals(*grown))

    def get_stats(self) -> dict[str, Any]:
        """State, thresholds, metrics and times: unix times in seconds, ratios from 0 to 1."""
        metrics, policy = self.metrics, self.breaker.policy
        entered = self.breaker.read().entered_at
        return {
            "name": self.name,
            "state": self.state.value,
            "thresholds": {
                "failure_threshold": policy.consecutive_failures,
                "failure_percentage": None
                if policy.failure_rate is None
                else round(100 * policy.failure_rate, 6),
                "success_threshold": policy.probe_successes or policy.probes,
                "timeout_seconds": policy.open_for,
            },
            "metrics": {
                "total_calls": metrics.total_calls,
                "successes": metrics.success_count,
                "failures": metrics.failure_count,
                "failure_rate": metrics.get_failure_rate(),
                "consecutive_failures": metrics.consecutive_failures,
                "consecutive_successes": metrics.consecutive_successes,
                "state_transitions": metrics.state_transitions,
                "average_latency_ms": 1000 * metrics.get_average_latency(),
            },
            "timing": {
                "last_failure": metrics.last_failure_time,
                "last_success": metrics.last_success_time,
                "last_state_change": entered,
                "seconds_since_state_change": max(time.time() - entered, 0.0),
            },
        }

    def _totals(self) -> Totals:
        reading = self.breaker.read()
        return Totals(
            reading.calls[Outcome.SUCCESS],
            reading.calls[Outcome.FAILURE],
            sum(reading.transitions.values()),
        )

    def __repr__(self) -> str:
        failures, limit = (
            self.metrics.consecutive_failures,
            self.breaker.policy.consecutive_failures,
        )
        of = failures if limit is None else f"{failures}/{limit}"
        return f"LLMCircuitBreaker(name={self.name!r}, state={self.state.value}, failures={of})"


class _Block(NamedTuple):
    guard: Guard
    start: float


_blocks: ContextVar[tuple[_Block, ...]] = ContextVar("breakerscope_compat_blocks", default=())
"""The `with` blocks that are open in this thread or task, the innermost last."""


def _build(
    name: str,
    failure_threshold: FailureThreshold | int | None = None,
    timeout_seconds: float = DEFAULT_TIMEOUT,
    success_threshold: int = 1,
    *,
    exponential_backoff: bool = False,
) -> CircuitBreaker:
    """A breaker with these rules, in no registry. Raises ValueError."""
    _check_count("success_threshold", success_threshold)
    policy = Policy(
        **_rules(failure_threshold),
        open_for=_seconds("timeout_seconds", timeout_seconds),
        probe_successes=success_threshold,
        backoff=BACKOFF if exponential_backoff else 1.0,
        jitter=JITTER if exponential_backoff else 0.0,
    )
    set_up_once()
    return CircuitBreaker(name, policy)


def _without_first(protected: Callable[..., Any]) -> Callable[..., Any]:
    """To be called like `CircuitBreaker.call`, with what is protected already."""

    def call(_protected: object, /, *args: Any, **kwargs: Any) -> Any:
        return protected(*args, **kwargs)

    return call


def _rules(threshold: FailureThreshold | int | None) -> dict[str, Any]:
    """The rules that open, as a policy has them."""
    count, percentage = None, None
    if isinstance(threshold, FailureThreshold):
        count, percentage = threshold.count, threshold.percentage
    elif threshold is not None:
        _check_count("failure_threshold", threshold)
        count = threshold
    if count is None and percentage is None:
        percentage = DEFAULT_PERCENTAGE
    rules: dict[str, Any] = {"consecutive_failures": count}
    if percentage is not None:
        rules |= {"failure_rate": percentage / 100, "min_calls": MIN_CALLS}
    return rules


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_count(what: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{what}={value!r}: allowed is a whole number from 1 on")


def _seconds(what: str, value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < math.inf:
        raise ValueError(f"{what}={value!r}: allowed is a number of seconds above 0")
    return float(value)


# -- by name ---------------------------------------------------------------------------------------


class _Breakers(MutableMapping[str, LLMCircuitBreaker]):
    """All breakers of the process by name, as the old module knew them; also those that were made
    by `instrumented_breaker`. To set one registers it, in place of another. Thread-safe.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._made: dict[str, LLMCircuitBreaker] = {}

    def __getitem__(self, name: str) -> LLMCircuitBreaker:
        with self._lock:
            breaker = default_registry.get(name)
            if breaker is None:
                self._made.pop(name, None)
                raise KeyError(name)
            return self._around(breaker)

    def _around(self, breaker: CircuitBreaker) -> LLMCircuitBreaker:
        made = self._made.get(breaker.name)
        if made is None or made.breaker is not breaker:
            made = self._made[breaker.name] = LLMCircuitBreaker.around(breaker)
        return made

    def present(self) -> list[LLMCircuitBreaker]:
        """All of them at this moment, whoever removes one meanwhile."""
        with self._lock:
            return [self._around(breaker) for breaker in default_registry]

    def __setitem__(self, name: str, breaker: LLMCircuitBreaker) -> None:
        replaced("_circuit_breakers")
        self.put(name, breaker)

    def put(self, name: str, breaker: LLMCircuitBreaker) -> None:
        if not isinstance(breaker, LLMCircuitBreaker):
            raise TypeError(f"_circuit_breakers[{name!r}] = {breaker!r}: not an LLMCircuitBreaker")
        if name != breaker.name:
            raise ValueError(
                f"_circuit_breakers[{name!r}]: the name of this one is {breaker.name!r}"
            )
        with self._lock:
            if default_registry.get(name) is not breaker.breaker:
                default_registry.remove(name)
                default_registry.add(breaker.breaker)
            self._made[name] = breaker

    def __delitem__(self, name: str) -> None:
        with self._lock:
            self._made.pop(name, None)
            if default_registry.remove(name) is None:
                raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter([breaker.name for breaker in default_registry])

    def __len__(self) -> int:
        return len(default_registry)

    def get_or_make(self, name: str, make: Callable[[], LLMCircuitBreaker]) -> LLMCircuitBreaker:
        """The one with this name; if there is none, it is made."""
        with self._lock:
            breaker = default_registry.get(name)
            if breaker is not None:
                return self._around(breaker)
            made = make()
            self.put(name, made)
            return made


_circuit_breakers = _Breakers()
_global_breakers = _circuit_breakers


def get_circuit_breaker(
    name: str,
    *,
    fallback: Callable[[], Any] | None = None,
    **options: Unpack[BreakerOptions],
) -> LLMCircuitBreaker:
    """The breaker with this name, the same one everywhere; made at the first call.

    `fallback` and `options` are those of `LLMCircuitBreaker`, and count only then. Raises
    ValueError.
    """
    replaced("get_circuit_breaker")
    return _circuit_breakers.get_or_make(
        name, lambda: LLMCircuitBreaker.around(_build(name, **options), fallback)
    )


def reset_all_circuit_breakers() -> int:
    """Reset all breakers. Returns how many there are."""
    replaced("reset_all_circuit_breakers")
    found = _circuit_breakers.present()
    for each in found:
        each.reset()
    return len(found)


def get_all_circuit_breaker_stats() -> dict[str, dict[str, Any]]:
    """`get_stats` of all breakers, by name."""
    replaced("get_all_circuit_breaker_stats")
    return {each.name: each.get_stats() for each in _circuit_breakers.present()}
