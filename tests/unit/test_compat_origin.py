"""The old modules' own contract: signatures, keys, members and zeros; and what is not copied."""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context
from pathlib import Path
from typing import Any, cast

import pytest
import structlog
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client.openmetrics.exposition import generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

import breakerscope
from breakerscope import CallSettled, CircuitBreakerOpenError, Outcome
from breakerscope.compat import _replaced, llm_circuit_breaker
from breakerscope.compat.llm_circuit_breaker import (
    CircuitBreakerMetrics,
    CircuitState,
    FailureThreshold,
    LLMCircuitBreaker,
    _circuit_breakers,
    get_all_circuit_breaker_stats,
    get_circuit_breaker,
    reset_all_circuit_breakers,
)
from breakerscope.compat.metrics_prometheus import (
    CircuitBreakerState,
    PrometheusMetricsCollector,
    get_prometheus_collector,
)
from breakerscope.compat.otel_integration import (
    EventType,
    OTelTracer,
    SpanStatus,
    get_otel_tracer,
    setup_otel_tracer,
)
from breakerscope.compat.structured_logging import (
    LogContext,
    LogPerformance,
    clear_context,
    get_current_context,
    get_logger,
    log_error,
    log_event,
    log_performance,
    set_context,
)
from breakerscope.testing import capture_events

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """No breaker, context or warning of another test."""
    _replaced.start_over()
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()
    yield
    for breaker in breakerscope.breakers():
        breakerscope.remove_breaker(breaker.name)
    structlog.contextvars.clear_contextvars()
    structlog.reset_defaults()
    _replaced.start_over()


make_error: Any = CircuitBreakerOpenError
make_any: Any = LLMCircuitBreaker
"""For what a type checker refuses."""


def fail(_value: object = None) -> None:
    raise ValueError


def fail_times(breaker: LLMCircuitBreaker, times: int) -> None:
    for _ in range(times):
        with pytest.raises(ValueError):
            breaker.call(fail)


# -- the breaker -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "breaker",
    [
        lambda: LLMCircuitBreaker(3, 60.0, 2, None, "x"),
        lambda: LLMCircuitBreaker(
            failure_threshold=3, timeout_seconds=60.0, success_threshold=2, fallback=None, name="x"
        ),
        lambda: LLMCircuitBreaker("x", 3, 60.0, False, 2),
        lambda: LLMCircuitBreaker("x", 3, 60.0, success_threshold=2),
        lambda: get_circuit_breaker(
            "x", failure_threshold=3, timeout_seconds=60.0, success_threshold=2
        ),
        lambda: LLMCircuitBreaker(FailureThreshold(3), 60.0, 2, name="x"),
    ],
)
def test_forms_of_making_one(breaker: Any) -> None:
    made = breaker()
    assert made.get_stats()["thresholds"] == {
        "failure_threshold": 3,
        "failure_percentage": None,
        "success_threshold": 2,
        "timeout_seconds": 60.0,
    }
    assert repr(made) == "LLMCircuitBreaker(name='x', state=closed, failures=0/3)"


def test_defaults_are_those_of_the_guide() -> None:
    breaker = LLMCircuitBreaker()
    assert breaker.name == "llm_circuit_breaker"
    assert breaker.get_stats()["thresholds"] == {
        "failure_threshold": None,
        "failure_percentage": 5.0,
        "success_threshold": 1,
        "timeout_seconds": 10.0,
    }
    fail_times(breaker, 4)
    assert breaker.state is CircuitState.CLOSED
    fail_times(breaker, 1)
    assert breaker.state is CircuitState.OPEN


def test_an_empty_threshold_is_the_default() -> None:
    assert (
        LLMCircuitBreaker("x", FailureThreshold()).breaker.policy
        == LLMCircuitBreaker().breaker.policy
    )


def test_the_error_can_be_made_by_hand() -> None:
    assert str(make_error("the circuit is open")) == "the circuit is open"
    assert str(make_error()) == ""


def test_count_or_percentage_whichever_comes_first() -> None:
    threshold = FailureThreshold(count=3, percentage=50.0)
    by_count, by_share = LLMCircuitBreaker(threshold), LLMCircuitBreaker(threshold, name="other")
    fail_times(by_count, 3)
    for _ in range(2):
        fail_times(by_share, 1)
        by_share.call(lambda: None)
    assert [by_count.state, by_share.state] == [CircuitState.OPEN, CircuitState.CLOSED]
    fail_times(by_share, 1)
    assert by_share.state is CircuitState.OPEN


