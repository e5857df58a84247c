"""What is true of one breaker now: its state machine, its counters, and what waits to be counted.

The fast path takes no lock. A call takes a token of the shared permit, a plain success leaves its
duration in the permit's journal, and so does a failure that cannot open the circuit, if it gets a
failure token. Whoever holds the lock next drains the journal into state machine and counters before
anything is read or changed, so every reading is exact.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from math import inf
from weakref import ref

from breakerscope.core.checks import SLOW_PATH, Check
from breakerscope.core.clock import Clock
from breakerscope.core.counters import Counters
from breakerscope.core.journal import Journal, batch_size, runs_of
from breakerscope.core.manual_control import ControlledStateMachine
from breakerscope.core.permits import SharedPermit
from breakerscope.core.policy import Policy
from breakerscope.core.publisher import Publisher
from breakerscope.core.reentrant import Reentrant
from breakerscope.core.rejections import RejectionTokens
from breakerscope.core.subscribers import Bus

SOONEST = 0.001
"""In how many seconds a timer calls at the soonest: its clock may not be that of the breaker."""


class Bookkeeping(Reentrant):
    """See the top of the file. Methods named `_locked` expect the lock."""

    __slots__ = (
        "__weakref__",
        "_bus",
        "_calls",
        "_clock",
        "_counters",
        "_entered_at",
        "_known_policy",
        "_noticed",
        "_permit",
        "_publisher",
        "_rejections",
        "_retired",
        "_wakes_at",
        "_wall",
        "buckets",
        "machine",
        "name",
        "wrapped_for",
    )

    def __init__(
        self,
        name: str,
        policy: Policy,
        *,
        buckets: tuple[float, ...],
        clock: Clock,
        random: Callable[[], float],
        bus: Bus,
    ) -> None:
        self.name = name
        self.buckets = buckets
        self._clock = clock.monotonic
        self._wall = clock.wall
        self._bus = bus
        self.machine = ControlledStateMachine(policy, now=clock.monotonic(), random=random)
        self.wrapped_for = policy
        """For which rules the wrappers of this breaker were built."""
        self._publisher = Publisher(name, clock.wall)
        self._entered_at = clock.wall()
        self._start_over()
        bus.attach(self)

    def _start_over(self) -> None:
        super()._start_over()
        self._counters = Counters(
            self.buckets,
            state=self.machine.state,
            now=self.machine.advance(self._clock()),
            clock_may_go_back=self._clock is not time.monotonic,
        )
        self._calls = 0
        self._permit = self.machine.permit
        self._noticed = self.machine.transition
        self._known_policy = self.machine.policy
        self._retired: tuple[tuple[ref[SharedPermit], Journal], ...] = ()
        self._rejections: RejectionTokens | None = None
        self._wakes_at = inf
        self._publisher.start_over()

    @property
    def policy(self) -> Policy:
        """The rules in force."""
        return self.machine.policy

    # -- what calls may do without the lock --------------------------------------------------------

    def _allow_failures_locked(self) -> bool:
        """Let failures settle without the lock as far as they cannot change the state. False where
        more of them are on their way to the journal: the next call that asks will find them.
        """
        self._notice_transition_locked()
        machine, permit = self.machine, self._permit
        room = machine.failures_until_trip() if self._wrappers_fit else 0
        if permit.allow_failures(room, batch_size(self._calls)):
            return True
        permit.tokens.withdraw()
        permit.watched = permit.watched_failures = SLOW_PATH
        return False

    def _success_check_locked(self) -> Check:
        """A queue gets its events in order, so under the lock."""
        subscribers = self._publisher.subscribers
        if subscribers.queues_successes or not self._wrappers_fit:
            return SLOW_PATH
        return subscribers.success_guard

    @property
    def _wrappers_fit(self) -> bool:
        """False if an update has made other calls slow, or the window another one: what was built
        before settles under the lock from then on.
        """
        built, present = self.wrapped_for, self.machine.policy
        if built is present:
            return True
        same_kind = isinstance(built.window, int) == isinstance(present.window, int)
        return built.slow_call == present.slow_call and same_kind

    # -- the journal ------------------------------------------------------------------------------

    def _catch_up_locked(self) -> None:
        """Take in what happened without the lock, and what an interrupt kept from being done."""
        machine, counters = self.machine, self._counters
        self._notice_transition_locked()
        if self._rejections is not None:
            self._rejections.count_locked(counters)
        if counters.unjudged:
            self._judge_locked()
        if self._permit.journal.entries:
            timed = not machine.counts_calls
            in_runs = partial(runs_of, bucket=machine.window.bucket) if timed else runs_of
            counters.drain(self._permit.journal, in_runs, timed=timed)
            self._judge_locked()
        now = machine.advance(self._clock())
        if self._rejections is not None:
            machine.advance(self._rejections.advance_locked(now))
        machine.end_lost_isolations()
        self._notice_transition_locked()
        machine.end_wait()
        self._notice_transition_locked()
        if self._retired:
            self._drain_retired_locked()
        while self._deferred:
            self._deferred.pop(0)()
            self._notice_transition_locked()

    def _complete_locked(self) -> None:
        self._notice_transition_locked()
        due_in = self.machine.due_in
        if due_in is not None and (due := self.machine.now + due_in) < self._wakes_at:
            self._bus.call_later(max(due_in, SOONEST), self._wake)
            self._wakes_at = due

    def _wake(self) -> None:
        """Look whether the wait is over."""
        self._wakes_at = inf
        self.catch_up()

    def catch_up(self) -> None:
        """Take in what has happened so far, and tell it."""
        self._run(_nothing)

    def _judge_locked(self) -> None:
        """What was drained goes into the window, run by run; each is forgotten when it is there."""
        machine, runs = self.machine, self._counters.unjudged
        while runs:
            n, failed, at = runs[0]
            machine.settle_batch(n, failed=failed, at=at)
            del runs[0]
            if failed:
                machine.judge()
                self._allow_failures_locked()

    def _drain_retired_locked(self) -> None:
        kept: list[tuple[ref[SharedPermit], Journal]] = []
        for held, journal in self._retired:
            # Who is in flight holds the permit. When it has gone, nobody is.
            gone = held() is None
            if journal.entries:
                # An update may have changed what the window counts.
                self._counters.drain(journal, timed=True)
            if journal.in_flight and not gone:
                kept.append((held, journal))
        self._retired = tuple(kept)

    # -- the state changes ------------------------------------------------------------------------

    def _notice_transition_locked(self) -> None:
        """Tell the world of a change of state that the machine has made, and go on with its new
        permit.
        """
        machine, old = self.machine, self._permit
        if old is not machine.permit:
            self._end_rejections_locked()
            old.retire()
            retired = (*self._retired, (ref(old), old.journal))
            self._retired, self._permit = retired, machine.permit
        if self._known_policy is not machine.policy:
            changes = "; ".join(self._known_policy.differences(machine.policy, between="->"))
            self._known_policy = machine.policy
            # The wrappers may not fit for the calls in flight either.
            for permit in self._retired_permits():
                permit.watched = permit.watched_failures = SLOW_PATH
            self._publisher.policy_changed_locked(changes, machine.update_reason, self._deliveries)
        transition = machine.transition
        if transition is None or transition is self._noticed:
            return
        counters, at = self._counters, self._wall()
        counters.add_transition(transition.old, transition.new, transition.cause, machine.now)
        self._noticed, self._entered_at = transition, at
        rejected = counters.rejected + counters.would_reject
        self._publisher.changed_locked(transition, at, rejected, self._deliveries)

    def _retired_permits(self) -> list[SharedPermit]:
        """Those of earlier stays in a state whose calls are in flight."""
        return [permit for held, _ in self._retired if (permit := held()) is not None]

    def _end_rejections_locked(self) -> None:
        if self._rejections is not None:
            self._rejections.end_locked(self._counters)
            self._rejections = None


def _nothing() -> None:
    """Only the catching up is wanted."""
