"""The local stack as a user starts it: on a real container engine, and without one.

On the engine these are stand-ins, see `tests/servers/engine.py`: Prometheus and Alertmanager come
from Debian's packages (2.42, 0.25), the image of the demo is built by the project's Dockerfile over
Debian's Python, and in Jaeger's place another collector takes the spans. Grafana is left out. The
compose file, all mounted files and the program of `make stack` are the real ones.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import yaml
from prometheus_client import CollectorRegistry, start_http_server

from breakerscope import setup_telemetry
from breakerscope.instrument import instrumented_breaker
from tests.servers.engine import Engine, wait_for_health
from tests.servers.otlp import parse
from tests.servers.process import binary, free_port, wait_until

pytestmark = pytest.mark.server

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "docker-compose.observability.yml"
STACK = ROOT / "scripts" / "stack.py"
SERVICES = ("alertmanager", "demo", "jaeger", "prometheus")
ALERT = "CircuitBreakerFlapping"
ALERT_SECONDS = 150.0
STARTED = re.compile(r"(\w+) +(http://localhost:\d+)$")


def variables() -> dict[str, str]:
    """Free ports for all, and a demo whose outages come soon."""
    names = sorted(set(re.findall(r"STACK_\w+_PORT", COMPOSE.read_text())))
    ports: dict[str, str] = {}
    while len(set(ports.values())) < len(names):
        ports = {name: str(free_port()) for name in names}
    return {**ports, "STACK_DEMO_CYCLE": "30"}


@dataclass
class Stack:
    """The pages of a running stack by service."""

    urls: dict[str, str] = field(default_factory=dict)

    def get(self, service: str, path: str, **parameters: object) -> Any:
        url = f"{self.urls[service]}{path}?{urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=10) as response:
            return json.load(response)

    def ask(self, service: str, path: str, **parameters: object) -> Any:
        """The same while it may be starting: None without an answer."""
        try:
            return self.get(service, path, **parameters)
        except (OSError, ValueError):
            return None

    def value(self, query: str) -> float | None:
        answer = self.ask("prometheus", "/api/v1/query", query=query)
        found = answer["data"]["result"] if answer else []
        return float(found[0]["value"][1]) if found else None

    def check_rules(self) -> None:
        """Prometheus has all our rules, and each has been evaluated without an error."""
        document = yaml.safe_load((ROOT / "alerts" / "breakerscope.rules.yml").read_text())
        wanted = [
            rule.get("alert") or rule["record"]
            for group in document["groups"]
            for rule in group["rules"]
        ]

        def evaluated() -> list[dict[str, Any]]:
            groups = self.get("prometheus", "/api/v1/rules")["data"]["groups"]
            rules = [rule for group in groups for rule in group["rules"]]
            return rules if all(rule["health"] != "unknown" for rule in rules) else []

        rules = wait_until(evaluated, "all rules are evaluated")
        # The API has an order of groups of its own.
        assert sorted(rule["name"] for rule in rules) == sorted(wanted)
        assert {rule["health"] for rule in rules} == {"ok"}

    def wait_for_alert(self) -> None:
        """A rule as it is shipped fires in the outage, and Alertmanager has it."""

        def received() -> list[dict[str, Any]]:
            alerts = self.ask("alertmanager", "/api/v2/alerts", filter=f'alertname="{ALERT}"')
            return list(alerts or [])

        alerts = wait_until(received, f"{ALERT} at Alertmanager", ALERT_SECONDS)
        labels = [alert["labels"] for alert in alerts]
        # The third of the demo's services is well all the time.
        assert {each["breaker"] for each in labels} <= {"search", "recommendations"}
        assert {each["job"] for each in labels} == {"breakerscope-demo"}
        assert {each["name"] for alert in alerts for each in alert["receivers"]} == {"tickets"}
        firing = self.get("prometheus", "/api/v1/alerts")["data"]["alerts"]
        assert ALERT in {
            each["labels"]["alertname"] for each in firing if each["state"] == "firing"
        }

    def exemplars(self) -> list[str]:
        """The traces that the points on the panel of durations lead to."""
        now = time.time()
        query = "circuit_breaker_call_duration_seconds_bucket"
        path = "/api/v1/query_exemplars"
        answer = self.ask("prometheus", path, query=query, start=now - 60, end=now)
        return [
            each["labels"]["trace_id"]
            for series in (answer or {"data": []})["data"]
            for each in series["exemplars"]
        ]


# -- on an engine ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine() as running:
        document = yaml.safe_load(COMPOSE.read_text())
        pinned = {name: service["image"] for name, service in document["services"].items()}
        [base] = re.findall(r"^ARG BASE=(\S+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
        running.make_images({**pinned, "python": base})
        yield running


def left_behind(engine: Engine) -> list[str]:
    """Containers, volumes and networks that are not the engine's own."""
    return [
        *engine.docker("ps", "--all", "--quiet").split(),
        *engine.docker("volume", "ls", "--quiet").split(),
        *engine.docker("network", "ls", "--quiet", "--filter=type=custom").split(),
    ]