def test_stats_have_all_keys() -> None:
    breaker = LLMCircuitBreaker("x", failure_threshold=2)
    before = time.time()
    breaker.call(time.sleep, 0.001)
    fail_times(breaker, 2)
    with pytest.raises(CircuitBreakerOpenError):
        breaker.call(fail)
    stats = breaker.get_stats()
    timing, metrics = stats.pop("timing"), stats.pop("metrics")
    assert stats == {
        "name": "x",
        "state": "open",
        "thresholds": {
            "failure_threshold": 2,
            "failure_percentage": None,
            "success_threshold": 1,
            "timeout_seconds": 10.0,
        },
    }
    assert metrics.pop("average_latency_ms") >= 1.0
    assert metrics == {
        "total_calls": 3,
        "successes": 1,
        "failures": 2,
        "failure_rate": pytest.approx(2 / 3),
        "consecutive_failures": 2,
        "consecutive_successes": 0,
        "state_transitions": 1,
    }
    assert 0 <= timing.pop("seconds_since_state_change") < 60
    assert list(timing) == ["last_failure", "last_success", "last_state_change"]
    assert all(before <= each <= time.time() for each in timing.values())


def test_metrics_are_a_copy_and_begin_anew_after_a_reset() -> None:
    breaker = LLMCircuitBreaker("x", failure_threshold=1)
    assert breaker.metrics == CircuitBreakerMetrics()
    assert (breaker.metrics.get_failure_rate(), breaker.metrics.get_average_latency()) == (0.0, 0.0)
    fail_times(breaker, 1)
    assert breaker.metrics.get_failure_rate() == 1.0
    assert breaker.metrics.state_transitions == 1
    breaker.reset()
    assert breaker.metrics == CircuitBreakerMetrics()
    assert breaker.state is CircuitState.CLOSED
    assert breaker.breaker.read().calls[Outcome.FAILURE] == 1


def test_force_open_ends_by_itself() -> None:
    breaker = LLMCircuitBreaker("x", timeout_seconds=0.05)
    breaker.force_open()
    assert breaker.state is CircuitState.OPEN
    with pytest.raises(CircuitBreakerOpenError):
        breaker.call(fail)
    time.sleep(0.06)
    assert breaker.call(lambda: "back") == "back"
    assert breaker.refresh_state() is CircuitState.CLOSED


def test_states_by_hand_have_old_names() -> None:
    breaker = get_circuit_breaker("x")
    breaker.breaker.force_open("by hand")
    assert breaker.state is CircuitState.OPEN
    breaker.breaker.disable("by hand")
    assert breaker.state is CircuitState.CLOSED


def test_the_wait_grows() -> None:
    policy = LLMCircuitBreaker("x", exponential_backoff=True).breaker.policy
    assert (policy.backoff, policy.jitter) == (2.0, 0.1)
    policy = LLMCircuitBreaker("y").breaker.policy
    assert (policy.backoff, policy.jitter) == (1.0, 0.0)


def test_a_fallback_takes_no_arguments_and_steps_in_for_refusals_only() -> None:
    breaker = LLMCircuitBreaker(1, fallback=lambda: "instead", name="x")

    @breaker.protected
    def double(number: int) -> object:
        return 2 * number

    async def slow_double(number: int) -> object:
        return 2 * number

    slow = breaker.protected(slow_double)
    fail_times(breaker, 1)
    with capture_events(breakerscope.FallbackUsed) as events:
        assert breaker.call(fail, 1) == "instead"
        assert double(2) == "instead"
        assert asyncio.run(slow(2)) == "instead"
        assert asyncio.run(_await(breaker.call(slow_double, 2))) == "instead"
    assert [event.breaker for event in events] == ["x"] * 4
    assert breaker.metrics.total_calls == 1


async def _await(awaitable: Any) -> Any:
    return await awaitable


def test_two_breakers_of_one_name_are_two_and_one_is_shown() -> None:
    first = LLMCircuitBreaker("x", failure_threshold=1)
    second = LLMCircuitBreaker("x", failure_threshold=1)
    fail_times(second, 1)
    assert [first.state, second.state] == [CircuitState.CLOSED, CircuitState.OPEN]
    assert breakerscope.get_breaker("x") is first.breaker
    _circuit_breakers["x"] = second
    assert breakerscope.get_breaker("x") is second.breaker
    assert get_circuit_breaker("x") is second


