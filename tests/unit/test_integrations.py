"""The integrations without their libraries, and the bound of hosts under attack."""

from __future__ import annotations

import copy
import pickle
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
import requests
import urllib3

import breakerscope as bs
from breakerscope import CircuitBreakerOpenError
from breakerscope.integrations import _http
from breakerscope.integrations._http import SHARED, BoundedHosts
from breakerscope.integrations.grpc import RpcRejectedError
from breakerscope.integrations.httpx import AsyncBreakerTransport, BreakerTransport
from breakerscope.integrations.httpx import RequestRejectedError as HttpxRejectedError
from breakerscope.integrations.requests import BreakerAdapter
from breakerscope.integrations.requests import RequestRejectedError as RequestsRejectedError

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


CLIENTS: dict[str, Callable[..., object]] = {
    "httpx": BreakerTransport,
    "httpx, async": AsyncBreakerTransport,
    "requests": BreakerAdapter,
}


@pytest.mark.parametrize("client", CLIENTS)
def test_another_client_with_other_options_is_refused_as_it_is_built(client: str) -> None:
    first = CLIENTS[client](prefix="api", open_for=5.0)
    with pytest.raises(bs.ContradictionError) as caught:
        CLIENTS[client](prefix="api", open_for=6.0)
    told = str(caught.value)
    assert "prefix='api' is in use with other options: open_for: 5.0 and 6.0" in told
    places = re.findall(rf"{re.escape(__file__)}:(\d+)", told)
    assert len(set(places)) == 2
    # Others do not mind, and neither does anybody when the first one is gone.
    CLIENTS[client](prefix="api", open_for=5.0)
    CLIENTS[client](prefix="web", open_for=6.0)
    del first
    CLIENTS[client](prefix="api", open_for=6.0)


def test_a_client_whose_breakers_are_there_with_other_options_is_refused() -> None:
    BoundedHosts("api", 10, {"open_for": 5.0})("a")
    with pytest.raises(bs.ContradictionError, match=r"open_for: 5\.0 and 6\.0"):
        BoundedHosts("api", 10, {"open_for": 6.0})


def test_a_breaker_that_somebody_made_by_hand_is_no_error_of_a_request() -> None:
    hosts = BoundedHosts("api", 10, {"open_for": 5.0})
    own = bs.instrumented_breaker("api:a", open_for=60.0)
    assert hosts("a") is own


def test_what_operators_set_is_no_error_of_a_request() -> None:
    hosts = BoundedHosts("api", 10, {"open_for_max": 20.0})
    bs.configure({"breakers": {"api:*": {"open_for": 60}}})
    try:
        assert hosts("a").policy == bs.Policy(open_for_max=20.0)
    finally:
        bs.configure({})


def test_the_limit_holds_also_where_a_finaliser_makes_breakers_in_between(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hosts = BoundedHosts("api", 3, {})
    hosts("a")
    real, again = bs.instrumented_breaker, ["b"]

    def interrupted(name: str, **options: Any) -> bs.CircuitBreaker:
        if again:
            hosts(again.pop())
        return real(name, **options)

    monkeypatch.setattr(_http, "breaker_in_request", interrupted)
    assert hosts("c").name == "api:other"
    assert sorted(b.name for b in bs.breakers()) == ["api:a", "api:b", "api:other"]


# -- pickles and copies ----------------------------------------------------------------------------


def test_a_session_with_our_adapter_goes_through_a_pickle_and_a_copy() -> None:
    session = requests.Session()
    retries = urllib3.Retry(3, backoff_factor=0.001)
    session.mount("http://", BreakerAdapter(max_retries=retries, prefix="api", limit=7))
    for other in (pickle.loads(pickle.dumps(session)), copy.deepcopy(session)):
        adapter = other.adapters["http://"]
        assert isinstance(adapter, BreakerAdapter)
        assert (adapter.max_retries.total, adapter.max_retries.backoff_factor) == (3, 0.001)
        with pytest.raises(requests.ConnectionError):
            other.get("http://127.0.0.1:1/")
    assert bs.breakers()[0].read().calls[bs.Outcome.FAILURE] == 5
    assert bs.breakers()[0].state is bs.State.OPEN


@pytest.mark.parametrize(
    "cls", [HttpxRejectedError, RequestsRejectedError, RpcRejectedError, CircuitBreakerOpenError]
)
def test_a_refusal_goes_through_a_pickle(cls: Callable[..., CircuitBreakerOpenError]) -> None:
    error = cls("api", bs.State.OPEN, 1.5)
    other = pickle.loads(pickle.dumps(error))
    assert type(other) is type(error)
    assert (other.breaker, other.state, other.retry_after) == ("api", bs.State.OPEN, 1.5)
    assert str(other) == str(error)


def test_a_breaker_is_copied_and_pickled_by_its_name() -> None:
    breaker = bs.instrumented_breaker("api", consecutive_failures=3)
    holder = {"breaker": breaker, "guarded": [breaker]}
    assert copy.deepcopy(holder) == holder
    assert copy.copy(breaker) is breaker
    assert pickle.loads(pickle.dumps(holder)) == holder
    text = pickle.dumps(breaker)
    bs.remove_breaker("api")
    other = pickle.loads(text)
    assert other is bs.get_breaker("api")
    assert other is bs.instrumented_breaker("api", consecutive_failures=3)
