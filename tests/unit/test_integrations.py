"""The integrations without their libraries, and the bound of hosts under attack."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

import breakerscope as bs
from breakerscope.integrations._http import SHARED, BoundedHosts

pytestmark = pytest.mark.usefixtures("fresh_breakers")

NEEDS = {
    "httpx": ("httpx", "httpx"),
    "requests": ("requests", "requests"),
    "grpc": ("grpc", "grpcio"),
    "tenacity": ("tenacity", "tenacity"),
}


def run(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize("module", NEEDS)
def test_a_missing_library_is_named_with_the_command(module: str) -> None:
    third_party, distribution = NEEDS[module]
    hide = f"import sys; sys.modules[{third_party!r}] = None"
    result = run(f"{hide}; import breakerscope.integrations.{module}")
    assert result.stderr.splitlines()[-1] == (
        "breakerscope.MissingExtraError:"
        f" breakerscope.integrations.{module} needs {distribution};"
        f" run: pip install 'breakerscope[{module}]'"
    )


def test_modules_that_need_no_library_import_none() -> None:
    result = run(
        "import sys, breakerscope.integrations.asgi, breakerscope.integrations.stamina\n"
        "names = {'httpx', 'requests', 'grpc', 'tenacity', 'stamina', 'starlette', 'urllib3'}\n"
        "print(sorted(names & sys.modules.keys()))"
    )
    assert (result.stdout, result.stderr) == ("[]\n", "")


@pytest.mark.parametrize(
    ("found", "needs"),
    [
        ("raise importlib.metadata.PackageNotFoundError", "stamina"),
        ("return '25.1.0'", "stamina 25.2 or newer, and this is 25.1.0"),
    ],
)
def test_stamina_has_to_be_new_enough(found: str, needs: str) -> None:
    result = run(
        f"import importlib.metadata\ndef version(name): {found}\n"
        "importlib.metadata.version = version\nimport breakerscope.integrations.stamina"
    )
    assert result.stderr.splitlines()[-1] == (
        "breakerscope.MissingExtraError:"
        f" breakerscope.integrations.stamina needs {needs};"
        " run: pip install 'breakerscope[stamina]'"
    )


def test_hosts_from_outside_make_no_more_breakers_than_allowed() -> None:
    hosts = BoundedHosts("api", 10, {})

    def attack(which: int) -> None:
        for number in range(500):
            hosts(f"{which}-{number}.attacker.example").call(int)

    hosts("api.example.com").force_open()
    threads = [threading.Thread(target=attack, args=[which]) for which in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(bs.breakers()) == 10
    assert {hosts("yet.another.example").name, hosts(SHARED).name} == {f"api:{SHARED}"}
    assert hosts("api.example.com").state is bs.State.FORCED_OPEN
    assert sum(breaker.read().calls[bs.Outcome.SUCCESS] for breaker in bs.breakers()) == 2000


def test_clients_made_for_each_request_have_the_limit_together() -> None:
    for number in range(50):
        BoundedHosts("api", 5, {})(f"{number}.example.com")
    assert [breaker.name for breaker in bs.breakers()] == [
        *(f"api:{number}.example.com" for number in range(4)),
        "api:other",
    ]


def test_a_limit_of_one_is_one_breaker_for_all() -> None:
    hosts = BoundedHosts("api", 1, {})
    assert {hosts("a").name, hosts("b").name} == {"api:other"}


def test_a_host_that_was_removed_is_made_anew_and_leaves_its_place() -> None:
    hosts = BoundedHosts("api", 2, {})
    first = hosts("a")
    assert hosts("a") is first
    bs.remove_breaker("api:a")
    second = hosts("a")
    assert (second is first, bs.breakers()) == (False, [second])
    bs.remove_breaker("api:a")
    assert hosts("b").name == "api:b"
    assert hosts("a").name == "api:other"


def test_another_client_with_other_options_is_an_error() -> None:
    early = BoundedHosts("api", 10, {"open_for": 7.0})
    hosts = BoundedHosts("api", 10, {"open_for": 5.0})
    hosts("a")
    with pytest.raises(bs.ContradictionError, match=r"open_for: 5\.0 and 6\.0"):
        BoundedHosts("api", 10, {"open_for": 6.0})
    with pytest.raises(bs.ContradictionError, match=r"open_for: 5\.0 and 7\.0"):
        early("a")