def test_one_registry_for_old_and_new_names() -> None:
    new = breakerscope.instrumented_breaker("payment_api", consecutive_failures=2)
    old = get_circuit_breaker("payment_api", failure_threshold=9)
    assert old.breaker is new
    assert get_circuit_breaker("payment_api") is old
    get_circuit_breaker("search")
    assert sorted(_circuit_breakers) == ["payment_api", "search"]
    assert len(_circuit_breakers) == 2
    assert llm_circuit_breaker._global_breakers is _circuit_breakers
    breakerscope.remove_breaker("payment_api")
    assert "payment_api" not in _circuit_breakers
    assert get_circuit_breaker("payment_api") is not old
    del _circuit_breakers["search"]
    assert breakerscope.get_breaker("search") is None
    with pytest.raises(KeyError):
        del _circuit_breakers["search"]


def test_all_at_once() -> None:
    fail_times(get_circuit_breaker("a", failure_threshold=1), 1)
    get_circuit_breaker("b")
    stats = get_all_circuit_breaker_stats()
    assert {name: each["state"] for name, each in stats.items()} == {"a": "open", "b": "closed"}
    assert reset_all_circuit_breakers() == 2
    assert get_all_circuit_breaker_stats()["a"]["state"] == "closed"


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: FailureThreshold(percentage=101), "percentage=101: allowed is above 0, up to 100"),
        (lambda: FailureThreshold(percentage=0), "percentage=0: allowed is above 0, up to 100"),
        (lambda: FailureThreshold(percentage=float("nan")), "percentage=nan: allowed"),
        (lambda: FailureThreshold(count=0), "count=0: allowed is a whole number from 1 on"),
        (lambda: LLMCircuitBreaker(0), "failure_threshold=0: allowed is a whole number"),
        (
            lambda: LLMCircuitBreaker(cast("int", 2.5)),
            r"failure_threshold=2\.5: allowed is a whole number",
        ),
        (lambda: LLMCircuitBreaker(True), "failure_threshold=True: allowed is a whole number"),
        (
            lambda: LLMCircuitBreaker("x", timeout_seconds=-1),
            "timeout_seconds=-1: allowed is a number of seconds",
        ),
        (lambda: LLMCircuitBreaker("x", None, float("nan")), "timeout_seconds=nan: allowed"),
        (lambda: LLMCircuitBreaker("x", success_threshold=0), "success_threshold=0: allowed"),
        (lambda: get_circuit_breaker("x", timeout_seconds=-1), "timeout_seconds=-1: allowed"),
        (lambda: LLMCircuitBreaker(""), "name='': allowed is text that is not empty"),
        (
            lambda: _circuit_breakers.__setitem__("y", LLMCircuitBreaker("x")),
            r"_circuit_breakers\['y'\]: the name of this one is 'x'",
        ),
    ],
)
def test_bad_values(make: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make()
    assert "y" not in _circuit_breakers


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: make_any("x", name="y"), "given twice: name"),
        (lambda: make_any(3, failure_threshold=4), "given twice: failure_threshold"),
        (lambda: make_any("x", timeout=4), "unknown: timeout; allowed are name, failure_thresh"),
        (lambda: make_any(1, 2.0, 3, None, "x", 5), "6 positional arguments: allowed are"),
        (
            lambda: _circuit_breakers.__setitem__("x", cast("Any", object())),
            "not an LLMCircuitBreaker",
        ),
    ],
)
def test_what_contradicts_itself(make: Any, said: str) -> None:
    with pytest.raises(TypeError, match=said):
        make()


# -- what is not copied ----------------------------------------------------------------------------


def test_one_probe_of_twenty_is_let_through() -> None:
    breaker = LLMCircuitBreaker("x", failure_threshold=1, timeout_seconds=0.01)
    fail_times(breaker, 1)
    time.sleep(0.02)
    at_once, ran = threading.Barrier(20), []
    go_on = threading.Event()

    def run(number: int) -> None:
        ran.append(number)
        go_on.wait(10)

    def probe(number: int) -> bool:
        at_once.wait(10)
        try:
            breaker.call(run, number)
        except CircuitBreakerOpenError:
            if len(refused) == 18:
                go_on.set()
            refused.append(number)
            return False
        return True

    refused: list[int] = []
    with ThreadPoolExecutor(20) as pool:
        assert sum(pool.map(probe, range(20))) == 1
    assert len(ran) == 1


def test_a_block_is_refused_while_open_and_reopens_it() -> None:
    breaker = LLMCircuitBreaker("x", failure_threshold=1, timeout_seconds=0.02)
    entered = []
    with pytest.raises(ValueError), breaker:
        fail()
    with pytest.raises(CircuitBreakerOpenError), breaker:
        entered.append("while open")
    time.sleep(0.03)
    with pytest.raises(ValueError), breaker:
        entered.append("probe")
        fail()
    assert breaker.state is CircuitState.OPEN
    time.sleep(0.03)
    with breaker as same:
        assert same is breaker
        with pytest.raises(CircuitBreakerOpenError):
            Context().run(breaker.__enter__)
    assert breaker.state is CircuitState.CLOSED
    assert entered == ["probe"]
    assert breaker.metrics.total_calls == 3


