"""The files of the local stack: valid for their tools, and true to each other."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jsonschema
import pytest
import yaml

from breakerscope import catalogue
from breakerscope.mixin import MixinConfig
from breakerscope.mixin.alert_settings import seconds
from breakerscope.mixin.queries import series_of
from tests.dashboards import promql
from tests.servers.process import binary

Json = dict[str, Any]

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "docker-compose.observability.yml"
SETTINGS = ROOT / "observability"
PROVISIONING = SETTINGS / "grafana" / "provisioning"
DOCUMENT = (ROOT / "docs" / "stack.md").read_text(encoding="utf-8")


def read(file: Path) -> Any:
    return yaml.safe_load(file.read_text(encoding="utf-8"))


STACK: Json = read(COMPOSE)
SERVICES: dict[str, Json] = STACK["services"]
every_service = pytest.mark.parametrize("name", sorted(SERVICES))


def ran(*command: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        check=False,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    )


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", DOCUMENT, re.DOTALL | re.MULTILINE)


# -- the compose file: its tools -------------------------------------------------------------------


def in_schema(file: Path) -> subprocess.CompletedProcess[str]:
    tool = (sys.executable, "-m", "check_jsonschema")
    return ran(*tool, "--builtin-schema", "vendor.compose-spec", str(file))


def linted(file: Path) -> subprocess.CompletedProcess[str]:
    return ran(sys.executable, "-m", "compose_lint", "check", "--fail-on", "high", str(file))


def test_it_keeps_to_the_compose_specification(tmp_path: Path) -> None:
    assert (found := in_schema(COMPOSE)).returncode == 0, found.stdout
    (tmp_path / "wrong.yml").write_text(COMPOSE.read_text().replace("cap_drop", "cap_dropp"))
    assert in_schema(tmp_path / "wrong.yml").returncode == 1


def test_the_linter_finds_nothing_grave(tmp_path: Path) -> None:
    assert (found := linted(COMPOSE)).returncode == 0, found.stdout
    text = COMPOSE.read_text().replace("  read_only: true\n", "  privileged: true\n", 1)
    (tmp_path / "docker-compose.yml").write_text(text)
    assert linted(tmp_path / "docker-compose.yml").returncode == 1


@pytest.mark.skipif(not shutil.which("docker-compose"), reason="docker-compose is not installed")
def test_an_old_compose_reads_it() -> None:
    found = ran("docker-compose", "--file", str(COMPOSE), "config", "--quiet", folder=ROOT)
    assert found.returncode == 0, found.stdout


# -- the compose file: our own rules ---------------------------------------------------------------


@every_service
def test_a_service_is_hardened(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "cap_add", "network_mode", "pid", "ipc"} & set(service)
    assert service["user"].split(":")[0] not in {"0", "root"}
    assert service["mem_limit"]
    assert service["pids_limit"]
    assert set(service["logging"]["options"]) == {"max-size", "max-file"}


@every_service
def test_a_service_is_watched(name: str) -> None:
    check = SERVICES[name]["healthcheck"]
    assert check["test"][0] == "CMD"
    assert {"interval", "timeout", "retries", "start_period"} <= set(check)
    for other, need in SERVICES[name].get("depends_on", {}).items():
        assert other in SERVICES
        assert need == {"condition": "service_healthy"}


@every_service
def test_ports_are_on_loopback_and_can_be_moved(name: str) -> None:
    for port in SERVICES[name]["ports"]:
        assert re.fullmatch(r"127\.0\.0\.1:\$\{STACK_\w+_PORT:-\d+\}:\d+", port)


def test_images_are_pinned_to_exact_versions() -> None:
    [base] = re.findall(r"^ARG BASE=(\S+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    images = {name: service["image"] for name, service in SERVICES.items()}
    assert images.pop("demo") == "breakerscope-demo:local"
    assert SERVICES["demo"]["build"] == {"context": "."}
    for image in (*images.values(), base):
        assert re.fullmatch(r"[a-z]+(/[a-z]+)?:v?\d+\.\d+\.\d+(-[a-z-]+)?", image)


def test_what_is_mounted_exists_and_cannot_be_written() -> None:
    for name, service in SERVICES.items():
        for mount in service.get("volumes", []):
            source, target, *mode = mount.split(":")
            assert target.startswith("/")
            if source.startswith("."):
                assert (ROOT / source).exists(), mount
                assert mode == ["ro"], mount
            else:
                assert source in STACK["volumes"], (name, mount)


def test_every_variable_has_a_default_that_the_document_tells() -> None:
    text = COMPOSE.read_text()
    found = dict(re.findall(r"\$\{(\w+):-([^}]+)\}", text))
    assert text.count("${") == len(re.findall(r"\$\{\w+:-[^}]+\}", text))
    assert all(name.startswith("STACK_") for name in found)
    told = dict(re.findall(r"^\| `(STACK_\w+)` \| `(.+?)` \|", DOCUMENT, re.MULTILINE))
    of_ports = r"^\| [^|`]+ \| ([^|]*:\d+[^|]*) \| (.+?) \|$"
    for places, names in re.findall(of_ports, DOCUMENT, re.MULTILINE):
        ports = re.findall(r"localhost:(\d+)", places)
        told |= dict(zip(re.findall(r"`(STACK_\w+)`", names), ports, strict=True))
    assert told == found


def test_the_password_is_not_in_git() -> None:
    secret = STACK["secrets"]["grafana_admin_password"]["file"]
    folder = re.sub(r".*:-\./(.*)/[^/]+\}", r"\1/", secret)
    assert folder in (ROOT / ".gitignore").read_text().splitlines()
    environment = SERVICES["grafana"]["environment"]
    assert [key for key in environment if "PASSWORD" in key] == ["GF_SECURITY_ADMIN_PASSWORD__FILE"]


# -- Prometheus and Alertmanager -------------------------------------------------------------------


def laid_out(folder: Path, *, extra: str | None = None) -> Path:
    """The files of Prometheus as they are mounted, and perhaps a target file of a user."""
    for mount in SERVICES["prometheus"]["volumes"]:
        source, target, *_ = mount.split(":")
        if source.startswith("."):
            place = folder / Path(target).relative_to("/etc/prometheus")
            place.parent.mkdir(parents=True, exist_ok=True)
            origin = ROOT / source
            shutil.copytree(origin, place) if origin.is_dir() else shutil.copy(origin, place)
    if extra is not None:
        (folder / "targets" / "apps" / "extra.yml").write_text(extra)
    return folder


def test_prometheus_takes_its_configuration(tmp_path: Path) -> None:
    folder = laid_out(tmp_path)
    found = ran(binary("promtool"), "check", "config", "prometheus.yml", folder=folder)
    assert found.returncode == 0, found.stdout
    assert "SUCCESS: 1 rule files found" in found.stdout
    # A pattern that finds nothing is no error for promtool.
    config = read(SETTINGS / "prometheus.yml")
    discoveries = [*config["scrape_configs"], *config["alerting"]["alertmanagers"]]
    patterns = [
        pattern
        for each in discoveries
        for group in each["file_sd_configs"]
        for pattern in group["files"]
    ]
    assert all(any(folder.glob(pattern)) for pattern in (*patterns, *config["rule_files"]))


def test_alertmanager_takes_its_configuration() -> None:
    file = str(SETTINGS / "alertmanager.yml")
    found = ran(binary("amtool"), "check-config", file)
    assert found.returncode == 0, found.stdout
    for severity, receiver in (("critical", "on-call"), ("warning", "tickets"), ("info", "chat")):
        test = ("config", "routes", "test", f"--config.file={file}")
        found = ran(
            binary("amtool"), *test, f"--verify.receivers={receiver}", f"severity={severity}"
        )
        assert found.returncode == 0, found.stdout


def test_alertmanager_tells_nobody_and_is_otherwise_the_example() -> None:
    ours, example = read(SETTINGS / "alertmanager.yml"), read(ROOT / "alerts" / "alertmanager.yml")
    assert ours["receivers"] == [{"name": each["name"]} for each in example["receivers"]]
    quick = {"group_wait", "group_interval"}
    assert {k: v for k, v in ours["route"].items() if k not in quick} == {
        k: v for k, v in example["route"].items() if k not in quick
    }
    assert ours["inhibit_rules"] == example["inhibit_rules"]


def test_targets_are_services_and_their_ports() -> None:
    port = next(
        each.partition("=")[2]
        for each in SERVICES["demo"]["command"]
        if each.startswith("--metrics-port=")
    )
    [demo] = read(SETTINGS / "targets" / "apps" / "demo.yml")
    assert demo == {"targets": [f"demo:{port}"], "labels": {"job": "breakerscope-demo"}}
    assert read(SETTINGS / "targets" / "alertmanager.yml") == [{"targets": ["alertmanager:9093"]}]
    assert reached(f"http://demo:{port}")
    assert reached("http://alertmanager:9093")


def reached(url: str) -> bool:
    """A service of this name publishes this port."""
    parts = urlsplit(url)
    ports = [each.rpartition(":")[2] for each in SERVICES[parts.hostname or ""]["ports"]]
    return str(parts.port) in ports


# -- Jaeger ----------------------------------------------------------------------------------------


def test_all_parts_of_jaeger_are_declared_and_used() -> None:
    config = read(SETTINGS / "jaeger.yml")
    service = config["service"]
    assert set(service["extensions"]) == set(config["extensions"])
    [pipeline] = service["pipelines"].values()
    for kind in ("receivers", "processors", "exporters"):
        assert pipeline[kind] == list(config[kind])
    [storage] = config["extensions"]["jaeger_storage"]["backends"]
    assert config["extensions"]["jaeger_query"]["storage"] == {"traces": storage}
    assert config["exporters"]["jaeger_storage_exporter"] == {"trace_storage": storage}


def test_jaeger_listens_where_others_look() -> None:
    config, service = read(SETTINGS / "jaeger.yml"), SERVICES["jaeger"]
    protocols = config["receivers"]["otlp"]["protocols"]
    query = config["extensions"]["jaeger_query"]["http"]
    open_ports = [each["endpoint"] for each in (query, *protocols.values())]
    assert open_ports == [f"0.0.0.0:{each.rpartition(':')[2]}" for each in service["ports"]]
    health = config["extensions"]["healthcheckv2"]["http"]["endpoint"]
    assert service["healthcheck"]["test"][-1] == f"http://{health}/status"
    [mount] = service["volumes"]
    assert service["command"] == [f"--config={mount.split(':')[1]}"]
    endpoint = SERVICES["demo"]["environment"]["OTEL_EXPORTER_OTLP_ENDPOINT"]
    assert endpoint.rpartition(":")[2] == protocols["grpc"]["endpoint"].rpartition(":")[2]
    assert reached(endpoint)


# -- Grafana ---------------------------------------------------------------------------------------


def closed(required: Json, optional: Json | None = None) -> Json:
    """A schema of an object with these keys, and no other."""
    properties = {**required, **(optional or {})}
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


TEXT, YES_NO, COUNT = {"type": "string"}, {"type": "boolean"}, {"type": "integer"}
SPAN = {"type": "string", "pattern": r"^-?\d+[smh]$"}
EXEMPLARS = {
    "type": "array",
    "items": closed({"name": TEXT, "datasourceUid": TEXT}, {"urlDisplayLabel": TEXT}),
}
TO_METRICS = closed(
    {
        "datasourceUid": TEXT,
        "tags": {"type": "array", "items": closed({"key": TEXT}, {"value": TEXT})},
        "queries": {"type": "array", "items": closed({"name": TEXT, "query": TEXT})},
    },
    {"spanStartTimeShift": SPAN, "spanEndTimeShift": SPAN},
)
JSON_DATA = closed(
    {},
    {
        "httpMethod": {"enum": ["GET", "POST"]},
        "prometheusType": {"enum": ["Prometheus", "Mimir", "Cortex", "Thanos"]},
        "timeInterval": SPAN,
        "exemplarTraceIdDestinations": EXEMPLARS,
        "nodeGraph": closed({"enabled": YES_NO}),
        "tracesToMetrics": TO_METRICS,
    },
)
SOURCE = closed(
    {
        "name": TEXT,
        "uid": {"type": "string", "pattern": r"^[a-zA-Z0-9_-]{1,40}$"},
        "type": TEXT,
        "access": {"const": "proxy"},
        "url": TEXT,
        "editable": {"const": False},
        "jsonData": JSON_DATA,
    },
    {"isDefault": YES_NO},
)
PROVIDER = closed(
    {
        "name": TEXT,
        "type": {"const": "file"},
        "folder": TEXT,
        "folderUid": TEXT,
        "allowUiUpdates": {"const": False},
        "disableDeletion": {"const": True},
        "options": closed({"path": TEXT}),
    },
    {"updateIntervalSeconds": COUNT},
)
ONE = {"const": 1}
SOURCES_FILE = closed(
    {"apiVersion": ONE, "prune": YES_NO, "datasources": {"type": "array", "items": SOURCE}}
)
PROVIDERS_FILE = closed({"apiVersion": ONE, "providers": {"type": "array", "items": PROVIDER}})


def sources() -> dict[str, Json]:
    """The data sources by uid."""
    found = read(PROVISIONING / "datasources" / "breakerscope.yml")["datasources"]
    return {each["uid"]: each for each in found}


def test_grafana_knows_every_key_of_its_files() -> None:
    """By schemas of our own, after Grafana's documentation: it has none for these files."""
    jsonschema.validate(read(PROVISIONING / "datasources" / "breakerscope.yml"), SOURCES_FILE)
    jsonschema.validate(read(PROVISIONING / "dashboards" / "breakerscope.yml"), PROVIDERS_FILE)


