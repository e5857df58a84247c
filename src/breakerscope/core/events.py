"""What can happen to a breaker, as values.

Every event is frozen, slotted and keyword-only. Together they are the closed union `Event`.
`seq` numbers the events of one breaker in the order in which they were made, so a consumer can
always restore that order. A listener sees gaps where events were made for others only. `at` is
wall-clock time for people and decides nothing.
No event carries the arguments, the result or the error message of the protected call.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class State(StrEnum):
    """The state of a breaker. The values are label values in metrics, logs and traces.

    - `CLOSED`: calls are made, and judged by the rules.
    - `OPEN`: calls are refused; the first one after the wait makes it half-open.
    - `HALF_OPEN`: a few calls are made as probes, others are refused.
    - `FORCED_OPEN`: calls are refused until a command.
    - `DISABLED`: calls are made and observed, and not judged, until a command.
    """

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"
    FORCED_OPEN = "forced_open"
    DISABLED = "disabled"


class Outcome(StrEnum):
    """How a call that asked ended. Each call that asked ends in exactly one of these.

    - `SUCCESS`: it returned.
    - `FAILURE`: it raised, or its result was condemned.
    - `IGNORED`: it ended in a way that says nothing about the dependency.
    - `CANCELLED`: the caller gave up before it ended.
    - `REJECTED`: it was refused, and not made.
    """

    SUCCESS = "success"
    FAILURE = "failure"
    IGNORED = "ignored"
    CANCELLED = "cancelled"
    REJECTED = "rejected"


SETTLED_OUTCOMES = (Outcome.SUCCESS, Outcome.FAILURE, Outcome.IGNORED, Outcome.CANCELLED)
"""The outcomes of calls that were admitted."""


FALLBACK_OUTCOMES = (Outcome.REJECTED, Outcome.FAILURE)
"""What a fallback can stand in for."""


class Cause(StrEnum):
    """Why a breaker changed its state.

    - `CONSECUTIVE_FAILURES`, `FAILURE_COUNT`, `FAILURE_RATE`, `SLOW_CALL_RATE`: the rule of the
      policy that was met.
    - `WAIT_ELAPSED`: the first call after the wait.
    - `PROBES_SUCCEEDED`, `PROBE_FAILED`: what the probes said.
    - `FORCE_OPEN`, `DISABLE`, `RESET`, `ADOPT`: a command of that name.
    - `RELEASE`: the end of the last `isolated` block.
    """

    CONSECUTIVE_FAILURES = "consecutive_failures"
    FAILURE_COUNT = "failure_count"
    FAILURE_RATE = "failure_rate"
    SLOW_CALL_RATE = "slow_call_rate"
    WAIT_ELAPSED = "wait_elapsed"
    PROBES_SUCCEEDED = "probes_succeeded"
    PROBE_FAILED = "probe_failed"
    FORCE_OPEN = "force_open"
    DISABLE = "disable"
    RESET = "reset"
    RELEASE = "release"
    ADOPT = "adopt"


@dataclass(frozen=True, slots=True, kw_only=True)
class CallSettled:
    """An admitted call ended.

    `state` is the state that admitted it. `duration` is the time inside the protected function, in
    seconds. `error` is the qualified name of the exception's class, or the HTTP status of a result
    that `failure_if` condemned ("HTTP 503"; without one "failure_if"), or the text given to
    `Guard.fail()`; never the exception's message. `slow` says whether the call took at least the
    policy's `slow_call` seconds. `late` says that the breaker had changed its state in between:
    such a result is reported and counted in the metrics, but has no say about the new state.
    """

    breaker: str
    seq: int
    at: float
    state: State
    outcome: Outcome
    duration: float
    error: str | None = None
    slow: bool = False
    late: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CallRejected:
    """A call asked and was refused: the protected function did not run.

    `retry_after` is the time in seconds until the breaker may admit a call again, None if no time
    is known (forced open). With a policy in shadow mode `enforced` is False: the call would have
    been refused, and was made all the same. `rejected` counts the rejections of this breaker so
    far, this one included, so that a listener that sees only some of them still knows how many
    there were.
    """

    breaker: str
    seq: int
    at: float
    state: State
    retry_after: float | None
    rejected: int
    enforced: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class StateChanged:
    """A breaker changed its state, with the figures at that moment, before anything was forgotten.

    `calls`, `failures` and `slow_calls` are what the window held. The ratios run from 0 to 1 and
    are None below the policy's minimum number of calls. `open_for` is the wait in seconds chosen
    for an opening, None otherwise. `rejected` counts the rejections of this breaker so far.
    `reason` is the text given to a manual command. Of a breaker of another library (see `bridges`)
    a figure is None where the library keeps none.
    """

    breaker: str
    seq: int
    at: float
    old: State
    new: State
    cause: Cause
    calls: int | None
    failures: int | None
    slow_calls: int | None
    consecutive_failures: int | None
    failure_ratio: float | None
    slow_call_ratio: float | None
    open_for: float | None
    rejected: int
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FallbackUsed:
    """A fallback was called in place of the protected function, or after it failed.

    `outcome` says what it stood in for: REJECTED or FAILURE. `error` is the qualified name of the
    class of the exception that the caller would have got.
    """

    breaker: str
    seq: int
    at: float
    outcome: Outcome
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyChanged:
    """The rules of a breaker were changed while it ran.

    `changes` lists the fields with their old and new values: "open_for: 10.0 -> 30.0; probes: 1 ->
    2". `reason` is the text given to the command.
    """

    breaker: str
    seq: int
    at: float
    changes: str
    reason: str | None = None


def _draft_of(cls: type) -> Any:
    """A class of events like these whose fields can be set: `event.__class__ = cls` ends that.

    The `__init__` of a frozen dataclass sets each field through `object.__setattr__`, which takes
    six times as long.
    """
    thawed = {"__setattr__": object.__setattr__, "__delattr__": object.__delattr__}
    body = {"__slots__": (), "__init__": object.__init__, **thawed}
    return type(f"{cls.__name__}Draft", (cls,), body)


CallSettledDraft = _draft_of(CallSettled)
CallRejectedDraft = _draft_of(CallRejected)

Event = CallSettled | CallRejected | StateChanged | FallbackUsed | PolicyChanged
"""Any event. A closed union: a `match` over it can be complete."""
EventType = (
    type[CallSettled]
    | type[CallRejected]
    | type[StateChanged]
    | type[FallbackUsed]
    | type[PolicyChanged]
)
EVENT_TYPES: tuple[EventType, ...] = (
    CallSettled,
    CallRejected,
    StateChanged,
    FallbackUsed,
    PolicyChanged,
)