def test_blocks_in_many_threads_and_nested() -> None:
    breaker = LLMCircuitBreaker("x", failure_threshold=1000)

    def work(_number: int) -> None:
        for _ in range(200):
            with breaker, breaker:
                pass
            with pytest.raises(ValueError), breaker:
                fail()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    metrics = breaker.metrics
    assert (metrics.success_count, metrics.failure_count) == (8 * 400, 8 * 200)
    assert breaker.breaker.read().in_flight == 0


def test_an_async_failure_is_one() -> None:
    breaker = LLMCircuitBreaker("x", failure_threshold=2)

    async def fetch() -> None:
        await asyncio.sleep(0)
        raise ValueError

    @breaker.protected
    async def protected() -> None:
        await fetch()

    async def main() -> None:
        with pytest.raises(ValueError):
            await breaker.call(fetch)
        with pytest.raises(ValueError):
            await protected()
        with pytest.raises(CircuitBreakerOpenError):
            await breaker.call(fetch)

    asyncio.run(main())
    assert breaker.metrics.failure_count == 2
    assert breaker.metrics.success_count == 0
    assert inspect.iscoroutinefunction(protected)


def test_a_lambda_that_hides_a_coroutine_counts_when_it_is_awaited() -> None:
    breaker = LLMCircuitBreaker("x", failure_threshold=2)

    async def fetch(value: int) -> int:
        return value

    assert asyncio.run(_await(breaker.call(lambda: fetch(3)))) == 3
    assert breaker.metrics.success_count == 1


def test_generators() -> None:
    breaker = LLMCircuitBreaker("x")

    @breaker.protected
    def numbers() -> Iterator[int]:
        yield from (1, 2, 3)

    assert list(numbers()) == [1, 2, 3]
    assert breaker.breaker.read().calls[Outcome.SUCCESS] == 1


def test_a_success_after_the_opening_does_not_count_for_it() -> None:
    breaker = LLMCircuitBreaker("x", failure_threshold=1, timeout_seconds=60)

    def late() -> None:
        fail_times(breaker, 1)

    breaker.call(late)
    assert breaker.state is CircuitState.OPEN


def test_keywords_belong_to_the_function() -> None:
    def function(func: int, self: int) -> int:
        return func + self

    assert LLMCircuitBreaker("x").call(function, func=1, self=2) == 3


# -- it is the real machinery ----------------------------------------------------------------------


def test_calls_are_events_and_metrics_to_the_unit() -> None:
    registry_before = breakerscope.breakers()
    assert registry_before == []
    breaker = get_circuit_breaker("payment_api", failure_threshold=10_000)
    protected = breaker.protected(fail)
    with capture_events() as events:

        def work(_number: int) -> None:
            for _ in range(100):
                breaker.call(lambda: None)
                with pytest.raises(ValueError):
                    breaker.call(fail)
                with pytest.raises(ValueError):
                    protected()
                with breaker:
                    pass

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(work, range(8)))
        breaker.force_open()
        for _ in range(50):
            with pytest.raises(CircuitBreakerOpenError):
                breaker.call(fail)
    from prometheus_client import CollectorRegistry

    registry = CollectorRegistry()
    with breakerscope.setup_telemetry(registry=registry, logs=False, traces=False):
        text = generate_latest(registry).decode()
    counts = {
        sample.labels["outcome"]: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "circuit_breaker_calls_total"
    }
    settled = [event.outcome for event in events if isinstance(event, CallSettled)]
    assert counts == {
        "success": 1600.0,
        "failure": 1600.0,
        "rejected": 50.0,
        "ignored": 0.0,
        "cancelled": 0.0,
    }
    assert settled.count(Outcome.SUCCESS) == settled.count(Outcome.FAILURE) == 1600
    metrics = breaker.metrics
    assert (metrics.success_count, metrics.failure_count) == (1600, 1600)


def test_the_error_is_the_same_class() -> None:
    assert llm_circuit_breaker.CircuitBreakerOpenError is breakerscope.CircuitBreakerOpenError


# -- logs ------------------------------------------------------------------------------------------


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert all(line.pop("timestamp").endswith("Z") for line in found)
    return found


