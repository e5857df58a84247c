"""The local observability stack: `make stack`, `make stack-native`, `make stack-down`.

Standard library only: it runs before anything is installed. Everything is checked before anything
is started. What is wrong is one line and exit code 2; what fails later, one line and exit code 1.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COMPOSE_FILE = ROOT / "docker-compose.observability.yml"
SETTINGS = ROOT / "observability"
PASSWORD_KEY = "STACK_GRAFANA_PASSWORD_FILE"  # noqa: S105 - the name of a variable
PASSWORD_FILE = SETTINGS / "secrets" / "grafana-admin-password"
LOOPBACK = "127.0.0.1"

READY_SECONDS = 180.0
STOP_SECONDS = 30.0
POLL_SECONDS = 0.2
BAD_INPUT = 2

SERVICE = re.compile(r"  (\w+):$")
PUBLISHED = re.compile(r'"127\.0\.0\.1:\$\{(STACK_\w+):-(\d+)\}:(\d+)"')
CYCLE = re.compile(r"\$\{(STACK_DEMO_CYCLE):-(\d+)\}")
PAGES = {"grafana": 3000, "prometheus": 9090, "alertmanager": 9093, "jaeger": 16686}
"""What a person opens, by its port in the container."""


class StackError(Exception):
    """It cannot start as asked. The message is one line: what, and what to do."""


class BrokenError(Exception):
    """It started, and then something went wrong. The message is one line."""


# -- settings --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Published:
    """A port on loopback, the port in the container behind it, and the variable that moves it."""

    service: str
    port: int
    inside: int
    variable: str


def settings() -> dict[str, str]:
    """The variables as compose sees them: the environment, and `.env` for what is not in it."""
    found: dict[str, str] = {}
    file = ROOT / ".env"
    if file.is_file():
        for line in file.read_text(encoding="utf-8").splitlines():
            key, equals, value = line.partition("=")
            if equals and not key.lstrip().startswith("#"):
                found[key.strip()] = value.strip().strip("\"'")
    return found | os.environ


def published(variables: Mapping[str, str]) -> list[Published]:
    """The ports that the compose file publishes. Raises StackError for what is not a port."""
    found: list[Published] = []
    service = ""
    for line in COMPOSE_FILE.read_text(encoding="utf-8").splitlines():
        if heading := SERVICE.match(line):
            service = heading[1]
        for variable, default, inside in PUBLISHED.findall(line):
            # As in `${NAME:-default}`: empty is not set.
            text = variables.get(variable) or default
            if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 65535):
                raise StackError(f"{variable}={text}: allowed is a port, 1 to 65535")
            found.append(Published(service, int(text), int(inside), variable))
    return found


def check_ports(ports: Sequence[Published]) -> None:
    """Raises StackError, naming all ports that are in use."""
    used = [port for port in ports if _in_use(port.port)]
    twice = [port for port in ports if sum(port.port == other.port for other in ports) > 1]
    problems = [f"port {port.port} ({port.service}) is in use" for port in used]
    if twice:
        problems.append(f"{' and '.join(port.variable for port in twice)} are the same port")
    if problems:
        variables = dict.fromkeys(port.variable for port in (*used, *twice))
        raise StackError(f"{', '.join(problems)}; free it, or set {', '.join(variables)}")


def _in_use(port: int) -> bool:
    with socket.socket() as probe:
        # Connections of the past that linger do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            return error.errno == errno.EADDRINUSE
    return False


def require_password(variables: Mapping[str, str]) -> Path:
    """The file with Grafana's admin password; made at the first time. Raises StackError."""
    chosen = variables.get(PASSWORD_KEY)
    file = ROOT / chosen if chosen else PASSWORD_FILE
    try:
        if not file.exists() and not chosen:
            # In a folder that only the owner enters, and readable for Grafana's own user inside.
            file.parent.mkdir(mode=0o700, exist_ok=True)
            file.write_text(secrets.token_urlsafe(18), encoding="ascii")
            file.chmod(0o644)
        if not file.read_bytes().strip():
            raise StackError(f"the secret {file} is empty: write a password into it, or remove it")
    except OSError as error:
        raise StackError(
            f"no secret at {file}: {error.strerror}; write a password for Grafana's admin into"
            f" that file, or set {PASSWORD_KEY}"
        ) from error
    return file


# -- in containers ---------------------------------------------------------------------------------


