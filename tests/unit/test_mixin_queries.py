"""What the queries about states say: small worlds with a known answer, told to promtool."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from breakerscope.core.events import State
from breakerscope.mixin import MixinConfig
from breakerscope.mixin.queries import Queries
from tests.dashboards.grafana import All, filled_in
from tests.servers.process import binary

QUERIES = Queries(MixinConfig())
EVERYTHING = {"job": All(), "instance": All(), "breaker": All()}
OWN = {"__range": "300s", "__interval": "15s", "__rate_interval": "60s"}
NOW = 300
STEP = 15

CLOSED, OPEN, HALF_OPEN, FORCED_OPEN, DISABLED = "c", "o", "h", "f", "d"
LETTERS = {
    State.CLOSED: CLOSED,
    State.OPEN: OPEN,
    State.HALF_OPEN: HALF_OPEN,
    State.FORCED_OPEN: FORCED_OPEN,
    State.DISABLED: DISABLED,
}


def process(instance: str, breaker: str, *workers: str) -> list[dict[str, str]]:
    """The series of one address: the states of each worker behind it, a letter for each scrape.
    The last letter stands for all scrapes that follow.
    """
    scrapes = NOW // STEP + 1
    lives = [each + each[-1] * (scrapes - len(each)) for each in workers]
    return [
        {
            "series": f'circuit_breaker_state{{job="j",instance="{instance}",'
            f'breaker="{breaker}",state="{state}"}}',
            "values": " ".join(
                str(sum(life[at] == letter for life in lives)) for at in range(scrapes)
            ),
        }
        for state, letter in LETTERS.items()
    ]


def says(
    folder: Path, query: str, world: list[list[dict[str, str]]], expected: dict[str, float]
) -> None:
    """Check the answer at the end: the value by the labels, as PromQL writes them."""
    test = {
        "evaluation_interval": "15s",
        "tests": [
            {
                "interval": f"{STEP}s",
                "input_series": [series for each in world for series in each],
                "promql_expr_test": [
                    {
                        "expr": filled_in(query, EVERYTHING, OWN),
                        "eval_time": f"{NOW}s",
                        "exp_samples": [
                            {"labels": labels, "value": value} for labels, value in expected.items()
                        ],
                    }
                ],
            }
        ],
    }
    file = folder / "test.yml"  # JSON is YAML
    file.write_text(json.dumps(test))
    ran = subprocess.run(
        [binary("promtool"), "test", "rules", str(file)],
        check=False,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


X, Y = '{breaker="x", job="j"}', '{breaker="y", job="j"}'


@pytest.mark.parametrize(
    ("workers", "number"),
    [
        (["c"], 0),
        (["d"], 1),
        (["ch"], 2),
        (["cho"], 3),
        (["cof"], 4),
        (["c", "c", "c"], 0),
        (["c", "o", "o", "o"], 3),
        (["h", "h"], 2),
        (["d", "d", "d", "d", "h"], 2),
    ],
)
def test_the_worst_state(tmp_path: Path, workers: list[str], number: int) -> None:
    """Of several workers behind one address, too, each state has its own number."""
    world = [process("a", "x", *workers), process("b", "x", "c")]
    says(tmp_path, QUERIES.state_now(QUERIES.by_breaker), world, {X: number})
    says(tmp_path, QUERIES.worst_state(QUERIES.by_breaker), world, {X: number})


def test_a_state_between_two_points_is_not_lost(tmp_path: Path) -> None:
    """Open at the scrape before, closed now: within a step that has both, it was open."""
    life = "c" * (NOW // STEP - 1) + "oc"
    world = [process("a", "x", life)]
    query = QUERIES.worst_state(QUERIES.by_breaker).replace("$__interval", "20s")
    says(tmp_path, query, world, {X: 3})
    says(tmp_path, QUERIES.state_now(QUERIES.by_breaker), world, {X: 0})


WORLD = [
    # x is down in both since the fifth and the seventh scrape, tries in between; y is fine.
    process("a", "x", "ccccc" + "ooho" * 10),
    process("b", "x", "ccccccc" + "oohoo" * 10),
    process("a", "y", "cooc"),
    process("b", "y", "c", "c", "c"),
]


def test_how_many_are_not_closed(tmp_path: Path) -> None:
    says(tmp_path, QUERIES.breakers_not_closed(), WORLD, {"{}": 1})
    by = QUERIES.by_breaker
    says(tmp_path, QUERIES.instances_not_closed(by), WORLD, {X: 2, Y: 0})


def test_since_when(tmp_path: Path) -> None:
    """Since it was last closed, not since the last try; of the process that waits longest."""
    says(tmp_path, QUERIES.not_closed_since(), WORLD, {X: 4 * STEP * 1000})
    says(tmp_path, QUERIES.not_closed_for(), WORLD, {"{}": NOW - 4 * STEP})


def test_since_before_the_range(tmp_path: Path) -> None:
    """One that was never closed: since it was first seen."""
    says(tmp_path, QUERIES.not_closed_since(), [process("a", "x", "o")], {X: 0})


def test_since_when_behind_one_address(tmp_path: Path) -> None:
    """One of four workers is enough, and all of them have to be closed to end it."""
    world = [process("a", "x", "ccco", "cccccc", "ccccco", "ccccccc")]
    says(tmp_path, QUERIES.not_closed_since(), world, {X: 2 * STEP * 1000})
    says(tmp_path, QUERIES.instances_not_closed(QUERIES.by_breaker), world, {X: 1})
    says(tmp_path, QUERIES.breakers_not_closed(), world, {"{}": 1})


def test_all_closed(tmp_path: Path) -> None:
    world = [process("a", "x", "coc"), process("b", "x", "c", "c")]
    says(tmp_path, QUERIES.breakers_not_closed(), world, {"{}": 0})
    says(tmp_path, QUERIES.not_closed_since(), world, {})
    says(tmp_path, QUERIES.not_closed_for(), world, {"{}": 0})


def test_when_a_state_was_entered(tmp_path: Path) -> None:
    name = "circuit_breaker_state_entered_timestamp_seconds"
    entered = {
        "series": name + '{job="j",instance="a",breaker="x"}',
        "values": "123x20",
    }
    labels = '{breaker="x", instance="a", job="j", state="open"}'
    world = [process("a", "x", "o", "o"), [entered]]
    says(tmp_path, QUERIES.state_entered(), world, {labels: 123000})
