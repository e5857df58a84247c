"""The users: threads and tasks whose requests go through the shop's breakers, inside real spans.

Half of it is sync code in threads (a checkout), half is async code in tasks (a search page). Every
user keeps a tally of his own: what he asked and what he got, as his own try and except saw it.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager

import httpx
from opentelemetry.trace import Tracer
from structlog.contextvars import bound_contextvars

from breakerscope.catalogue import Attribute, SpanName
from breakerscope.demo.report import Tally
from breakerscope.demo.shop import Shop, async_client, sync_client
from breakerscope.demo.tally import Asked, Caller, total

SYNC_USERS = 8
ASYNC_USERS = 24
SYNC_PAUSE = 0.12
ASYNC_PAUSE = 0.4
"""The mean time between two requests of one user, in seconds."""
LONGEST_PAUSE = 1.0
REFUNDS = 0.15
"""The share of pages with a refund on it."""
TYPES_ON = 0.08
"""The share of searches that are cancelled, because the user types on."""
END_SECONDS = 15.0


class Traffic:
    """All users. `start`, then `stop`; `tally` is complete after that."""

    def __init__(self, shop: Shop, tracer: Tracer, *, seed: int) -> None:
        self._shop = shop
        self._tracer = tracer
        self._seed = seed
        self._stop = threading.Event()
        self._callers: list[Caller] = []
        self._client = sync_client()
        self._threads = [
            threading.Thread(target=self._customer, args=(n, self._caller()), daemon=True)
            for n in range(SYNC_USERS)
        ]
        self._threads.append(
            threading.Thread(target=lambda: asyncio.run(self._visitors()), daemon=True)
        )

    def start(self) -> None:
        """Send the users in."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> int:
        """Let each user finish his request. Returns how many threads did not end in time: 0."""
        self._stop.set()
        deadline = time.monotonic() + END_SECONDS
        for thread in self._threads:
            thread.join(max(deadline - time.monotonic(), 0.0))
        self._client.close()
        return sum(thread.is_alive() for thread in self._threads)

    @property
    def tally(self) -> Tally:
        """What all users counted."""
        return total(self._callers)

    def _caller(self) -> Caller:
        self._callers.append(Caller())
        return self._callers[-1]

    @contextmanager
    def _request(self, name: str, rng: random.Random) -> Generator[None, None, None]:
        """One request of a user: one span, and one id that every log line about it carries."""
        with (
            bound_contextvars(request_id=f"{rng.getrandbits(32):08x}"),
            self._tracer.start_as_current_span(name),
        ):
            yield

    @contextmanager
    def _asks(self, caller: Caller, breaker: str) -> Generator[Asked, None, None]:
        """One call in a span that names the breaker: from there one finds its metrics."""
        with (
            self._tracer.start_as_current_span(
                f"{SpanName.CALL.value} {breaker}", attributes={Attribute.NAME.value: breaker}
            ),
            caller.asks(breaker) as asked,
        ):
            yield asked

    # -- sync: each customer is a thread ----------------------------------------------------------

    def _customer(self, number: int, caller: Caller) -> None:
        rng = random.Random(f"{self._seed} customer {number}")
        while not self._stop.wait(_pause(rng, SYNC_PAUSE)):
            with self._request("POST /checkout", rng):
                with self._asks(caller, "payment_api"):
                    self._shop.charge(self._client)
                with self._asks(caller, "recommendations"):
                    self._shop.suggest(self._client)

    # -- async: each visitor is a task ------------------------------------------------------------

    async def _visitors(self) -> None:
        async with async_client() as client, asyncio.TaskGroup() as group:
            for number in range(ASYNC_USERS):
                group.create_task(self._visitor(number, self._caller(), client))

    async def _visitor(self, number: int, caller: Caller, client: httpx.AsyncClient) -> None:
        rng = random.Random(f"{self._seed} visitor {number}")
        while not self._stop.is_set():
            await asyncio.sleep(_pause(rng, ASYNC_PAUSE))
            with self._request("GET /search", rng):
                await self._page(caller, client, rng)

    async def _page(self, caller: Caller, client: httpx.AsyncClient, rng: random.Random) -> None:
        searching = asyncio.create_task(self._search(caller, client))
        if rng.random() < TYPES_ON:
            await asyncio.sleep(rng.uniform(0.0, 0.015))
            searching.cancel()
        # A cancelled search ends as one: it raises nothing here.
        await asyncio.wait([searching])
        with self._asks(caller, "recommendations") as asked:
            if not await self._shop.suggest_fresh(client):
                asked.was_useless()
        if rng.random() < REFUNDS:
            with self._asks(caller, "payment_api"):
                await self._shop.refund(client)

    async def _search(self, caller: Caller, client: httpx.AsyncClient) -> None:
        with self._asks(caller, "search"):
            await self._shop.find(client)


def _pause(rng: random.Random, mean: float) -> float:
    return min(rng.expovariate(1 / mean), LONGEST_PAUSE)
