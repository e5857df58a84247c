"""Each alert fires and keeps quiet when it should.

That every part of it is needed is shown in `tests/integration/test_alert_mutations.py`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.alerts.cases import CASES, RECORDING
from tests.alerts.mutants import mutants
from tests.alerts.promtool import Case, Json, run
from tests.alerts.shipped import NAMES, cases_of, one_file, recorded, rules_of

PACES = sorted({case.pace for case in CASES})


@pytest.mark.parametrize("pace", PACES)
def test_each_case_comes_out_as_it_says(tmp_path: Path, pace: str) -> None:
    tests = {
        f"{case.alert}-{at}": (one_file(rules_of(case.alert)), [case.as_test()])
        for at, case in enumerate(CASES)
        if case.pace == pace
    }
    assert run(tmp_path, tests, pace) == {}


@pytest.mark.parametrize("case", RECORDING, ids=lambda case: case.name)
def test_what_is_recorded(tmp_path: Path, case: Case) -> None:
    tests = {"recording": (one_file(recorded()), [case.as_test()])}
    assert run(tmp_path, tests, case.pace) == {}


@pytest.mark.parametrize("alert", NAMES)
def test_each_alert_has_one_case_that_fires_and_two_that_do_not(alert: str) -> None:
    cases = cases_of(alert)
    assert [case for case in cases if any(case.fires.values())]
    assert len([case for case in cases if not any(case.fires.values())]) >= 2


def test_there_is_no_case_for_an_alert_that_is_not_there() -> None:
    assert {case.alert for case in CASES} == set(NAMES)


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
        (_rule(expr="rate(a[6m])"), {"ratea[9m]", "ratea[4m]"}),
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