@contextmanager
def application(address: str, folder: Path) -> Iterator[None]:
    """A user's own program beside the containers, and the target file that the document shows."""
    registry = CollectorRegistry()
    server, thread = start_http_server(0, addr=address, registry=registry)
    text = (ROOT / "docs" / "stack.md").read_text()
    [example] = re.findall(r"```yaml\n(- targets:.*?)```", text, re.DOTALL)
    (folder / "mine.yml").write_text(example.replace(":8000", f":{server.server_port}"))
    telemetry = setup_telemetry(registry=registry, logs=False, traces=False)
    try:
        instrumented_breaker("mine").call(int)
        yield
    finally:
        telemetry.close()
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.timeout(840)
def test_the_stack_on_an_engine(engine: Engine, tmp_path: Path) -> None:
    targets = tmp_path / "targets"
    (targets / "apps").mkdir(parents=True)
    for file in (ROOT / "observability" / "targets").rglob("*.yml"):
        if file.name in {"alertmanager.yml", "demo.yml"}:
            (targets / file.relative_to(ROOT / "observability" / "targets")).write_bytes(
                file.read_bytes()
            )
    override = tmp_path / "override.yml"
    override.write_text(
        yaml.safe_dump(
            {
                "services": {
                    "demo": {"build": {"network": "host"}},
                    "grafana": {"profiles": ["cannot be had here"]},
                    "prometheus": {"volumes": [f"{targets}:/etc/prometheus/targets:ro"]},
                }
            }
        )
    )
    environment = {
        **engine.environment,
        **variables(),
        "COMPOSE_PROJECT_NAME": "proof",
        "STACK_GRAFANA_PASSWORD_FILE": str(tmp_path / "password"),
    }
    (tmp_path / "password").write_text("not used")

    def run(action: str) -> str:
        command = [sys.executable, str(STACK), action, f"--file={override}"]
        done = subprocess.run(
            command,
            env=environment,
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=400,
        )
        assert done.returncode == 0, done.stdout[-4000:]
        return done.stdout

    assert left_behind(engine) == []
    try:
        with application(engine.bridge(), targets / "apps"):
            found = [STARTED.match(line) for line in run("up").splitlines()]
            stack = Stack({line[1]: line[2] for line in found if line})
            assert sorted(stack.urls) == ["alertmanager", "jaeger", "prometheus"]
            check_containers(engine)
            check_signals(engine, stack)
            # `up` again finds its own ports in use, and does not mind.
            run("up")
            check_crashes(engine, stack)
    finally:
        run("down")
    assert left_behind(engine) == []


def container(engine: Engine, service: str) -> str:
    """The id of the one container of a service."""
    label = f"label=com.docker.compose.service={service}"
    [found] = engine.docker("ps", "--all", "--quiet", f"--filter={label}").split()
    return found


def check_containers(engine: Engine) -> None:
    """What the compose file promises, as the engine does it."""
    running = {service: engine.inspect(container(engine, service)) for service in SERVICES}
    assert len(engine.docker("ps", "--quiet").split()) == len(SERVICES)
    for facts in running.values():
        host = facts["HostConfig"]
        assert facts["State"]["Health"]["Status"] == "healthy"
        assert host["ReadonlyRootfs"]
        assert host["CapDrop"] == ["ALL"]
        assert host["SecurityOpt"] == ["no-new-privileges:true"]
        assert host["Memory"] > 0
        assert host["PidsLimit"] > 0
        assert facts["Config"]["User"].split(":")[0] not in {"", "0"}
        bindings = [each for ports in host["PortBindings"].values() for each in ports]
        assert {each["HostIp"] for each in bindings} == {"127.0.0.1"}


def check_signals(engine: Engine, stack: Stack) -> None:
    """Metrics, rules, the alert and the spans arrive where they belong."""
    wait_until(lambda: stack.value('up{job="breakerscope-demo"}') == 1, "the demo is scraped")
    wait_until(lambda: stack.value('up{job="my-service"}') == 1, "the application is scraped")
    wait_until(
        lambda: stack.value('circuit_breaker_calls_total{breaker="mine",outcome="success"}') == 1,
        "the breaker of the application",
    )
    stack.check_rules()
    stack.wait_for_alert()
    wait_until(lambda: exemplar_arrived(engine, stack), "the trace of an exemplar")