def test_forms_of_log_event(capsys: pytest.CaptureFixture[str]) -> None:
    log_event("a")
    log_event("b", {"x": 1}, y=2)
    log_event("c", None, logging.WARNING, x=1)
    log_event("d", level="ERROR")
    log_event("e", get_logger("mine"), x=1)
    log_event("f", logger=get_logger("mine"))
    log_event("g", {"event": 1, "timestamp": 2, "level": 3, "self": 4, 5: 6})
    assert lines(capsys) == [
        {"event": "a", "level": "info"},
        {"event": "b", "level": "info", "x": 1, "y": 2},
        {"event": "c", "level": "warning", "x": 1},
        {"event": "d", "level": "error"},
        {"event": "e", "level": "info", "x": 1, "logger": "mine"},
        {"event": "f", "level": "info", "logger": "mine"},
        {
            "event": "g",
            "level": "info",
            "event_": 1,
            "timestamp_": 2,
            "level_": 3,
            "self_": 4,
            "5": 6,
        },
    ]


def test_forms_of_log_error(capsys: pytest.CaptureFixture[str]) -> None:
    log_error("failed")
    log_error("failed", ValueError("bad"))
    log_error(ValueError("bad"), user=1)
    log_error(ValueError("bad"), get_logger("mine"))
    told = {"level": "error", "error_type": "ValueError", "error_message": "bad"}
    assert lines(capsys) == [
        {"event": "failed", "level": "error"},
        {"event": "failed", **told},
        {"event": "error.occurred", "user": 1, **told},
        {"event": "error.occurred", "logger": "mine", **told},
    ]


def test_forms_of_log_performance(capsys: pytest.CaptureFixture[str]) -> None:
    log_performance("op", 12.5)
    log_performance("op", 12.5, None, rows=3)
    with log_performance("op", rows=3):
        pass
    with pytest.raises(ValueError), LogPerformance("op", extra={"rows": 4}):
        fail()
    found = lines(capsys)
    assert [line.pop("duration_ms") >= 0 for line in found] == [True] * 4
    event = {"event": "performance.measured", "operation": "op"}
    assert found == [
        {"level": "info", **event},
        {"level": "info", "rows": 3, **event},
        {"level": "info", "rows": 3, "status": "success", **event},
        {"level": "error", "rows": 4, "status": "failed", **event},
    ]


def test_contexts_nest_and_keep_their_component(capsys: pytest.CaptureFixture[str]) -> None:
    context = LogContext(component="shop", request_id=1)
    with context, LogContext(request_id=2):
        log_event("inner")
        assert get_current_context() == {"component": "shop", "request_id": 2}
    with context:
        log_event("again", component="own")
    set_context(tenant="a")
    log_event("set")
    clear_context()
    log_event("cleared")
    assert lines(capsys) == [
        {"event": "inner", "level": "info", "component": "shop", "request_id": 2},
        {"event": "again", "level": "info", "component": "own", "request_id": 1},
        {"event": "set", "level": "info", "tenant": "a"},
        {"event": "cleared", "level": "info"},
    ]


def test_lines_go_the_way_of_the_application() -> None:
    with structlog.testing.capture_logs() as captured, LogContext(component="shop"):
        log_event("a", {"x": 1})
    [line] = captured
    assert line.pop("timestamp").endswith("Z")
    line.pop("log_level")
    assert line == {"event": "a", "x": 1, "component": "shop", "level": "info"}


def test_a_logger_of_logging_gets_json(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "mine"):
        log_event("a", logging.getLogger("mine"), x=1)
    line = json.loads(caplog.records[0].getMessage())
    assert (line["event"], line["x"], line["level"]) == ("a", 1, "info")


def test_bad_log_calls() -> None:
    with pytest.raises(ValueError, match="level='loud': allowed are debug, info, warning, error"):
        log_event("a", level="loud")
    with pytest.raises(TypeError, match="allowed is a logger of structlog or of logging"):
        log_event("a", logger=object())


# -- metrics ---------------------------------------------------------------------------------------


def test_zeros_for_a_component_that_nobody_told_of() -> None:
    collector = PrometheusMetricsCollector()
    assert collector.get_metrics_summary("x") == {
        "component": "x",
        "total_calls": 0,
        "successful_calls": 0,
        "failed_calls": 0,
        "success_rate": 100.0,
        "failure_rate": 0.0,
        "avg_latency": 0.0,
        "min_latency": 0.0,
        "max_latency": 0.0,
        "current_state": "closed",
        "last_failure_time": None,
        "latency_percentiles": {"p50": 0.0, "p95": 0.0, "p99": 0.0},
    }
    assert collector.get_latency_percentiles("x") == {"p50": 0.0, "p95": 0.0, "p99": 0.0}
    assert (collector.get_failure_rate("x"), collector.get_success_rate("x")) == (0.0, 100.0)
    assert collector.get_components() == set()


