"""The application that test_gunicorn serves: `/call?n=3` makes calls, `/metrics` shows all."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qs

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.multiprocess import MultiProcessCollector

import breakerscope as bs

breaker = bs.instrumented_breaker("payment_api", failure_rate=0.9, min_calls=100, window=1000)
registry = CollectorRegistry()
MultiProcessCollector(registry)
metrics: Any = make_wsgi_app(registry)


@breaker
def charge(number: int) -> None:
    if number % 10 == 9:
        raise OSError


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    if environ["PATH_INFO"] == "/metrics":
        answer: Iterable[bytes] = metrics(environ, start_response)
        return answer
    for number in parse_qs(environ["QUERY_STRING"])["n"]:
        with suppress(OSError):
            charge(int(number))
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]
