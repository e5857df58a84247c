"""No empty panel: every query of every dashboard, asked as Grafana asks it, has data.

The real demo in two processes under a real Prometheus, with breakers whose names need care.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib.image import imread

from breakerscope import catalogue
from breakerscope.demo.script import SERVICES
from breakerscope.mixin import MixinConfig, rendered
from tests.dashboards.draw import GAP, HEAD, KINDS, UNIT, WIDTH, Picture
from tests.dashboards.grafana import (
    LEGEND_LABEL,
    All,
    Answer,
    Choice,
    Grafana,
    Json,
    Screen,
    panels,
    query_variables,
)
from tests.dashboards.live import scraped
from tests.dashboards.shop import ODD_NAMES
from tests.servers.process import wait_until

pytestmark = [pytest.mark.server, pytest.mark.timeout(180)]

DASHBOARDS: dict[str, Json] = {
    name: json.loads(text) for name, text in rendered(MixinConfig()).items()
}
QUIET_BREAKER = "payment_api"
NO_SLOW_RULE = ["payment_api", "recommendations"]
BREAKERS = sorted([*SERVICES, *ODD_NAMES])

ROUND = 15.0

ALL: dict[str, Choice | None] = {"job": All(), "instance": All(), "breaker": All()}
MANY: dict[str, Choice | None] = {"job": None, "instance": None, "breaker": None}

NEVER_OPENED = "this dependency is healthy all the time"
MAY_BE_EMPTY: dict[str, tuple[str, list[str]]] = {
    "Which dependency, since when, how many calls refused Since": (
        "a breaker that is closed just now has no such time",
        BREAKERS,
    ),
    "Slow calls against threshold A": ("its policy has no rule about slow calls", NO_SLOW_RULE),
    "Slow share and threshold B": ("its policy has no rule about slow calls", NO_SLOW_RULE),
    "annotation Opened": (NEVER_OPENED, [QUIET_BREAKER]),
    "annotation Closed again": (NEVER_OPENED, [QUIET_BREAKER]),
    "annotation By hand": ("nobody touched these", list(SERVICES)),
}
"""What may have no data where one breaker is chosen: why, and which. Else everything has some."""


@pytest.fixture(scope="module")
def grafana(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Grafana]:
    """Asks about a time in which each breaker but the quiet one has opened and closed."""
    commands = [["-m", "tests.dashboards.shop", "{port}", seed] for seed in ("1", "2")]
    started = time.time()
    with scraped(commands, tmp_path_factory.mktemp("dashboards")) as prometheus:

        def until(query: str, at_least: int, what: str) -> None:
            """So many series have a value."""

            def enough() -> bool:
                values = prometheus.query(query).values()
                return sum(value > 0 for value in values) >= at_least

            try:
                wait_until(enough, what, 40)
            except TimeoutError as error:
                error.add_note(str(prometheus.query(query)))
                raise

        until("count by (instance, breaker) (circuit_breaker_info)", 2 * len(BREAKERS), "scrapes")
        # What was so at the first scrape already is no growth, and so no mark on a panel.
        busy = 2 * (len(BREAKERS) - 1)
        for cause, what in (
            ('cause="probes_succeeded"', "all have closed again"),
            ('from_state="closed", to_state="open"', "all have opened"),
        ):
            grown = f"increase(circuit_breaker_transitions_total{{{cause}}}[1m])"
            until(f"sum by (instance, breaker) ({grown})", busy, what)
        # So that the last scrapes have seen all of it, and something is open.
        until('max_over_time(circuit_breaker_state{state="closed"}[2s]) == bool 0', 2, "some open")
        end = time.time()
        # A round range, as a dashboard has: its end is a step of the annotations.
        span = ROUND * math.ceil((end - started) / ROUND)
        yield Grafana(prometheus, Screen(start=end - span, end=end))


def problems(grafana: Grafana, dashboard: Json, choose: dict[str, Choice | None]) -> list[str]:
    choices = grafana.choices(dashboard, choose)
    return [
        problem
        for answer in grafana.answers(dashboard, choices)
        for problem in unexcused(answer, choices)
    ]


def is_excused(where: str, breaker: Choice) -> bool:
    return where in MAY_BE_EMPTY and breaker in MAY_BE_EMPTY[where][1]


def unexcused(answer: Answer, choices: dict[str, Choice]) -> list[str]:
    excused = is_excused(answer.where, choices["breaker"]) and not answer.error
    return [] if excused else answer.problems


@pytest.mark.parametrize("file", DASHBOARDS)
@pytest.mark.parametrize("choose", [ALL, MANY], ids=["all", "many"])
def test_no_empty_panel(grafana: Grafana, file: str, choose: dict[str, Choice | None]) -> None:
    assert problems(grafana, DASHBOARDS[file], choose) == []


@pytest.mark.parametrize("file", DASHBOARDS)
@pytest.mark.parametrize("breaker", BREAKERS)
def test_no_empty_panel_for_one(grafana: Grafana, file: str, breaker: str) -> None:
    """One job, one breaker. A dashboard about one process of many is another choice of `many`."""
    assert problems(grafana, DASHBOARDS[file], {"job": ["demo"], "breaker": breaker}) == []


@pytest.mark.parametrize("file", DASHBOARDS)
def test_no_empty_panel_for_one_process(grafana: Grafana, file: str) -> None:
    instance = grafana.options(
        next(each for each in query_variables(DASHBOARDS[file]) if each["name"] == "instance"),
        {"job": All()},
    )[0]
    choose: dict[str, Choice | None] = {"instance": [instance], "breaker": "search.v2"}
    assert problems(grafana, DASHBOARDS[file], choose) == []


@pytest.mark.parametrize("file", DASHBOARDS)
def test_variables_offer_what_is_there(grafana: Grafana, file: str) -> None:
    dashboard = DASHBOARDS[file]
    choices: dict[str, Choice] = {}
    offered: dict[str, list[str]] = {}
    for variable in query_variables(dashboard):
        offered[variable["name"]] = grafana.options(variable, choices)
        choices[variable["name"]] = offered[variable["name"]]
    assert offered["job"] == ["demo"]
    assert len(offered["instance"]) == 2
    assert sorted(offered["breaker"]) == BREAKERS


@pytest.mark.parametrize("breaker", BREAKERS)
def test_a_choice_chooses_this_breaker_and_no_other(grafana: Grafana, breaker: str) -> None:
    """A dot is no wildcard, and a quote ends nothing."""
    dashboard = DASHBOARDS["overview.json"]
    choices = grafana.choices(dashboard, {"job": All(), "instance": All(), "breaker": [breaker]})
    seen = {
        series.labels["breaker"]
        for answer in grafana.answers(dashboard, choices)
        for series in answer.series
        if "breaker" in series.labels
    }
    assert seen == {breaker}


def test_each_excuse_is_needed(grafana: Grafana) -> None:
    """Else the list would grow old, and hide what breaks later."""
    choices = {
        breaker: grafana.choices(DASHBOARDS["overview.json"], {"breaker": breaker})
        for breaker in BREAKERS
    }
    needed = {
        answer.where
        for dashboard in DASHBOARDS.values()
        for breaker in BREAKERS
        for answer in grafana.answers(dashboard, choices[breaker])
        if answer.problems and is_excused(answer.where, breaker)
    }
    assert needed == set(MAY_BE_EMPTY)


def test_exemplars_lead_to_traces(grafana: Grafana) -> None:
    dashboard = DASHBOARDS["breaker.json"]
    for breaker in ("search", *ODD_NAMES):
        choices = grafana.choices(dashboard, {"breaker": breaker})
        found = {
            answer.where: answer.exemplars
            for answer in grafana.answers(dashboard, choices)
            if answer.exemplars is not None
        }
        assert set(found) == {"Duration of calls C", "Durations, all calls A"}
        for exemplars in found.values():
            assert exemplars
            assert all(
                re.fullmatch("[0-9a-f]{32}", each["labels"]["trace_id"]) for each in exemplars
            )


def test_the_overview_tells_what_happened(grafana: Grafana) -> None:
    """The numbers of the first screen agree with the series they come from."""
    dashboard = DASHBOARDS["overview.json"]
    answers = {
        answer.where: answer
        for answer in grafana.answers(dashboard, grafana.choices(dashboard, ALL))
    }
    table = "Which dependency, since when, how many calls refused "

    def column(ref: str) -> dict[str, float]:
        series = answers[table + ref].series
        return {each.labels["breaker"]: each.points[0][1] for each in series}

    states, since = column("State"), column("Since")
    assert sorted(states) == BREAKERS
    assert set(since) == {breaker for breaker, state in states.items() if state > 0}
    screen = grafana.screen
    assert all(screen.start < at / 1000 <= screen.end for at in since.values())
    not_closed = answers["Breakers not closed A"].series[0].points[0][1]
    assert not_closed == len(since)
    refused = column("Refused")
    assert refused[QUIET_BREAKER] == 0
    assert refused["search.v2"] > 0
    assert answers["Calls refused A"].series[0].points[0][1] == pytest.approx(sum(refused.values()))


@pytest.mark.parametrize("metric", catalogue.METRICS, ids=lambda metric: metric.name)
def test_another_name_in_the_catalogue_leaves_panels_empty(
    grafana: Grafana, metric: catalogue.Metric, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the tests above would say if the dashboards asked for a name that nobody exports."""
    attribute = next(name for name, value in vars(catalogue).items() if value is metric)
    other = replace(metric, name=metric.name.replace("circuit_breaker_", "circuit_breakers_"))
    monkeypatch.setattr(catalogue, attribute, other)
    metrics = tuple(other if each is metric else each for each in catalogue.METRICS)
    monkeypatch.setattr(catalogue, "METRICS", metrics)
    found = [
        answer.where
        for text in rendered(MixinConfig()).values()
        for answer in changed(grafana, json.loads(text), other.name)
        if answer.problems
    ]
    assert found


