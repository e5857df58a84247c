"""Each alert fires and keeps quiet when it should, and every part of it is needed."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from breakerscope.mixin import MixinConfig, rendered_alerts
from breakerscope.mixin.alerts import alerts_of, name_of
from tests.alerts.cases import CASES, RECORDING
from tests.alerts.mutants import mutants
from tests.alerts.promtool import Case, Json, run

DEFAULT = MixinConfig()
FAILED_ALERT = re.compile(r"alertname: (\w+), time:")


@cache
def rules() -> Json:
    found: Json = yaml.safe_load(rendered_alerts(DEFAULT)["breakerscope.rules.yml"])
    return found


def rules_of(alert: str) -> list[Json]:
    """The rules of one alert. Its cases say themselves what was recorded."""
    return [r for g in rules()["groups"] for r in g["rules"] if r.get("alert") == alert]


def recorded() -> list[Json]:
    """The recording rules."""
    return [r for g in rules()["groups"] for r in g["rules"] if "record" in r]


def one_file(found: list[Json]) -> Json:
    return {"groups": [{"name": "one", "rules": found}]}


def cases_of(alert: str) -> list[Case]:
    return [case for case in CASES if case.alert == alert]


NAMES = [name_of(alert, DEFAULT) for alert in alerts_of(DEFAULT)]


PACES = sorted({case.pace for case in CASES})


@pytest.mark.parametrize("pace", PACES)
def test_each_case_comes_out_as_it_says(tmp_path: Path, pace: str) -> None:
    tests = {
        f"{case.alert}-{at}": (one_file(rules_of(case.alert)), [case.as_test()])
        for at, case in enumerate(CASES)
        if case.pace == pace
    }
    assert run(tmp_path, tests, pace) == {}


def test_what_is_recorded(tmp_path: Path) -> None:
    tests = {"recording": (one_file(recorded()), [RECORDING.as_test()])}
    assert run(tmp_path, tests, RECORDING.pace) == {}


@pytest.mark.parametrize("alert", sorted(set(NAMES)))
def test_each_alert_has_one_case_that_fires_and_two_that_do_not(alert: str) -> None:
    cases = cases_of(alert)
    assert [case for case in cases if any(case.fires.values())]
    assert len([case for case in cases if not any(case.fires.values())]) >= 2


def test_there_is_no_case_for_an_alert_that_is_not_there() -> None:
    assert {case.alert for case in CASES} == set(NAMES)


def test_every_change_of_an_alert_is_noticed(tmp_path: Path) -> None:
    """Each threshold, comparison, guard, matcher and span, one at a time.

    All changed forms of an alert run beside each other under names of their own: to start promtool
    for each would take minutes.
    """
    what: dict[str, str] = {}
    survivors: set[str] = set()
    for alert in sorted(set(NAMES)):
        changed: list[Json] = []
        names: list[str] = []
        for rule in rules_of(alert):
            for mutant in mutants(rule):
                name = f"{alert}M{len(names)}"
                names.append(name)
                what[name] = f"{alert}: {mutant.what}"
                own = [mutant.rule if each is rule else each for each in rules_of(alert)]
                changed += [{**each, "alert": name} for each in own]
        survivors |= set(names)
        for pace in {case.pace for case in cases_of(alert)}:
            own_cases = [case for case in cases_of(alert) if case.pace == pace]
            tests = [case.as_test(names) for case in own_cases]
            said = run(tmp_path, {alert: (one_file(changed), tests)}, pace)
            survivors -= set(FAILED_ALERT.findall(said.get(alert, "")))
    assert sorted(what[name] for name in survivors) == []
    kinds = {text.split(": ")[1].split()[0] for text in what.values()}
    assert kinds == {"compare", "flip", "for", "guard", "matcher", "number", "offset", "keep"}


def test_every_change_of_what_is_recorded_is_noticed(tmp_path: Path) -> None:
    own = recorded()
    changed = {
        f"{at}-{number}": (mutant, [*own[:at], mutant.rule, *own[at + 1 :]])
        for at, rule in enumerate(own)
        for number, mutant in enumerate(mutants(rule))
    }
    tests = {name: (one_file(found), [RECORDING.as_test()]) for name, (_, found) in changed.items()}
    noticed = run(tmp_path, tests, RECORDING.pace)
    assert [
        f"{mutant.rule['record']}: {mutant.what}"
        for name, (mutant, _) in changed.items()
        if name not in noticed
    ] == []


def _rule(**more: Any) -> Json:
    return {"alert": "A", "expr": "up", "labels": {}, **more}


@pytest.mark.parametrize(
    ("rule", "wanted"),
    [
        (_rule(expr="up > 2"), {"up", "up < 2", "up > 3", "up > 1.3333333333333333"}),
        (_rule(expr='a{b="c"}'), {"a"}),
        (_rule(expr="a and on (b) c"), {"a", "c"}),
        (_rule(expr="a unless b"), {"a"}),
        (_rule(expr="clamp_min(a, 0)"), {"a"}),
        (_rule(expr="a offset 5m"), {"a"}),
    ],
)
def test_what_is_changed(rule: Json, wanted: set[str]) -> None:
    expressions = {re.sub(r"[()]", "", each.rule["expr"]) for each in mutants(rule)}
    assert {" ".join(each.split()) for each in expressions} == wanted


def test_spans_are_changed() -> None:
    spans = [
        (each.rule.get("for"), each.rule.get("keep_firing_for"))
        for each in mutants(_rule(**{"for": "2m", "keep_firing_for": "5m"}))
    ]
    assert spans == [(None, "5m"), ("240s", "5m"), ("2m", None), ("2m", "600s")]
