"""What the tests of breakers share."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import Context
from dis import get_instructions
from functools import cache
from itertools import count, pairwise
from types import CodeType, FrameType
from typing import Any, NamedTuple, TypeVar

import pytest

from breakerscope.breaker import CircuitBreaker
from breakerscope.core.errors import CircuitBreakerOpenError
from breakerscope.core.events import Outcome, State
from breakerscope.core.manual_control import ControlledStateMachine
from breakerscope.core.permits import AnyPermit, Permit, SharedPermit
from breakerscope.core.persistence import dump, load
from breakerscope.core.policy import Policy
from breakerscope.core.transitions import Figures, Transition
from breakerscope.core.windows import CountWindow, Window
from breakerscope.event_bus import EventBus
from breakerscope.testing import FakeClock

BIDI_CONTROLS = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
"""Unicode's Bidi_Control: what shows a line in another order than it has."""


class Boom(Exception):
    """What a failing dependency raises."""


def succeed() -> str:
    return "fine"


def fail() -> None:
    raise Boom


def make_breaker(
    clock: FakeClock | None = None,
    *,
    bus: EventBus | None = None,
    name: str = "payment_api",
    **policy: object,
) -> CircuitBreaker:
    """A breaker of its own bus, with a clock that stands still."""
    return CircuitBreaker(
        name,
        Policy(**policy),  # type: ignore[arg-type]
        clock=(clock or FakeClock()).clock,
        bus=bus or EventBus(),
    )


def fail_times(breaker: CircuitBreaker, times: int) -> None:
    for _ in range(times):
        with pytest.raises(Boom):
            breaker.call(fail)


def refused(breaker: CircuitBreaker, fn: Callable[[], object] = succeed) -> CircuitBreakerOpenError:
    """The error of a call that has to be refused."""
    with pytest.raises(CircuitBreakerOpenError) as caught:
        breaker.call(fn)
    return caught.value


def refused_elsewhere(breaker: CircuitBreaker) -> CircuitBreakerOpenError:
    """The same for a call that is not inside of those that the test is inside of."""
    return Context().run(refused, breaker)


class Admission(NamedTuple):
    """What a machine answered to a call that asked, and the change of state that came with it."""

    permit: AnyPermit | None
    retry_after: float | None = None
    transition: Transition | None = None


class Verdict(NamedTuple):
    """Whether a result came too late to count, and the change of state that it made."""

    late: bool = False
    transition: Transition | None = None


class Holder:
    """Who isolates a machine."""


