"""Rule tests by promtool, many in one run: to start it takes longer than most tests."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.servers.process import binary

Json = dict[str, Any]

Said = dict[str, str]

SECONDS = 200
LONGEST = 2000
VERDICT = re.compile(r"^Unit Testing:  (\S+)\n((?:(?!Unit Testing:).*\n)*)", re.MULTILINE)


@dataclass(frozen=True)
class Firing:
    """An alert that fires, whole: its labels besides the name, and all of its annotations."""

    labels: Mapping[str, str]
    annotations: Mapping[str, str]


@dataclass(frozen=True)
class Case:
    """What was scraped or recorded, one value each interval; and who fires when."""

    name: str
    alert: str
    series: Mapping[str, str]
    fires: Mapping[str, Sequence[Firing]]
    """By the time since the beginning. Nobody: an empty list."""
    interval: str = "1m"
    every: str = ""
    """How often rules are evaluated; empty: as often as there are values."""
    values: Mapping[str, tuple[str, Mapping[str, float]]] = field(default_factory=dict)
    """For recording rules: by query, the time and the value of each series."""

    @property
    def pace(self) -> str:
        """How often rules are evaluated."""
        return self.every or self.interval

    def as_test(self, names: Sequence[str] = ()) -> Json:
        """As promtool reads it. `names`: other names of the alert, which all should do the same."""
        return {
            "interval": self.interval,
            "input_series": [
                {"series": name, "values": values} for name, values in self.series.items()
            ],
            "alert_rule_test": [
                {
                    "eval_time": at,
                    "alertname": name,
                    "exp_alerts": [
                        {"exp_labels": each.labels, "exp_annotations": each.annotations}
                        for each in firing
                    ],
                }
                for at, firing in self.fires.items()
                for name in names or (self.alert,)
            ],
            "promql_expr_test": [
                {
                    "expr": query,
                    "eval_time": at,
                    "exp_samples": [
                        {"labels": labels, "value": value} for labels, value in samples.items()
                    ],
                }
                for query, (at, samples) in self.values.items()
            ],
        }


def run(folder: Path, tests: Mapping[str, tuple[Json, Sequence[Json]]], every: str) -> Said:
    """What promtool finds wrong, by the name of the test: a file of rules, and what to try with
    them. Rules are evaluated each `every`.
    """
    files: dict[str, str] = {}
    for name, (rules, own) in tests.items():
        (folder / f"{name}.rules.json").write_text(json.dumps(rules))  # JSON is YAML
        file = folder / f"{name}.test.json"
        document = {
            "rule_files": [f"{name}.rules.json"],
            "evaluation_interval": every,
            # Without an order promtool takes any. This is the slowest: what is read comes last.
            "group_eval_order": [group["name"] for group in reversed(rules["groups"])],
            "tests": own,
        }
        file.write_text(json.dumps(document))
        files[str(file)] = name
    ran = subprocess.run(
        [binary("promtool"), "test", "rules", *files],
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS,
    )
    said = {files[file]: verdict.strip() for file, verdict in VERDICT.findall(f"{ran.stdout}\n")}
    assert set(said) == set(tests), ran.stdout[:LONGEST]
    return {name: verdict for name, verdict in said.items() if verdict != "SUCCESS"}
