"""The rules as they are shipped, in pieces that can be tried one by one."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import yaml

from breakerscope.mixin import MixinConfig, rendered_alerts
from breakerscope.mixin.alerts import alerts_of, name_of
from tests.alerts.cases import CASES
from tests.alerts.promtool import Case, Json

DEFAULT = MixinConfig()
NAMES = sorted({name_of(alert, DEFAULT) for alert in alerts_of(DEFAULT)})


@cache
def rules() -> Json:
    """The whole file."""
    found: Json = yaml.safe_load(rendered_alerts(DEFAULT)["breakerscope.rules.yml"])
    return found


def rules_of(alert: str) -> list[Json]:
    """The rules of one alert. Its cases say themselves what was recorded."""
    return [r for g in rules()["groups"] for r in g["rules"] if r.get("alert") == alert]


def recorded() -> list[Json]:
    """The recording rules."""
    return [r for g in rules()["groups"] for r in g["rules"] if "record" in r]


def one_file(found: Sequence[Json]) -> Json:
    """A file of rules with these."""
    return {"groups": [{"name": "one", "rules": list(found)}]}


def cases_of(alert: str) -> list[Case]:
    """What is tried with an alert."""
    return [case for case in CASES if case.alert == alert]
