"""The state machine of a breaker: pure, without a lock, a clock, a thread or a listener.

Everything that decides about a state lives in this file. Time is an argument, in seconds of any
monotonic clock; time that stands still or runs backwards changes nothing. Whoever owns a machine
must let only one thread at a time into it; every method returns what happened, and the owner tells
the world.

Theory of operation
-------------------

CLOSED admits every call and judges the trip rules whenever a call settles. OPEN refuses every call
until its wait is over; the change to HALF_OPEN is lazy, it is made by the first call that asks
after the wait. HALF_OPEN admits a few probes; enough successes close the circuit, one failure opens
it again. FORCED_OPEN refuses and DISABLED admits everything until somebody gives another command.

Rule 1. An admitted call carries a `Permit`, and a permit carries the generation in which it was
        given. Each change of state begins a new generation. A result with a permit of an older
        generation is late: it is reported, and decides nothing.
Rule 2. A probe is a lease: a permit with an end. When the end has passed, its place is free again
        and its result is late. So no lost probe can keep a breaker half-open.
Rule 3. Only SUCCESS and FAILURE count. IGNORED and CANCELLED give their place back, no more.
Rule 4. A rate is judged only over at least `min_calls` calls.
Rule 5. When several trip rules are met at once, the cause is the first of: consecutive failures,
        failure count, failure rate, slow-call rate.
Rule 6. Calls that change nothing may be counted in a batch. `headroom` says how many failures can
        settle, mixed with any number of successes, before one of them could change the state.
Rule 7. Isolation is stronger than any other command. A command given during an isolation says what
        the state will be when the last holder has left.

`TRANSITIONS` is the whole table of legal changes; the diagram in the docs is drawn from it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import permutations
from math import inf
from typing import Any, NamedTuple

from breakerscope.events import Cause, Outcome, State
from breakerscope.policy import Policy
from breakerscope.windows import CountWindow, TimeWindow, Window

CLOSED, OPEN, HALF_OPEN = State.CLOSED, State.OPEN, State.HALF_OPEN
FORCED_OPEN, DISABLED = State.FORCED_OPEN, State.DISABLED

TRIPS = (
    Cause.CONSECUTIVE_FAILURES,
    Cause.FAILURE_COUNT,
    Cause.FAILURE_RATE,
    Cause.SLOW_CALL_RATE,
)

TRANSITIONS: frozenset[tuple[State, State, Cause]] = frozenset(
    [(CLOSED, OPEN, cause) for cause in TRIPS]
    + [
        (OPEN, HALF_OPEN, Cause.WAIT_ELAPSED),
        (HALF_OPEN, CLOSED, Cause.PROBES_SUCCEEDED),
        (HALF_OPEN, OPEN, Cause.PROBE_FAILED),
    ]
    + [(old, FORCED_OPEN, Cause.FORCE_OPEN) for old in State if old is not FORCED_OPEN]
    + [(old, DISABLED, Cause.DISABLE) for old in State if old is not DISABLED]
    + [(old, CLOSED, Cause.RESET) for old in State if old is not CLOSED]
    + [(FORCED_OPEN, new, Cause.RELEASE) for new in (CLOSED, OPEN, DISABLED)]
    + [(old, new, Cause.ADOPT) for old, new in permutations(State, 2)]
)


def transitions_of(policy: Policy) -> list[tuple[State, State, Cause]]:
    """The changes that a breaker with this policy can make: by its rules, and by hand."""
    rules = {cause for cause in TRIPS if getattr(policy, cause.value) is not None}
    never = {Cause.ADOPT, *TRIPS} - rules
    return sorted(change for change in TRANSITIONS if change[2] not in never)


def _resumable(state: State) -> State:
    """What an isolation gives back: the probes of a half-open breaker are gone by then."""
    return OPEN if state is HALF_OPEN else state


def _most_below(rate: float, calls: int) -> int:
    """The largest number of failures that is less than this share of the calls."""
    most = int(rate * calls) + 1
    while most / calls >= rate:
        most -= 1
    return most


class Permit:
    """Leave to make one call (a probe), or any number of calls of one generation."""

    __slots__ = ("generation", "lease_ends", "state")

    def __init__(self, generation: int, state: State, lease_ends: float = inf) -> None:
        self.generation = generation
        self.state = state
        self.lease_ends = lease_ends


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What the window holds. A ratio is None below the minimum number of calls.

    Attributes:
        calls: Successes and failures in the window.
        failures: Failures in the window.
        slow_calls: Calls in the window that took at least `slow_call` seconds.
        consecutive_failures: Failures in a row up to now, whatever the window holds.
        failure_ratio: Failures by calls, from 0 to 1.
        slow_call_ratio: Slow calls by calls, from 0 to 1.
    """

    calls: int
    failures: int
    slow_calls: int
    consecutive_failures: int
    failure_ratio: float | None
    slow_call_ratio: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """One change of state: the only source for its event, its log line and its metrics."""

    old: State
    new: State
    cause: Cause
    figures: Figures
    open_for: float | None = None
    reason: str | None = None