class Machine:
    """A state machine each of whose steps gives back the change of state that it made."""

    def __init__(self, policy: Policy, *, now: float, random: Callable[[], float]) -> None:
        self.real = ControlledStateMachine(policy, now=now, random=random)
        self.holders: list[Holder] = []

    def _changed(self, act: Callable[[], object]) -> Transition | None:
        before = self.real.transition
        act()
        assert self.permit.state is self.state
        assert self.permit.generation == self.generation
        return None if self.real.transition is before else self.real.transition

    @property
    def state(self) -> State:
        return self.real.state

    @property
    def generation(self) -> int:
        return self.real.generation

    @property
    def permit(self) -> SharedPermit:
        return self.real.permit

    @property
    def window(self) -> Window:
        return self.real.window

    @property
    def wait(self) -> float:
        return self.real.wait

    @property
    def consecutive_failures(self) -> int:
        return self.real.consecutive_failures

    @property
    def leases(self) -> list[Permit]:
        return [probe for lease in self.real._leases if (probe := lease()) is not None]

    def admit(self, now: float, inside: Sequence[Permit] = ()) -> Admission:
        answers: list[tuple[AnyPermit | None, float | None]] = []
        changed = self._changed(lambda: answers.append(self.real.admit(now, inside)))
        return Admission(*answers[0], changed)

    def settle(
        self,
        permit: AnyPermit,
        outcome: Outcome,
        *,
        now: float,
        slow: bool = False,
        hint: float = 0.0,
    ) -> Verdict:
        late: list[bool] = []
        changed = self._changed(
            lambda: late.append(self.real.settle(permit, outcome, now=now, slow=slow, hint=hint))
        )
        return Verdict(late[0], changed)

    def settle_batch(self, n: int, *, failed: bool = False) -> Transition | None:
        def settle() -> None:
            self.real.settle_batch(n, failed=failed)
            if failed:
                self.real.judge()

        return self._changed(settle)

    def failures_until_trip(self) -> float:
        return self.real.failures_until_trip()

    def figures(self, now: float) -> Figures:
        return self.real.figures(now)

    def advance(self, now: float) -> float:
        return self.real.advance(now)

    def new_generation(self) -> None:
        self.real.new_generation()

    def force_open(self, now: float, reason: str | None = None) -> Transition | None:
        return self._changed(lambda: self.real.force_open(now, reason))

    def disable(self, now: float, reason: str | None = None) -> Transition | None:
        return self._changed(lambda: self.real.disable(now, reason))

    def reset(self, now: float, reason: str | None = None) -> Transition | None:
        return self._changed(lambda: self.real.reset(now, reason))

    def isolate(self, now: float, reason: str | None = None) -> Transition | None:
        self.holders.append(Holder())
        return self._changed(lambda: self.real.isolate(self.holders[-1], now, reason))

    def end_isolation(self, now: float, reason: str | None = None) -> Transition | None:
        holder = self.holders.pop()
        return self._changed(lambda: self.real.end_isolation(holder, now, reason))

    def dump(self, now: float) -> dict[str, Any]:
        return dump(self.real, now)

    def load(self, data: Mapping[str, Any], now: float) -> Transition | None:
        return self._changed(lambda: load(self.real, data, now))


class Interrupt(BaseException):
    """What a signal handler raises in the middle of something."""


_PURE = {
    f"breakerscope.core.{name}"
    for name in (
        "counters",
        "journal",
        "manual_control",
        "permits",
        "persistence",
        "state_machine",
        "trip_rules",
        "windows",
    )
}
T = TypeVar("T")
TraceFunction = Callable[[FrameType, str, Any], Any]
_ENDS_OF_CALLS = ("CALL", "CALL_KW", "CALL_FUNCTION_EX", "JUMP_BACKWARD", "RESUME")


@cache
def _after_calls(code: CodeType) -> frozenset[int]:
    """Where CPython looks for signals: what follows a call, a jump back or a function entry."""
    return frozenset(
        instruction.offset
        for before, instruction in pairwise(get_instructions(code))
        if before.opname in _ENDS_OF_CALLS
    )


def interrupted(act: Callable[[], object], place: int) -> bool:
    """Do this with an interrupt at that place in the pure core, counted from 0: at the beginning of
    a line and after each call. False if it was done before it came so far.
    """
    places = count()

    def trace(frame: FrameType, event: str, _: object) -> TraceFunction | None:
        if frame.f_globals["__name__"] not in _PURE:
            return None
        frame.f_trace_opcodes = True
        is_place = event == "line" or (
            event == "opcode" and frame.f_lasti in _after_calls(frame.f_code)
        )
        if is_place and next(places) == place:
            raise Interrupt
        return trace

    outer = sys.gettrace()
    sys.settrace(trace)
    try:
        act()
    except Interrupt:
        return True
    finally:
        sys.settrace(outer)
    return False


def each_interrupt(make: Callable[[], T], act: Callable[[T], object]) -> Iterator[tuple[T, bool]]:
    """What an act has left of a thing, interrupted at each place in turn; and whether it was."""
    for place in count():
        thing = make()
        was = interrupted(lambda thing=thing: act(thing), place)  # type: ignore[misc]
        yield thing, was
        if not was:
            return


def recounted(window: Window) -> tuple[int, int, int]:
    """Calls, failures and slow calls, worked out from what a window holds."""
    rows = window.dump()
    if isinstance(window, CountWindow):
        rows = [[1, *row] for row in rows]
    return sum(row[0] for row in rows), sum(row[1] for row in rows), sum(row[2] for row in rows)
