"""What the HTTP clients share: which breaker a request has, and which response is a failure."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from typing import Any, TypedDict

from breakerscope.breaker import CircuitBreaker
from breakerscope.classify import ExceptionRule, HintRule, ResultRule
from breakerscope.instrument import BreakerOptions, breakers_per
from breakerscope.registry import ContradictionError

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
    """At most `limit` breakers: one for each host as they come, and one for all further hosts.

    Thread-safe. No host is forgotten for another: whoever can choose the hosts must not be able to
    make new series without end, or to push out a breaker that is open.
    """

    def __init__(self, per_key: PerHost, limit: int) -> None:
        self._per_key = per_key
        self._limit = limit
        self._lock = threading.Lock()
        self._known: set[str] = set()

    def __call__(self, key: str) -> CircuitBreaker:
        """The breaker of this host."""
        if key not in self._known:
            with self._lock:
                if len(self._known) < self._limit - 1:
                    self._known.add(key)
                elif key not in self._known:
                    key = SHARED
        return self._per_key(key)


_made: dict[str, tuple[dict[str, Any], BoundedHosts]] = {}
_lock = threading.Lock()


def bounded(
    per_host: PerHost | None,
    prefix: str,
    limit: int,
    rules: Rules,
    options: BreakerOptions,
) -> PerHost:
    """The breakers of this prefix, the same for all clients of the process, or `per_host`.

    A client made for each request must not get around the limit. Raises ContradictionError if the
    prefix is in use with another limit or other options, TypeError for options beside `per_host`,
    and what `breakers_per` raises.
    """
    if per_host is not None:
        if options:
            raise TypeError(
                f"{', '.join(options)}: beside per_host no options are allowed;"
                " they belong to the breakers that it gives"
            )
        return per_host
    wanted: dict[str, Any] = {"limit": limit, **rules, **options}
    with _lock:
        if prefix not in _made:
            per_key = breakers_per(prefix, **wanted)
            _made[prefix] = wanted, BoundedHosts(per_key, limit)
        existing, hosts = _made[prefix]
    differences = [
        f"{name}: {existing.get(name)!r} and {wanted.get(name)!r}"
        for name in sorted(existing | wanted)
        if existing.get(name) != wanted.get(name)
    ]
    if differences:
        raise ContradictionError(
            f"prefix {prefix!r} is in use with other options; what it has and what this call asks"
            f" for: {'; '.join(differences)}"
        )
    return hosts
