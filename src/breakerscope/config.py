"""Policies from outside the code: a mapping, a TOML file, the environment.

What an operator says goes before what the code says: `environment > configure() > code`. Only the
fields of `Policy` can be set from outside. Everything is strict: an unknown key is an error that
names the nearest one.

In TOML: `[breakers.payment_api]`, then `open_for = 30`. In the environment:
`BREAKERSCOPE_PAYMENT_API_OPEN_FOR=30`, the name of the breaker in capitals, with `_` for whatever
is not a letter or digit. A window of time is written with its unit: `window = "30s"`. "none"
switches a rule off.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast

from breakerscope.core.policy import ALLOWED

if TYPE_CHECKING:
    from os import PathLike

PREFIX = "BREAKERSCOPE_"
TABLE = "breakers"

_TIME = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
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
    return from_mapping(data, where=str(path))


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
    """The options that the environment has for one breaker."""
    mine = PREFIX + re.sub(r"[^A-Z0-9]", "_", breaker.upper()) + "_"
    options: dict[str, Any] = {}
    for variable, text in environment.items():
        if not variable.startswith(mine):
            continue
        field = variable.removeprefix(mine).lower()
        if field in ALLOWED:
            options[field] = _value(_from_text(text), f"{variable}")
        elif not any(field.endswith("_" + known) for known in ALLOWED):
            # Otherwise it is for another breaker, whose name begins like this one.
            _check_known([field], ALLOWED, variable)
    return options


def _options(table: Mapping[str, Any], where: str) -> dict[str, Any]:
    _check_known(table, ALLOWED, where)
    return {key: _value(value, f"{where}.{key}") for key, value in table.items()}


def _value(value: Any, where: str) -> Any:
    """A value as `Policy` takes it; whether it is allowed there is for `Policy` to say."""
    if isinstance(value, str):
        if value.lower() in _WORDS:
            return _WORDS[value.lower()]
        if time := _TIME.fullmatch(value.strip()):
            return timedelta(seconds=float(time[1]) * _SECONDS[time[2]])
        raise ConfigError(f'{where}={value!r}: allowed is a number, true, false, none, or "30s"')
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
            import difflib

            nearest = difflib.get_close_matches(key, known, n=1, cutoff=0.0)[0]
            raise ConfigError(
                f"{where}: unknown key {key!r}, did you mean {nearest!r}?"
                f" Allowed are {', '.join(known)}"
            )