OUTSIDE = -1
"""The generation of calls that the machine did not admit and that are made all the same."""


class Admission(NamedTuple):
    """The answer to a call that asks: a permit, or None and the seconds until asking is worth
    it.
    """

    permit: Permit | None
    retry_after: float | None = None
    transition: Transition | None = None


class Verdict(NamedTuple):
    """What a settled call did: whether it came too late to count, and what it changed."""

    late: bool = False
    transition: Transition | None = None


NO_LEASES: frozenset[Permit] = frozenset()
COUNTED = Verdict()
LATE = Verdict(late=True)


class Machine:
    """See the top of the file. Not thread-safe: its owner holds a lock around each method."""

    __slots__ = (
        "_base_wait",
        "_closed_at",
        "_isolations",
        "_leases",
        "_not_before",
        "_now",
        "_open_until",
        "_probe_successes",
        "_ramp_credit",
        "_ramp_until",
        "_random",
        "_resume",
        "_window_forgets",
        "consecutive_failures",
        "generation",
        "permit",
        "policy",
        "state",
        "wait",
        "window",
    )

    permit: Permit
    _leases: frozenset[Permit]

    def __init__(self, policy: Policy, *, now: float, random: Callable[[], float]) -> None:
        self.policy = policy
        self.state = CLOSED
        self.window: Window = (
            CountWindow(policy.window)
            if isinstance(policy.window, int)
            else TimeWindow(policy.window.total_seconds())
        )
        self.window.advance(now)
        self._window_forgets = self.window.fence() < inf
        self.consecutive_failures = 0
        self._random = random
        self._now = now
        self.wait = 0.0
        self._base_wait = policy.open_for
        self._open_until = now
        self._not_before = -inf
        self._closed_at = -inf
        self._probe_successes = 0
        self._ramp_until = -inf
        self._ramp_credit = 0.0
        self._isolations = 0
        self._resume = CLOSED
        self.generation = -1
        self.new_generation()

    # -- a call asks ------------------------------------------------------------------------------

    def admit(self, now: float) -> Admission:
        """May one call run now?"""
        now = self.advance(now)
        if self.state is CLOSED:
            return Admission(self.permit) if now >= self._ramp_until else self._admit_share(now)
        if self.state is DISABLED:
            return Admission(self.permit)
        if self.state is FORCED_OPEN:
            return Admission(None)
        if self.state is HALF_OPEN:
            return self._admit_probe(now)
        if now < self._open_until:
            return Admission(None, self._open_until - now)
        transition = self._enter(HALF_OPEN, Cause.WAIT_ELAPSED)
        return self._admit_probe(now)._replace(transition=transition)

    def _admit_probe(self, now: float) -> Admission:
        self._expire_leases(now)
        policy = self.policy
        in_flight = len(self._leases)
        wanted = max(policy.probes, policy.successes_to_close)
        if in_flight < policy.probes and in_flight + self._probe_successes < wanted:
            probe = Permit(self.generation, HALF_OPEN, now + policy.probe_lease)
            self._leases |= {probe}
            return Admission(probe)
        return Admission(None, min(lease.lease_ends for lease in self._leases) - now)

    def _admit_share(self, now: float) -> Admission:
        """Ramp-up: the share admitted rises evenly from nothing to all; the first call is
        admitted.
        """
        left = self._ramp_until - now
        self._ramp_credit += 1 - left / self.policy.ramp_up
        if self._ramp_credit < 1:
            return Admission(None, left)
        self._ramp_credit -= 1
        return Admission(self.permit)

    def _expire_leases(self, now: float) -> None:
        self._leases = frozenset(lease for lease in self._leases if lease.lease_ends > now)

    # -- a call ends ------------------------------------------------------------------------------

    def settle(
        self, permit: Permit, outcome: Outcome, *, now: float, slow: bool = False, hint: float = 0.0
    ) -> Verdict:
        """One call ended. `hint`: the dependency asks to be left alone for so many seconds."""
        now = self.advance(now)
        if permit.generation != self.generation:
            return LATE
        if self.state is HALF_OPEN:
            self._expire_leases(now)
            if permit not in self._leases:
                return LATE
        if hint > 0:
            self._not_before = max(self._not_before, now + hint)
        if self.state is HALF_OPEN:
            return self._settle_probe(permit, outcome, slow=slow)
        if self.state is not CLOSED or outcome not in (Outcome.SUCCESS, Outcome.FAILURE):
            return COUNTED
        failed = outcome is Outcome.FAILURE
        self.consecutive_failures = self.consecutive_failures + 1 if failed else 0
        self.window.add(failed=failed, slow=slow)
        return Verdict(transition=self._judge())

    def _settle_probe(self, probe: Permit, outcome: Outcome, *, slow: bool) -> Verdict:
        self._leases -= {probe}
        if outcome is Outcome.FAILURE:
            self.consecutive_failures += 1
        elif outcome is Outcome.SUCCESS:
            self.consecutive_failures = 0
        too_slow = slow and self.policy.slow_call_rate is not None
        if outcome is Outcome.FAILURE or (outcome is Outcome.SUCCESS and too_slow):
            return Verdict(transition=self._open(Cause.PROBE_FAILED))
        if outcome is Outcome.SUCCESS:
            self._probe_successes += 1
            if self._probe_successes >= self.policy.successes_to_close:
                return Verdict(transition=self._close(Cause.PROBES_SUCCEEDED))
        return COUNTED

    def settle_batch(self, n: int, *, failed: bool = False) -> Transition | None:
        """`n` calls (1 or more) of this generation ended alike, not slow, and before `fence()`.

        Within the `headroom` that changes nothing. Two threads can use the last of it at once; then
        the rules are judged here, after the last of the calls.
        """
        if self.state is not CLOSED:
            return None
        self.consecutive_failures = self.consecutive_failures + n if failed else 0
        self.window.add_batch(n, failed=failed)
        return self._judge()

    def headroom(self) -> float:
        """How many failures cannot change the state before the next `fence()`, however many
        successes come in between, and none of them slow (rule 6). Below 0: even a success could.
        """
        if self.state is DISABLED:
            return inf
        if self.state is not CLOSED or self._now < self._ramp_until:
            return -1
        window, policy = self.window, self.policy
        # Until the fence the window only gains calls: no rate is judged over fewer than these.
        calls = max(window.calls, policy.min_calls)
        if (rate := policy.slow_call_rate) is not None and window.slow_calls / calls >= rate:
            return -1
        room = inf
        if (limit := policy.consecutive_failures) is not None:
            room = limit - 1 - self.consecutive_failures
        if (limit := policy.failure_count) is not None:
            room = min(room, limit - 1 - window.failures)
        if (rate := policy.failure_rate) is not None:
            room = min(room, _most_below(rate, calls) - window.failures)
        return room

    def fence(self) -> float:
        """The time until which `settle_batch` is exact."""
        return self.window.fence() if self.state is CLOSED else inf

    # -- the rules --------------------------------------------------------------------------------

    def figures(self, now: float) -> Figures:
        """What the window holds at `now`."""
        self.advance(now)
        return self._figures()

    def _figures(self) -> Figures:
        window = self.window
        enough = window.calls >= self.policy.min_calls
        return Figures(
            calls=window.calls,
            failures=window.failures,
            slow_calls=window.slow_calls,
            consecutive_failures=self.consecutive_failures,
            failure_ratio=window.failures / window.calls if enough else None,
            slow_call_ratio=window.slow_calls / window.calls if enough else None,
        )

    def _judge(self) -> Transition | None:
        cause = self._trip_cause()
        return None if cause is None else self._open(cause)

    def _trip_cause(self) -> Cause | None:
        policy, window = self.policy, self.window
        limit = policy.consecutive_failures
        if limit is not None and self.consecutive_failures >= limit:
            return Cause.CONSECUTIVE_FAILURES
        if (limit := policy.failure_count) is not None and window.failures >= limit:
            return Cause.FAILURE_COUNT
        calls = window.calls
        if calls < policy.min_calls:
            return None
        if (rate := policy.failure_rate) is not None and window.failures / calls >= rate:
            return Cause.FAILURE_RATE
        if (rate := policy.slow_call_rate) is not None and window.slow_calls / calls >= rate:
            return Cause.SLOW_CALL_RATE
        return None

    # -- manual commands --------------------------------------------------------------------------

    def force_open(self, now: float, reason: str | None = None) -> Transition | None:
        """Refuse everything until another command."""
        return self._command(FORCED_OPEN, Cause.FORCE_OPEN, now, reason)

    def disable(self, now: float, reason: str | None = None) -> Transition | None:
        """Admit everything until another command; calls are observed, rules are not judged."""
        return self._command(DISABLED, Cause.DISABLE, now, reason)

    def reset(self, now: float, reason: str | None = None) -> Transition | None:
        """Close, and forget the window and the back-off."""
        transition = self._command(CLOSED, Cause.RESET, now, reason)
        self._forget()
        self._base_wait = self.policy.open_for
        self.wait = 0.0
        self._not_before = -inf
        self._ramp_until = -inf
        return transition

    def isolate(self, now: float, reason: str | None = None) -> Transition | None:
        """Refuse everything until as many `end_isolation` have come."""
        now = self.advance(now)
        self._isolations += 1
        if self._isolations > 1:
            return None
        self._resume = _resumable(self.state)
        if self.state is FORCED_OPEN:
            return None
        return self._enter(FORCED_OPEN, Cause.FORCE_OPEN, reason=reason)

    def end_isolation(self, now: float, reason: str | None = None) -> Transition | None:
        """One holder has left."""
        now = self.advance(now)
        self._isolations -= 1
        if self._isolations or self._resume is FORCED_OPEN:
            return None
        return self._enter(self._resume, Cause.RELEASE, reason=reason)

    def _command(
        self, target: State, cause: Cause, now: float, reason: str | None
    ) -> Transition | None:
        self.advance(now)
        if self._isolations:
            self._resume = target
            return None
        return None if self.state is target else self._enter(target, cause, reason=reason)

    # -- changing the state -----------------------------------------------------------------------

    def _open(self, cause: Cause) -> Transition:
        policy = self.policy
        stable = self._now - self._closed_at >= self.wait
        if cause is not Cause.PROBE_FAILED and stable:
            self._base_wait = policy.open_for
        elif self.wait:
            self._base_wait = min(self._base_wait * policy.backoff, policy.longest_wait)
        spread = policy.jitter * (2 * self._random() - 1) if policy.jitter else 0.0
        asked = self._not_before - self._now
        self.wait = min(max(self._base_wait * (1 + spread), asked), policy.longest_wait)
        self._open_until = self._now + self.wait
        return self._enter(OPEN, cause, open_for=self.wait)

    def _close(self, cause: Cause) -> Transition:
        transition = self._enter(CLOSED, cause)
        if self.policy.ramp_up:
            self._ramp_until = self._now + self.policy.ramp_up
            self._ramp_credit = 1.0
        return transition

    def _enter(
        self,
        new: State,
        cause: Cause,
        *,
        open_for: float | None = None,
        reason: str | None = None,
    ) -> Transition:
        transition = Transition(
            old=self.state,
            new=new,
            cause=cause,
            figures=self._figures(),
            open_for=open_for,
            reason=reason,
        )
        self.state = new
        self.new_generation()
        self._probe_successes = 0
        if new is CLOSED:
            self._closed_at = self._now
            self._not_before = -inf
            self._forget()
        return transition

    def new_generation(self) -> None:
        """Calls admitted so far are late from now on, and leases are free again; nothing else
        changes.
        """
        self.generation += 1
        self._leases = NO_LEASES
        self.permit = Permit(self.generation, self.state)

    def _forget(self) -> None:
        self.window.clear()
        self.consecutive_failures = 0

    def advance(self, now: float) -> float:
        """The time from here on: `now`, unless it is older than a time already seen."""
        if now <= self._now:
            return self._now
        self._now = now
        if self._window_forgets:
            self.window.advance(now)
        return now

    # -- as plain data ----------------------------------------------------------------------------

    def dump(self, now: float) -> dict[str, Any]:
        """The whole state as plain data. Times are durations, so another process can use them."""
        now = self.advance(now)
        return {
            "state": self.state.value,
            "rows": self.window.dump(),
            "consecutive_failures": self.consecutive_failures,
            "wait": self.wait,
            "base_wait": self._base_wait,
            "open_for": max(self._open_until - now, 0.0) if self.state is OPEN else None,
            "closed_for": None if self._closed_at == -inf else now - self._closed_at,
            "ramp_for": max(self._ramp_until - now, 0.0),
            "probe_successes": self._probe_successes,
        }

    def load(self, data: Mapping[str, Any], now: float) -> Transition | None:
        """Take over a dumped state. Leases stay with those who hold them: they are not taken
        over.
        """
        now = self.advance(now)
        state = State(data["state"])
        transition = None
        if self._isolations:
            self._resume = _resumable(state)
        elif state is not self.state:
            transition = self._enter(state, Cause.ADOPT, open_for=data["open_for"])
        self.window.load(data["rows"])
        self.consecutive_failures = data["consecutive_failures"]
        self.wait = data["wait"]
        self._base_wait = data["base_wait"]
        self._open_until = now + (data["open_for"] or 0.0)
        self._closed_at = -inf if data["closed_for"] is None else now - data["closed_for"]
        self._ramp_until = now + min(data["ramp_for"], self.policy.ramp_up)
        self._probe_successes = data["probe_successes"]
        return transition
