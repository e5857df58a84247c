"""Every part of every rule is needed: without it, or with another one, a case comes out otherwise.

Each threshold, comparison, guard, matcher, window and span is changed, one at a time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.alerts.cases import RECORDING
from tests.alerts.mutants import mutants
from tests.alerts.promtool import Json, run
from tests.alerts.shipped import NAMES, cases_of, one_file, recorded, rules_of

pytestmark = [pytest.mark.server, pytest.mark.timeout(300)]

FAILED_ALERT = re.compile(r"alertname: (\w+), time:")
KINDS = {"compare", "flip", "for", "guard", "matcher", "number", "offset", "keep", "window"}
AT_ONCE = 2


@dataclass(frozen=True)
class Changed:
    """All changed forms of one alert, beside each other under names of their own: to start promtool
    for each would take many minutes.
    """

    alert: str
    what: dict[str, str]
    rules: list[Json]

    @classmethod
    def of(cls, alert: str) -> Changed:
        what: dict[str, str] = {}
        rules: list[Json] = []
        for rule in rules_of(alert):
            for mutant in mutants(rule):
                name = f"{alert}M{len(what)}"
                what[name] = mutant.what
                own = [mutant.rule if each is rule else each for each in rules_of(alert)]
                rules += [{**each, "alert": name} for each in own]
        return cls(alert, what, rules)

    @property
    def paces(self) -> list[str]:
        return sorted({case.pace for case in cases_of(self.alert)})

    def noticed(self, folder: Path, pace: str) -> set[str]:
        """The changes that one of the cases of this pace notices."""
        tests = [
            case.as_test(list(self.what)) for case in cases_of(self.alert) if case.pace == pace
        ]
        folder.mkdir()
        said = run(folder, {self.alert: (one_file(self.rules), tests)}, pace)
        return set(FAILED_ALERT.findall(said.get(self.alert, "")))


def unnoticed(folder: Path) -> Iterator[str]:
    changed = [Changed.of(alert) for alert in NAMES]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        running = [
            (each, pool.submit(each.noticed, folder / f"{each.alert}-{pace}", pace))
            for each in changed
            for pace in each.paces
        ]
    for each in changed:
        found = set[str]().union(*(done.result() for of, done in running if of is each))
        yield from (
            f"{each.alert}: {what}" for name, what in each.what.items() if name not in found
        )


def test_every_change_of_an_alert_is_noticed(tmp_path: Path) -> None:
    assert list(unnoticed(tmp_path)) == []


def test_every_kind_of_change_is_tried() -> None:
    kinds = {
        what.split(":")[0].split()[0] for alert in NAMES for what in Changed.of(alert).what.values()
    }
    assert kinds == KINDS


def test_every_change_of_what_is_recorded_is_noticed(tmp_path: Path) -> None:
    own = recorded()
    changed = {
        f"{at}-{number}": (mutant, [*own[:at], mutant.rule, *own[at + 1 :]])
        for at, rule in enumerate(own)
        for number, mutant in enumerate(mutants(rule))
    }
    noticed: set[str] = set()
    for case in RECORDING:
        tests = {name: (one_file(found), [case.as_test()]) for name, (_, found) in changed.items()}
        noticed |= set(run(tmp_path, tests, case.pace))
    assert [
        f"{mutant.rule['record']}: {mutant.what}"
        for name, (mutant, _) in changed.items()
        if name not in noticed
    ] == []
