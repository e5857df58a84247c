"""How healthy each upstream service is at each moment of the run: pure, the same in every run.

Progress runs from 0 to 1, so the story is the same for a short and a long run.
"""

from __future__ import annotations

from dataclasses import dataclass

SERVICES = ("payment_api", "search", "recommendations")
FLAPS = 6
"""How many times `recommendations` goes down in a run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """How a service behaves. Shares run from 0 to 1 and are tried in the order given here."""

    phase: str
    """One word for people."""
    latency: float
    """The typical time of an answer, in seconds."""
    refusing: bool = False
    """Nobody listens: connections are refused."""
    resets: float = 0.0
    """The share of requests whose connection is reset."""
    errors: float = 0.0
    """The share of requests answered by 500."""
    declines: float = 0.0
    """The share of requests answered by a 4xx: the caller's problem, not the service's."""


_SEARCH = (
    (0.22, Health(phase="healthy", latency=0.02, errors=0.002, declines=0.04)),
    (0.36, Health(phase="slow", latency=0.28, errors=0.02, declines=0.03)),
    (0.44, Health(phase="failing", latency=0.05, errors=0.75, resets=0.15)),
    (0.52, Health(phase="refusing", latency=0.05, refusing=True)),
    (0.64, Health(phase="failing", latency=0.08, errors=0.55, resets=0.25, declines=0.02)),
    (1.00, Health(phase="healed", latency=0.02, errors=0.002, declines=0.04)),
)
_PAYMENT = Health(phase="steady", latency=0.014, errors=0.003, declines=0.06)
_UP = Health(phase="up", latency=0.012, errors=0.002, declines=0.05)
_DOWN = Health(phase="down", latency=0.03, errors=0.85, declines=0.02)
_UP_SHARE = 0.6


def progress(elapsed: float, duration: float, *, repeat: bool) -> float:
    """How far the script is after so many seconds. Repeated, it begins again where it ends."""
    share = elapsed / duration
    return share % 1.0 if repeat else share


def health(service: str, progress: float) -> Health:
    """The health of a service at this moment. Raises ValueError for a service that is not there."""
    if service == "payment_api":
        return _PAYMENT
    if service == "recommendations":
        return _UP if (progress * FLAPS) % 1.0 < _UP_SHARE else _DOWN
    if service == "search":
        for end, state in _SEARCH:
            if progress < end:
                return state
        return _SEARCH[-1][1]
    raise ValueError(f"service {service!r}: there are {', '.join(SERVICES)}")
