"""A naive model of a breaker: slow, plain, and without a line of the implementation.

It takes over three enums and the policy as a value. It keeps lists of what happened and works
everything out again at each step. The rules, in its own words:

1.  CLOSED admits every call. Each SUCCESS or FAILURE that settles goes into the window. After a
    FAILURE or a slow call the trip rules are looked at, in this order: failures in a row, number of
    failures, share of failures, share of slow calls. A share is looked at only with at least
    `min_calls` calls, and it is met when it is as large as the rule or larger.
2.  IGNORED and CANCELLED are reported and change nothing, but a probe gives its place back.
3.  A window of calls is the last `window` entries. A window of time is cut into 10 buckets that
    begin at multiples of their width: an entry counts while its bucket is one of the last 10.
4.  OPEN refuses until its wait is over. The next call that asks then turns it into HALF_OPEN and
    is the first probe. With `probe_when_due`, whoever looks at the clock makes this change.
5.  A probe is admitted while fewer than `probes` are in flight and while those in flight and the
    results so far are together fewer than what is needed (or than `probes`, if that is more).
6.  A probe's place is free again `probe_lease` seconds after it was given; what such a probe says
    later is late.
7.  A failed probe opens the circuit again; so does a slow success, where slow calls are judged.
    Enough successes close it. With `probe_failure_rate` as many probes as rule 5 needs are judged:
    bad ones open it when their share of that number is as large as the rate or larger, and good
    ones close it when it could not become so large any more. Probes do not go into the window, but
    a failed one makes the row of failures longer.
8.  The wait is `open_for`, unless a probe failed, or the circuit tripped sooner after it closed
    than the last wait was long: then it is the last one (without jitter and hint) times `backoff`.
    Jitter moves it, a hint of the dependency lengthens it, `open_for_max` bounds it.
9.  A hint is remembered as the earliest time of the next attempt, until the circuit closes.
10. Entering CLOSED forgets the window. After a close by probes calls are admitted by credit for
    `ramp_up` seconds: it begins at 1, each call that asks adds the share of the ramp that is over,
    and an admitted call costs 1.
11. FORCED_OPEN refuses and DISABLED admits everything. A reset closes, and forgets window,
    back-off, hint and ramp; it forgets at once, also during an isolation, which only puts off the
    change of state.
12. The first isolation forces the circuit open, the last one that ends brings back the state it
    found (an open wait goes on; half-open comes back as open), or the last command given meanwhile.
13. Each change of state and each reset begins a new era. What was admitted in an older one is late.
14. Time that runs backwards is time that stands still.
15. A call that is made inside a probe in flight, of the same era, is admitted beside it: it is
    counted, says nothing, and takes no place.
16. An update puts other rules in force and begins a new era. It forgets the window if `window` or
    `slow_call` differ, sets the back-off to a new `open_for`, and shortens a wait or a ramp that is
    longer than the new rules would make it.
17. In shadow mode a call that would be refused is made all the same. Its result says nothing, and
    is not called late.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, fields
from datetime import timedelta
from itertools import pairwise
from math import floor, inf
from typing import Any

from breakerscope.core.events import Cause, Outcome, State
from breakerscope.core.policy import Policy

NO_ERA = -1

Told = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Ticket:
    """An admitted call."""

    era: int
    state: State
    ends: float = inf
    inside: tuple[Ticket, ...] = ()
    nested: bool = False


@dataclass(frozen=True)
class Refusal:
    """A refused call."""

    state: State
    retry_after: float | None


@dataclass(frozen=True)
class Entry:
    """One call in the window."""

    time: float
    failed: bool
    slow: bool


class Model:
    """See the top of the file. Each method takes the present time of the clock, whatever it is."""

    def __init__(
        self, name: str, policy: Policy, now: float, wall: float, random: Callable[[], float]
    ) -> None:
        self.name = name
        self.policy = policy
        self.random = random
        self.seen = now
        self.clock = now
        self.wall = wall - now
        self.state = State.CLOSED
        self.era = 0
        self.entries: list[Entry] = []
        self.row = 0
        self.last_wait = 0.0
        self.base_wait = policy.open_for
        self.open_until = -inf
        self.in_a_row = 0
        self.choose: Callable[[int], float | None] | None = None
        self.earliest = -inf
        self.closed_at = -inf
        self.places: list[Ticket] = []
        self.good_probes = self.bad_probes = 0
        self.ramp_from = -inf
        self.credit = 0.0
        self.holders = 0
        self.afterwards: State | None = None
        # What was told, and what is counted.
        self.told: list[Told] = []
        self.durations: dict[Outcome, list[float]] = {
            outcome: [] for outcome in Outcome if outcome is not Outcome.REJECTED
        }
        self.rejected = 0
        self.would_reject = 0
        self.slow = 0
        self.in_flight = 0
        self.changes: list[tuple[float, State, State, Cause]] = []
        self.born = now

    # -- time -------------------------------------------------------------------------------------

    def look(self, now: float) -> float:
        """Somebody looked at the clock."""
        self.clock = now
        self.seen = max(self.seen, now)
        due = self.state is State.OPEN and self.seen >= self.open_until
        if due and self.policy.probe_when_due:
            self.change(State.HALF_OPEN, Cause.WAIT_ELAPSED)
        return self.seen

    # -- the window -------------------------------------------------------------------------------

    def counted(self) -> list[Entry]:
        """What is in the window at the time last seen."""
        window = self.policy.window
        if isinstance(window, timedelta):
            width = window.total_seconds() / 10
            oldest = floor(self.seen / width) - 10
            # What has left never comes back, so it need not be kept.
            self.entries = [e for e in self.entries if floor(e.time / width) > oldest]
            return self.entries
        return self.entries[-window:]

    def figures(self) -> dict[str, Any]:
        """The figures at the time last seen."""
        entries = self.counted()
        calls = len(entries)
        failures = len([e for e in entries if e.failed])
        slow_calls = len([e for e in entries if e.slow])
        enough = calls >= self.policy.min_calls
        return {
            "calls": calls,
            "failures": failures,
            "slow_calls": slow_calls,
            "consecutive_failures": self.row,
            "failure_ratio": failures / calls if enough else None,
            "slow_call_ratio": slow_calls / calls if enough else None,
        }

    def met_rule(self) -> Cause | None:
        """The first trip rule that is met."""
        policy, figures = self.policy, self.figures()
        if policy.consecutive_failures and figures["consecutive_failures"] >= (
            policy.consecutive_failures
        ):
            return Cause.CONSECUTIVE_FAILURES
        if policy.failure_count and figures["failures"] >= policy.failure_count:
            return Cause.FAILURE_COUNT
        if figures["failure_ratio"] is None:
            return None
        if policy.failure_rate and figures["failure_ratio"] >= policy.failure_rate:
            return Cause.FAILURE_RATE
        if policy.slow_call_rate and figures["slow_call_ratio"] >= policy.slow_call_rate:
            return Cause.SLOW_CALL_RATE
        return None

    # -- calls ------------------------------------------------------------------------------------

    def ask(self, clock: float, inside: Ticket | None = None) -> Ticket | Refusal:
        """A call asks."""
        now = self.look(clock)
        around = () if inside is None else (inside, *inside.inside)
        if self.state is State.HALF_OPEN:
            self.free_places(now)
            if any(outer in self.places for outer in around):
                self.in_flight += 1
                return Ticket(self.era, self.state, inside=around, nested=True)
        if self.state is State.OPEN and now >= self.open_until:
            self.change(State.HALF_OPEN, Cause.WAIT_ELAPSED)
        admitted, retry_after = self.answer(now)
        if admitted:
            ticket = Ticket(
                self.era,
                self.state,
                now + self.policy.probe_lease if self.state is State.HALF_OPEN else inf,
                around,
            )
            if self.state is State.HALF_OPEN:
                self.places.append(ticket)
            self.in_flight += 1
            return ticket
        shadow = self.policy.shadow
        if shadow:
            self.would_reject += 1
        else:
            self.rejected += 1
        self.tell(
            "CallRejected",
            state=self.state,
            retry_after=retry_after,
            rejected=self.rejected + self.would_reject,
            enforced=not shadow,
        )
        if shadow:
            self.in_flight += 1
            return Ticket(NO_ERA, self.state, inside=around)
        return Refusal(self.state, retry_after)

    def answer(self, now: float) -> tuple[bool, float | None]:
        """Admitted or not, and when to come again."""
        policy = self.policy
        if self.state is State.DISABLED:
            return True, None
        if self.state is State.FORCED_OPEN:
            return False, None
        if self.state is State.OPEN:
            return False, self.open_until - now
        if self.state is State.HALF_OPEN:
            self.free_places(now)
            needed = max(policy.probes, policy.probe_successes or policy.probes)
            busy = len(self.places)
            wanted = busy + self.good_probes + self.bad_probes < needed
            if busy < policy.probes and (wanted or not busy):
                return True, None
            return False, min(place.ends for place in self.places) - now
        elapsed = now - self.ramp_from
        if elapsed >= policy.ramp_up:
            return True, None
        self.credit += elapsed / policy.ramp_up
        if self.credit >= 1:
            self.credit -= 1
            return True, None
        return False, policy.ramp_up - elapsed

    def free_places(self, now: float) -> None:
        self.places = [place for place in self.places if not now >= place.ends]

    def settle(
        self,
        ticket: Ticket,
        outcome: Outcome,
        clock: float,
        *,
        duration: float,
        error: str | None = None,
        hint: float = 0.0,
        choose: Callable[[int], float | None] | None = None,
    ) -> None:
        """An admitted call ends. `choose` takes the number of the opening."""
        now = self.look(clock)
        policy = self.policy
        duration = max(duration, 0.0)
        slow = policy.slow_call is not None and duration >= policy.slow_call
        self.in_flight -= 1
        self.durations[outcome].append(duration)
        self.slow += slow
        self.free_places(now)
        late = ticket.era != self.era or (ticket.ends < inf and ticket not in self.places)
        self.tell(
            "CallSettled",
            state=ticket.state,
            outcome=outcome,
            duration=duration,
            error=error,
            slow=slow,
            late=late and ticket.era != NO_ERA,
        )
        if late or ticket.nested:
            return
        self.choose = choose
        if hint > 0:
            self.earliest = max(self.earliest, now + hint)
        if ticket in self.places:
            self.places.remove(ticket)
        if outcome not in (Outcome.SUCCESS, Outcome.FAILURE):
            return
        failed = outcome is Outcome.FAILURE
        if self.state is State.CLOSED:
            self.row = self.row + 1 if failed else 0
            self.entries.append(Entry(now, failed, slow))
            if (failed or slow) and (cause := self.met_rule()) is not None:
                self.open(cause)
        elif self.state is State.HALF_OPEN:
            self.row = self.row + 1 if failed else 0
            good = not failed and not (slow and policy.slow_call_rate is not None)
            self.good_probes += good
            self.bad_probes += not good
            needed = policy.probe_successes or policy.probes
            opens, closes = self.bad_probes > 0, self.good_probes >= needed
            if policy.probe_failure_rate is not None:
                judged = max(policy.probes, needed)
                opens = self.bad_probes / judged >= policy.probe_failure_rate
                closes = (judged - self.good_probes) / judged < policy.probe_failure_rate
            if opens and not good:
                self.open(Cause.PROBE_FAILED)
            elif closes and good:
                self.change(State.CLOSED, Cause.PROBES_SUCCEEDED)
                self.ramp_from = now
                self.credit = 1.0

    # -- changes ----------------------------------------------------------------------------------

    def open(self, cause: Cause) -> None:
        policy = self.policy
        longest = policy.open_for_max or policy.open_for
        too_soon = self.seen - self.closed_at < self.last_wait
        if cause is Cause.PROBE_FAILED or too_soon:
            self.base_wait = min(self.base_wait * policy.backoff, longest)
            self.in_a_row += 1
        else:
            self.base_wait = policy.open_for
            self.in_a_row = 1
        wait = None if self.choose is None else self.choose(self.in_a_row)
        if wait is None:
            wait = self.base_wait
            if policy.jitter:
                wait = wait * (1 + policy.jitter * (2 * self.random() - 1))
        wait = max(wait, self.earliest - self.seen)
        self.last_wait = min(wait, longest)
        self.open_until = self.seen + self.last_wait
        self.change(State.OPEN, cause, open_for=self.last_wait)

    def change(
        self,
        new: State,
        cause: Cause,
        *,
        open_for: float | None = None,
        reason: str | None = None,
    ) -> None:
        old = self.state
        self.changes.append((self.seen, old, new, cause))
        self.tell(
            "StateChanged",
            old=old,
            new=new,
            cause=cause,
            open_for=open_for,
            rejected=self.rejected + self.would_reject,
            reason=reason,
            **self.figures(),
        )
        self.state = new
        self.era += 1
        self.places = []
        self.good_probes = self.bad_probes = 0
        if new is State.CLOSED:
            self.closed_at = self.seen
            self.earliest = -inf
            self.entries = []
            self.row = 0

    # -- commands ---------------------------------------------------------------------------------

    def force_open(self, clock: float, reason: str | None) -> None:
        self.command(State.FORCED_OPEN, Cause.FORCE_OPEN, clock, reason)

    def disable(self, clock: float, reason: str | None) -> None:
        self.command(State.DISABLED, Cause.DISABLE, clock, reason)

    def reset(self, clock: float, reason: str | None) -> None:
        self.command(State.CLOSED, Cause.RESET, clock, reason)

    def command(self, target: State, cause: Cause, clock: float, reason: str | None) -> None:
        self.look(clock)
        if self.holders:
            self.afterwards = target
        elif self.state is not target:
            self.change(target, cause, reason=reason)
        if target is State.CLOSED:
            self.era += 1
            self.places = []
            self.forget_all()

    def forget_all(self) -> None:
        self.entries = []
        self.row = 0
        self.base_wait = self.policy.open_for
        self.last_wait = 0.0
        self.in_a_row = 0
        self.earliest = -inf
        self.closed_at = -inf
        self.ramp_from = -inf

    def update(self, policy: Policy, clock: float, reason: str | None) -> None:
        now, old = self.look(clock), self.policy
        if policy == old:
            return
        if (policy.window, policy.slow_call) != (old.window, old.slow_call):
            self.entries = []
        if policy.open_for != old.open_for:
            self.base_wait = policy.open_for
        longest = policy.open_for_max or policy.open_for
        self.open_until = min(self.open_until, now + longest)
        self.ramp_from = min(self.ramp_from + old.ramp_up, now + policy.ramp_up) - policy.ramp_up
        self.era += 1
        self.places = []
        self.policy = policy
        pairs = [(f.name, getattr(old, f.name), getattr(policy, f.name)) for f in fields(policy)]
        changes = [f"{name}: {was!r} -> {now!r}" for name, was, now in pairs if was != now]
        self.tell("PolicyChanged", changes="; ".join(changes), reason=reason)

    def isolate(self, clock: float, reason: str | None) -> None:
        self.look(clock)
        self.holders += 1
        if self.holders == 1:
            self.afterwards = State.OPEN if self.state is State.HALF_OPEN else self.state
            if self.state is not State.FORCED_OPEN:
                self.change(State.FORCED_OPEN, Cause.FORCE_OPEN, reason=reason)

    def end_isolation(self, clock: float, reason: str | None) -> None:
        self.look(clock)
        self.holders -= 1
        if self.holders == 0:
            assert self.afterwards is not None
            if self.afterwards is not State.FORCED_OPEN:
                self.change(self.afterwards, Cause.RELEASE, reason=reason)

    # -- what is told and counted -----------------------------------------------------------------

    def tell(self, kind: str, **fields: Any) -> None:
        at = self.clock + self.wall
        self.told.append({"kind": kind, "breaker": self.name, "at": at, **fields})

    def calls(self) -> dict[Outcome, int]:
        settled = {outcome: len(durations) for outcome, durations in self.durations.items()}
        return settled | {Outcome.REJECTED: self.rejected}

    def histogram(self, outcome: Outcome, bounds: tuple[float, ...]) -> tuple[int, ...]:
        """The number of calls up to each bound and above the one before; the last has no bound."""
        durations = self.durations[outcome]
        edges = (-inf, *bounds, inf)
        return tuple(
            len([d for d in durations if low < d <= high]) for low, high in pairwise(edges)
        )

    def transitions(self) -> Counter[tuple[State, State, Cause]]:
        return Counter((old, new, cause) for _, old, new, cause in self.changes)

    def state_seconds(self) -> dict[State, float]:
        seconds = dict.fromkeys(State, 0.0)
        since = self.born
        for at, old, _, _ in self.changes:
            seconds[old] += at - since
            since = at
        seconds[self.state] += self.seen - since
        return seconds
