"""The other breakers, each in the form that its documentation shows, bare and with metrics.

`trips` False: thresholds that are never reached, for the row of failing calls.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from itertools import count
from typing import Any

import aiobreaker
import circuitbreaker
import fluxgate
import interlock
import nopanic
import purgatory
import pybreaker
import pyresilience
from fluxgate.trippers import FailureRate, MinRequests
from purgatory.domain.model import OpenedState
from resilix.dsl.circuit import CircuitBreaker as ResilixBreaker
from resilix.errors import CircuitOpenError as ResilixOpenError

from benchmarks.loops import Body

FAILURES = 5
NEVER = 10**9
HOUR = 3600.0
_numbers = count()

Make = Callable[..., Body]


def new_name() -> str:
    """A name that no breaker has had."""
    return f"bench-{next(_numbers)}"


@dataclass(frozen=True)
class Peer:
    """One of them. `make_async` is None where it does not protect coroutine functions."""

    name: str
    make: Make
    make_async: Make | None
    refusal: type[BaseException]


def _circuitbreaker(fn: Body, *, trips: bool = True) -> Any:
    return circuitbreaker.CircuitBreaker(
        failure_threshold=FAILURES if trips else NEVER,
        recovery_timeout=int(HOUR),
        name=new_name(),
    )(fn)


def _resilix(fn: Body, *, trips: bool = True) -> Any:
    return ResilixBreaker(failures=FAILURES if trips else NEVER, reset_timeout=HOUR)(fn)


def pybreaker_with(*listeners: Any, trips: bool = True) -> Any:
    return pybreaker.CircuitBreaker(
        fail_max=FAILURES if trips else NEVER, reset_timeout=HOUR, listeners=listeners
    )


def _pybreaker(fn: Body, *, trips: bool = True) -> Any:
    return pybreaker_with(trips=trips)(fn)


def aiobreaker_with(*listeners: Any, trips: bool = True) -> Any:
    return aiobreaker.CircuitBreaker(
        fail_max=FAILURES if trips else NEVER,
        timeout_duration=timedelta(seconds=HOUR),
        listeners=listeners,
    )


def _aiobreaker(fn: Body, *, trips: bool = True) -> Any:
    return aiobreaker_with(trips=trips)(fn)


def _purgatory(fn: Body, *, trips: bool = True) -> Any:
    factory = purgatory.SyncCircuitBreakerFactory(
        default_threshold=FAILURES if trips else NEVER, default_ttl=HOUR
    )
    return factory(new_name())(fn)


def _purgatory_async(fn: Body, *, trips: bool = True) -> Any:
    factory = purgatory.AsyncCircuitBreakerFactory(
        default_threshold=FAILURES if trips else NEVER, default_ttl=HOUR
    )
    return factory(new_name())(fn)


def nopanic_breaker(*, trips: bool = True) -> Any:
    return nopanic.circuit_breaker(
        min_calls=FAILURES if trips else NEVER, reset_timeout=HOUR, name=new_name()
    )


def _nopanic(fn: Body, *, trips: bool = True) -> Any:
    return nopanic_breaker(trips=trips)(fn)


def interlock_with(listener: Any = None, *, trips: bool = True) -> Any:
    return interlock.CircuitBreaker(
        name=new_name(),
        config=interlock.Config(
            minimum_number_of_calls=FAILURES if trips else NEVER,
            wait_duration_in_open=HOUR,
            window_size=100,
        ),
        listener=listener,
    )


def _interlock(fn: Body, *, trips: bool = True) -> Any:
    return interlock_with(trips=trips)(fn)


def pyresilience_with(fn: Body, *listeners: Any, trips: bool = True, window: int = 0) -> Any:
    return pyresilience.resilient(
        circuit_breaker=pyresilience.CircuitBreakerConfig(
            failure_threshold=FAILURES if trips else NEVER,
            recovery_timeout=HOUR,
            sliding_window_size=window,
        ),
        listeners=list(listeners),
    )(fn)


def fluxgate_with(kind: Any, *listeners: Any, trips: bool = True) -> Any:
    return kind(
        tripper=MinRequests(FAILURES if trips else NEVER) & FailureRate(0.5), listeners=listeners
    )


def _fluxgate(fn: Body, *, trips: bool = True) -> Any:
    return fluxgate_with(fluxgate.CircuitBreaker, trips=trips)(fn)


def _fluxgate_async(fn: Body, *, trips: bool = True) -> Any:
    return fluxgate_with(fluxgate.AsyncCircuitBreaker, trips=trips)(fn)


PEERS = (
    Peer("circuitbreaker", _circuitbreaker, _circuitbreaker, circuitbreaker.CircuitBreakerError),
    Peer("resilix", _resilix, _resilix, ResilixOpenError),
    Peer("purgatory", _purgatory, _purgatory_async, OpenedState),
    Peer("nopanic", _nopanic, _nopanic, nopanic.CircuitOpen),
    Peer("aiobreaker", _aiobreaker, _aiobreaker, aiobreaker.CircuitBreakerError),
    Peer("pybreaker", _pybreaker, None, pybreaker.CircuitBreakerError),
    Peer("pyresilience", pyresilience_with, pyresilience_with, pyresilience.CircuitOpenError),
    Peer("interlock-cb", _interlock, _interlock, interlock.CircuitOpenError),
    Peer("fluxgate", _fluxgate, _fluxgate_async, fluxgate.CallNotPermittedError),
)
BY_NAME = {peer.name: peer for peer in PEERS}


class PrometheusListener:
    """A listener for pybreaker and aiobreaker as their users write it: a counter, a histogram."""

    def __init__(self, calls: Any, seconds: Any) -> None:
        self._calls, self._seconds = calls, seconds
        self._start = 0.0

    def before_call(self, *_args: object, **_kwargs: object) -> None:
        self._start = time.perf_counter()

    def success(self, _breaker: object) -> None:
        self._calls.inc()
        self._seconds.observe(time.perf_counter() - self._start)

    def failure(self, _breaker: object, _error: object) -> None:
        self._calls.inc()
        self._seconds.observe(time.perf_counter() - self._start)

    def state_change(self, *_args: object) -> None:
        pass


def hand_wrapped(fn: Body, calls: Any, seconds: Any) -> Body:
    """A protected function measured from outside, for breakers that have no listeners."""

    @functools.wraps(fn)
    def measured(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        try:
            return fn(*args, **kwargs)
        finally:
            calls.inc()
            seconds.observe(time.perf_counter() - start)

    return measured