def test_a_dollar_of_our_own_is_written_twice() -> None:
    """Grafana would take a single one for a variable of the environment."""
    for file in PROVISIONING.rglob("*.yml"):
        lines = [line.partition("# ")[0] for line in file.read_text().splitlines()]
        assert all(set(re.findall(r"\$+", line)) <= {"$$"} for line in lines)


def test_uids_agree() -> None:
    by_uid = sources()
    destination = by_uid["prometheus"]["jsonData"]["exemplarTraceIdDestinations"]
    assert [(each["name"], each["datasourceUid"]) for each in destination] == [
        ("trace_id", "jaeger")
    ]
    assert by_uid["jaeger"]["jsonData"]["tracesToMetrics"]["datasourceUid"] == "prometheus"
    assert [uid for uid, each in by_uid.items() if each.get("isDefault")] == ["prometheus"]
    types = [each["type"] for each in by_uid.values()]
    for board in boards():
        wanted = [v["query"] for v in board["templating"]["list"] if v["type"] == "datasource"]
        assert wanted
        # One for each: so Grafana has nothing to choose.
        assert all(types.count(kind) == 1 for kind in wanted)


def boards() -> Iterator[Json]:
    for file in (ROOT / "dashboards").glob("*.json"):
        yield json.loads(file.read_text())


