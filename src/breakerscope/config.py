"""Policies from outside the code: a mapping, a TOML file, the environment.

What an operator says goes before what the code says: `environment > configure() > code`. Only the
fields of `Policy` can be set from outside. Everything is strict: an unknown key is an error that
names the nearest one.

In TOML: `[breakers.payment_api]`, then `open_for = 30`; `[breakers."host:*"]` is a pattern, which
an exact name goes before. The file may have other tables, which are for others: `[alerts]`. In the
environment: `BREAKERSCOPE_PAYMENT_API_OPEN_FOR=30`, the name of the breaker in capitals, with `_`
for whatever is not a letter or digit; an empty variable sets nothing. Times are seconds or text
with a unit, "30s"; a window of time needs one. "none" switches a rule off.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, cast

from breakerscope.core.policy import ALLOWED, normalized
from breakerscope.names import nearest

if TYPE_CHECKING:
    from os import PathLike

PREFIX = "BREAKERSCOPE_"
TABLE = "breakers"

_KUBERNETES = re.compile(
    r"SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?"
)
"""What Kubernetes sets by itself for a service: one may be called `breakerscope-payments`."""
_WORDS: dict[str, object] = {"none": None, "true": True, "false": False}


class ConfigError(ValueError):
    """A configuration cannot be. The message says where, what, and what is allowed."""


def read_toml(path: str | PathLike[str]) -> dict[str, dict[str, Any]]:
    """The options by breaker from a TOML file. Raises ConfigError, also for an unreadable file."""
    import tomllib

    try:
        with open(path, "rb") as file:  # noqa: PTH123 - pathlib would double the time of our import
            data = tomllib.load(file)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error
    slips = {key: value for key, value in data.items() if key != TABLE and nearest(key, [TABLE])}
    return from_mapping({TABLE: data.get(TABLE, {}), **slips}, where=str(path))


def from_mapping(
    data: Mapping[str, Any], where: str = "configuration"
) -> dict[str, dict[str, Any]]:
    """The options by breaker from `{"breakers": {"payment_api": {"open_for": 30}}}`."""
    _check_known(data, [TABLE], where)
    tables = _table(data.get(TABLE, {}), f"{where}: {TABLE}")
    return {
        name: _options(_table(table, f"{where}: {TABLE}.{name}"), f"{where}: {TABLE}.{name}")
        for name, table in tables.items()
    }


def from_environment(breaker: str, environment: Mapping[str, str]) -> dict[str, Any]:
    """The options that the environment has for one breaker. Raises ConfigError."""
    mine = folded(breaker) + "_"
    options: dict[str, Any] = {}
    for variable in environment:
        if not variable.startswith(mine) or not (text := environment.get(variable, "").strip()):
            continue
        field = variable.removeprefix(mine)
        if field.lower() in ALLOWED:
            options[field.lower()] = _value(field.lower(), _from_text(text), variable)
        elif not (_KUBERNETES.fullmatch(field) or _is_of_another(field.lower())):
            _check_known([field.lower()], ALLOWED, variable)
    return options


def folded(breaker: str) -> str:
    """How the variables of a breaker begin."""
    return PREFIX + re.sub(r"[^A-Z0-9]", "_", breaker.upper())


def _is_of_another(field: str) -> bool:
    """Whether a variable is for another breaker, whose name begins like this one."""
    return any(field.endswith("_" + known) for known in ALLOWED)


def _options(table: Mapping[str, Any], where: str) -> dict[str, Any]:
    _check_known(table, ALLOWED, where)
    return {key: _value(key, value, f"{where}.{key}") for key, value in table.items()}


def _value(field: str, value: Any, where: str) -> Any:
    """A value as `Policy` has it."""
    if isinstance(value, str) and value.lower() in _WORDS:
        value = _WORDS[value.lower()]
    value, allowed = normalized(field, value), ALLOWED[field]
    if not allowed.admits(value):
        raise ConfigError(f"{where}={value!r}: allowed is {allowed}")
    return value


def _from_text(text: str) -> object:
    """A number where the text is one."""
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text


def _table(value: object, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where}={value!r}: allowed is a table")
    return cast("Mapping[str, Any]", value)


def _check_known(keys: Iterable[str], known: Iterable[str], where: str) -> None:
    known = list(known)
    for key in keys:
        if key not in known:
            near = nearest(key, known)
            hint = f", did you mean {near!r}?" if near else "."
            raise ConfigError(f"{where}: unknown key {key!r}{hint} Allowed are {', '.join(known)}")