class Engine:
    """The container engine and its compose. Raises StackError if there is none that runs."""

    def __init__(self, files: Sequence[Path]) -> None:
        if not shutil.which("docker"):
            raise StackError(
                "docker is not installed: install Docker Engine and Compose, or run"
                " `make stack-native`, which needs neither"
            )
        self._compose = [*self._find(), *(f"--file={file}" for file in files)]
        asked = _ask(["docker", "version", "--format", "{{.Server.Version}}"])
        if asked.returncode:
            said = (asked.stderr.strip() or "no answer").splitlines()[-1]
            raise StackError(
                f"the container engine does not run ({said}): start it, or run `make stack-native`"
            )

    @staticmethod
    def _find() -> list[str]:
        if not _ask(["docker", "compose", "version"]).returncode:
            return ["docker", "compose"]
        if shutil.which("docker-compose"):
            return ["docker-compose"]
        raise StackError(
            "compose is not installed: install the package docker-compose-plugin or"
            " docker-compose, or run `make stack-native`"
        )

    def compose(self, *arguments: str) -> None:
        """Run compose, with its output on the terminal. Raises BrokenError."""
        done = subprocess.run(  # noqa: S603 - our own words
            [*self._compose, *arguments], cwd=ROOT, env=_environment(), check=False
        )
        if done.returncode:
            raise BrokenError(f"compose {arguments[0]} failed, see above; `make stack-down` tidies")

    def states(self) -> dict[str, str]:
        """The containers of the stack by service: healthy, starting, exited and so on."""
        listed = _ask([*self._compose, "ps", "-q"])
        ids = listed.stdout.split()
        if listed.returncode or not ids:
            return {}
        found = json.loads(_ask(["docker", "inspect", *ids]).stdout or "[]")
        return {
            each["Config"]["Labels"]["com.docker.compose.service"]: each["State"]
            .get("Health", {})
            .get("Status", each["State"]["Status"])
            if each["State"]["Running"]
            else each["State"]["Status"]
            for each in found
        }


def up(files: Sequence[Path]) -> None:
    """Start the stack, and say where it is as soon as all of it is healthy."""
    variables = settings()
    ports = published(variables)
    engine = Engine(files)
    password = require_password(variables)
    if not engine.states():
        check_ports(ports)
    engine.compose("up", "--detach", "--build")
    deadline = time.monotonic() + READY_SECONDS
    while True:
        states = engine.states()
        late = [f"{service} is {state}" for service, state in states.items() if state != "healthy"]
        if states and not late:
            break
        if time.monotonic() > deadline:
            raise BrokenError(
                f"not healthy after {READY_SECONDS:g} s: {', '.join(late) or 'nothing runs'};"
                f" see `docker logs`, and end it with `make stack-down`"
            )
        time.sleep(POLL_SECONDS * 5)
    _say_where([port for port in ports if port.service in states])
    print(f"Grafana's admin password is in {password}; `make stack-down` ends it all", flush=True)


def down(files: Sequence[Path]) -> None:
    """Stop the stack and remove all that it left, its data too."""
    Engine(files).compose("down", "--volumes", "--remove-orphans")


def _environment() -> dict[str, str]:
    return {"COMPOSE_PROJECT_NAME": "breakerscope", **os.environ}


def _ask(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603 - our own words
        command, capture_output=True, text=True, cwd=ROOT, env=_environment(), check=False
    )


# -- without containers ----------------------------------------------------------------------------


def native() -> None:
    """Run Prometheus, Alertmanager and the demo as plain processes until Ctrl-C or SIGTERM."""
    variables = settings()
    ports = {port.service: port for port in published(variables) if port.service in _NATIVE}
    programs = {service: _program(service, names) for service, names in _NATIVE.items()}
    check_ports(list(ports.values()))
    with ExitStack() as stack:
        stop = stack.enter_context(_signals())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="breakerscope-")))
        _lay_out(folder, ports)
        commands = _commands(programs, ports, folder, variables)
        children = {
            service: stack.enter_context(_child(service, command, folder))
            for service, command in commands.items()
        }
        ready = {
            service: f"http://{LOOPBACK}:{ports[service].port}{path}"
            for service, path in (
                ("alertmanager", "/-/ready"),
                ("prometheus", "/-/ready"),
                ("demo", "/metrics"),
            )
        }
        deadline = time.monotonic() + READY_SECONDS
        while not stop.wait(POLL_SECONDS):
            for service, child in children.items():
                if child.poll() is not None:
                    raise BrokenError(f"{service} ended: {_last_line(folder, service)}")
            if not ready:
                continue
            ready = {service: url for service, url in ready.items() if not _answers(url)}
            if not ready:
                _say_where(list(ports.values()))
                print("Ctrl-C ends it all", flush=True)
            elif time.monotonic() > deadline:
                raise BrokenError(f"not ready after {READY_SECONDS:g} s: {', '.join(ready)}")


_NATIVE = {
    "alertmanager": ("prometheus-alertmanager", "alertmanager"),
    "prometheus": ("prometheus",),
    "demo": (sys.executable,),
}
"""The programs by service; Debian has a name of its own for one."""


