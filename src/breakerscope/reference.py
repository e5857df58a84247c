"""The catalogue as something to read: Markdown for people, JSON for programs, and what changed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from inspect import cleandoc
from pathlib import Path
from typing import Any, NamedTuple, cast

from breakerscope import catalogue
from breakerscope.catalogue import Kind, Label, LogEvent, LogKey, Metric
from breakerscope.codec import event_schema
from breakerscope.core.events import EVENT_TYPES, EventType
from breakerscope.telemetry.log_settings import LogSettings

METRICS = "metrics"
EVENTS = "events"
LABELS = "labels"
HELP = "help"


class CatalogueFileError(ValueError):
    """A file is no catalogue. The message names the file and what is wrong with it."""


# -- for programs ----------------------------------------------------------------------------------


def as_json() -> dict[str, Any]:
    """All public names. A file with this is what `differences` compares with."""
    schemas = event_schema()["$defs"]
    return {
        METRICS: {metric.name: _metric_facts(metric) for metric in catalogue.METRICS},
        EVENTS: {
            name: {key: _kind(schema) for key, schema in schema["properties"].items()}
            for name, schema in schemas.items()
        },
        **{
            _plural(names).replace(" ", "_"): [member.value for member in names]
            for names in name_sets()
        },
    }


def _metric_facts(metric: Metric) -> dict[str, Any]:
    return {
        "kind": metric.kind.value,
        "unit": metric.unit,
        HELP: metric.help,
        LABELS: list(metric.label_names),
        "values": {
            label.name: [str(value) for value in label.values]
            for label in metric.labels
            if label.values is not None
        },
    }


def _kind(schema: Mapping[str, Any]) -> Any:
    (kind,) = schema.values()
    return kind


def name_sets() -> Iterator[type[StrEnum]]:
    """The enums of the catalogue: log events, span events, attributes, keys."""
    for found in vars(catalogue).values():
        ours = isinstance(found, type) and found.__module__ == catalogue.__name__
        if ours and issubclass(found, StrEnum) and found is not Kind:
            yield found


def _plural(names: type[StrEnum]) -> str:
    return re.sub(r"\B(?=[A-Z])", " ", names.__name__).lower() + "s"


class Difference(NamedTuple):
    """One difference between two catalogues. `what` is "added", "removed" or "changed"."""

    what: str
    where: str
    detail: str = ""

    @property
    def breaks(self) -> bool:
        """Whether something that relies on the older catalogue may break."""
        return self.what != "added"

    @property
    def name(self) -> str:
        """The public name that it is about."""
        section, _, rest = self.where.partition("/")
        return rest.partition("/")[0] or section

    def __str__(self) -> str:
        return f"{self.what} {self.where}{self.detail}"


def differences(
    old: Mapping[str, Any], new: Mapping[str, Any], path: str = ""
) -> Iterator[Difference]:
    """What changed from one catalogue to the next. Help texts do not count."""
    for key in [*old, *(key for key in new if key not in old)]:
        where = f"{path}{key}"
        if key == HELP:
            continue
        if key not in new:
            yield Difference("removed", where)
        elif key not in old:
            yield Difference("added", where)
        elif isinstance(old[key], dict) and isinstance(new[key], dict):
            yield from differences(old[key], new[key], f"{where}/")
        elif isinstance(old[key], list) and isinstance(new[key], list) and key != LABELS:
            yield from differences(_as_keys(old[key]), _as_keys(new[key]), f"{where}/")
        elif old[key] != new[key]:
            # A label more is another set of series, so labels are compared as one.
            yield Difference("changed", where, f": {_text(old[key])} -> {_text(new[key])}")


def _as_keys(names: Sequence[Any]) -> dict[str, None]:
    return dict.fromkeys(str(name) for name in names)


def _text(value: object) -> str:
    return json.dumps(value)


def read_catalogue(file: str | Path) -> dict[str, Any]:
    """The catalogue in a file. Raises CatalogueFileError."""
    try:
        found = json.loads(Path(file).read_text(encoding="utf-8"))
    except OSError as error:
        raise CatalogueFileError(f"cannot read {file}: {error.strerror or error}") from error
    except ValueError as error:
        raise CatalogueFileError(f"{file} is not JSON: {error}") from error
    sections = cast("dict[str, Any]", found) if isinstance(found, dict) else {}
    if not isinstance(sections.get(METRICS), dict):
        raise CatalogueFileError(
            f"{file} is no catalogue: allowed is what `breakerscope catalogue --format json` prints"
        )
    return sections


# -- for people ------------------------------------------------------------------------------------


def metrics_page() -> str:
    """All metrics and their labels, in Markdown."""
    labels = dict.fromkeys(label for metric in catalogue.METRICS for label in metric.labels)
    return _page(
        "# Metrics",
        "All metrics, as Prometheus names them.",
        _table(
            ("metric", "kind", "unit", "labels", "meaning"),
            [
                (
                    f"`{metric.name}`",
                    metric.kind,
                    metric.unit or "none",
                    _code(metric.label_names),
                    metric.help,
                )
                for metric in catalogue.METRICS
            ],
        ),
        "## Labels",
        _table(
            ("label", "values", "meaning"),
            [(f"`{label.name}`", _values(label), label.help) for label in labels],
        ),
    )


def _values(label: Label) -> str:
    return "free" if label.values is None else _code([str(value) for value in label.values])


def events_page() -> str:
    """All events, log lines and span events, in Markdown."""
    schemas = event_schema()["$defs"]
    settings = LogSettings(rejections_every=0.0)
    return _page(
        "# Events",
        "What breakers tell, one type for each kind of news. The fields are also the keys of the"
        " JSON form, whose schema is `events.schema.json` in the package.",
        *(part for event_type in EVENT_TYPES for part in _event_type(event_type, schemas)),
        "## Log lines",
        "`setup_telemetry(log_levels=...)` sets other levels.",
        _table(
            ("log event", "level by default"),
            [(f"`{name}`", _default_level(settings, name)) for name in LogEvent],
        ),
        f"Their keys, where they apply: {_code(LogKey)}.",
        *(
            f"## {_plural(names).capitalize()}\n\n{cleandoc(names.__doc__ or '')}\n\n{_code(names)}"
            for names in name_sets()
            if names not in (LogEvent, LogKey)
        ),
    )


def _event_type(event_type: EventType, schemas: Mapping[str, Any]) -> Iterator[str]:
    yield f"## {event_type.__name__}"
    yield cleandoc(event_type.__doc__ or "")
    properties = schemas[event_type.__name__]["properties"]
    yield _table(
        ("field", "holds"),
        [(f"`{key}`", _holds(schema)) for key, schema in properties.items()],
    )


def _holds(schema: Mapping[str, Any]) -> str:
    kind = _kind(schema)
    if "const" in schema:
        return f"`{_text(kind)}`"
    if "enum" in schema:
        return _code(kind)
    return kind if isinstance(kind, str) else " or ".join(kind)


def _default_level(settings: LogSettings, name: LogEvent) -> str:
    usual, alarming = settings.level(name), settings.level(name, alarming=True)
    return usual if usual == alarming else f"{usual}; {alarming} when the breaker opens"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows))


def _code(names: Sequence[str] | type[StrEnum]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _page(*parts: str) -> str:
    return "\n\n".join(parts) + "\n"
