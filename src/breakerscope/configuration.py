"""What the code asked for and what operators set: the policy of each breaker follows from both.

The two are kept apart. Code that asks for a breaker again is compared with what code asked for
before, never with what operators set. So a change of configuration reaches breakers, as a
`PolicyChanged` event, and no caller as an error.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from breakerscope.breaker import CircuitBreaker, Options, Requested
from breakerscope.config import ConfigError, folded, from_environment, from_mapping, read_toml
from breakerscope.core.policy import Policy, PolicyError
from breakerscope.names import nearest
from breakerscope.registry import Registry
from breakerscope.timer import default_timer

if TYPE_CHECKING:
    from os import PathLike

REASON = "configuration"
"""The reason of a `PolicyChanged` event that a configuration has caused."""
UNUSED_AFTER_SECONDS = 60.0
"""After so long a breaker that nobody has made is reported as a misspelt name."""

_log = logging.getLogger("breakerscope")


@lru_cache(maxsize=256)
def shared_policy(policy: Policy) -> Policy:
    """One object for equal policies: the breakers of a service seldom have more than a few."""
    return policy


@lru_cache(maxsize=256)
def _shared(requested: Requested) -> Requested:
    return requested


class Configuration:
    """The configuration of a process. Thread-safe: the tables are replaced, never changed."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._tables: Mapping[str, dict[str, Any]] = {}
        self._source = ""
        self._collisions: frozenset[str] = frozenset()

    def outside(self, breaker: str) -> dict[str, Any]:
        """What operators have set for this breaker. Raises ConfigError for a variable that cannot
        be.
        """
        return self._table(self._tables, breaker) | from_environment(breaker, os.environ)

    @staticmethod
    def _table(tables: Mapping[str, dict[str, Any]], breaker: str) -> dict[str, Any]:
        options: dict[str, Any] = {}
        for pattern, table in tables.items():
            if pattern != breaker and fnmatchcase(breaker, pattern):
                options |= table
        return options | tables.get(breaker, {})

    def policy_of(
        self, breaker: str, code: dict[str, Any], own: Policy, *, in_request: bool
    ) -> tuple[Policy, Requested]:
        """The policy of a breaker that is to be made. `own`: what the code says alone.

        Raises ConfigError for what cannot be; where the breaker is made in the middle of a request,
        as one for a key is, that is logged once, and the breaker goes by the code alone.
        """
        try:
            outside = self.outside(breaker)
            policy = _merged(breaker, code, outside, self._source)
        except ConfigError as error:
            if not in_request:
                raise
            _log_once(str(error))
            outside, policy = {}, own
        self._report_collision(breaker, outside)
        requested = _shared(Requested(_frozen(code), own, _frozen(outside)))
        return shared_policy(policy), requested

    def follow(self, breaker: CircuitBreaker) -> None:
        """Take over what operators have set since. What cannot be is logged once, and changes
        nothing.
        """
        requested = breaker.requested
        if requested is None:
            return
        try:
            outside = self.outside(breaker.name)
            if _frozen(outside) == requested.outside:
                return
            policy = _merged(breaker.name, dict(requested.code), outside, self._source)
        except ConfigError as error:
            _log_once(str(error))
            return
        self._apply(breaker, requested, policy, outside)

    @staticmethod
    def _apply(
        breaker: CircuitBreaker, requested: Requested, policy: Policy, outside: dict[str, Any]
    ) -> None:
        breaker._follow(_shared(requested._replace(outside=_frozen(outside))))
        breaker.update(shared_policy(policy), REASON)

    def configure(self, source: Mapping[str, Any] | str | PathLike[str]) -> None:
        """Replace the tables. Raises ConfigError, and then changes nothing."""
        if isinstance(source, Mapping):
            tables, where = from_mapping(source), "configuration"
        elif not isinstance(source, str | os.PathLike):
            raise ConfigError(
                f"configure({source!r}): allowed is a mapping or the path of a TOML file"
            )
        else:
            tables, where = read_toml(source), str(source)
        changes: list[tuple[CircuitBreaker, Requested, Policy, dict[str, Any]]] = []
        for breaker in self._registry:
            if (requested := breaker.requested) is None:
                continue
            outside = self._table(tables, breaker.name) | from_environment(breaker.name, os.environ)
            policy = _merged(breaker.name, dict(requested.code), outside, where)
            changes.append((breaker, requested, policy, outside))
        self._tables, self._source = tables, where
        for change in changes:
            self._apply(*change)
        if tables:
            default_timer.call_later(UNUSED_AFTER_SECONDS, self._report_unused)

    def _report_unused(self) -> None:
        """A name in a configuration that no breaker has is a misspelt one, most likely."""
        names = [breaker.name for breaker in self._registry]
        for pattern in self._tables:
            if not any(fnmatchcase(name, pattern) or name == pattern for name in names):
                near = nearest(pattern, names)
                hint = f"; did you mean {near!r}?" if near else ""
                _log.warning("%s: no breaker is called %r%s", self._source, pattern, hint)

    def _report_collision(self, breaker: str, outside: dict[str, Any]) -> None:
        """Two names can look alike in the environment."""
        mine = folded(breaker)
        if not outside or mine in self._collisions:
            return
        alike = [b.name for b in self._registry if b.name != breaker and folded(b.name) == mine]
        if alike and from_environment(breaker, os.environ):
            self._collisions |= {mine}
            _log.warning("%s_... in the environment means %r and %r", mine, alike[0], breaker)


def _merged(breaker: str, code: dict[str, Any], outside: Mapping[str, Any], source: str) -> Policy:
    """Raises ConfigError if what operators say does not fit to what the code says."""
    try:
        return Policy(**{**code, **outside})
    except PolicyError as error:
        told = ", ".join(f"{key}={value!r}" for key, value in outside.items())
        where = source or "environment"
        raise ConfigError(f"{where}: breaker {breaker!r} with {told}: {error}") from error


def _frozen(options: Mapping[str, Any]) -> Options:
    return tuple(sorted(options.items()))


@lru_cache(maxsize=256)
def _log_once(problem: str) -> None:
    _log.error("%s; the breaker goes on with the policy that it has", problem)
