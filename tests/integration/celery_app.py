"""The tasks of `test_celery`, as `docs/integrations.md` has them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from celery import Celery
from celery.exceptions import Ignore, Reject, Retry

import breakerscope as bs

FOLDER = Path(os.environ["CELERY_FOLDER"])
app: Any = Celery("shop", broker="filesystem://", backend=f"file://{FOLDER / 'results'}")
app.conf.update(
    broker_transport_options={
        "data_folder_in": str(FOLDER / "queue"),
        "data_folder_out": str(FOLDER / "queue"),
        "control_folder": str(FOLDER / "control"),
        "processed_folder": str(FOLDER / "processed"),
        "polling_interval": 0.05,
    },
    broker_connection_retry_on_startup=True,
    task_acks_late=True,
)
payments = bs.instrumented_breaker(
    "payments", consecutive_failures=2, open_for=3.0, ignore=(Ignore, Reject, Retry)
)


@app.task(bind=True, max_retries=2, default_retry_delay=0)  # type: ignore[untyped-decorator]
@payments
def charge(self: Any, how: str) -> str:
    """Take the money; `how` says what happens."""
    if how == "busy":
        raise self.retry(exc=ConnectionError("busy"))
    if how == "busy once" and not self.request.retries:
        raise self.retry(exc=ConnectionError("busy"))
    problems = {"ignore": Ignore(), "reject": Reject(requeue=False), "down": ConnectionError()}
    if how in problems:
        raise problems[how]
    return "charged"


@app.task(  # type: ignore[untyped-decorator]
    autoretry_for=(bs.CircuitBreakerOpenError,), max_retries=50, default_retry_delay=0.5
)
@payments
def charge_when_it_is_back() -> str:
    """Waits for the breaker."""
    return "charged"


@app.task  # type: ignore[untyped-decorator]
def counts() -> dict[str, Any]:
    """What the breaker of the worker has counted."""
    reading = payments.read()
    calls = {outcome.value: count for outcome, count in reading.calls.items() if count}
    return {"state": reading.state.value, **calls}
