"""A container engine of our own, and images that stand in for those which cannot be pulled here.

The stand-ins carry the names that the compose file pins. They are made of Debian's packages, so
what they prove is our configuration and wiring, with the versions of Debian, and not those images.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import pytest

from tests.servers.process import wait_until

PROGRAMS = ("dockerd", "docker", "docker-compose", "debootstrap", "iptables-save", "ip", "tar")
SUITE, MIRROR = "bookworm", "http://deb.debian.org/debian"
PACKAGES = (
    *("prometheus", "prometheus-alertmanager", "busybox", "ca-certificates"),
    *("python3", "python3-venv", "python3-pip", "python-is-python3", "libpython3.11"),
)
READY_SECONDS = 60.0
COMMAND_SECONDS = 400.0
FORWARDING = Path("/proc/sys/net/ipv4/ip_forward")
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")


class Engine:
    """A dockerd in a folder of its own. `environment` leads to it. Skips where none can run."""

    def __enter__(self) -> Self:
        _skip_unless_possible()
        with ExitStack() as stack:
            # Not in pytest's own folder: the name of a socket must be short.
            self._folder = Path(tempfile.mkdtemp(prefix="breakerscope-engine-"))
            stack.callback(_remove, self._folder)
            self._keep_the_network(stack)
            host = f"unix://{self._folder / 'docker.sock'}"
            self.environment = {
                **{key: value for key, value in os.environ.items() if "DOCKER" not in key},
                "DOCKER_HOST": host,
                # The builder that needs no image of its own.
                "DOCKER_BUILDKIT": "0",
                "COMPOSE_DOCKER_CLI_BUILD": "0",
            }
            self._start(stack, host)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    def _keep_the_network(self, stack: ExitStack) -> None:
        """The engine changes rules, a setting and adds a bridge. After it all is as before."""
        rules = subprocess.run(["iptables-save"], capture_output=True, check=True).stdout
        forwarding = FORWARDING.read_text()
        bridges = _links()

        def restore() -> None:
            for name in _links() - bridges:
                subprocess.run(["ip", "link", "delete", name], check=False, capture_output=True)
            subprocess.run(["iptables-restore"], input=rules, check=True)
            FORWARDING.write_text(forwarding)

        stack.callback(restore)

    def _start(self, stack: ExitStack, host: str) -> None:
        log = self._folder / "dockerd.log"
        command = [
            "dockerd",
            f"--host={host}",
            f"--data-root={self._folder / 'data'}",
            f"--exec-root={self._folder / 'exec'}",
            f"--pidfile={self._folder / 'docker.pid'}",
        ]
        with log.open("wb") as file:
            process = subprocess.Popen(command, stdout=file, stderr=file)

        def end() -> None:
            process.terminate()
            try:
                process.wait(READY_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

        stack.callback(end)
        asked = ["docker", "version"]
        deadline = time.monotonic() + READY_SECONDS
        while self._refuses(asked):
            if process.poll() is not None or time.monotonic() > deadline:
                said = [line for line in log.read_text().splitlines() if "level=info" not in line]
                pytest.skip(f"no container engine can be started: {said[-1] if said else 'silent'}")
            time.sleep(0.2)

    def _refuses(self, command: Sequence[str]) -> bool:
        done = subprocess.run(command, env=self.environment, check=False, capture_output=True)
        return done.returncode != 0

    def docker(self, *arguments: str) -> str:
        """What a command of docker prints. It has to succeed."""
        done = subprocess.run(
            ["docker", *arguments],
            env=self.environment,
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=COMMAND_SECONDS,
        )
        assert done.returncode == 0, f"docker {' '.join(arguments)}:\n{done.stdout[-4000:]}"
        return done.stdout

    def inspect(self, container: str) -> dict[str, Any]:
        """All that the engine knows of a container."""
        found: list[dict[str, Any]] = json.loads(self.docker("inspect", container))
        return found[0]

    def bridge(self) -> str:
        """The address at which containers reach this machine."""
        command = ["ip", "-json", "-4", "address", "show", "dev", "docker0"]
        shown = subprocess.run(command, capture_output=True, check=True).stdout
        address: str = json.loads(shown)[0]["addr_info"][0]["local"]
        return address

    def build(self, tag: str, dockerfile: str, files: Mapping[str, Path]) -> None:
        """An image by its name, from a Dockerfile and the files that it copies."""
        with tempfile.TemporaryDirectory(dir=self._folder) as name:
            folder = Path(name)
            (folder / "Dockerfile").write_text(dockerfile)
            for target, source in files.items():
                shutil.copy(source, folder / target)
            self.docker("build", "--network=host", f"--tag={tag}", str(folder))

    def make_images(self, names: Mapping[str, str]) -> None:
        """A stand-in for each image: of prometheus, alertmanager, jaeger and python, by service."""
        self.docker("import", str(_base_tree()), "stand-in:debian")
        settings = "".join(f"ENV {key}={value}\n" for key, value in _pip_settings().items())
        certificates = {"certificates.crt": CERTIFICATES}
        self.build(
            names["python"],
            f"FROM stand-in:debian\nCOPY certificates.crt {CERTIFICATES}\n{settings}"
            "RUN ln -s /bin/busybox /usr/bin/wget\n",
            certificates,
        )
        for service, program in (
            ("prometheus", "prometheus"),
            ("alertmanager", "prometheus-alertmanager"),
        ):
            self.build(
                names[service],
                f"FROM {names['python']}\nRUN install -d -o 65534 -g 65534 /{service}\n"
                f'ENTRYPOINT ["/usr/bin/{program}"]\n',
                {},
            )
        self.build(
            names["jaeger"],
            f"FROM {names['python']}\n"
            f"RUN python -m pip install --break-system-packages {_collector()}\n"
            "COPY collector.py /collector.py\n"
            'ENTRYPOINT ["python", "-u", "/collector.py"]\n',
            {"collector.py": Path(__file__).with_name("collector.py")},
        )


def _skip_unless_possible() -> None:
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("a container engine can be started by root on Linux only")
    if missing := [name for name in PROGRAMS if not shutil.which(name)]:
        pytest.skip(f"no container engine: {', '.join(missing)} missing; see `make servers`")
    running = [
        file for file in Path("/proc").glob("[0-9]*/comm") if _text(file).strip() == "dockerd"
    ]
    if running:
        # Two of them would take each other's rules of the network away.
        pytest.skip("another container engine runs on this machine")


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""  # a process that has just ended


def _links() -> set[str]:
    listed = subprocess.run(["ip", "-json", "link"], capture_output=True, check=True).stdout
    return {each["ifname"] for each in json.loads(listed)}


def _remove(folder: Path) -> None:
    """A folder with all that is mounted in it."""
    mounted = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for place in reversed(mounted):
        if place.startswith(f"{folder}/"):
            subprocess.run(["umount", "--lazy", place], check=False, capture_output=True)
    shutil.rmtree(folder)


def _base_tree() -> Path:
    """A small Debian as an archive: made once for a machine, about a minute. Skips if it cannot."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "breakerscope-tests"
    cache.mkdir(parents=True, exist_ok=True)
    key = hashlib.sha256(" ".join((SUITE, *PACKAGES)).encode()).hexdigest()[:12]
    archive = cache / f"debian-{key}.tar"
    if archive.exists():
        return archive
    folder = Path(tempfile.mkdtemp(prefix="debian-", dir=cache))
    part = Path(f"{folder}.tar")
    try:
        tree = folder / "tree"
        _make(
            *("debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}"),
            *(SUITE, str(tree), MIRROR),
        )
        outside = (
            "./var/cache/apt",
            "./var/lib/apt/lists",
            "./usr/share/doc",
            "./usr/share/locale",
        )
        excluded = [f"--exclude={place}/*" for place in outside]
        _make("tar", *excluded, "-C", str(tree), "-cf", str(part), ".")
        part.rename(archive)
    finally:
        part.unlink(missing_ok=True)
        _remove(folder)
    return archive


