"""Events as JSON, and back.

The JSON form of an event has the fields of its type under their own names, the name of the type
under `type`, and `schema_version`. Enums are their values, no value is left out. It is one line of
ASCII. A reader takes no notice of keys that it does not know, so fields can be added within a
version. The types are described once, by the annotations of the dataclasses: both the checks of
`event_from_dict` and the JSON Schema are read from them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from enum import StrEnum
from functools import cache
from math import isfinite
from types import NoneType
from typing import Any, NamedTuple, cast, get_args, get_type_hints

from breakerscope.catalogue import EVENT_SCHEMA_VERSION, EventKey
from breakerscope.core.events import EVENT_TYPES, Event, EventType

_JSON_NAMES: Mapping[type, str] = {
    str: "string",
    int: "integer",
    float: "number",
    bool: "boolean",
    NoneType: "null",
}


class EventFormatError(ValueError):
    """This is not the JSON form of an event. The message names the key and what is allowed."""


class _Field(NamedTuple):
    """What the annotation of a field allows."""

    kind: type[Any]
    optional: bool
    required: bool

    @property
    def choices(self) -> list[str] | None:
        return [member.value for member in self.kind] if issubclass(self.kind, StrEnum) else None

    def allowed(self) -> str:
        what = f"one of {', '.join(self.choices)}" if self.choices else _JSON_NAMES[self.kind]
        return f"{what} or null" if self.optional else what

    def schema(self) -> dict[str, Any]:
        if self.choices:
            return {"enum": self.choices}
        name = _JSON_NAMES[self.kind]
        return {"type": [name, "null"] if self.optional else name}


@cache
def _fields() -> Mapping[str, Mapping[str, _Field]]:
    """The fields of each type, by its name."""
    return {event_type.__name__: _fields_of(event_type) for event_type in EVENT_TYPES}


def _fields_of(event_type: EventType) -> Mapping[str, _Field]:
    hints = get_type_hints(event_type)
    found: dict[str, _Field] = {}
    for field in fields(event_type):
        kinds = get_args(hints[field.name]) or (hints[field.name],)
        (kind,) = set(kinds) - {NoneType}
        found[field.name] = _Field(kind, NoneType in kinds, field.default is MISSING)
    return found


def event_to_dict(event: Event) -> dict[str, Any]:
    """The JSON form of an event, made of text, numbers, booleans and None."""
    form: dict[str, Any] = {
        EventKey.TYPE.value: type(event).__name__,
        EventKey.SCHEMA_VERSION.value: EVENT_SCHEMA_VERSION,
    }
    for name in _fields()[type(event).__name__]:
        value = getattr(event, name)
        form[name] = value.value if isinstance(value, StrEnum) else value
    return form


def event_to_json(event: Event) -> str:
    """The JSON form of an event as one line of ASCII, without the line's end."""
    import json

    return json.dumps(event_to_dict(event), allow_nan=False)


def event_from_dict(form: Mapping[str, Any]) -> Event:
    """The event with this JSON form. Raises EventFormatError, which names all that is wrong."""
    version, name = form.get(EventKey.SCHEMA_VERSION), form.get(EventKey.TYPE)
    event_type = {t.__name__: t for t in EVENT_TYPES}.get(name) if isinstance(name, str) else None
    wrong: list[str] = []
    if isinstance(version, bool) or version != EVENT_SCHEMA_VERSION:
        wrong.append(f"{EventKey.SCHEMA_VERSION}={version!r}: allowed is {EVENT_SCHEMA_VERSION}")
    if event_type is None:
        allowed = ", ".join(t.__name__ for t in EVENT_TYPES)
        wrong.append(f"{EventKey.TYPE}={name!r}: allowed are {allowed}")
        raise EventFormatError("; ".join(wrong))
    values: dict[str, Any] = {}
    for key, field in _fields()[event_type.__name__].items():
        if key in form:
            try:
                values[key] = _value(field, form[key])
            except (ValueError, OverflowError):
                wrong.append(f"{key}={form[key]!r}: allowed is {field.allowed()}")
        elif field.required:
            wrong.append(f"{key}: is missing")
    if wrong:
        raise EventFormatError("; ".join(wrong))
    return event_type(**values)


def event_from_json(text: str | bytes) -> Event:
    """The event in a line of JSON. Raises EventFormatError."""
    import json

    try:
        form = json.loads(text)
    except ValueError as error:
        raise EventFormatError(f"not JSON: {error}") from None
    if not isinstance(form, dict):
        raise EventFormatError(f"{form!r}: allowed is an object")
    return event_from_dict(cast("dict[str, Any]", form))


def _value(field: _Field, value: Any) -> object:
    """The value as the event has it. Raises ValueError for what the field does not allow.

    JSON has one kind of number: 3.0 is a whole one, and 3 is good for a float.
    """
    kind = field.kind
    if value is None:
        if field.optional:
            return None
    elif issubclass(kind, StrEnum):
        return kind(value)
    elif kind is float and type(value) in (int, float) and isfinite(value):
        return float(value)
    elif kind is int and type(value) is float and value.is_integer():
        return int(value)
    elif kind is not float and type(value) is kind:
        return value
    raise ValueError


def event_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of all events. `events.schema.json` of the package is this one."""
    names = [t.__name__ for t in EVENT_TYPES]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Event of a circuit breaker",
        "description": "One event, as breakerscope writes it. Times are seconds, ratios run from"
        " 0 to 1. Further keys may be added; a reader takes no notice of them.",
        "oneOf": [{"$ref": f"#/$defs/{name}"} for name in names],
        "$defs": {t.__name__: _schema_of(t) for t in EVENT_TYPES},
    }


def _schema_of(event_type: EventType) -> dict[str, Any]:
    own = _fields()[event_type.__name__]
    keys = {
        EventKey.TYPE.value: {"const": event_type.__name__},
        EventKey.SCHEMA_VERSION.value: {"const": EVENT_SCHEMA_VERSION},
    }
    return {
        "description": (event_type.__doc__ or "").partition("\n")[0],
        "type": "object",
        "properties": keys | {name: field.schema() for name, field in own.items()},
        "required": [*keys, *(name for name, field in own.items() if field.required)],
    }
