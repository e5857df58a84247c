"""`make stack`: what is checked before anything is started, and what is said about it."""

from __future__ import annotations

import importlib.util
import os
import re
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the stack runs on POSIX")

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "scripts" / "stack.py"

DOCKER = """#!/bin/sh
# Stands in for docker: notes what it is asked, and answers as the test wants.
echo "$@" >>"$NOTES"
case "$*" in
  "compose version") exit "${COMPOSE_MISSING:-0}" ;;
  "version "*)
    [ -z "$ENGINE_SAYS" ] || { echo "$ENGINE_SAYS" >&2; exit 1; }
    echo 28.0 ;;
  *" ps -q") echo "$CONTAINERS" ;;
  "inspect "*) echo "$INSPECTED" ;;
  *" up "*) exit "${UP_FAILS:-0}" ;;
esac
"""
INSPECTED = """[{"Config": {"Labels": {"com.docker.compose.service": "%s"}},
 "State": {"Running": %s, "Status": "%s", "Health": {"Status": "%s"}}}]"""


def load() -> Any:
    spec = importlib.util.spec_from_file_location("stack", PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["stack"] = module
    spec.loader.exec_module(module)
    return module


stack = load()


class Shell:
    """Runs the program where there is a docker of ours, or none."""

    def __init__(self, folder: Path, ports: dict[str, str]) -> None:
        self._folder = folder
        self.notes = folder / "notes"
        self.password = folder / "password"
        self.password.write_text("secret")
        (folder / "bin").mkdir()
        self.environment = {
            "PATH": str(folder / "bin"),
            "NOTES": str(self.notes),
            "STACK_GRAFANA_PASSWORD_FILE": str(self.password),
            **ports,
        }

    def install_docker(self) -> None:
        program = self._folder / "bin" / "docker"
        program.write_text(DOCKER)
        program.chmod(0o755)

    def run(self, *arguments: str, **environment: str) -> tuple[int, str, str]:
        done = subprocess.run(
            [sys.executable, str(PROGRAM), *arguments],
            env={**self.environment, **environment},
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
        )
        return done.returncode, done.stdout, done.stderr

    def refuses(self, *arguments: str, **environment: str) -> str:
        """The one line; nothing was started."""
        code, out, err = self.run(*arguments, **environment)
        assert (code, out) == (2, "")
        assert re.fullmatch(r"stack: error: .+\n", err)
        asked = self.notes.read_text() if self.notes.exists() else ""
        assert " up " not in asked
        return err


@pytest.fixture
def ports() -> dict[str, str]:
    """All ports of the stack, moved to free ones: each is held until all are known."""
    with ExitStack() as held:
        found: dict[str, str] = {}
        for port in stack.published({}):
            probe = held.enter_context(socket.create_server(("127.0.0.1", 0)))
            found[port.variable] = str(probe.getsockname()[1])
    return found


@pytest.fixture
def shell(tmp_path: Path, ports: dict[str, str]) -> Shell:
    return Shell(tmp_path, ports)


# -- refused ---------------------------------------------------------------------------------------


def test_no_docker(shell: Shell) -> None:
    for action in ("up", "down"):
        assert "docker is not installed: install Docker Engine" in shell.refuses(action)


def test_no_compose(shell: Shell) -> None:
    shell.install_docker()
    err = shell.refuses("up", COMPOSE_MISSING="1")
    assert "compose is not installed: install the package docker-compose-plugin" in err


def test_an_engine_that_does_not_run(shell: Shell) -> None:
    shell.install_docker()
    err = shell.refuses("up", ENGINE_SAYS="Cannot connect to the Docker daemon")
    assert (
        "the container engine does not run (Cannot connect to the Docker daemon): start it, or run"
        " `make stack-native`" in err
    )


@pytest.fixture
def taken(ports: dict[str, str]) -> Iterator[str]:
    port = ports["STACK_PROMETHEUS_PORT"]
    with socket.create_server(("127.0.0.1", int(port))):
        yield port


def test_a_port_in_use(shell: Shell, taken: str) -> None:
    shell.install_docker()
    err = shell.refuses("up")
    assert f"port {taken} (prometheus) is in use; free it, or set STACK_PROMETHEUS_PORT" in err


def test_all_ports_in_use_at_once(shell: Shell, taken: str, ports: dict[str, str]) -> None:
    shell.install_docker()
    other = ports["STACK_GRAFANA_PORT"]
    with socket.create_server(("127.0.0.1", int(other))):
        err = shell.refuses("up")
    assert f"port {taken} (prometheus) is in use, port {other} (grafana) is in use; free it" in err
    assert "set STACK_PROMETHEUS_PORT, STACK_GRAFANA_PORT" in err


@pytest.mark.parametrize("port", ["0", "65536", "http", "-1", "٣"])
def test_a_port_that_is_none(shell: Shell, port: str) -> None:
    err = shell.refuses("up", STACK_JAEGER_PORT=port)
    assert f"STACK_JAEGER_PORT={port}: allowed is a port, 1 to 65535" in err


def test_the_same_port_twice(shell: Shell, ports: dict[str, str]) -> None:
    shell.install_docker()
    err = shell.refuses("up", STACK_JAEGER_PORT=ports["STACK_GRAFANA_PORT"])
    assert "STACK_JAEGER_PORT and STACK_GRAFANA_PORT are the same port" in err


def test_a_missing_secret(shell: Shell) -> None:
    shell.install_docker()
    shell.password.unlink()
    err = shell.refuses("up")
    assert f"no secret at {shell.password}: No such file or directory; write a password" in err
    assert "or set STACK_GRAFANA_PASSWORD_FILE" in err


def test_an_empty_secret(shell: Shell) -> None:
    shell.install_docker()
    shell.password.write_text("\n")
    assert f"the secret {shell.password} is empty: write a password" in shell.refuses("up")


def test_no_servers_for_the_stack_without_containers(shell: Shell) -> None:
    err = shell.refuses("native")
    assert "alertmanager is not installed: on Debian run `make servers` as root" in err


# -- the secret ------------------------------------------------------------------------------------


@pytest.fixture
def password_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    file = tmp_path / "secrets" / "password"
    monkeypatch.setattr(stack, "PASSWORD_FILE", file)
    return file


def test_a_password_is_made_once(password_file: Path) -> None:
    assert stack.require_password({}) == password_file
    first = password_file.read_text()
    assert len(first) >= 20
    stack.require_password({})
    assert password_file.read_text() == first
    # Others on this machine do not get in; the user of the container gets the file alone.
    assert stat.S_IMODE(password_file.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(password_file.stat().st_mode) == 0o644


def test_a_password_that_cannot_be_written(password_file: Path) -> None:
    password_file.parent.write_text("a file where the folder should be")
    with pytest.raises(stack.StackError, match=r"no secret at .*: "):
        stack.require_password({})


# -- settings --------------------------------------------------------------------------------------


def test_settings_are_read_as_compose_reads_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(stack, "ROOT", tmp_path)
    (tmp_path / ".env").write_text(
        "# STACK_JAEGER_PORT=1\nSTACK_GRAFANA_PORT=3001\nSTACK_PROMETHEUS_PORT='9091'\nnonsense\n"
    )
    monkeypatch.setenv("STACK_PROMETHEUS_PORT", "9092")
    monkeypatch.setenv("STACK_ALERTMANAGER_PORT", "")
    found = {each.service: each.port for each in stack.published(stack.settings())}
    assert found == {
        "demo": 9464,
        "prometheus": 9092,
        "alertmanager": 9093,
        "jaeger": 4318,
        "grafana": 3001,
    }


def test_every_published_port_is_known() -> None:
    """The program reads the compose file by its lines, so it has to find what a parser finds."""
    yaml = pytest.importorskip("yaml")
    services = yaml.safe_load(stack.COMPOSE_FILE.read_text())["services"]
    assert [
        f"{each.service} 127.0.0.1:${{{each.variable}:-{each.port}}}:{each.inside}"
        for each in stack.published({})
    ] == [f"{name} {port}" for name, of in services.items() for port in of["ports"]]


def test_both_ways_start_the_servers_alike(tmp_path: Path) -> None:
    """The options without containers are those of the compose file, but for paths and addresses."""
    yaml = pytest.importorskip("yaml")
    services = yaml.safe_load(stack.COMPOSE_FILE.read_text())["services"]
    ports = {port.service: port for port in stack.published({}) if port.service in stack._NATIVE}
    commands = stack._commands(dict.fromkeys(ports, "program"), ports, tmp_path, {})
    apart = ("config.file", "storage", "web.listen-address", "log-file", "metrics-address")

    def common(command: list[str]) -> set[str]:
        options = {re.sub(r"\$\{\w+:-(.+?)\}", r"\1", each) for each in command if each[0] == "-"}
        return {
            each
            for each in options - {"-m"}
            if not each.removeprefix("--").partition("=")[0].startswith(apart)
            or "retention" in each
        }

    for service, command in commands.items():
        assert common(command[1:]) == common(services[service]["command"]), service


# -- started ---------------------------------------------------------------------------------------


def test_where_it_is_when_all_is_healthy(shell: Shell, ports: dict[str, str]) -> None:
    shell.install_docker()
    inspected = INSPECTED % ("grafana", "true", "running", "healthy")
    code, out, err = shell.run("up", CONTAINERS="one", INSPECTED=inspected)
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        f"grafana       http://localhost:{ports['STACK_GRAFANA_PORT']}",
        f"Grafana's admin password is in {shell.password}; `make stack-down` ends it all",
    ]
    file = f"--file={stack.COMPOSE_FILE}"
    assert f"compose {file} up --detach --build" in shell.notes.read_text().splitlines()


def test_ports_of_a_stack_that_runs_already_are_its_own(shell: Shell, taken: str) -> None:
    shell.install_docker()
    inspected = INSPECTED % ("prometheus", "true", "running", "healthy")
    code, out, _ = shell.run("up", CONTAINERS="one", INSPECTED=inspected)
    assert code == 0
    assert out.startswith(f"prometheus    http://localhost:{taken}\n")


def test_compose_fails(shell: Shell) -> None:
    shell.install_docker()
    code, _, err = shell.run("up", UP_FAILS="1")
    assert code == 1
    assert err == "stack: compose up failed, see above; `make stack-down` tidies\n"


def test_not_healthy_in_time(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    shell.install_docker()
    for key, value in shell.environment.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setenv("CONTAINERS", "one")
    monkeypatch.setenv("INSPECTED", INSPECTED % ("jaeger", "false", "exited", "unhealthy"))
    monkeypatch.setattr(stack, "READY_SECONDS", 0.0)
    with pytest.raises(stack.BrokenError, match=r"not healthy after 0 s: jaeger is exited;"):
        stack.up([stack.COMPOSE_FILE])


def test_down_removes_all_and_takes_more_files(shell: Shell, tmp_path: Path) -> None:
    shell.install_docker()
    more = tmp_path / "more.yml"
    assert shell.run("down", f"--file={more}") == (0, "", "")
    files = f"--file={stack.COMPOSE_FILE} --file={more}"
    asked = shell.notes.read_text().splitlines()
    assert asked[-1] == f"compose {files} down --volumes --remove-orphans"