def test_a_summary() -> None:
    collector = PrometheusMetricsCollector(max_latency_samples=4)
    for number, latency in enumerate([9.0, 0.01, 0.02, 0.03, 0.04]):
        collector.record_circuit_breaker_call("x", latency, success=number > 0, timestamp=5.0)
    collector.record_circuit_breaker_state("x", CircuitBreakerState.HALF_OPEN)
    assert collector.get_metrics_summary("x") == {
        "component": "x",
        "total_calls": 5,
        "successful_calls": 4,
        "failed_calls": 1,
        "success_rate": 80.0,
        "failure_rate": 20.0,
        "avg_latency": 0.025,
        "min_latency": 0.01,
        "max_latency": 0.04,
        "current_state": "half_open",
        "last_failure_time": 5.0,
        "latency_percentiles": {
            "p50": pytest.approx(0.025),
            "p95": pytest.approx(0.0385),
            "p99": pytest.approx(0.0397),
        },
    }
    assert collector.get_latency_percentiles("x", [90]) == {"p90": pytest.approx(0.037)}
    collector.reset_component("x")
    assert collector.get_components() == set()


def test_what_is_exported_is_valid_and_escaped() -> None:
    collector = PrometheusMetricsCollector()
    name = 'a "quoted"\nname'
    collector.record_circuit_breaker_call(name, 0.03, True)
    collector.record_circuit_breaker_call(name, 20.0, False)
    collector.record_circuit_breaker_state(name, "open")
    collector.record_log_entry(name)
    collector.record_log_entry(name, "error")
    families = list(text_string_to_metric_families(generate_latest(collector.registry()).decode()))
    samples = {
        (
            each.name,
            *[value for key, value in each.labels.items() if key != "component"],
        ): each.value
        for family in families
        for each in family.samples
    }
    assert {each.labels["component"] for family in families for each in family.samples} == {name}
    buckets = {key[1]: value for key, value in samples.items() if key[0].endswith("_bucket")}
    assert list(buckets.values()) == [0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 2]
    assert {key: value for key, value in samples.items() if not key[0].endswith("_bucket")} == {
        ("circuit_breaker_calls_total",): 2,
        ("circuit_breaker_calls_success_total",): 1,
        ("circuit_breaker_calls_failed_total",): 1,
        ("circuit_breaker_failure_rate",): 50.0,
        ("circuit_breaker_latency_seconds_count",): 2,
        ("circuit_breaker_latency_seconds_sum",): pytest.approx(20.03),
        ("circuit_breaker_state", "closed"): 0,
        ("circuit_breaker_state", "open"): 1,
        ("circuit_breaker_state", "half_open"): 0,
        ("log_entries_total",): 2,
        ("log_entries_by_level_total", "info"): 1,
        ("log_entries_by_level_total", "error"): 1,
    }
    assert "circuit_breaker_calls_total" in collector.export_prometheus_format()
    collector.reset_all()
    assert collector.get_components() == set()


def test_there_is_one_collector_and_it_is_in_no_registry_of_others() -> None:
    from prometheus_client import REGISTRY

    assert get_prometheus_collector() is get_prometheus_collector()
    get_prometheus_collector().record_circuit_breaker_call("only here", 0.1, True)
    assert "only here" not in generate_latest(REGISTRY).decode()
    get_prometheus_collector().reset_all()


def test_components_from_outside_do_not_fill_the_memory() -> None:
    collector = PrometheusMetricsCollector()
    for number in range(1500):
        collector.record_circuit_breaker_call(f"host {number}", 0.1, True)
    assert len(collector.get_components()) == 1001
    assert collector.get_metrics_summary("_OTHER")["total_calls"] == 500


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda c: c.record_circuit_breaker_state("x", "banana"), "state='banana': allowed are cl"),
        (lambda c: c.record_circuit_breaker_call("x", -1, True), "latency=-1: allowed are seconds"),
        (lambda c: c.record_circuit_breaker_call("x", float("nan"), True), "latency=nan: allowed"),
        (lambda c: c.record_circuit_breaker_call("x", "1", True), "latency='1': allowed"),
        (lambda c: c.record_circuit_breaker_call(None, 1, True), "component=None: allowed is text"),
        (lambda c: c.record_log_entry("x", "loud"), "level='loud': allowed are debug, info"),
        (lambda c: c.get_latency_percentiles("x", [0]), r"percentiles=\[0\]: allowed are 0.1"),
        (lambda _: PrometheusMetricsCollector(0), "max_latency_samples=0: allowed is a whole num"),
    ],
)
def test_bad_metrics(call: Any, said: str) -> None:
    collector = PrometheusMetricsCollector()
    with pytest.raises(ValueError, match=said):
        call(collector)
    assert collector.get_components() == set()


