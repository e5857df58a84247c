"""Makes the events of one breaker and hands them to its subscribers.

Queues are served under the breaker's lock, so they get events in the order of `seq`. Inline
listeners are foreign code: their deliveries are noted, and made when the lock has been released.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import copy_context
from itertools import count
from math import inf
from typing import Any, cast

from breakerscope.core.classification import error_name
from breakerscope.core.counters import NOTHING
from breakerscope.core.events import (
    CallRejected,
    CallRejectedDraft,
    CallSettled,
    CallSettledDraft,
    Event,
    FallbackUsed,
    Outcome,
    PolicyChanged,
    State,
    StateChanged,
)
from breakerscope.core.subscribers import Subscriber, Subscribers
from breakerscope.core.transitions import Transition

Deliveries = list[tuple[Subscriber, Event | None]]
"""Inline deliveries to make; None asks for the thread of a queue."""


class Publisher:
    """See the top of the file. Methods named `_locked` expect the lock of the breaker."""

    __slots__ = ("_breaker", "_quiet_until", "_seqs", "_wall", "subscribers")

    def __init__(self, breaker: str, wall: Callable[[], float]) -> None:
        self._breaker = breaker
        self._wall = wall
        self._seqs: Iterator[int] = count(1)
        self.subscribers = Subscribers(())
        self.start_over()

    def start_over(self) -> None:
        """Remember nothing of rejections that were told."""
        self._quiet_until: Mapping[Subscriber, float] = NOTHING

    def set_subscribers_locked(self, subscribers: Subscribers) -> None:
        """Another set of listeners."""
        self.subscribers = subscribers
        if self._quiet_until:
            still_heard = self._quiet_until.keys() & {*subscribers.rejected}
            self._quiet_until = {s: self._quiet_until[s] for s in still_heard}

    # -- events -----------------------------------------------------------------------------------

    def settled(
        self,
        state: State,
        outcome: Outcome,
        duration: float,
        error: str | BaseException | None = None,
        *,
        slow: bool = False,
        late: bool = False,
    ) -> CallSettled:
        """The event of a call that ended. Needs no lock."""
        event = CallSettledDraft()
        event.breaker = self._breaker
        event.seq = next(self._seqs)
        event.at = self._wall()
        event.state = state
        event.outcome = outcome
        event.duration = duration
        event.error = error_name(error) if isinstance(error, BaseException) else error
        event.slow = slow
        event.late = late
        event.__class__ = CallSettled
        return cast("CallSettled", event)

    def wanted(self, outcome: Outcome) -> list[Subscriber]:
        """Who wants to hear of a call that ended so, here and now. Asks their guards."""
        settled = self.subscribers.settled[outcome]
        return [s for guard, s in settled if guard is None or guard()]

    def rejected_locked(
        self,
        state: State,
        retry_after: float | None,
        now: float,
        rejected: int,
        *,
        enforced: bool,
        watched: bool,
        deliveries: Deliveries,
    ) -> None:
        """A call was rejected; `watched`: a guard wants to hear of it."""
        heard = self.subscribers.rejected
        due = [s for s in heard if self._is_due_locked(s, now, watched=watched)]
        if not due:
            return
        event = CallRejectedDraft()
        event.breaker = self._breaker
        event.seq = next(self._seqs)
        event.at = self._wall()
        event.state = state
        event.retry_after = retry_after
        event.rejected = rejected
        event.enforced = enforced
        event.__class__ = CallRejected
        self.publish_locked(due, event, deliveries)

    def _is_due_locked(self, subscriber: Subscriber, now: float, *, watched: bool) -> bool:
        if CallRejected in subscriber.guards and not watched:
            return False
        if subscriber.every:
            if now < self._quiet_until.get(subscriber, -inf):
                return False
            self._quiet_until = {**self._quiet_until, subscriber: now + subscriber.every}
        return True

    def quiet_until_locked(self) -> float:
        """The time until which only guarded listeners want to hear of a rejection."""
        heard = self.subscribers.rejected
        if any(not s.every and CallRejected not in s.guards for s in heard):
            return -inf
        return min((self._quiet_until.get(s, -inf) for s in heard if s.every), default=inf)

    def changed_locked(
        self, transition: Transition, at: float, rejected: int, deliveries: Deliveries
    ) -> None:
        """The state changed at this wall-clock time."""
        if not self.subscribers.changed:
            return
        figures = transition.figures
        event = StateChanged(
            breaker=self._breaker,
            seq=next(self._seqs),
            at=at,
            old=transition.old,
            new=transition.new,
            cause=transition.cause,
            calls=figures.calls,
            failures=figures.failures,
            slow_calls=figures.slow_calls,
            consecutive_failures=figures.consecutive_failures,
            failure_ratio=figures.failure_ratio,
            slow_call_ratio=figures.slow_call_ratio,
            open_for=transition.open_for,
            rejected=rejected,
            reason=transition.reason,
        )
        self.publish_locked(self.subscribers.changed, event, deliveries)

    def policy_changed_locked(
        self, changes: str, reason: str | None, deliveries: Deliveries
    ) -> None:
        """The rules were changed."""
        if not self.subscribers.policy_changes:
            return
        event = PolicyChanged(
            breaker=self._breaker,
            seq=next(self._seqs),
            at=self._wall(),
            changes=changes,
            reason=reason,
        )
        self.publish_locked(self.subscribers.policy_changes, event, deliveries)

    def fallback_locked(self, outcome: Outcome, error: str, deliveries: Deliveries) -> None:
        """A fallback is about to be called."""
        if not self.subscribers.fallbacks:
            return
        event = FallbackUsed(
            breaker=self._breaker,
            seq=next(self._seqs),
            at=self._wall(),
            outcome=outcome,
            error=error,
        )
        self.publish_locked(self.subscribers.fallbacks, event, deliveries)

    def publish_locked(
        self, wanted: Sequence[Subscriber], event: Any, deliveries: Deliveries
    ) -> None:
        """Put the event into the queues of these, and note the inline deliveries."""
        for subscriber in wanted:
            if subscriber.inline:
                deliveries.append((subscriber, event))
                continue
            # One copy each: a context can be entered by one thread at a time.
            subscriber.put(copy_context(), event)
            if not subscriber.working:
                deliveries.append((subscriber, None))


def deliver(deliveries: Deliveries) -> None:
    """Make the deliveries that were noted. Not to be called under a lock."""
    for subscriber, event in deliveries:
        if event is None:
            subscriber.ensure_worker()
        else:
            subscriber.deliver_inline(event)
