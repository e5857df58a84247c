"""The state machine of a breaker: pure, without a lock, a clock, a thread or a listener.

Everything that decides about a state by itself lives in this file. Time is an argument, in seconds
of any monotonic clock; time that stands still or runs backwards changes nothing.

Theory of operation
-------------------

CLOSED admits every call and judges the trip rules whenever a failing or a slow call settles. OPEN
rejects every call until its wait is over; the change to HALF_OPEN is lazy, it is made by the first
call that asks after the wait, or with `probe_when_due` by whoever looks. HALF_OPEN admits a few
probes; enough successes close the circuit, enough failures (by default one) open it again.
FORCED_OPEN rejects and DISABLED admits everything until somebody gives another command: see
`manual_control`.

Rule 1. An admitted call carries a permit, and a permit carries the generation in which it was
        given. Each change of state and each reset begins a new generation. A result with a permit
        of an older generation is late: it is reported, and decides nothing.
Rule 2. A probe is a lease: a permit with an end. When the end has passed, or nobody holds the
        permit any more, its place is free again and its result is late. So no lost probe can keep
        a breaker half-open.
Rule 3. Only SUCCESS and FAILURE count. IGNORED and CANCELLED give their place back, no more.
Rule 4. A rate is judged only over at least `min_calls` calls.
Rule 5. When several trip rules are met at once, the cause is the first of: consecutive failures,
        failure count, failure rate, slow-call rate.
Rule 6. A success that is not slow never opens the circuit (as in Polly and gobreaker). So such
        successes may be counted in batches, and so may failures that cannot trip:
        `failures_until_trip` says how many can settle, mixed with any number of successes.
Rule 7. A call made inside a probe of the same breaker is admitted under the permission of that
        probe and has no say: who waits for itself would never end.

An interrupt may strike at any call. A change of state is published by one statement without a call,
in `_enter`; what is forgotten before it, as a circuit closes, is forgotten on purpose.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf
from weakref import ref

from breakerscope.core.events import Cause, Outcome, State
from breakerscope.core.permits import Admission, AnyPermit, Permit, SharedPermit
from breakerscope.core.policy import Policy
from breakerscope.core.transitions import (
    CLOSED,
    DISABLED,
    FORCED_OPEN,
    HALF_OPEN,
    OPEN,
    Figures,
    Transition,
)
from breakerscope.core.trip_rules import failures_until_trip, figures_of, trip_cause
from breakerscope.core.waits import next_base, wait_of
from breakerscope.core.windows import Window, window_of


class StateMachine:
    """See the top of the file. Not thread-safe: its owner holds a lock around each method.

    `transition` is the last change of state, None before the first one.
    """

    __slots__ = (
        "_base_wait",
        "_chosen_wait",
        "_closed_at",
        "_isolations",
        "_leases",
        "_not_before",
        "_open_until",
        "_openings",
        "_probe_failures",
        "_ramp_credit",
        "_ramp_until",
        "_random",
        "_resume",
        "consecutive_failures",
        "counts_calls",
        "generation",
        "now",
        "permit",
        "policy",
        "probe_successes",
        "slow_from",
        "state",
        "transition",
        "update_reason",
        "wait",
        "window",
    )

    def __init__(self, policy: Policy, *, now: float, random: Callable[[], float]) -> None:
        self.policy = policy
        self.state = CLOSED
        self.update_reason: str | None = None
        self.counts_calls = isinstance(policy.window, int)
        self.slow_from = policy.slow_from
        self.window: Window = window_of(policy)
        self.window.advance(now)
        self.consecutive_failures = 0
        self._random = random
        self.now = now
        self.wait = 0.0
        self._base_wait: float = policy.open_for
        self._chosen_wait: float | None = None
        self._openings = 0
        self._open_until = now
        self._not_before = -inf
        self._closed_at = -inf
        self.probe_successes = 0
        self._probe_failures = 0
        self._ramp_until = -inf
        self._ramp_credit = 0.0
        self._isolations: tuple[ref[object], ...] = ()
        self._resume = CLOSED
        self._leases: tuple[ref[Permit], ...] = ()
        self.transition: Transition | None = None
        self.generation = 0
        self.permit = SharedPermit(0, CLOSED)

    def admit(self, now: float, inside: Sequence[Permit] = ()) -> Admission:
        """May one call run now? `inside`: the probes that it is made inside of."""
        now = self.advance(now)
        if self.state is CLOSED:
            return Admission(self.permit) if now >= self._ramp_until else self._admit_share(now)
        if self.state is DISABLED:
            return Admission(self.permit)
        if self.state is FORCED_OPEN:
            return Admission(None)
        if self.state is OPEN:
            if now < self._open_until:
                return Admission(None, self._open_until - now)
            self._enter(HALF_OPEN, Cause.WAIT_ELAPSED)
        return self._admit_probe(now, inside)

    def would_admit(self) -> bool:
        """Whether a call that asks now would be admitted. Takes no place."""
        if self.state is CLOSED and (left := self._ramp_until - self.now) > 0:
            return self._ramp_credit >= left / self.policy.ramp_up
        if self.state is OPEN:
            return self.now >= self._open_until
        return self.state is not FORCED_OPEN and (self.state is not HALF_OPEN or self._has_place())

    def _has_place(self) -> bool:
        """Whether one more probe is wanted."""
        in_flight = len(self._live_leases(self.now))
        settled = self.probe_successes + self._probe_failures
        still_wanted = in_flight + settled < self.policy.probes_judged
        # With none in flight, nobody else could ever end this state.
        return in_flight < self.policy.probes and (still_wanted or not in_flight)

    @property
    def due_in(self) -> float | None:
        """The seconds until an open circuit becomes half-open by itself; None if it does not."""
        by_itself = self.state is OPEN and self.policy.probe_when_due
        return max(self._open_until - self.now, 0.0) if by_itself else None

    def end_wait(self) -> None:
        """Become half-open if that is due."""
        if self.due_in == 0:
            self._enter(HALF_OPEN, Cause.WAIT_ELAPSED)

    def _admit_probe(self, now: float, inside: Sequence[Permit]) -> Admission:
        leases = self._live_leases(now)
        if any(probe in leases for probe in inside):
            return Admission(Permit(self.generation, HALF_OPEN, self.permit, nested=True))
        if self._has_place():
            ends = now + self.policy.probe_lease
            probe = Permit(self.generation, HALF_OPEN, self.permit, ends)
            self._leases = (*map(ref, leases), ref(probe))
            return Admission(probe)
        return Admission(None, min(lease.lease_ends for lease in leases) - now)

    def _admit_share(self, now: float) -> Admission:
        """Ramp-up: the share admitted rises evenly from nothing to all, and the first one is."""
        left = self._ramp_until - now
        self._ramp_credit += 1 - left / self.policy.ramp_up
        if self._ramp_credit < 1:
            return Admission(None, left)
        self._ramp_credit -= 1
        return Admission(self.permit)

    def _live_leases(self, now: float) -> list[Permit]:
        """The probes that somebody holds and whose time is not over."""
        held = [probe for lease in self._leases if (probe := lease()) is not None]
        return [probe for probe in held if probe.lease_ends > now]

    # -- a call ends ------------------------------------------------------------------------------

    def settle(
        self,
        permit: AnyPermit,
        outcome: Outcome,
        *,
        now: float,
        slow: bool = False,
        hint: float = 0.0,
        wait: float | None = None,
    ) -> bool:
        """One call ended; says whether it came too late to count. `hint`: for how many seconds the
        dependency asks to be left alone; `wait`: for how many the code would open the circuit.
        """
        now = self.advance(now)
        if permit.generation != self.generation:
            return True
        leases: list[Permit] = []
        if self.state is HALF_OPEN:
            if permit.nested:
                return False
            leases = self._live_leases(now)
            if permit not in leases:
                return True
        if hint > 0:
            self._not_before = max(self._not_before, now + hint)
        self._chosen_wait = wait
        bad = outcome is Outcome.FAILURE
        if self.state is HALF_OPEN:
            self._leases = tuple(ref(lease) for lease in leases if lease is not permit)
            self._settle_probe(outcome, slow=slow)
        elif self.state is CLOSED and (bad or outcome is Outcome.SUCCESS):
            self.consecutive_failures = self.consecutive_failures + 1 if bad else 0
            self.window.add(failed=bad, slow=slow)
            if bad or slow:
                self.judge()
        return False

    def _settle_probe(self, outcome: Outcome, *, slow: bool) -> None:
        policy, failed = self.policy, outcome is Outcome.FAILURE
        if outcome not in (Outcome.FAILURE, Outcome.SUCCESS):
            return
        self.consecutive_failures = self.consecutive_failures + 1 if failed else 0
        if failed or (slow and policy.slow_call_rate is not None):
            failures = self._probe_failures + 1
            if failures >= policy.failures_to_reopen:
                self._open(Cause.PROBE_FAILED)
            else:
                self._probe_failures = failures
        else:
            successes = self.probe_successes + 1
            if successes >= policy.successes_to_close:
                self._close(Cause.PROBES_SUCCEEDED)
            else:
                self.probe_successes = successes

    def settle_batch(self, n: int, *, failed: bool = False, at: float = -inf) -> None:
        """`n` calls of this generation ended alike at that time, none of them slow. If they failed,
        `judge` has to follow: some may have taken tokens before others settled one by one.
        """
        self.advance(at)
        if self.state is CLOSED:
            self.consecutive_failures = self.consecutive_failures + n if failed else 0
            self.window.add_batch(n, failed=failed)

    def failures_until_trip(self) -> float:
        """How many failures cannot open the circuit, mixed with any plain successes (rule 6)."""
        if self.state is DISABLED:
            return inf
        if self.state is not CLOSED:
            return 0
        return failures_until_trip(self.policy, self.window, self.consecutive_failures)

    @property
    def admits_all(self) -> bool:
        """Whether every call is admitted at present, without a question."""
        return self.state is DISABLED or (self.state is CLOSED and self.now >= self._ramp_until)

    def figures(self, now: float = -inf) -> Figures:
        """What the window holds at `now`."""
        self.advance(now)
        return figures_of(self.policy, self.window, self.consecutive_failures)

    def judge(self) -> None:
        """Open the circuit if it is closed and a trip rule is met."""
        if self.state is CLOSED:
            cause = trip_cause(self.policy, self.window, self.consecutive_failures)
            if cause is not None:
                self._open(cause)

    # -- changing the state -----------------------------------------------------------------------

    def _open(self, cause: Cause) -> None:
        opening = self.next_opening(self.now)
        base = next_base(self.policy, self._base_wait, opening)
        asked = self._not_before - self.now
        wait = wait_of(self.policy, base, self._random, asked=asked, chosen=self._chosen_wait)
        self._enter(OPEN, cause, wait=wait, base=base, openings=opening)

    def next_opening(self, now: float) -> int:
        """Which one in a row the next is: 1 if it has been closed as long as the last wait was."""
        stable = self.state is CLOSED and now - self._closed_at >= self.wait
        return 1 if stable else self._openings + 1

    def _close(self, cause: Cause) -> None:
        if self.policy.ramp_up:
            self._ramp_until = self.now + self.policy.ramp_up
            self._ramp_credit = 1.0
        self._enter(CLOSED, cause)

    def _enter(
        self,
        new: State,
        cause: Cause,
        *,
        wait: float | None = None,
        base: float | None = None,
        openings: int = 0,
        open_for: float | None = None,
        reason: str | None = None,
        isolations: tuple[ref[object], ...] | None = None,
    ) -> None:
        isolations = self._isolations if isolations is None else isolations
        transition = Transition(
            old=self.state,
            new=new,
            cause=cause,
            figures=self.figures(),
            open_for=open_for if wait is None else wait,
            reason=reason,
        )
        generation = self.generation + 1
        permit = SharedPermit(generation, new)
        if new is CLOSED:
            self._closed_at = self.now
            self._not_before = -inf
            self.window.clear()
            self.consecutive_failures = 0
        if wait is not None and base is not None:
            # fmt: off
            self.wait, self._base_wait, self._openings, self._open_until = wait, base, openings, self.now + wait  # noqa: E501
            # fmt: on
        # fmt: off
        self.transition, self.state, self.generation, self.permit, self._leases, self.probe_successes, self._probe_failures, self._isolations = transition, new, generation, permit, (), 0, 0, isolations  # noqa: E501
        # fmt: on

    def new_generation(self) -> None:
        """Calls admitted so far are late from now on, and leases are free; nothing else changes."""
        generation = self.generation + 1
        permit = SharedPermit(generation, self.state)
        self.generation, self.permit, self._leases = generation, permit, ()

    def advance(self, now: float) -> float:
        """The time from here on: `now`, unless it is older than a time already seen."""
        if now > self.now:
            self.now = now
            if not self.counts_calls:
                self.window.advance(now)
        return self.now
