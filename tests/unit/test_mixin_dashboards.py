"""The dashboards as files: up to date, without a finding of the linter, true to the catalogue."""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import fields
from importlib import metadata
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from breakerscope import catalogue
from breakerscope.core.events import Outcome, State
from breakerscope.mixin import MixinConfig, load, rendered
from breakerscope.mixin.dashboards import BOARDS
from breakerscope.mixin.queries import Queries, equal, series_of
from breakerscope.mixin.sdk import JSONEncoder, models
from breakerscope.mixin.style import OUTCOMES, STATES
from tests.dashboards import linter, promql
from tests.dashboards.grafana import (
    LEGEND_LABEL,
    VARIABLE,
    Json,
    annotation_queries,
    expressions,
    filled_in,
    panels,
)
from tests.servers.http import HttpServer
from tests.servers.process import binary

ROOT = Path(__file__).parents[2]
DEFAULT = MixinConfig()
OTHER = MixinConfig(
    selector='cluster="eu", team=~"shop|pay"',
    metric_prefix="shop",
    job_label="service",
    instance_label="pod",
    overview_uid="cb-overview",
    breaker_uid="cb-breaker",
    telemetry_uid="cb-telemetry",
    title_prefix="Shop",
    time_range="6h",
    refresh="",
    runbook_base_url="https://example.org/runbooks",
)


def dashboards(config: MixinConfig = DEFAULT) -> dict[str, Json]:
    return {name: json.loads(text) for name, text in rendered(config).items()}


FILES = sorted(dashboards())
every_file = pytest.mark.parametrize("file", FILES)
every_config = pytest.mark.parametrize("config", [DEFAULT, OTHER], ids=["default", "other"])


# -- files -----------------------------------------------------------------------------------------


