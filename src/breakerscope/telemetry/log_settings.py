"""What is logged, how loudly and how often."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import isfinite
from typing import Literal

from breakerscope.catalogue import LogEvent

LogLevel = Literal["debug", "info", "warning", "error", "critical", "off"]
"""The level of a log event; "off" writes no such line. See `setup_telemetry(log_levels=...)`."""
LEVELS: tuple[LogLevel, ...] = ("debug", "info", "warning", "error", "critical", "off")
OFF: LogLevel = "off"

DEFAULT_LEVELS: Mapping[LogEvent, LogLevel] = {
    LogEvent.CALL_FAILED: "info",
    LogEvent.CALL_REJECTED: "warning",
    LogEvent.POLICY_CHANGED: "info",
}
"""All others are off, but for changes of state: warning when the breaker opens, info else."""

NEVER_SAMPLED = (LogEvent.STATE_CHANGED, LogEvent.POLICY_CHANGED, LogEvent.CALL_REJECTED)
"""Lines about rejections say how many there were, and a change is never left out."""
SAMPLED = tuple(event for event in LogEvent if event not in NEVER_SAMPLED)


class LogSettingsError(ValueError):
    """A setting of the logs cannot be. The message names it and what is allowed."""


class LogSettings:
    """The checked settings. Raises LogSettingsError."""

    def __init__(
        self,
        levels: Mapping[str, LogLevel] | None = None,
        sampling: Mapping[str, float] | None = None,
        *,
        rejections_every: float,
    ) -> None:
        self._levels: dict[LogEvent, LogLevel] = dict(DEFAULT_LEVELS)
        for name, level in (levels or {}).items():
            event = _event("log_levels", name, LogEvent)
            if level not in LEVELS:
                allowed = ", ".join(LEVELS)
                raise LogSettingsError(f"log_levels[{name!r}]={level!r}: allowed are {allowed}")
            self._levels[event] = level
        self._shares: dict[LogEvent, float] = {}
        for name, share in (sampling or {}).items():
            event = _event("log_sampling", name, SAMPLED)
            if not _is_number(share) or not 0 < share <= 1:
                raise LogSettingsError(
                    f"log_sampling[{name!r}]={share!r}: allowed is a share above 0, at most 1"
                )
            self._shares[event] = share
        if not _is_number(rejections_every) or rejections_every < 0:
            raise LogSettingsError(
                f"log_rejections_every={rejections_every!r}: allowed are seconds, 0 or more"
            )
        self.rejections_every = rejections_every

    def level(self, event: LogEvent, *, alarming: bool = False) -> LogLevel:
        """The level of such a line; `alarming` is a change of state to open."""
        if event is LogEvent.STATE_CHANGED:
            return self._levels.get(event, "warning" if alarming else "info")
        return self._levels.get(event, OFF)

    def share(self, event: LogEvent) -> float:
        """Which share of these lines is written."""
        return self._shares.get(event, 1.0)


def _event(setting: str, name: str, allowed: Iterable[LogEvent]) -> LogEvent:
    for event in allowed:
        if name == event:
            return event
    raise LogSettingsError(f"{setting}[{name!r}]: allowed are {', '.join(allowed)}")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
