"""Every Python block of the guide runs, its text unchanged but for the root of its imports."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

import breakerscope
from breakerscope import CircuitBreakerOpenError
from breakerscope.compat import _replaced, llm_circuit_breaker, metrics_prometheus
from tests.guide.services import Services

GUIDE = Path(__file__).parents[1] / "guide" / "blocks.markdown"
BLOCK = re.compile(r"^## ([^\n]+)\n\n```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
OLD_ROOT = re.compile(r"ipfs_datasets_py\.logic\.(security|observability)")
NEW_ROOT = "breakerscope.compat"
BLOCKS = BLOCK.findall(GUIDE.read_text(encoding="utf-8"))


class Guide:
    """The names that all blocks share, and the services behind them."""

    def __init__(self) -> None:
        self.services = Services()
        self.names: dict[str, Any] = {
            **self.services.names(),
            "__name__": "guide",
            "pytest": pytest,
            "time": time,
        }

    def run(self, heading: str) -> None:
        """Run the block below this heading."""
        text = OLD_ROOT.sub(NEW_ROOT, dict(BLOCKS)[heading])
        exec(compile(text, f"<guide: {heading}>", "exec"), self.names)

    def __getitem__(self, name: str) -> Any:
        return self.names[name]

    @contextmanager
    def down(self, name: str) -> Iterator[None]:
        """Inside the block the breaker of this name is open."""
        llm_circuit_breaker.get_circuit_breaker(name).force_open()
        yield
        llm_circuit_breaker.get_circuit_breaker(name).reset()


@pytest.fixture
def guide() -> Iterator[Guide]:
    _replaced.start_over()
    made = Guide()
    made.run("Step 1: Import")
    made.names["cb"] = made["get_circuit_breaker"]("payment_api")
    metrics_prometheus.get_prometheus_collector().reset_all()
    with breakerscope.setup_telemetry(registry=CollectorRegistry()):
        yield made
    metrics_prometheus.get_prometheus_collector().reset_all()
    for breaker in breakerscope.breakers():
        breakerscope.remove_breaker(breaker.name)
    _replaced.start_over()


def test_there_are_as_many_blocks_as_in_the_guide() -> None:
    assert len(BLOCKS) == 22
    assert GUIDE.read_text(encoding="utf-8").count("```python") == len(BLOCKS)


def test_all_blocks_in_order(guide: Guide, compat_spans: InMemorySpanExporter) -> None:
    for heading, _ in BLOCKS:
        guide.run(heading)


def test_one_breaker_for_each_name(guide: Guide) -> None:
    guide.run("Step 2: Get or Create")
    assert guide["cb"].breaker is breakerscope.get_breaker("payment_api")


def test_protected_calls(guide: Guide) -> None:
    guide.run("Step 3: Protect Calls")
    assert guide["result"].id == "t-1"
    with guide.down("payment_api"):
        guide.run("Step 3: Protect Calls")
        assert guide["result"] == "queued 100"
        with pytest.raises(CircuitBreakerOpenError):
            guide["charge_payment"](100.0)


def test_configuration(guide: Guide) -> None:
    guide.run("Configuration")
    policy = guide["get_circuit_breaker"]("slow_api").breaker.policy
    assert (policy.consecutive_failures, policy.failure_rate, policy.min_calls) == (10, 0.1, 5)
    assert (policy.open_for, policy.backoff) == (30.0, 2.0)
    assert guide["get_circuit_breaker"]("slow_api") is guide["cb"]


@pytest.mark.parametrize(
    ("heading", "breaker", "call", "up", "refused"),
    [
        (
            "Pattern 1: Simple Sync Call",
            "email_service",
            lambda g: g["send_email"]("a@b.c", "hi", "text"),
            "sent",
            None,
        ),
        (
            "Pattern 2: With Timeout Handling",
            "external_api",
            lambda g: g["call_external_api"]("/x", headers={}),
            "response",
            "cached /x",
        ),
        (
            "Pattern 3: With Fallback",
            "user_service",
            lambda g: g["get_user_profile"](7),
            {"id": 7},
            {"id": 7, "cached": True, "name": "user 7"},
        ),
        (
            "Pattern 5: Graceful Degradation",
            "enrichment_service",
            lambda g: g["enrich_user_data"]({"id": 7}),
            {"id": 7, "tier": "gold"},
            {"id": 7, "enrichment_available": False},
        ),
        (
            "Strategy 1: Cached Fallback",
            "fetch_service",
            lambda g: g["get_with_cache"]("user_7", lambda: g["user_api"].get(7)),
            {"id": 7},
            {"id": 7, "cached": True},
        ),
        (
            "Strategy 2: Default Fallback",
            "enrichment",
            lambda g: g["get_enrichment"](7, {"default": True}),
            {"a": 1},
            {"default": True},
        ),
        (
            "Strategy 3: Queue for Retry",
            "notification_service",
            lambda g: g["send_notification"](7, "hi"),
            {"sent": True},
            {"queued": True},
        ),
        (
            "Strategy 4: Degrade Features",
            "recommendation_service",
            lambda g: g["get_recommendations"](7),
            ["book"],
            ["popular"],
        ),
    ],
)
def test_patterns_and_strategies(
    guide: Guide, heading: str, breaker: str, call: Any, up: object, refused: object
) -> None:
    guide.run(heading)
    assert call(guide) == up
    with guide.down(breaker):
        asked = len(guide.services.asked)
        assert call(guide) == refused
        assert len(guide.services.asked) == asked
    assert call(guide) == up
    assert breakerscope.get_breaker(breaker) is not None


def test_what_is_refused_is_kept_for_later(guide: Guide) -> None:
    guide.run("Pattern 1: Simple Sync Call")
    guide.run("Strategy 3: Queue for Retry")
    with guide.down("email_service"), guide.down("notification_service"):
        guide["send_email"]("a@b.c", "hi", "text")
        guide["send_notification"](7, "hi")
    assert guide.services.saved == [{"to": "a@b.c", "subject": "hi"}]
    assert guide.services.retries.get_nowait() == {"user_id": 7, "message": "hi"}


def test_a_fallback_may_refuse_too(guide: Guide) -> None:
    guide.run("Strategy 4: Degrade Features")
    with guide.down("recommendation_service"), pytest.raises(CircuitBreakerOpenError):
        guide["get_recommendations"](7, require_fresh=True)


def test_the_decorator_pattern(guide: Guide) -> None:
    guide.run("Pattern 4: Decorator Pattern")
    assert guide["process_payment"](5).id == "t-1"
    assert guide["process_payment"].__name__ == "process_payment"
    with (
        guide.down("payment_api"),
        pytest.raises(RuntimeError, match="payment_api is currently unavailable"),
    ):
        guide["process_payment"](5)


def test_a_service_that_fails_opens_the_breaker(guide: Guide) -> None:
    guide.run("Pattern 3: With Fallback")
    guide.services.is_up = False
    for _ in range(5):
        with pytest.raises(ConnectionError):
            guide["get_user_profile"](7)
    assert guide["get_user_profile"](7)["cached"] is True
    assert len(guide.services.asked) == 5


def test_structured_logging(guide: Guide, capsys: pytest.CaptureFixture[str]) -> None:
    guide.run("With Structured Logging")
    guide["process_payment_with_logging"](7, 100.0)
    with guide.down("payment_api"):
        guide["process_payment_with_logging"](7, 100.0)
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    kept = [
        {key: value for key, value in line.items() if key not in {"timestamp", "duration_ms"}}
        for line in lines
        if line.get("component") == "payment_processor"
    ]
    context = {"component": "payment_processor", "request_id": 7}
    assert kept == [
        {"amount": 100.0, "event": "payment_started", "level": "info", **context},
        {
            "event": "performance.measured",
            "operation": "payment_api_call",
            "status": "success",
            "level": "info",
            **context,
        },
        {
            "event": "payment_succeeded",
            "amount": 100.0,
            "transaction_id": "t-1",
            "level": "info",
            **context,
        },
        {"amount": 100.0, "event": "payment_started", "level": "info", **context},
        {
            "event": "performance.measured",
            "operation": "payment_api_call",
            "status": "failed",
            "level": "error",
            **context,
        },
        {
            "event": "payment_failed",
            "error_type": "Exception",
            "error_message": "Payment service circuit breaker is open",
            "level": "error",
            **context,
        },
    ]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+Z", line["timestamp"]) for line in lines)


def test_metrics(guide: Guide) -> None:
    guide.run("With Prometheus Metrics")
    call = guide["call_with_metrics"]
    assert call("search", lambda: "found") == "found"
    with guide.down("search"), pytest.raises(CircuitBreakerOpenError):
        call("search", lambda: "found")
    with pytest.raises(ZeroDivisionError):
        call("search", lambda: 1 / 0)
    guide.run("With Prometheus Metrics")
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(guide["prometheus_text"])
        for sample in family.samples
    }
    assert samples["circuit_breaker_calls_total", "search"] == 3
    assert samples["circuit_breaker_calls_failed_total", "search"] == 2
    assert samples["circuit_breaker_latency_seconds_count", "search"] == 3
    assert samples["circuit_breaker_state", "search", "open"] == 1


def test_tracing(guide: Guide, compat_spans: InMemorySpanExporter) -> None:
    guide.run("With OpenTelemetry")
    call = guide["call_with_tracing"]
    call("payment_api", lambda: "paid")
    with guide.down("payment_api"), pytest.raises(CircuitBreakerOpenError):
        call("payment_api", lambda: "paid")
    with pytest.raises(ZeroDivisionError):
        call("payment_api", lambda: 1 / 0)
    told = [
        (span.name, span.status.status_code.name, [event.name for event in span.events])
        for span in compat_spans.get_finished_spans()
    ]
    call_event, own = "circuit_breaker.call", "circuit_breaker.call"
    assert told == [
        ("payment_api_call", "OK", [call_event, own]),
        (
            "payment_api_call",
            "ERROR",
            [call_event, "circuit_breaker.rejection", "circuit_breaker.state_change", "error"],
        ),
        ("payment_api_call", "ERROR", [call_event, own, "error"]),
    ]


@pytest.mark.parametrize(
    ("heading", "test"),
    [
        ("Test 1: Circuit Opens on Failures", "test_circuit_opens_on_repeated_failures"),
        ("Test 2: Circuit Recovers", "test_circuit_recovers_after_timeout"),
        ("Test 3: Metrics Recording", "test_metrics_are_recorded"),
    ],
)
def test_the_tests_of_the_guide(guide: Guide, heading: str, test: str) -> None:
    guide.run("Configuration")
    guide.run(heading)
    guide[test]()


def test_the_tests_of_the_guide_in_any_order(guide: Guide) -> None:
    """Three breakers of one name, each with its own policy, that know nothing of each other."""
    guide.run("Configuration")
    for heading, _ in BLOCKS:
        if heading.startswith("Test "):
            guide.run(heading)
    for test in (
        "test_metrics_are_recorded",
        "test_circuit_recovers_after_timeout",
        "test_circuit_opens_on_repeated_failures",
    ):
        guide[test]()
