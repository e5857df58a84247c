"""The HTTP header `Retry-After`, as a rule for `retry_after_from`.

RFC 9110, section 10.2.3: a number of seconds, or a date.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


def http_retry_after(ended_with: Any, /, *, now: Callable[[], float] = time.time) -> float | None:
    """For how many seconds a response, or an exception with a response, asks to be left alone.

    Knows the responses of httpx, requests and aiohttp, and whatever else has `headers`. None where
    the header is missing or says nothing sensible. A date in the past is 0. Thread-safe.
    """
    response = getattr(ended_with, "response", None)
    headers: Any = getattr(ended_with if response is None else response, "headers", None)
    value: object = headers.get("Retry-After") if hasattr(headers, "get") else None
    if not isinstance(value, str):
        return None
    value = value.strip()
    if value.isascii() and value.isdigit():
        return float(value)
    from email.utils import parsedate_to_datetime

    try:
        return max(parsedate_to_datetime(value).timestamp() - now(), 0.0)
    except ValueError:
        return None
