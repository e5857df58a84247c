"""The noise budget is zero pages; the detection budget is five minutes. Both by simulation."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from breakerscope.mixin import rendered_alerts
from tests.alerts.promtool import Json, run
from tests.alerts.simulations import HOUR, NOISE, OUTAGE, REAL, Process, Simulation

pytestmark = [pytest.mark.server, pytest.mark.timeout(240)]

ROOT = Path(__file__).parents[2]
PAGES = 'ALERTS{alertstate="firing", severity="critical"}'
GOT = re.compile(r"got: (.*)")
SAMPLE = re.compile(r'alertname="(\w+)".*?\} ([0-9.E+-]+)')
BUDGET = 300


def rules() -> Json:
    found: Json = yaml.safe_load(rendered_alerts()["breakerscope.rules.yml"])
    return found


def paged(folder: Path, simulation: Simulation) -> str:
    """Which pages there were. Nothing is right."""
    length = simulation.seconds
    test = simulation.as_test(f"count_over_time({PAGES}[{length}s])")
    return run(folder, {"noise": (rules(), [test])}, f"{simulation.step}s").get("noise", "")


def first_page(folder: Path, processes: Sequence[Process], step: int) -> tuple[str, int]:
    """What pages first, and how many seconds after the outage began."""
    simulation = Simulation("outage", OUTAGE - 30 + HOUR, list(processes), step)
    query = f"min_over_time(timestamp({PAGES})[{HOUR}s:{step}s])"
    said = run(folder, {"real": (rules(), [simulation.as_test(query)])}, f"{step}s")["real"]
    [got] = GOT.findall(said)
    times = {name: round(float(at)) for name, at in SAMPLE.findall(got)}
    assert times, said
    first = min(times, key=lambda name: times[name])
    return first.removeprefix("CircuitBreaker"), times[first] - OUTAGE


@pytest.mark.parametrize("simulation", NOISE, ids=lambda simulation: simulation.name)
def test_nobody_is_woken_up(tmp_path: Path, simulation: Simulation) -> None:
    assert paged(tmp_path, simulation) == ""


@pytest.fixture(scope="module")
def first_pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[tuple[str, int]]]:
    """With a scrape each minute, and one each 15 seconds."""
    folder = tmp_path_factory.mktemp("outages")
    return {
        name: [first_page(folder, processes, step) for step in (60, 15)] for name, processes in REAL
    }


@pytest.mark.parametrize("name", [name for name, _ in REAL if name.startswith("down for")])
def test_an_outage_pages_within_five_minutes(
    first_pages: dict[str, list[tuple[str, int]]], name: str
) -> None:
    for _, at in first_pages[name]:
        assert 0 < at <= BUDGET


def test_the_document_has_the_measured_times(
    first_pages: dict[str, list[tuple[str, int]]],
) -> None:
    text = (ROOT / "docs" / "alerts.md").read_text(encoding="utf-8")
    rows = [
        f"| {name} | {' | '.join(f'{what}, {at // 60} min {at % 60:02} s' for what, at in cells)} |"
        for name, cells in first_pages.items()
    ]
    assert [row for row in rows if row not in text] == []
