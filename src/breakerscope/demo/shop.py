"""The code that an application protects: three breakers, and every way to put a call through one.

The decorator and `call`, both sync and async, and the guard. The waits fit the length of the run,
so that one sees openings and closings in a short one too.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

import httpx

from breakerscope import instrumented_breaker, remove_breaker
from breakerscope.demo.script import SERVICES
from breakerscope.demo.tally import Declined, UpstreamError

TIMEOUT = 0.8
SLOW = 0.2
WAITS_IN_A_RUN = 50
SHORTEST_WAIT, LONGEST_WAIT = 0.15, 1.5
LIMITS = httpx.Limits(max_connections=200, max_keepalive_connections=100)


class Shop:
    """The protected calls. Each says which client it uses, since sync and async have their own."""

    def __init__(self, urls: Mapping[str, str], *, duration: float) -> None:
        wait = min(max(duration / WAITS_IN_A_RUN, SHORTEST_WAIT), LONGEST_WAIT)
        self.payments = instrumented_breaker(
            "payment_api",
            failure_rate=0.5,
            min_calls=20,
            consecutive_failures=8,
            open_for=wait,
            ignore=Declined,
        )
        self.search = instrumented_breaker(
            "search",
            failure_rate=0.5,
            min_calls=10,
            window=40,
            slow_call=SLOW,
            slow_call_rate=0.6,
            open_for=wait,
            backoff=1.4,
            open_for_max=3 * wait,
            jitter=0.1,
            probes=2,
            ignore=Declined,
        )
        self.recommendations = instrumented_breaker(
            "recommendations",
            failure_rate=0.5,
            min_calls=8,
            window=timedelta(seconds=2 * wait),
            open_for=wait,
            ignore=Declined,
        )

        self.breakers = (self.payments, self.search, self.recommendations)

        @self.payments
        def charge(client: httpx.Client) -> str:
            return _checked(client.get(urls["payment_api"])).text

        @self.search
        async def find(client: httpx.AsyncClient) -> str:
            return _checked(await client.get(urls["search"])).text

        self.charge = charge
        self.find = find
        self._urls = urls

    def suggest(self, client: httpx.Client) -> str:
        """Sync, through `call`."""

        def fetch(url: str) -> str:
            return _checked(client.get(url)).text

        return self.recommendations.call(fetch, self._urls["recommendations"])

    async def refund(self, client: httpx.AsyncClient) -> str:
        """Async, through `call`."""

        async def send(url: str) -> str:
            return _checked(await client.get(url)).text

        return await self.payments.call(send, self._urls["payment_api"])

    async def suggest_fresh(self, client: httpx.AsyncClient) -> bool:
        """Async, through a guard: only the caller can know that an answer is too old to be one."""
        async with self.recommendations.guard() as guard:
            reply = _checked(await client.get(self._urls["recommendations"]))
            if stale := bool(reply.json()["stale"]):
                guard.fail("stale")
            return not stale

    @staticmethod
    def close() -> None:
        """Forget the breakers, so that the next run in this process starts with new ones."""
        for name in SERVICES:
            remove_breaker(name)


def sync_client() -> httpx.Client:
    """A client for all threads. The environment's proxies are not for loopback."""
    return httpx.Client(timeout=TIMEOUT, limits=LIMITS, trust_env=False)


def async_client() -> httpx.AsyncClient:
    """A client for all tasks."""
    return httpx.AsyncClient(timeout=TIMEOUT, limits=LIMITS, trust_env=False)


def _checked(reply: httpx.Response) -> httpx.Response:
    if reply.is_server_error:
        raise UpstreamError(reply.status_code)
    if reply.is_client_error:
        raise Declined(reply.status_code)
    return reply
