"""What the HTTP clients share: which breaker a request has, and which response is a failure."""

from __future__ import annotations

import gc
import re
import sys
import threading
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any, TypedDict
from weakref import ref

from breakerscope.breaker import CircuitBreaker
from breakerscope.core.classification import ExceptionRule, HintRule, ResultRule
from breakerscope.event_bus import default_bus
from breakerscope.instrument import (
    BreakerOptions,
    Request,
    breaker_in_request,
    breakers_per,
)
from breakerscope.registry import ContradictionError, check_same, default_registry, differences

PerHost = Callable[[str], CircuitBreaker]
"""Gives the breaker of a host: `host`, or `host:port` where the port is not that of the scheme."""


class Rules(TypedDict, total=False):
    """The rules of a client for what is a failure: options of `instrumented_breaker`."""

    failures: ExceptionRule
    ignore: ExceptionRule
    failure_if: ResultRule
    retry_after_from: HintRule


SHARED = "other"
"""The key of all hosts beyond the limit, and of all that is no host."""

DEFAULT_PORTS = {"http": 80, "https": 443}
MAX_HOST = 253
EVENTS_SECONDS = 1.0
"""So long the last events of a client that has gone are waited for."""
_HOST = re.compile(r"[a-z0-9._-]+|\[[0-9a-f:.]+(%[a-z0-9._-]+)?\]")


def is_failure(response: Any) -> bool:
    """Whether a response is a failure: the server failed (5xx), or asks for a rest (429).

    Every other status is an answer of a server that works.
    """
    status: int = response.status_code
    return status >= 500 or status == 429


def host_key(scheme: str, host: str, port: int | None) -> str:
    """The same key for all spellings of a host; `SHARED` for what is no host."""
    host = host.lower().removesuffix(".")
    if ":" in host and not host.startswith("["):
        host = f"[{host}]"
    if len(host) > MAX_HOST or not _HOST.fullmatch(host):
        return SHARED
    if port is None or port == DEFAULT_PORTS.get(scheme.lower()):
        return host
    return f"{host}:{port}" if 0 < port <= 65535 else SHARED


class BoundedHosts:
    """At most `limit` breakers of a prefix: one for each host as they come, one for all others.

    Thread-safe. Counted is what is registered, so that a client made for each request does not get
    around the limit. No host is forgotten for another: who can choose the hosts must not be able to
    make new series without end, or to push out a breaker that is open. Raises LimitError, and what
    `instrumented_breaker` does.
    """

    def __init__(self, prefix: str, limit: int, options: Mapping[str, Any]) -> None:
        breakers_per(prefix, limit=limit, **options)  # asks whether they can be
        self._prefix = f"{prefix}:"
        self._limit = limit
        self._options = options
        self._checked: dict[str, CircuitBreaker] = {}
        self._request = Request(prefix, dict(options))
        self._built_at = _place()
        self._refuse_contradictions()
        _in_use[prefix] = ref(self)

    def _refuse_contradictions(self) -> None:
        """Here and now, since no client expects it of a request."""
        prefix = self._request.name
        found = self._contradictions()
        if found:
            # The other client may be in the context of an event that is on its way, or in a cycle
            # that nobody has collected.
            default_bus.flush(EVENTS_SECONDS)
            gc.collect()
            found = self._contradictions()
        if found and (other := _in_use[prefix]()) is not None:
            raise ContradictionError(
                f"prefix={prefix!r} is in use with other options: {'; '.join(found)};"
                f" those are of {other._built_at}, these of {self._built_at}."
                " Give one of the two a prefix of its own"
            )
        for breaker in self._registered()[:1]:
            check_same(breaker, self._request)

    def _contradictions(self) -> list[str]:
        held = _in_use.get(self._request.name)
        other = None if held is None else held()
        return [] if other is None else differences(other._request, self._request)

    def __reduce__(self) -> tuple[type[BoundedHosts], tuple[str, int, Mapping[str, Any]]]:
        return type(self), (self._request.name, self._limit, self._options)

    def __call__(self, host: str) -> CircuitBreaker:
        """The breaker of this host. One that somebody has made with other options is used as it
        is.
        """
        breaker = self._checked.get(host)
        if breaker is not None and default_registry.get(breaker.name) is breaker:
            return breaker
        with _one_at_a_time:
            breaker = self._breaker_locked(host)
        return self(SHARED) if breaker is None else breaker

    def _breaker_locked(self, host: str) -> CircuitBreaker | None:
        """None if there is no room for one more."""
        name = self._prefix + host
        breaker = default_registry.get(name)
        if breaker is None:
            if host != SHARED and self._is_full_locked(1):
                return None
            breaker = breaker_in_request(name, **self._options)
            if host != SHARED and self._is_full_locked(0):
                # A finaliser or a handler in between has made another one.
                default_registry.remove(name)
                return None
        still = {*self._registered()}
        self._checked = {k: b for k, b in self._checked.items() if b in still}
        self._checked[host] = breaker
        return breaker

    def _is_full_locked(self, more: int) -> bool:
        return len(self._registered(but=SHARED)) + more > self._limit - 1

    def _registered(self, *, but: str = "") -> list[CircuitBreaker]:
        prefix, left_out = self._prefix, self._prefix + but
        return [b for b in default_registry if b.name.startswith(prefix) and b.name != left_out]


_one_at_a_time = threading.RLock()
_in_use: dict[str, ref[BoundedHosts]] = {}
"""The clients of this process, by their prefix; the last one of each."""


def _place() -> str:
    """Where the code is that builds a client."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__", "").startswith("breakerscope."):
        frame = frame.f_back
    return "somewhere" if frame is None else f"{frame.f_code.co_filename}:{frame.f_lineno}"


def bounded(
    per_host: PerHost | None,
    prefix: str,
    limit: int,
    rules: Rules,
    options: BreakerOptions,
) -> PerHost:
    """The breakers of this prefix, with these rules unless the options have others; or `per_host`.

    Raises TypeError for options beside `per_host`, and what `BoundedHosts` raises.
    """
    if per_host is None:
        return BoundedHosts(prefix, limit, {**rules, **options})
    if options:
        raise TypeError(
            f"{', '.join(options)}: beside per_host no options are allowed;"
            " they belong to the breakers that it gives"
        )
    return per_host