def _make(*command: str) -> None:
    done = subprocess.run(
        command,
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=COMMAND_SECONDS,
    )
    if done.returncode:
        last = (done.stdout.strip() or "silent").splitlines()[-1]
        pytest.skip(f"no images: {command[0]} failed: {last}")


def _collector() -> str:
    """As pip knows the collector of the tests: the image may have it where this Python has not."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    [found] = [
        each.partition(";")[0]
        for each in project["project"]["optional-dependencies"]["dev"]
        if each.startswith("rotel")
    ]
    return str(found)


def _pip_settings() -> dict[str, str]:
    """Where pip finds packages on this machine, for pip inside a build. For throw-away images."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.findall(
        r"^\S+\.(index-url|extra-index-url|trusted-host)='(.*)'$", listed, re.MULTILINE
    )
    settings = {
        f"PIP_{key.upper().replace('-', '_')}": value
        for key, value in found
        if key == "trusted-host" or value.startswith("http")
    }
    return {**settings, "PIP_CERT": str(CERTIFICATES), "PIP_DEFAULT_TIMEOUT": "120"}


def wait_for_health(engine: Engine, containers: Sequence[str], seconds: float) -> None:
    """Until all of them run and are healthy."""

    def all_healthy() -> bool:
        states = [engine.inspect(each)["State"] for each in containers]
        return all(
            state["Running"] and state.get("Health", {}).get("Status") == "healthy"
            for state in states
        )

    wait_until(all_healthy, f"health of {', '.join(containers)}", seconds)