# -- spans -----------------------------------------------------------------------------------------


def _trace_id(span: ReadableSpan) -> int:
    context = span.get_span_context()
    assert context is not None
    return context.trace_id


def test_members_of_the_enums() -> None:
    assert {each.name: each.value for each in EventType} == {
        "CIRCUIT_BREAKER_STATE_CHANGE": "circuit_breaker.state_change",
        "CIRCUIT_BREAKER_CALL": "circuit_breaker.call",
        "CIRCUIT_BREAKER_ERROR": "circuit_breaker.error",
        "LOG_ENTRY": "log.entry",
        "ERROR": "error",
    }
    assert {each.name: each.value for each in SpanStatus} == {
        "UNSET": "unset",
        "OK": "ok",
        "ERROR": "error",
    }
    assert {each.name: each.value for each in CircuitState} == {
        "CLOSED": "closed",
        "OPEN": "open",
        "HALF_OPEN": "half_open",
    }
    assert {each.name: each.value for each in CircuitBreakerState} == {
        "CLOSED": "closed",
        "OPEN": "open",
        "HALF_OPEN": "half_open",
    }


def test_spans_are_real_ones_with_a_parent(compat_spans: InMemorySpanExporter) -> None:
    tracer = OTelTracer("shop")
    assert tracer.get_active_span() is None
    with tracer.span_context("outer", {"a": 1}) as outer:
        assert tracer.get_active_span() is outer
        inner = tracer.start_span("inner")
        tracer.set_span_attribute(inner, "b", 2)
        tracer.record_event(inner, EventType.LOG_ENTRY, {"c": 3})
        tracer.record_event(inner, "own")
        tracer.end_span(inner)
        other = tracer.start_span("other", parent_span_id=inner)
        tracer.end_span(other, SpanStatus.ERROR)
    found = {span.name: span for span in compat_spans.get_finished_spans()}
    trace_ids = {_trace_id(span) for span in found.values()}
    assert len(trace_ids) == 1
    assert found["inner"].parent == outer.get_span_context()
    assert found["other"].parent == inner.get_span_context()
    assert [event.name for event in found["inner"].events] == ["log.entry", "own"]
    statuses = {name: span.status.status_code.name for name, span in found.items()}
    assert statuses == {"inner": "OK", "other": "ERROR", "outer": "OK"}


def test_requests_of_one_thread_have_traces_of_their_own(
    compat_spans: InMemorySpanExporter,
) -> None:
    tracer = OTelTracer("shop")
    for _ in range(2):
        with tracer.span_context("request"):
            pass
    ids = {_trace_id(span) for span in compat_spans.get_finished_spans()}
    assert len(ids) == 2


def test_an_error_is_told_once_and_stays_one(compat_spans: InMemorySpanExporter) -> None:
    tracer = OTelTracer("shop")
    with pytest.raises(ValueError), tracer.span_context("raises"):
        raise ValueError("bad")
    with pytest.raises(ValueError), tracer.span_context("says and raises") as span:
        tracer.record_error(span, "bad", "Bad")
        raise ValueError("bad")
    with tracer.span_context("says") as span:
        tracer.record_error(span, "bad")
    with pytest.raises(KeyboardInterrupt), tracer.span_context("interrupted"):
        raise KeyboardInterrupt
    told = [
        (
            span.name,
            span.status.status_code.name,
            [dict(event.attributes or {}) for event in span.events],
        )
        for span in compat_spans.get_finished_spans()
    ]
    assert told == [
        ("raises", "ERROR", [{"error.type": "ValueError", "error.message": "bad"}]),
        ("says and raises", "ERROR", [{"error.type": "Bad", "error.message": "bad"}]),
        ("says", "ERROR", [{"error.type": "UnknownError", "error.message": "bad"}]),
        ("interrupted", "UNSET", []),
    ]


def test_one_tracer_for_the_process(compat_spans: InMemorySpanExporter) -> None:
    first = get_otel_tracer()
    assert get_otel_tracer() is first
    assert first.service_name == "default"
    with pytest.raises(ValueError, match="service_name='': allowed is text that is not empty"):
        setup_otel_tracer("")
    assert get_otel_tracer() is first


