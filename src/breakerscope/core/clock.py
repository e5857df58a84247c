"""Where time comes from."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Clock:
    """`monotonic` decides, `wall` stamps events. Both return seconds."""

    monotonic: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time


SYSTEM_CLOCK = Clock()
_default = SYSTEM_CLOCK


def default_clock() -> Clock:
    """The clock of a breaker that is given none."""
    return _default


def set_default_clock(clock: Clock) -> None:
    """For tests: what breakers that are made from now on go by."""
    global _default  # noqa: PLW0603 - one default a process
    _default = clock
