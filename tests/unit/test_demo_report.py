"""The table of the demo, and whether a difference is found wherever it is."""

from __future__ import annotations

from collections import Counter

import pytest

from breakerscope.demo.report import COLUMNS, OUTCOMES, Source, differences, table, verdict
from breakerscope.demo.sources import read_metrics

NUMBERS = {"asked": 15, "success": 1, "failure": 2, "ignored": 3, "cancelled": 4, "rejected": 5}


def source(name: str, columns: tuple[str, ...] = COLUMNS, /, **changed: int) -> Source:
    row = Counter(NUMBERS | {"transitions": 7} | changed)
    return Source(name, {"search": row, "idle": Counter[str]()}, columns)


def all_sources(**changed: int) -> list[Source]:
    callers = source("callers", ("asked", *OUTCOMES))
    return [callers, source("events"), source("metrics", **changed), source("spans")]


def test_sources_that_agree() -> None:
    assert differences(all_sources()) == []
    assert verdict([], {"events dropped": 0}) == "conservation: ok"


def test_the_table_shows_every_source_of_every_breaker_and_the_totals() -> None:
    assert table(all_sources()) == (
        "           asked  success  failure  ignored  cancelled  rejected  transitions\n"
        "idle\n"
        "  callers      0        0        0        0          0         0            -\n"
        "  events       0        0        0        0          0         0            0\n"
        "  metrics      0        0        0        0          0         0            0\n"
        "  spans        0        0        0        0          0         0            0\n"
        "search\n"
        "  callers     15        1        2        3          4         5            -\n"
        "  events      15        1        2        3          4         5            7\n"
        "  metrics     15        1        2        3          4         5            7\n"
        "  spans       15        1        2        3          4         5            7\n"
        "total\n"
        "  callers     15        1        2        3          4         5            -\n"
        "  events      15        1        2        3          4         5            7\n"
        "  metrics     15        1        2        3          4         5            7\n"
        "  spans       15        1        2        3          4         5            7"
    )


@pytest.mark.parametrize("column", COLUMNS)
def test_one_differing_cell_is_found_and_named(column: str) -> None:
    right = (NUMBERS | {"transitions": 7})[column]
    found = differences(all_sources(**{column: right + 1}))
    known = "" if column == "transitions" else f"callers {right}, "
    assert str(found[0]) == (
        f"difference: search, {column}: {known}events {right}, metrics {right + 1}, spans {right}"
    )


def test_a_row_that_does_not_add_up_is_found_though_all_agree() -> None:
    found = differences([source("events", success=9), source("spans", success=9)])
    assert [str(difference) for difference in found] == [
        "difference: search, asked (events): asked 15, sum of outcomes 23",
        "difference: search, asked (spans): asked 15, sum of outcomes 23",
    ]


def test_a_breaker_that_one_source_has_never_heard_of() -> None:
    found = differences([source("events"), Source("spans", {})])
    assert len(found) == len(COLUMNS)
    assert str(found[0]) == "difference: search, asked: events 15, spans 0"


def test_the_verdict_names_every_difference_and_every_loss() -> None:
    found = differences(all_sources(transitions=8))
    assert verdict(found, {"events dropped by x": 3, "errors of y": 0}) == (
        "difference: search, transitions: events 7, metrics 8, spans 7\n"
        "lost: events dropped by x: 3\n"
        "conservation: violated in 2 places"
    )


def test_metrics_are_read_from_series_that_can_disagree() -> None:
    scraped = read_metrics(
        "# TYPE circuit_breaker_calls counter\n"
        'circuit_breaker_calls_total{breaker="a",outcome="success"} 4.0\n'
        'circuit_breaker_calls_total{breaker="a",outcome="rejected"} 2.0\n'
        "# TYPE circuit_breaker_call_duration_seconds histogram\n"
        'circuit_breaker_call_duration_seconds_bucket{breaker="a",outcome="success",le="+Inf"} 3.0'
        ' # {trace_id="1f",span_id="2e"} 0.5 1700000000.0\n'
        'circuit_breaker_call_duration_seconds_count{breaker="a",outcome="success"} 3.0\n'
        'circuit_breaker_call_duration_seconds_sum{breaker="a",outcome="success"} 1.5\n'
        "# TYPE circuit_breaker_transitions counter\n"
        'circuit_breaker_transitions_total{breaker="a",from_state="closed",to_state="open",'
        'cause="failure_rate"} 1.0\n'
        "# TYPE circuit_breaker_in_flight_calls gauge\n"
        'circuit_breaker_in_flight_calls{breaker="a"} 1.0\n'
        "# TYPE circuit_breaker_failure_ratio gauge\n"
        'circuit_breaker_failure_ratio{breaker="a"} NaN\n'
        "# TYPE circuit_breaker_events_dropped counter\n"
        'circuit_breaker_events_dropped_total{listener="structlog"} 5.0\n'
        "# EOF\n"
    )
    expected = {"asked": 5, "success": 4, "rejected": 2, "transitions": 1}
    assert scraped.tally == {"a": Counter(expected)}
    assert scraped.losses == {"calls of a in flight": 1, "events dropped by structlog": 5}
    assert scraped.exemplars == 1