SET_UP = """
from opentelemetry import trace
from breakerscope.compat.otel_integration import get_otel_tracer, setup_otel_tracer
tracer = setup_otel_tracer("shop")
assert get_otel_tracer() is tracer
provider = trace.get_tracer_provider()
print(provider.resource.attributes["service.name"])
setup_otel_tracer("other")
assert trace.get_tracer_provider() is provider
"""


def test_setting_up_names_the_service() -> None:
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", SET_UP]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout == "shop\n"


# -- warnings and the move -------------------------------------------------------------------------

USES: dict[str, Any] = {
    "LLMCircuitBreaker": lambda: LLMCircuitBreaker("w"),
    "FailureThreshold": lambda: FailureThreshold(1),
    "get_circuit_breaker": lambda: get_circuit_breaker("w"),
    "_circuit_breakers": lambda: _circuit_breakers.__setitem__("w", get_circuit_breaker("w")),
    "reset_all_circuit_breakers": reset_all_circuit_breakers,
    "get_all_circuit_breaker_stats": get_all_circuit_breaker_stats,
    "LogContext": LogContext,
    "get_current_context": get_current_context,
    "set_context": set_context,
    "clear_context": clear_context,
    "get_logger": get_logger,
    "log_event": lambda: log_event("w"),
    "log_error": lambda: log_error("w"),
    "log_performance": lambda: log_performance("w", 1.0),
    "PrometheusMetricsCollector": PrometheusMetricsCollector,
    "get_prometheus_collector": get_prometheus_collector,
    "OTelTracer": lambda: OTelTracer("w"),
    "get_otel_tracer": get_otel_tracer,
    "setup_otel_tracer": lambda: setup_otel_tracer("w"),
}


def test_each_replaced_name_is_tried() -> None:
    assert set(USES) == set(_replaced.REPLACED)


@pytest.mark.parametrize("name", USES)
def test_a_replaced_name_warns_once_where_it_is_used(
    name: str, compat_spans: InMemorySpanExporter
) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", DeprecationWarning)
        for _ in range(3):
            USES[name]()
    own = [each for each in caught if str(each.message).startswith(f"{name} is replaced by ")]
    assert [str(each.message) for each in own] == [
        f"{name} is replaced by {_replaced.REPLACED[name]}; docs/migration.md shows how"
    ]
    assert own[0].filename == __file__


def test_the_document_maps_every_name() -> None:
    text = (ROOT / "docs" / "migration.md").read_text(encoding="utf-8")
    assert [name for name in _replaced.REPLACED if f"`{name}" not in text] == []


OLD_MODULE = '''
from ipfs_datasets_py.logic.security.llm_circuit_breaker import (
    CircuitBreakerOpenError,
    get_circuit_breaker,
)
from ipfs_datasets_py.logic.observability.structured_logging import LogContext, log_event
from ipfs_datasets_py.logic.observability.metrics_prometheus import get_prometheus_collector


class Payments:
    """Charges cards, and says so."""

    def __init__(self, charge):
        self._charge = charge
        self._breaker = get_circuit_breaker("payment_api", timeout_seconds=30.0)

    def pay(self, user, amount):
        with LogContext(component="payments", user=user):
            try:
                receipt = self._breaker.call(self._charge, amount=amount)
            except CircuitBreakerOpenError:
                log_event("payment_refused", {"amount": amount})
                return None
            log_event("payment_made", {"amount": amount})
            get_prometheus_collector().record_circuit_breaker_call("payment_api", 0.1, True)
            return receipt
'''


def test_a_module_moves_by_its_import_lines(capsys: pytest.CaptureFixture[str]) -> None:
    moved = OLD_MODULE.replace("ipfs_datasets_py.logic.security", "breakerscope.compat").replace(
        "ipfs_datasets_py.logic.observability", "breakerscope.compat"
    )
    changed = [
        new
        for old, new in zip(OLD_MODULE.splitlines(), moved.splitlines(), strict=True)
        if old != new
    ]
    assert all(line.startswith("from breakerscope.compat.") for line in changed)
    names: dict[str, Any] = {}
    exec(compile(moved, "<moved>", "exec"), names)
    payments = names["Payments"](lambda amount: f"paid {amount}")
    assert payments.pay("ann", 5) == "paid 5"
    get_circuit_breaker("payment_api").force_open()
    assert payments.pay("ann", 5) is None
    told = [(line["event"], line["component"]) for line in lines(capsys) if "component" in line]
    assert told == [("payment_made", "payments"), ("payment_refused", "payments")]
    breaker = breakerscope.get_breaker("payment_api")
    assert breaker is not None
    assert breaker.read().calls[Outcome.REJECTED] == 1