def exemplar_arrived(engine: Engine, stack: Stack) -> bool:
    """A point on the panel leads to a trace that the collector has, with the breaker's event."""
    traces = set(stack.exemplars())
    log = engine.docker("logs", "--since=60s", container(engine, "jaeger"))
    # The log is turned over when it is long: begin with a whole batch.
    batches = log[log.find("ResourceSpans #0\n") :]
    return any(
        span.trace_id in traces
        and any(event.name == "circuit_breaker.call" for event in span.events)
        and span.name == f"circuit_breaker {span.attributes['circuit_breaker.name']}"
        for span in parse(batches)
        if "circuit_breaker.name" in span.attributes
    )


def check_crashes(engine: Engine, stack: Stack) -> None:
    """All processes die at once; the engine starts each again, and all is as before."""
    containers = [container(engine, service) for service in SERVICES]
    for each in containers:
        os.kill(engine.inspect(each)["State"]["Pid"], signal.SIGKILL)
    wait_until(
        lambda: [engine.inspect(each)["RestartCount"] for each in containers] == [1, 1, 1, 1],
        "all start again",
    )
    wait_for_health(engine, containers, 90)
    wait_until(lambda: stack.value('up{job="breakerscope-demo"}') == 1, "the demo is scraped", 60)
    stack.check_rules()
    # Data outlives a crash, so the alert is there again without another outage.
    stack.wait_for_alert()
    wait_until(lambda: exemplar_arrived(engine, stack), "the trace of an exemplar", 60)


# -- without an engine -----------------------------------------------------------------------------


@contextmanager
def native(command: list[str], folder: Path) -> Iterator[tuple[subprocess.Popen[str], Stack]]:
    """A running `make stack-native`, as soon as it says where it is."""
    binary("prometheus"), binary("prometheus-alertmanager")
    temporary = folder / "temporary"
    temporary.mkdir()
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("OTEL_")},
        **variables(),
        "TMPDIR": str(temporary),
    }
    with (
        (folder / "stderr").open("w") as stderr,
        subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            start_new_session=True,
        ) as process,
    ):
        stack = Stack()
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if found := STARTED.match(line):
                    stack.urls[found[1]] = found[2]
                if line == "Ctrl-C ends it all\n":
                    break
            assert sorted(stack.urls) == ["alertmanager", "prometheus"], (
                folder / "stderr"
            ).read_text()
            yield process, stack
            assert list(temporary.iterdir()) == []
        finally:
            # Its children are in sessions of their own: it has to end by itself.
            if process.poll() is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGTERM)
                process.wait(60)


def ended(stack: Stack) -> bool:
    return all(stack.ask(service, "/-/ready") is None for service in stack.urls) and all(
        refuses(url) for url in stack.urls.values()
    )


def refuses(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=2).close()
    except urllib.error.URLError as error:
        return isinstance(error.reason, ConnectionRefusedError)
    return False


@pytest.mark.timeout(300)
def test_the_stack_without_an_engine(tmp_path: Path) -> None:
    """By make, and ended by Ctrl-C."""
    command = [
        binary("make"),
        "--no-print-directory",
        f"VENV={sys.prefix}",
        # What is installed here is good.
        f"--assume-old={sys.prefix}/.demo",
        "stack-native",
    ]
    with native(command, tmp_path) as (process, stack):
        wait_until(lambda: stack.value('up{job="breakerscope-demo"}') == 1, "the demo is scraped")
        stack.check_rules()
        wait_until(lambda: bool(stack.exemplars()), "exemplars")
        stack.wait_for_alert()
        os.killpg(process.pid, signal.SIGINT)
        assert process.stdout is not None
        out = process.stdout.read()
        process.wait(60)
        assert "\nconservation: ok\n" in out
        assert ended(stack)
        assert "Traceback" not in (tmp_path / "stderr").read_text()


def test_the_stack_without_an_engine_ends_by_sigterm(tmp_path: Path) -> None:
    with native([sys.executable, str(STACK), "native"], tmp_path) as (process, stack):
        process.terminate()
        out, _ = process.communicate(timeout=60)
        assert process.returncode == 0
        assert out.endswith("\nconservation: ok\n")
        assert ended(stack)


def test_what_ends_by_itself_ends_all(tmp_path: Path) -> None:
    with native([sys.executable, str(STACK), "native"], tmp_path) as (process, stack):
        [victim] = children(process.pid, "prometheus")
        os.kill(victim, signal.SIGKILL)
        process.communicate(timeout=60)
        assert process.returncode == 1
        assert "\nstack: prometheus ended: " in (tmp_path / "stderr").read_text()
        assert ended(stack)


def children(parent: int, program: str) -> list[int]:
    listed = Path(f"/proc/{parent}/task/{parent}/children")
    if not listed.exists():
        pytest.skip("this system does not list the children of a process")
    of: Callable[[str], str] = lambda pid: Path(f"/proc/{pid}/comm").read_text().strip()  # noqa: E731
    return [int(pid) for pid in listed.read_text().split() if of(pid) == program]
