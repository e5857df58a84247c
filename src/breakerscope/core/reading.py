"""Everything about one breaker at one moment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from breakerscope.core.counters import Durations
from breakerscope.core.events import Cause, Outcome, State
from breakerscope.core.policy import Policy
from breakerscope.core.transitions import Figures


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Exact: each call that settled before is in it, and all numbers are of the same moment.

    Counters are totals since the breaker was made (in this process). Times are seconds, ratios run
    from 0 to 1 and are None below the minimum number of calls. Frozen, so it may be shared between
    threads.

    Attributes:
        breaker: The name.
        policy: The rules in force.
        buckets: The upper bounds of the duration histogram, in seconds.
        state: The state.
        entered_at: When it was entered, as unix time.
        figures: What the window holds.
        open_wait: The wait of the last opening; before the first one, that of the policy.
        durations: The duration histogram of each outcome but `REJECTED`.
        rejected: Calls that were refused.
        slow: Calls that took at least the policy's `slow_call` seconds.
        probe_successes: Probes that have succeeded since the breaker is half-open.
        in_flight: Calls that were admitted and have not ended.
        would_reject: Calls that a policy in shadow mode would have refused.
        fallbacks: Uses of a fallback, by what it stood in for.
        transitions: Changes of state, by old state, new state and cause.
        state_seconds: The time spent in each state.
        untold: The metrics that a breaker of another library (see `bridges`) cannot tell.
        changes: All changes of state that such a breaker can make; None: those of the policy.
    """

    breaker: str
    policy: Policy
    buckets: tuple[float, ...]
    state: State
    entered_at: float
    figures: Figures
    open_wait: float
    durations: Mapping[Outcome, Durations]
    rejected: int
    slow: int
    in_flight: int
    would_reject: int
    fallbacks: Mapping[Outcome, int]
    transitions: Mapping[tuple[State, State, Cause], int]
    state_seconds: Mapping[State, float]
    probe_successes: int = 0
    untold: frozenset[object] = frozenset()
    changes: tuple[tuple[State, State, Cause], ...] | None = None

    @property
    def calls(self) -> dict[Outcome, int]:
        """How many calls ended in each outcome."""
        settled = {outcome: sum(of.counts) for outcome, of in self.durations.items()}
        return settled | {Outcome.REJECTED: self.rejected}


class WatchedBreaker(Protocol):
    """What has series in the metrics: a `CircuitBreaker`, or a bridged breaker of another library.
    Thread-safe.
    """

    @property
    def name(self) -> str:
        """The label `breaker` in all telemetry."""
        ...

    @property
    def labels(self) -> Mapping[str, str]:
        """Labels of its metrics, besides those of the set-up."""
        ...

    def read(self) -> Reading:
        """Everything at this moment."""
        ...