def test_data_sources_lead_to_services() -> None:
    for uid, source in sources().items():
        assert urlsplit(source["url"]).hostname == uid
        assert reached(source["url"])


def test_the_interval_is_the_one_of_prometheus() -> None:
    settings = read(SETTINGS / "prometheus.yml")["global"]
    interval = settings["scrape_interval"]
    assert sources()["prometheus"]["jsonData"]["timeInterval"] == interval
    assert settings["evaluation_interval"] == interval
    assert seconds(interval) <= seconds(MixinConfig().scrape_interval)


def test_a_span_leads_to_the_metrics_of_its_breaker() -> None:
    settings = sources()["jaeger"]["jsonData"]["tracesToMetrics"]
    assert settings["tags"] == [
        {"key": catalogue.Attribute.NAME.value, "value": catalogue.BREAKER.name}
    ]
    known = {name: each for each in catalogue.METRICS for name in series_of(each)}
    for query in settings["queries"]:
        text = query["query"].replace("$$__tags", 'breaker="search"')
        text = text.replace("$$__rate_interval", "20s")
        assert "$" not in text
        [found] = promql.selectors(text)
        metric = known[found.selector.name or ""]
        assert promql.labels(text) <= {*metric.label_names, "job", "instance"}


def test_dashboards_are_mounted_where_grafana_looks() -> None:
    [provider] = read(PROVISIONING / "dashboards" / "breakerscope.yml")["providers"]
    mounts = dict(each.split(":")[:2] for each in SERVICES["grafana"]["volumes"])
    assert mounts["./dashboards"] == provider["options"]["path"]
    assert mounts["./observability/grafana/provisioning"] == "/etc/grafana/provisioning"
    home = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert Path(home).parent == Path(provider["options"]["path"])
    assert (ROOT / "dashboards" / Path(home).name).is_file()


# -- the document ----------------------------------------------------------------------------------


def test_the_example_of_a_target_is_one(tmp_path: Path) -> None:
    target, _ = blocks("yaml")
    assert len(target.splitlines()) <= 3
    folder = laid_out(tmp_path, extra=target)
    found = ran(binary("promtool"), "check", "config", "prometheus.yml", folder=folder)
    assert found.returncode == 0, found.stdout
    [group] = yaml.safe_load(target)
    [host] = {each.rpartition(":")[0] for each in group["targets"]}
    assert SERVICES["prometheus"]["extra_hosts"] == [f"{host}:host-gateway"]
    assert set(group["labels"]) == {"job"}


def test_the_example_of_a_network_is_one(tmp_path: Path) -> None:
    _, network = blocks("yaml")
    project = {"services": {"mine": {"image": "mine:1"}}, **yaml.safe_load(network)}
    (tmp_path / "compose.yml").write_text(yaml.safe_dump(project))
    assert (found := in_schema(tmp_path / "compose.yml")).returncode == 0, found.stdout
    [theirs] = project["networks"].values()
    assert theirs["name"] == STACK["networks"]["default"]["name"]
