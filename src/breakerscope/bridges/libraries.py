"""Which libraries can be bridged: their versions, and what each cannot tell.

`docs/bridges.md` has its tables from here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from breakerscope import catalogue
from breakerscope.catalogue import Metric
from breakerscope.core.events import Cause, State
from breakerscope.telemetry.errors import MissingExtraError

Change = tuple[State, State, Cause]

CLOSED, OPEN, HALF_OPEN = State.CLOSED, State.OPEN, State.HALF_OPEN
FORCED_OPEN, DISABLED = State.FORCED_OPEN, State.DISABLED


class BridgeError(ValueError):
    """A breaker cannot be bridged. The message says what is wrong and what is allowed."""


BY_HAND: Mapping[State, Cause] = {
    CLOSED: Cause.RESET,
    OPEN: Cause.FORCE_OPEN,
    HALF_OPEN: Cause.RELEASE,
    FORCED_OPEN: Cause.FORCE_OPEN,
    DISABLED: Cause.DISABLE,
}
"""The cause of a change that no call explains, by the new state."""

BY_CALLS: tuple[Change, ...] = (
    (HALF_OPEN, CLOSED, Cause.PROBES_SUCCEEDED),
    (HALF_OPEN, OPEN, Cause.PROBE_FAILED),
    (OPEN, HALF_OPEN, Cause.WAIT_ELAPSED),
)


def _changes(trips: tuple[Cause, ...], by_hand: tuple[State, ...]) -> tuple[Change, ...]:
    """The changes that can be: by these rules, and by hand to these states."""
    states = {CLOSED, OPEN, HALF_OPEN, *by_hand}
    return tuple(
        sorted(
            {(CLOSED, OPEN, trip) for trip in trips}
            | set(BY_CALLS)
            | {(old, new, BY_HAND[new]) for new in by_hand for old in states if old is not new}
        )
    )


ALWAYS_UNTOLD = frozenset({catalogue.WOULD_REJECT})
NO_WINDOW = frozenset(
    {
        catalogue.SLOW_CALLS,
        catalogue.FAILURE_RATIO,
        catalogue.SLOW_CALL_RATIO,
        catalogue.FAILURE_RATIO_THRESHOLD,
        catalogue.SLOW_CALL_RATIO_THRESHOLD,
    }
)
NO_SLOW_CALLS = frozenset(
    {catalogue.SLOW_CALLS, catalogue.SLOW_CALL_RATIO, catalogue.SLOW_CALL_RATIO_THRESHOLD}
)
NO_FALLBACKS = frozenset({catalogue.FALLBACKS})


@dataclass(frozen=True, slots=True, kw_only=True)
class Library:
    """A library whose breakers can be bridged.

    `name` is that of the package and of the extra. `oldest` is the first version that works, tried
    by the tests as the newest one is. `untold` are the metrics that stay absent. `limits` says in
    words what else is not told, or told otherwise.
    """

    name: str
    module: str
    oldest: str
    untold: frozenset[Metric]
    changes: tuple[Change, ...]
    limits: tuple[str, ...] = ()

    def without(self, metrics: frozenset[Metric]) -> Library:
        """The same where a breaker cannot tell these metrics either."""
        return replace(self, untold=self.untold | metrics)

    def require(self) -> Any:
        """Its module. Raises MissingExtraError or, for a version that is too old, BridgeError."""
        try:
            module, found = import_module(self.module), version(self.name)
        except (ImportError, PackageNotFoundError) as error:
            what = f"bridges.{self.module}.attach"
            raise MissingExtraError(what, self.name, f"'breakerscope[{self.name}]'") from error
        if _numbers(found) < _numbers(self.oldest):
            raise self.unsupported(found)
        return module

    def unsupported(self, found: str, lacks: str = "") -> BridgeError:
        """The error about a version."""
        why = f", which has no {lacks}" if lacks else ""
        return BridgeError(
            f"{self.name} {found}{why}: allowed are versions from {self.oldest};"
            f" run: pip install -U 'breakerscope[{self.name}]'"
        )

    def check(self, target: object, kinds: tuple[type, ...], *needs: str) -> None:
        """Raises BridgeError if `target` is none of `kinds`, or has not what the bridge needs."""
        if not isinstance(target, kinds):
            allowed = " or ".join(f"{kind.__module__}.{kind.__qualname__}" for kind in kinds)
            raise BridgeError(f"{target!r}: allowed is a {allowed}")
        for need in needs:
            if not hasattr(target, need):
                raise self.unsupported(version(self.name), f"{type(target).__name__}.{need}")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])


_IN_A_ROW = (Cause.CONSECUTIVE_FAILURES,)
_BY_RATE = (Cause.FAILURE_RATE, Cause.SLOW_CALL_RATE)

PYBREAKER = Library(
    name="pybreaker",
    module="pybreaker",
    oldest="0.8.0",
    untold=ALWAYS_UNTOLD | NO_WINDOW | NO_FALLBACKS,
    changes=_changes(_IN_A_ROW, (CLOSED, OPEN, HALF_OPEN)),
    limits=(
        "Calls through `call_async` (Tornado) are not seen.",
        "The changes of state that those cause are seen, with a cause as if by hand.",
        "A cancelled call is a `failure`, for pybreaker counts it so.",
    ),
)
CIRCUITBREAKER = Library(
    name="circuitbreaker",
    module="circuitbreaker",
    oldest="2.1.0",
    untold=ALWAYS_UNTOLD | NO_WINDOW,
    changes=_changes(_IN_A_ROW, (CLOSED,)),
    limits=(
        "A `with` block is never rejected: circuitbreaker does not ask there.",
        "The library keeps each breaker that protects a function, and so its series stay.",
    ),
)
AIOBREAKER = Library(
    name="aiobreaker",
    module="aiobreaker",
    oldest="1.1.0",
    untold=ALWAYS_UNTOLD | NO_WINDOW | NO_FALLBACKS,
    changes=_changes(_IN_A_ROW, (CLOSED, OPEN, HALF_OPEN)),
)
PURGATORY = Library(
    name="purgatory",
    module="purgatory",
    oldest="1.0.0",
    untold=ALWAYS_UNTOLD | NO_WINDOW | NO_FALLBACKS,
    changes=_changes(_IN_A_ROW, (CLOSED, OPEN, HALF_OPEN)),
    limits=(
        "Breakers that `get_breaker` gave before `attach` are not seen; decorated functions are.",
        "A change by another process is seen with the next call.",
        "A cancelled call is a `failure`, for purgatory counts it so.",
    ),
)
NOPANIC = Library(
    name="nopanic",
    module="nopanic",
    oldest="0.3.0",
    untold=ALWAYS_UNTOLD | NO_FALLBACKS,
    changes=_changes(_BY_RATE, (CLOSED, FORCED_OPEN, DISABLED)),
    limits=("Without `slow_call_duration` there are no metrics of slow calls.",),
)
INTERLOCK = Library(
    name="interlock-cb",
    module="interlock",
    oldest="2.1.4",
    untold=ALWAYS_UNTOLD | NO_FALLBACKS,
    changes=_changes(_BY_RATE, (CLOSED, FORCED_OPEN, DISABLED)),
    limits=("The state `METRICS_ONLY` is shown as `disabled`: all calls pass.",),
)

LIBRARIES = (PYBREAKER, CIRCUITBREAKER, AIOBREAKER, PURGATORY, NOPANIC, INTERLOCK)