def _program(service: str, names: Sequence[str]) -> str:
    for name in names:
        if path := shutil.which(name):
            return path
    raise StackError(
        f"{service} is not installed: on Debian run `make servers` as root, or apt-get install"
        " prometheus prometheus-alertmanager"
    )


def _lay_out(folder: Path, ports: Mapping[str, Published]) -> None:
    """The files as the containers see them, but for names of hosts; these are in targets/ only."""
    (folder / "prometheus.yml").symlink_to(SETTINGS / "prometheus.yml")
    (folder / "rules").mkdir()
    rules = "breakerscope.rules.yml"
    (folder / "rules" / rules).symlink_to(ROOT / "alerts" / rules)
    for file in (SETTINGS / "targets").rglob("*.yml"):
        text = file.read_text(encoding="utf-8").replace("host.docker.internal:", f"{LOOPBACK}:")
        for service, port in ports.items():
            text = text.replace(f'"{service}:{port.inside}"', f'"{LOOPBACK}:{port.port}"')
        target = folder / file.relative_to(SETTINGS)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")


def _commands(
    programs: Mapping[str, str],
    ports: Mapping[str, Published],
    folder: Path,
    variables: Mapping[str, str],
) -> dict[str, list[str]]:
    address = {service: f"{LOOPBACK}:{port.port}" for service, port in ports.items()}
    found = CYCLE.search(COMPOSE_FILE.read_text(encoding="utf-8"))
    variable, default = found.groups() if found else ("STACK_DEMO_CYCLE", "600")
    return {
        "alertmanager": [
            programs["alertmanager"],
            f"--config.file={SETTINGS / 'alertmanager.yml'}",
            f"--storage.path={folder / 'alertmanager'}",
            "--data.retention=24h",
            "--cluster.listen-address=",
            f"--web.listen-address={address['alertmanager']}",
            f"--web.external-url=http://localhost:{ports['alertmanager'].port}/",
        ],
        "prometheus": [
            programs["prometheus"],
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'prometheus'}",
            "--storage.tsdb.retention.time=1d",
            "--storage.tsdb.retention.size=1GB",
            "--enable-feature=exemplar-storage",
            f"--web.listen-address={address['prometheus']}",
            f"--web.external-url=http://localhost:{ports['prometheus'].port}/",
        ],
        "demo": [
            *(programs["demo"], "-m", "breakerscope", "demo", "--headless", "--repeat"),
            f"--duration={variables.get(variable) or default}",
            f"--metrics-port={ports['demo'].port}",
            f"--log-file={os.devnull}",
        ],
    }


@contextmanager
def _child(
    service: str, command: Sequence[str], folder: Path
) -> Generator[subprocess.Popen[bytes], None, None]:
    """A server that writes into a file. The demo says on the terminal how its outage goes."""
    with (folder / f"{service}.log").open("wb") as log:
        # In a session of its own: Ctrl-C is for us, and we stop each in its turn.
        child = subprocess.Popen(  # noqa: S603 - our own words
            command,
            cwd=folder,
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=None if service == "demo" else log,
            stderr=None if service == "demo" else log,
        )
    try:
        yield child
    finally:
        child.terminate()
        try:
            child.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _answers(url: str) -> bool:
    # A proxy of the surroundings knows nothing of this machine.
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(url, timeout=1) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def _last_line(folder: Path, service: str) -> str:
    lines = (folder / f"{service}.log").read_text(encoding="utf-8", errors="replace").splitlines()
    return lines[-1] if lines else "see above"


@contextmanager
def _signals() -> Generator[threading.Event, None, None]:
    """Inside the block, Ctrl-C and SIGTERM set the event."""
    stop = threading.Event()
    before = {
        number: signal.signal(number, lambda *_: stop.set())
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# -- the program -----------------------------------------------------------------------------------


def _say_where(ports: Sequence[Published]) -> None:
    for port in ports:
        if PAGES.get(port.service) == port.inside:
            print(f"{port.service:<14}http://localhost:{port.port}", flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run with these arguments (None: those of the process). Returns the exit code."""
    parser = argparse.ArgumentParser(prog="stack", description="The local observability stack.")
    parser.add_argument("action", choices=("up", "down", "native"))
    parser.add_argument("--file", type=Path, action="append", default=[], metavar="FILE",
        help="a compose file of yours on top of ours; may be given more than once")  # fmt: skip
    arguments = parser.parse_args(argv)
    files = [COMPOSE_FILE, *(file.resolve() for file in arguments.file)]
    try:
        if arguments.action == "up":
            up(files)
        elif arguments.action == "down":
            down(files)
        else:
            native()
    except StackError as error:
        print(f"stack: error: {error}", file=sys.stderr)
        return BAD_INPUT
    except BrokenError as error:
        print(f"stack: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