def test_what_is_committed_is_what_is_rendered() -> None:
    check = [sys.executable, str(ROOT / "scripts" / "render_dashboards.py"), "--check"]
    ran = subprocess.run(check, check=False, capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (0, ""), "run `make dashboards`"


def test_the_same_bytes_in_every_process() -> None:
    program = "from breakerscope.mixin import *; print(*rendered(MixinConfig()).values())"
    texts = {
        subprocess.run(
            [sys.executable, "-c", program],
            check=True,
            capture_output=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    }
    assert len(texts) == 1


def test_the_wheel_has_all_of_them() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    found = {to: out for to, out in wheel["force-include"].items() if to.startswith("dashboards/")}
    assert found == {
        f"dashboards/{board.file}": f"breakerscope/mixin/rendered/{board.file}" for board in BOARDS
    }


def test_the_sdk_is_the_one_for_all_versions_of_grafana() -> None:
    """Its older releases carry an epoch, which pip takes for newer."""
    assert metadata.version("grafana-foundation-sdk").lstrip("v").startswith("0.")


@every_file
def test_the_types_of_the_sdk_know_every_key(file: str) -> None:
    """What its classes do not know is lost on the way through them."""
    dashboard = dashboards()[file]
    again = json.loads(json.dumps(models.Dashboard.from_json(dashboard), cls=JSONEncoder))
    text = json.dumps(again, sort_keys=True).replace(', "placement": "inControlsMenu"', "")
    assert text == json.dumps(dashboard, sort_keys=True)
    dashboard["panels"][1]["gridPos"]["hight"] = 3
    assert "hight" not in json.dumps(models.Dashboard.from_json(dashboard), cls=JSONEncoder)


@every_file
def test_the_schema_that_grafana_11_to_13_read_from_files(file: str) -> None:
    dashboard = dashboards()[file]
    assert "apiVersion" not in dashboard
    assert dashboard["schemaVersion"] == 42
    assert "inControlsMenu" not in json.dumps(dashboard)


# -- numbers and places ----------------------------------------------------------------------------


@every_config
def test_uids_are_those_of_the_configuration(config: MixinConfig) -> None:
    uids = [dashboards(config)[board.file]["uid"] for board in BOARDS]
    assert uids == [config.overview_uid, config.breaker_uid, config.telemetry_uid]


@every_file
def test_no_number_of_a_panel_is_given_twice(file: str) -> None:
    numbers = [panel["id"] for panel in dashboards()[file]["panels"]]
    assert len(numbers) == len(set(numbers))
    assert all(numbers)


@every_file
def test_panels_fill_the_width_and_do_not_overlap(file: str) -> None:
    places = [panel["gridPos"] for panel in dashboards()[file]["panels"]]
    cells = [
        {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        for at in places
    ]
    assert not any(one & other for one, other in combinations(cells, 2))
    covered = set().union(*cells)
    bottom = max(y for _, y in covered)
    assert covered == {(x, y) for x in range(24) for y in range(bottom + 1)}


# -- the linter ------------------------------------------------------------------------------------


@every_file
def test_the_linter_finds_nothing(file: str) -> None:
    assert linter.lint(dashboards()[file]) == []


def _first(dashboard: Json) -> Json:
    return next(iter(panels(dashboard)))


def _target(dashboard: Json) -> Json:
    found: Json = _first(dashboard)["targets"][0]
    return found


def _variable(dashboard: Json, name: str) -> Json:
    found: Json = next(each for each in dashboard["templating"]["list"] if each["name"] == name)
    return found


def _rewrite(old: str, new: str) -> Callable[[Json], None]:
    def change(dashboard: Json) -> None:
        target = _target(dashboard)
        assert old in target["expr"]
        target["expr"] = target["expr"].replace(old, new)

    return change


def _ask(query: str) -> Callable[[Json], None]:
    return lambda dashboard: _target(dashboard).update(expr=query)


BOTH = 'job=~"$job", instance=~"$instance"'
SABOTAGE: dict[Callable[[Json], Any], Callable[[Json], None]] = {
    linter.template_datasource: lambda d: d["templating"]["list"].reverse(),
    linter.template_job: lambda d: _variable(d, "job").update(multi=False),
    linter.template_instance: lambda d: _variable(d, "instance").update(allValue=".*"),
    linter.template_label_promql: lambda d: _variable(d, "job")["query"].update(query="up{, job"),
    linter.template_on_time_change_reload: lambda d: _variable(d, "job").update(refresh=1),
    linter.panel_datasource: lambda d: _first(d).update(datasource={"uid": "abc"}),
    linter.panel_title_description: lambda d: _first(d).update(description=""),
    linter.panel_units: lambda d: _first(d)["fieldConfig"]["defaults"].update(unit="shrot"),
    linter.panel_no_targets: lambda d: _first(d).update(targets=[]),
    linter.target_promql: _rewrite("sum(", "sum(("),
    linter.target_rate_interval: _ask(f"sum(rate(a_total{{{BOTH}}}[5m]))"),
    linter.target_job: _rewrite('job=~"$job", ', ""),
    linter.target_instance: _rewrite('instance=~"$instance"', 'instance=~"a"'),
    linter.target_counter_agg: _ask(f"sum(a_total{{{BOTH}}})"),
    linter.uneditable_dashboard: lambda d: d.update(editable=True),
}


def test_every_rule_is_tried() -> None:
    assert set(SABOTAGE) == set(linter.RULES)


@pytest.mark.parametrize("rule", linter.RULES, ids=lambda rule: rule.__name__)
def test_every_rule_finds_what_it_is_for(rule: Callable[[Json], Any]) -> None:
    dashboard = copy.deepcopy(dashboards()["overview.json"])
    assert list(rule(dashboard)) == []
    SABOTAGE[rule](dashboard)
    assert list(rule(dashboard))


# -- queries ---------------------------------------------------------------------------------------


@every_config
@every_file
def test_every_query_is_promql_3(config: MixinConfig, file: str) -> None:
    for where, query in expressions(dashboards(config)[file]):
        assert promql.parse(query), where


@every_config
def test_every_query_is_promql_2_42(config: MixinConfig, tmp_path: Path) -> None:
    queries = {
        filled_in(query, {}, promql.OWN)
        for dashboard in dashboards(config).values()
        for _, query in expressions(dashboard)
    }
    rules = [{"record": "a", "expr": query} for query in sorted(queries)]
    file = tmp_path / "rules.yml"  # JSON is YAML
    file.write_text(json.dumps({"groups": [{"name": "all", "rules": rules}]}))
    command = [binary("promtool"), "check", "rules", "--lint=none", str(file)]
    ran = subprocess.run(command, check=False, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert f"{len(rules)} rules found" in ran.stdout


@every_file
def test_metrics_and_labels_are_those_of_the_catalogue(file: str) -> None:
    known = {name: metric for metric in catalogue.METRICS for name in series_of(metric)}
    from_the_scrape = {"job", "instance"}
    for where, query in expressions(dashboards()[file]):
        for found in promql.selectors(query):
            if found.selector.name is None:  # all of them
                names = next(value for name, _, value in found.matchers if name == "__name__")
                assert set(names.split("|")) == set(known), where
                continue
            metric = known[found.selector.name]
            allowed = from_the_scrape | set(metric.label_names)
            assert {name for name, _, _ in found.matchers} <= allowed, where
        ours = {name for metric in catalogue.METRICS for name in metric.label_names}
        assert promql.labels(query) <= ours | from_the_scrape | {"le", "__name__"}, where


def test_every_metric_of_the_catalogue_is_on_a_panel() -> None:
    asked = {
        found.selector.name
        for dashboard in dashboards().values()
        for panel in panels(dashboard)
        for target in panel.get("targets", [])
        for found in promql.selectors(target["expr"])
    }
    assert {
        metric.name for metric in catalogue.METRICS if not asked & set(series_of(metric))
    } == set()


def test_a_label_that_the_metric_does_not_have_is_refused() -> None:
    with pytest.raises(ValueError, match="circuit_breaker_info has no label outcome"):
        Queries(DEFAULT).select(catalogue.INFO, equal(catalogue.OUTCOME, Outcome.SUCCESS))


def test_own_labels_names_and_selectors_are_in_every_query() -> None:
    wanted = [("cluster", "=", "eu"), ("team", "=~", "shop|pay")]
    for dashboard in dashboards(OTHER).values():
        for where, query in expressions(dashboard):
            for found in promql.selectors(query):
                assert found.matchers[:2] == wanted, where
                assert (found.selector.name or "shop_circuit").startswith("shop_circuit"), where
                names = {name for name, _, _ in found.matchers}
                assert not names & {"job", "instance"}, where
        assert "{{job}}" not in json.dumps(dashboard)
        assert "{{instance}}" not in json.dumps(dashboard)


# -- variables, links, colours ---------------------------------------------------------------------


@every_config
@every_file
def test_no_variable_is_used_that_is_not_there(config: MixinConfig, file: str) -> None:
    dashboard = dashboards(config)[file]
    there = {each["name"] for each in dashboard["templating"]["list"]}
    used = {found[1] or found[2] or found[4] for found in VARIABLE.finditer(json.dumps(dashboard))}
    used -= {"__all"}
    assert {name for name in used if not name.startswith("__")} == there
    assert {name for name in used if name.startswith("__")} <= {
        "__rate_interval", "__interval", "__range", "__from", "__to",
        "__url_time_range", "__field", "__value",
    }  # fmt: skip


def _urls(value: Any) -> list[str]:
    if isinstance(value, dict):
        here = [value["url"]] if isinstance(value.get("url"), str) else []
        return here + [url for each in value.values() for url in _urls(each)]
    return [url for each in value for url in _urls(each)] if isinstance(value, list) else []


@every_config
@every_file
def test_links_lead_to_dashboards_that_exist(config: MixinConfig, file: str) -> None:
    urls = _urls(dashboards(config)[file])
    targets = {found[1] for url in urls if (found := re.match(r"/d/([^?]+)", url))}
    assert targets <= set(config.uids)
    others = [url for url in urls if not url.startswith(("/d/", "/explore?schemaVersion=1&panes="))]
    assert others == [config.runbook_base_url] * bool(config.runbook_base_url)


@every_file
def test_dashboards_are_linked_with_each_other_and_carry_the_choice_along(file: str) -> None:
    dashboard = dashboards()[file]
    links = {link["url"]: link for link in dashboard["links"]}
    assert set(links) == {f"/d/{uid}" for uid in DEFAULT.uids if uid != dashboard["uid"]}
    assert all(link["includeVars"] and link["keepTime"] for link in links.values())


@every_file
def test_every_panel_leads_on(file: str) -> None:
    dashboard = dashboards()[file]
    for panel in panels(dashboard):
        urls = [link["url"] for link in panel["links"]]
        assert urls, panel["title"]
        for url in urls:
            assert "${jaeger_datasource" in url, panel["title"]
            assert "${__url_time_range}" in url or "${__from}" in url, panel["title"]
            assert not url.startswith(f"/d/{dashboard['uid']}"), panel["title"]


@every_file
def test_legends_name_labels_that_the_query_keeps(file: str) -> None:
    dashboard = dashboards()[file]
    for panel in panels(dashboard):
        for target in panel.get("targets", []):
            wanted = set(LEGEND_LABEL.findall(target["legendFormat"]))
            assert wanted <= promql.labels(target["expr"]), panel["title"]
    for each in annotation_queries(dashboard):
        wanted = set(LEGEND_LABEL.findall(each["titleFormat"] + each["textFormat"]))
        assert wanted | set(each["tagKeys"].split(",")) <= promql.labels(each["expr"])


def test_states_and_outcomes_can_be_told_apart() -> None:
    assert set(STATES) == set(State)
    assert set(OUTCOMES) == set(Outcome)
    assert len({colour for _, colour in STATES.values()}) == len(State)
    assert len(set(OUTCOMES.values())) == len(Outcome)
    for name, number in (("overview.json", 10), ("breaker.json", 8), ("breaker.json", 2)):
        panel = next(each for each in panels(dashboards()[name]) if each["id"] == number)
        mapped = panel["fieldConfig"]["defaults"]["mappings"][0]["options"]
        assert {value["text"]: value["color"] for value in mapped.values()} == dict(STATES.values())


def test_numbers_of_the_configuration_arrive() -> None:
    config = MixinConfig(
        rejected_share_warning=0.111,
        rejected_share_critical=0.222,
        near_threshold=0.333,
        stale_after=444,
        top=55,
        time_range="66m",
        refresh="77s",
        scrape_interval="44s",
        prometheus_datasource="^prod",
        tags=("one", "two"),
    )
    texts = {name: json.dumps(each) for name, each in dashboards(config).items()}
    everywhere = ["now-66m", '"refresh": "77s"', "/^prod/", '["one", "two"]']
    for name, wanted in {
        "overview.json": [*everywhere, "0.111", "0.222", "0.333", "topk(55,", '"step": "44s"'],
        "breaker.json": [*everywhere, "0.111", "0.222"],
        "telemetry.json": [*everywhere, "444", "topk(55,"],
    }.items():
        assert [text for text in wanted if text not in texts[name]] == []


# -- documents -------------------------------------------------------------------------------------


def test_the_document_lists_every_key_with_its_default() -> None:
    text = (ROOT / "docs" / "dashboards.md").read_text(encoding="utf-8")
    listed = dict(re.findall(r"^\| `(\w+)` \| `(.+?)` \|", text, re.MULTILINE))
    found = {each.name: getattr(DEFAULT, each.name) for each in fields(MixinConfig)}
    del found["alerts"]  # has a document of its own
    assert {key: tomllib.loads(f"x = {default}")["x"] for key, default in listed.items()} == {
        key: list(value) if isinstance(value, tuple) else value for key, value in found.items()
    }
    assert list(listed) == list(found)


def test_the_example_of_the_document_is_a_good_file(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "dashboards.md").read_text(encoding="utf-8")
    [example] = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    (tmp_path / "dashboards.toml").write_text(example, encoding="utf-8")
    assert load(tmp_path / "dashboards.toml").instance_label == "pod"


def test_the_ways_to_import_work_as_they_are_written() -> None:
    """Every block of the README runs in a shell, against a server that takes what it gets."""
    binary("curl")
    text = (ROOT / "dashboards" / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    requests: list[tuple[str, str, str]] = []

    def take(method: str, path: str, body: str) -> int:
        requests.append((method, path, body))
        return 200

    with HttpServer(take) as server:
        program = "\n".join(["set -eu", *blocks[1:]])
        environment = {**os.environ, "GRAFANA": server.url}
        shell = [binary("bash"), "-c", program]
        subprocess.run(shell, check=True, cwd=ROOT, env=environment, capture_output=True)
    assert blocks[0].startswith("GRAFANA=")
    asked = [(method, path) for method, path, _ in requests]
    assert asked == [
        ("POST", "/api/admin/provisioning/dashboards/reload"),
        ("GET", "/api/search?tag=breakerscope"),
        *[("POST", "/api/dashboards/db")] * 3,
    ]
    posted = [json.loads(body) for _, path, body in requests if path.endswith("/db")]
    assert posted == [
        {"overwrite": True, "dashboard": dashboard} for _, dashboard in sorted(dashboards().items())
    ]
