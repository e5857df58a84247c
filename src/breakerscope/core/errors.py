"""What a caller gets instead of an answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from breakerscope.core.events import State


class CircuitBreakerOpenError(Exception):
    """The breaker rejected the call; the protected function did not run.

    `breaker` is the name, `state` the state that rejected. `retry_after` is the time in seconds
    until the breaker may admit a call again, None if no time is known (forced open).
    """

    if TYPE_CHECKING:
        # At run time there is none: `Exception` keeps the arguments at a third of the cost.
        def __init__(self, breaker: str, state: State, retry_after: float | None) -> None: ...

    @property
    def breaker(self) -> str:
        """The name of the breaker."""
        return self.args[0]  # type: ignore[no-any-return]

    @property
    def state(self) -> State:
        """The state that rejected."""
        return self.args[1]  # type: ignore[no-any-return]

    @property
    def retry_after(self) -> float | None:
        """Seconds until asking is worth it, or None."""
        return self.args[2]  # type: ignore[no-any-return]

    def __str__(self) -> str:
        if len(self.args) != 3:  # made by somebody else, with a text of his own
            return super().__str__()
        wait = "" if self.retry_after is None else f"; retry in {self.retry_after:.3g} s"
        return f"circuit breaker {self.breaker!r} is {self.state}{wait}"


def raise_rejection(error: CircuitBreakerOpenError) -> NoReturn:
    """Raise it as if no other exception was being handled: that tokens had run out is no news."""
    try:
        raise error
    except CircuitBreakerOpenError:
        error.__context__ = None
        raise
