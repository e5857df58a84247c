"""The alerts as files: up to date, valid for every tool, true to the catalogue."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tomllib
from collections.abc import Sequence
from dataclasses import fields
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

from breakerscope import catalogue
from breakerscope.cli import main
from breakerscope.mixin import AlertSettings, MixinConfig, load, rendered, rendered_alerts
from breakerscope.mixin.alerts import alerts_of, name_of
from breakerscope.mixin.queries import series_of
from tests.alerts.promtool import Json
from tests.dashboards import promql
from tests.servers.process import binary

ROOT = Path(__file__).parents[2]
RUNBOOKS = ROOT / "docs" / "runbooks"
DEFAULT = MixinConfig()
OTHER = MixinConfig(
    selector='cluster="eu", team=~"shop|pay"',
    metric_prefix="shop",
    job_label="service",
    instance_label="pod",
    overview_uid="cb-overview",
    breaker_uid="cb-breaker",
    telemetry_uid="cb-telemetry",
    scrape_interval="1s",
    near_threshold=0.7,
    runbook_base_url="https://example.org/runbooks/",
    alerts=AlertSettings(
        name_prefix="",
        page_severity="page",
        ticket_severity="ticket",
        info_severity="note",
        grafana_url="https://grafana.example.org/",
        objective=0.99,
        rate_window="10s",
        burn_page=("10 over 1m and 10s",),
        flap_window="1m",
        dropped_window="20s",
    ),
)
every_config = pytest.mark.parametrize("config", [DEFAULT, OTHER], ids=["default", "other"])
STEMS = sorted({alert.stem for alert in alerts_of(DEFAULT)})


@cache
def files(config: MixinConfig) -> dict[str, str]:
    return dict(rendered_alerts(config))


def rules(config: MixinConfig) -> list[Json]:
    groups: list[Json] = yaml.safe_load(files(config)["breakerscope.rules.yml"])["groups"]
    return [rule for group in groups for rule in group["rules"]]


def alerts(config: MixinConfig) -> list[Json]:
    return [rule for rule in rules(config) if "alert" in rule]


def ran(*command: str, folder: Path | None = None) -> str:
    """What it prints. It has to succeed."""
    done = subprocess.run(
        [binary(command[0]), *command[1:]],
        check=False,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def written(config: MixinConfig, folder: Path) -> Path:
    for name, text in files(config).items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


# -- files -----------------------------------------------------------------------------------------


def test_what_is_committed_is_what_is_rendered() -> None:
    committed = {file.name: file.read_text() for file in (ROOT / "alerts").glob("*.y*ml")}
    assert committed == files(DEFAULT), "run `make dashboards`"


def test_the_wheel_has_all_of_them() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert {path: to for path, to in wheel.items() if path.startswith("alerts/")} == {
        f"alerts/{name}": f"breakerscope/mixin/rendered_alerts/{name}" for name in files(DEFAULT)
    }


def test_the_operator_gets_the_same_rules() -> None:
    operator = yaml.safe_load(files(DEFAULT)["prometheusrule.yaml"])
    assert operator["spec"] == yaml.safe_load(files(DEFAULT)["breakerscope.rules.yml"])
    assert (operator["apiVersion"], operator["kind"]) == (
        "monitoring.coreos.com/v1",
        "PrometheusRule",
    )


def test_export_prints_the_files(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["alerts", "export", "--out", str(tmp_path / "new")]) == 0
    printed = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert {file.name: file.read_text() for file in printed} == files(DEFAULT)
    assert sorted((tmp_path / "new").iterdir()) == sorted(printed)


@every_config
def test_prometheus_takes_the_rules(config: MixinConfig, tmp_path: Path) -> None:
    folder = written(config, tmp_path)
    said = ran("promtool", "check", "rules", "breakerscope.rules.yml", folder=folder)
    assert f"SUCCESS: {len(rules(config))} rules found" in said
    (folder / "prometheus.yml").write_text("rule_files: [breakerscope.rules.yml]")
    ran("promtool", "check", "config", "prometheus.yml", folder=folder)


@every_config
def test_alertmanager_takes_the_routes(config: MixinConfig, tmp_path: Path) -> None:
    folder = written(config, tmp_path)
    ran("amtool", "check-config", "alertmanager.yml", folder=folder)
    settings = config.alerts
    for severity, receiver in (
        (settings.page_severity, "on-call"),
        (settings.ticket_severity, "tickets"),
        (settings.info_severity, "chat"),
        ("unknown", "tickets"),
    ):
        said = ran(
            *("amtool", "config", "routes", "test", "--config.file=alertmanager.yml"),
            *(f"--verify.receivers={receiver}", f"severity={severity}", "alertname=A"),
            folder=folder,
        )
        assert said.splitlines()[-1] == receiver


@every_config
def test_inhibitions_name_alerts_that_exist(config: MixinConfig) -> None:
    found = yaml.safe_load(files(config)["alertmanager.yml"])
    names = {alert["alert"] for alert in alerts(config)}
    for rule in found["inhibit_rules"]:
        assert rule["equal"] == [config.job_label, "breaker"]
        for matcher in (*rule["source_matchers"], *rule["target_matchers"]):
            label, named = re.fullmatch(r'(\w+)=~?"(.*)"', matcher).groups()  # type: ignore[union-attr]
            if label == "alertname":
                assert set(named.split("|")) <= names
    assert "instance" not in found["route"]["group_by"]


def test_no_secret_stands_in_a_file() -> None:
    text = files(DEFAULT)["alertmanager.yml"]
    assert re.findall(r"(?:key|url|credentials|password|token)_file: (\S+)", text)
    assert not re.search(r"\b(?:routing_key|api_url|credentials|password|token): ", text)


# -- names -----------------------------------------------------------------------------------------


@every_config
def test_every_query_is_promql_3_too(config: MixinConfig) -> None:
    for rule in rules(config):
        assert promql.parse(rule["expr"]), rule


@every_config
def test_metrics_and_labels_are_those_of_the_catalogue(config: MixinConfig) -> None:
    prefix = config.metric_prefix
    known = {name: each for each in catalogue.METRICS for name in series_of(each, prefix)}
    recorded = {rule["record"] for rule in rules(config) if "record" in rule}
    outside = {config.job_label, config.instance_label}
    selected = {"cluster", "team"} if config is OTHER else set()
    for rule in rules(config):
        for found in promql.selectors(rule["expr"]):
            names = {name for name, _, _ in found.matchers}
            name = found.selector.name or ""
            if name in recorded:
                assert names == set()
            elif name == "up":
                assert names == selected
            else:
                assert names <= {*known[name].label_names, *selected}
                assert selected <= names
        ours = {label for each in catalogue.METRICS for label in each.label_names}
        assert promql.labels(rule["expr"]) <= ours | outside | selected


@every_config
def test_names_and_texts_have_the_usual_form(config: MixinConfig) -> None:
    severities = {
        config.alerts.page_severity,
        config.alerts.ticket_severity,
        config.alerts.info_severity,
    }
    for alert in alerts(config):
        assert re.fullmatch(r"[A-Z][a-zA-Z]{1,39}", alert["alert"])
        assert alert["labels"]["severity"] in severities
        assert re.fullmatch(r"[A-Z][^{}]*\.", alert["annotations"]["summary"])
        assert "{{ $value" in alert["annotations"]["description"] or alert["alert"].endswith(
            ("Tripped", "TelemetryAbsent")
        )
    pages = {a["alert"] for a in alerts(config) if a["labels"]["severity"] in {"critical", "page"}}
    prefix = config.alerts.name_prefix
    assert pages == {f"{prefix}TrippedFleetWide", f"{prefix}RejectionBudgetBurn"}


@every_config
def test_texts_use_labels_that_the_alert_has(config: MixinConfig) -> None:
    by_name = {name_of(each, config): each for each in alerts_of(config)}
    for alert in alerts(config):
        used = set(re.findall(r"\$labels\.(\w+)", json.dumps(alert["annotations"])))
        assert used == set(by_name[alert["alert"]].labels)


@every_config
def test_no_group_is_too_long(config: MixinConfig) -> None:
    groups = yaml.safe_load(files(config)["breakerscope.rules.yml"])["groups"]
    assert all(len(group["rules"]) <= 20 and len(group["name"]) <= 40 for group in groups)


# -- links -----------------------------------------------------------------------------------------


@every_config
def test_links_lead_to_what_is_there(config: MixinConfig) -> None:
    boards = {board["uid"]: board for board in map(json.loads, rendered(config).values())}
    for alert in alerts(config):
        notes = alert["annotations"]
        stem = alert["alert"].removeprefix(config.alerts.name_prefix)
        base = config.runbook_base_url.rstrip("/") or "docs/runbooks"
        assert notes["runbook_url"] == f"{base}/{stem}.md"
        assert (RUNBOOKS / f"{stem}.md").is_file()
        assert notes["panel_url"].startswith(notes["dashboard_url"] + "&viewPanel=")
        path, _, query = notes["panel_url"].partition("?")
        assert path.startswith(config.alerts.grafana_url.rstrip("/") + "/d/")
        board = boards[urlsplit(path).path.removeprefix("/d/")]
        number = int(query.rpartition("viewPanel=")[2])
        assert number in {panel["id"] for panel in board["panels"]}
        variables = set(re.findall(r"var-(\w+)=", query))
        assert variables <= {each["name"] for each in board["templating"]["list"]}
        assert "job" in variables


# -- runbooks --------------------------------------------------------------------------------------

SECTIONS = ["Meaning", "Impact", "Diagnosis", "Mitigation", "False positives", "Silence"]


def blocks(text: str, kind: str) -> list[str]:
    found = re.findall(rf"^( *)```{kind}\n(.*?)^\1```", text, re.DOTALL | re.MULTILINE)
    return [body for _, body in found]


def test_there_is_a_runbook_for_each_alert_and_no_other() -> None:
    assert sorted(file.stem for file in RUNBOOKS.glob("*.md")) == sorted([*STEMS, "README"])


@pytest.mark.parametrize("stem", STEMS)
def test_a_runbook_has_all_sections(stem: str) -> None:
    text = (RUNBOOKS / f"{stem}.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == SECTIONS
    bodies = re.split(r"^## .*$", text, flags=re.MULTILINE)[1:]
    assert all(len(body.split()) >= 10 for body in bodies)
    assert text.startswith(f"# {stem}\n")
    assert f"alertname=CircuitBreaker{stem}" in blocks(text, "bash")[-1]


@pytest.mark.parametrize("stem", STEMS)
def test_the_queries_of_a_runbook_are_promql(stem: str, tmp_path: Path) -> None:
    text = (RUNBOOKS / f"{stem}.md").read_text(encoding="utf-8")
    found = blocks(text, "promql")
    assert len(found) >= 2
    names = {name for metric in catalogue.METRICS for name in series_of(metric)}
    names |= {rule["record"] for rule in rules(DEFAULT) if "record" in rule}
    foreign = {"up", "process_start_time_seconds", "node_timex_offset_seconds"}
    for query in found:
        assert {each.selector.name for each in promql.selectors(query)} <= names | foreign
    document = {"groups": [{"name": "a", "rules": [{"record": "a", "expr": q} for q in found]}]}
    (tmp_path / "rules.yml").write_text(json.dumps(document))
    ran("promtool", "check", "rules", "--lint=none", "rules.yml", folder=tmp_path)


@pytest.mark.parametrize("stem", STEMS)
def test_the_log_queries_of_a_runbook_name_events_and_keys_that_exist(stem: str) -> None:
    text = (RUNBOOKS / f"{stem}.md").read_text(encoding="utf-8")
    for query in blocks(text, "logql"):
        for event in re.findall(r'event="(.*?)"', query):
            assert event in set(catalogue.LogEvent)
        keys = re.findall(r"\| (\w+)(?:=~|!=|=)", query)
        assert set(keys) <= {"event", *catalogue.LogKey}


# -- documents -------------------------------------------------------------------------------------


def test_the_document_lists_every_key_with_its_default() -> None:
    text = (ROOT / "docs" / "alerts.md").read_text(encoding="utf-8")
    listed = dict(re.findall(r"^\| `(\w+)` \| `(.+?)` \|", text, re.MULTILINE))
    wanted = {each.name: getattr(AlertSettings(), each.name) for each in fields(AlertSettings)}
    assert {key: tomllib.loads(f"x = {default}")["x"] for key, default in listed.items()} == {
        key: list(value) if isinstance(value, tuple) else value for key, value in wanted.items()
    }


def test_the_document_lists_every_alert() -> None:
    text = (ROOT / "docs" / "alerts.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| \[(\w+)\]\(runbooks/\1\.md\)", text, re.MULTILINE)
    assert sorted(listed) == STEMS


def test_the_example_of_the_document_is_a_good_file(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "alerts.md").read_text(encoding="utf-8")
    [example] = blocks(text, "toml")
    (tmp_path / "a.toml").write_text(example)
    assert load(tmp_path / "a.toml").alerts.page_severity == "page"


KUBECTL = """#!/bin/sh
# Stands in for a cluster: keeps what it is given.
[ "$1 $2 $3 $4" = "apply --namespace monitoring --filename" ] && cp "$5" "$RULES/applied.yaml"
"""


def test_the_ways_to_load_them_work_as_they_are_written(tmp_path: Path) -> None:
    """Every block of the README, in its order. Of a cluster there is only the command."""
    text = (ROOT / "alerts" / "README.md").read_text(encoding="utf-8")
    (tmp_path / "rules").mkdir()
    (tmp_path / "kubectl").write_text(KUBECTL)
    (tmp_path / "kubectl").chmod(0o755)
    binary("promtool"), binary("amtool")
    programs: Sequence[str] = blocks(text, "bash")
    assert len(programs) == 3
    environment = {
        **os.environ,
        "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
        "RULES": str(tmp_path / "rules"),
    }
    for program in programs:
        subprocess.run(
            [binary("bash"), "-c", f"set -eu\n{program}"],
            check=True,
            cwd=ROOT,
            env=environment,
            capture_output=True,
        )
    applied = yaml.safe_load((tmp_path / "rules" / "applied.yaml").read_text())
    assert applied["kind"] == "PrometheusRule"
    (tmp_path / "rules" / "applied.yaml").unlink()
    [settings] = blocks(text, "yaml")
    (tmp_path / "prometheus.yml").write_text(settings)
    said = ran("promtool", "check", "config", "prometheus.yml", folder=tmp_path)
    assert f"SUCCESS: {len(rules(DEFAULT))} rules found" in said


# -- bad input -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("objective = 1.0", "alerts.objective = 1: allowed is a share above 0 and below 1: with 1"),
        ("objective = 1.5", "alerts.objective = 1.5: allowed is a share above 0 and below 1"),
        ("objective = nan", "alerts.objective = nan: allowed is a share above 0"),
        ("objective = 'x'", "alerts.objective = 'x': allowed is a number"),
        ("objektive = 1", "unknown key 'alerts.objektive': allowed are name_prefix, "),
        ("rate_window = '30s'", "alerts.rate_window = '30s': shorter than four scrapes, so a"),
        ("flap_window = '59s'", "allowed is 1m or more"),
        ("dropped_window = '10s'", "alerts.dropped_window = '10s': shorter than four scrapes"),
        ("rate_window = '5 minutes'", "allowed is a number with s, m, h, d or w"),
        ("rate_window = '0m'", "alerts.rate_window = '0m': allowed is more than nothing"),
        ("burn_page = []", "alerts.burn_page is empty: allowed is a list such as "),
        ("burn_page = ['x']", "alerts.burn_page has 'x': allowed is such as "),
        ("burn_page = ['14 over 5m and 1h']", "alerts.burn_page over 5m and 1h: allowed is a sh"),
        ("burn_ticket = ['1 over 1h and 1m']", "allowed is a short window from rate_window (5m)"),
        ("objective = 0.9", "14.4 times a budget of 0.1 is all calls, so it could never fire"),
        ("burn_page = ['0 over 1h and 5m']", "allowed is a factor above 0"),
        ("fleet_share = 1", "alerts.fleet_share = 1: allowed is a share above 0 and below 1"),
        ("min_call_rate = 0", "alerts.min_call_rate = 0: allowed is a number above 0"),
        ("min_calls = 0", "alerts.min_calls = 0: allowed is 1 or more"),
        ("stuck_open_waits = 1", "alerts.stuck_open_waits = 1: allowed is a number above 1"),
        (
            "stuck_open_for = '4m'",
            "alerts.stuck_open_for = '4m': shorter than rate_window, so calls",
        ),
        ("tripped_for = '1m'", "an idle breaker would be reported; allowed is 5m or more"),
        ("flaps = 0", "alerts.flaps = 0: allowed is 1 or more"),
        ("name_prefix = 'my-'", "alerts.name_prefix = 'my-': allowed is CamelCase"),
        ("name_prefix = 'AbcdefghijklmnopqrsT'", "allowed are at most 17 letters"),
        ("page_severity = 'a b'", "alerts.page_severity = 'a b': allowed are a to z"),
        ("page_severity = 'info'", "page_severity, ticket_severity and info_severity must differ"),
        ("grafana_url = 'grafana'", "alerts.grafana_url = 'grafana': allowed is http:// or"),
        ("forced_ticket_after = '1h'", "forced_ticket_after must be longer than forced_after"),
        ("absent_lookback = '5m'", "absent_lookback must be longer than absent_for"),
    ],
)
def test_bad_values(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str, said: str
) -> None:
    file = tmp_path / "a.toml"
    file.write_text(f"[alerts]\n{text}\n")
    assert main(["alerts", "export", "--out", str(tmp_path / "out"), "--config", str(file)]) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert error.startswith(f"breakerscope alerts: error: {file}: ")
    assert error.count("\n") == 1
    assert said in error
    assert sorted(tmp_path.iterdir()) == [file]


def test_a_table_that_is_none(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_text("alerts = 5")
    assert main(["alerts", "export", "--out", str(tmp_path), "--config", str(file)]) == 2
    assert "alerts = 5: allowed is a table, [alerts]" in capsys.readouterr().err


def test_the_longest_prefix_still_makes_good_names() -> None:
    longest = MixinConfig(alerts=AlertSettings(name_prefix="A" * 17))
    assert max(len(alert["alert"]) for alert in alerts(longest)) == 40