def changed(grafana: Grafana, dashboard: Json, name: str) -> Iterator[Answer]:
    """The answers of the panels that ask for this name."""
    asking = [each for each in dashboard["panels"] if name in json.dumps(each)]
    only = {**dashboard, "panels": asking, "annotations": {}}
    # The variables ask for names of the catalogue, too: they are left as they are.
    choices: dict[str, Choice] = {"job": All(), "instance": All(), "breaker": All()}
    yield from grafana.answers(only, choices)


@pytest.mark.parametrize("file", DASHBOARDS)
def test_a_preview_can_be_drawn(grafana: Grafana, file: str, tmp_path: Path) -> None:
    dashboard = DASHBOARDS[file]
    assert {panel["type"] for panel in panels(dashboard)} <= set(KINDS)
    picture = tmp_path / "preview.png"
    Picture(grafana, dashboard, grafana.choices(dashboard, ALL)).save(picture)
    height, width, _ = imread(picture).shape
    rows = max(each["gridPos"]["y"] + each["gridPos"]["h"] for each in dashboard["panels"])
    assert (width, height) == (WIDTH, HEAD + rows * UNIT + GAP)


def test_a_legend_that_says_nothing_is_found(grafana: Grafana) -> None:
    dashboard = json.loads(rendered(MixinConfig())["breaker.json"])
    panel = next(each for each in dashboard["panels"] if each["id"] == 12)
    assert LEGEND_LABEL.findall(panel["targets"][0]["legendFormat"]) == ["outcome"]
    panel["targets"][0]["legendFormat"] = "{{result}}"
    found = list(grafana.answers_of(panel, grafana.choices(dashboard, ALL)))
    assert [answer.problems for answer in found] == [
        ["Calls by outcome A: the legend says result, which no series has"]
    ]
