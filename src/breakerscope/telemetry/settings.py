"""How metrics are set up: the prefix of their names, labels for all series, the cap on breakers.

A metric whose label names differ from series to series is none. So the names of the labels are
fixed here, and a breaker may give values to these names only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from breakerscope.names import problem_of
from breakerscope.telemetry.errors import TelemetryError

MAX_BREAKERS = 1000
"""The cap unless the set-up says otherwise: at some 120 series each, about what one scrape can
carry (a second, ten megabytes of text).
"""

_LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_PREFIX = re.compile(r"[a-zA-Z]([a-zA-Z0-9_]*[a-zA-Z0-9])?")


class LabelError(TelemetryError):
    """A label cannot be. The message names it and says what is allowed."""


@dataclass(frozen=True, slots=True)
class MetricsSettings:
    """See the top of the file. Raises TelemetryError or LabelError for what cannot be."""

    prefix: str = ""
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    max_breakers: int = MAX_BREAKERS

    def __post_init__(self) -> None:
        if not isinstance(self.prefix, str) or (self.prefix and not _PREFIX.fullmatch(self.prefix)):
            raise TelemetryError(
                f"prefix={self.prefix!r}: allowed are letters, digits and _, with a letter at the"
                ' front and no _ at the end: "shop" makes shop_circuit_breaker_calls_total'
            )
        limit = self.max_breakers
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
            raise TelemetryError(f"max_breakers={limit!r}: allowed are whole numbers from 1")
        object.__setattr__(self, "labels", checked_labels(self.labels))

    def check_known(self, breaker: str, labels: Mapping[str, str]) -> None:
        """Raises LabelError if a breaker has a label that was not named here."""
        for name in labels:
            if name not in self.labels:
                allowed = ", ".join(self.labels) or "none, because it names none"
                raise LabelError(
                    f"breaker {breaker!r}: label {name!r} is not in setup_telemetry(labels=...);"
                    f" allowed are {allowed}"
                )


def checked_labels(labels: Mapping[str, Any]) -> dict[str, str]:
    """The labels as they were given, if all of them can be. Raises LabelError."""
    if not isinstance(labels, Mapping):
        raise LabelError(f"labels={labels!r}: allowed is a mapping from label names to text")
    for name, value in labels.items():
        if not isinstance(name, str) or not _LABEL.fullmatch(name):
            raise LabelError(
                f"label {name!r}: allowed are letters, digits and _, with no digit at the front"
            )
        if name.startswith("__"):
            raise LabelError(f"label {name!r}: names that begin with __ are Prometheus' own")
        if name in (ours := _our_labels()):
            taken = ", ".join(sorted(ours))
            raise LabelError(f"label {name!r}: the metrics have it already, as {taken}")
        if not isinstance(value, str):
            raise LabelError(f"label {name!r}: {value!r}: allowed is text")
        if problem := problem_of(value):
            raise LabelError(f"label {name!r}: {value!r}: {problem}")
    return dict(labels)


def _our_labels() -> set[str]:
    # Here, since `import breakerscope` needs no metrics.
    from breakerscope.catalogue import METRICS

    return {"le", *(name for metric in METRICS for name in metric.label_names)}
