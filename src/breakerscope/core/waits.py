"""How long an opening lasts."""

from __future__ import annotations

from collections.abc import Callable

from breakerscope.core.policy import Policy


def next_base(policy: Policy, base: float, opening: int) -> float:
    """The wait of this opening before anything is added. `opening`: which one in a row it is;
    `base`: that of the one before.
    """
    return policy.open_for if opening == 1 else min(base * policy.backoff, policy.longest_wait)


def wait_of(
    policy: Policy,
    base: float,
    random: Callable[[], float],
    *,
    asked: float,
    chosen: float | None,
) -> float:
    """The wait in seconds. `asked`: how long the dependency asks for; `chosen`: what the code
    chooses in place of base and jitter.
    """
    if chosen is None:
        spread = policy.jitter * (2 * random() - 1) if policy.jitter else 0.0
        chosen = base * (1 + spread)
    return min(max(chosen, asked), policy.longest_wait)
