"""What the blocks of the guide take for granted: services, caches and queues, by their names there.

A service is up or down for all blocks at once; down means that each call raises ConnectionError.
"""

from __future__ import annotations

import queue
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any


class Services:
    """`names()` is what the blocks see."""

    def __init__(self) -> None:
        self.is_up = True
        self.asked: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
        self.saved: list[dict[str, Any]] = []
        self.retries: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()

    def _answers(self, name: str, answer: object) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.asked.append((name, args, kwargs))
            if not self.is_up:
                raise ConnectionError(name)
            return answer

        return call

    def names(self) -> dict[str, Any]:
        """Everything that the guide mentions and does not define."""
        answers = self._answers
        return {
            "payment_api": SimpleNamespace(charge=answers("charge", SimpleNamespace(id="t-1"))),
            "email_api": SimpleNamespace(send=answers("send", "sent")),
            "user_api": SimpleNamespace(
                get_profile=answers("get_profile", {"id": 7}), get=answers("get", {"id": 7})
            ),
            "enrichment_api": SimpleNamespace(
                get_extra=answers("get_extra", {"tier": "gold"}), get=answers("enrich", {"a": 1})
            ),
            "notif_api": SimpleNamespace(send=answers("notify", {"sent": True})),
            "recom_api": SimpleNamespace(get=answers("recommend", ["book"])),
            "requests": SimpleNamespace(get=answers("GET", "response")),
            "url": "https://example.org",
            "user_id": 7,
            "my_func": answers("my_func", "done"),
            "handle_failure": lambda: None,
            "use_fallback_payment": lambda amount: f"queued {amount:g}",
            "save_to_retry_queue": self.saved.append,
            "get_cached_response": lambda endpoint: f"cached {endpoint}",
            "get_cached_name": lambda user_id: f"user {user_id}",
            "get_cached_recommendations": lambda user_id: ["popular"],
            "CACHE": {"user_7": {"id": 7, "cached": True}},
            "RETRY_QUEUE": self.retries,
        }
