"""How Grafana fills in variables, as the tests of dashboards understand it."""

from __future__ import annotations

import promql_parser
import pytest

from breakerscope.mixin.queries import BREAKER_VARIABLE
from tests.dashboards.grafana import All, Choice, Screen, filled_in


@pytest.mark.parametrize(
    ("text", "choice", "expected"),
    [
        ("$x", All(), ".+"),
        ("${x:regex}", All(), ".+"),
        ("[[x]]", "a", "a"),
        ("$x", "a.b", "a.b"),
        ("$x", ["a.b"], r"a\\.b"),
        ("$x", ["a.b", "c"], r"(a\\.b|c)"),
        ("${x}", ["a(b"], r"a\\(b"),
        ("${x:regex}", "a.b", r"a\.b"),
        ("${x:regex}", ["a.b", "c d"], r"(a\.b|c d)"),
        ("${x:regex}", ["a|b"], r"a\|b"),
        ("$__range and $x", ["a"], "60s and a"),
    ],
)
def test_variables(text: str, choice: Choice, expected: str) -> None:
    assert filled_in(text, {"x": choice}, {"__range": "60s"}) == expected


def test_a_variable_that_is_not_there() -> None:
    with pytest.raises(ValueError, match="no variable y in"):
        filled_in("$y", {"x": "a"}, {})


@pytest.mark.parametrize(
    ("span", "scrape", "interval", "rate"),
    [
        (3600, 15, "15s", "60s"),
        (3600, 1, "5s", "6s"),
        (60, 1, "1s", "4s"),
        (7 * 86400, 15, "900s", "915s"),
    ],
)
def test_intervals(span: float, scrape: float, interval: str, rate: str) -> None:
    own = Screen(start=0, end=span, scrape=scrape).globals()
    assert (own["__interval"], own["__rate_interval"]) == (interval, rate)
    assert own["__range"] == f"{span}s"


def test_why_names_of_breakers_stand_in_a_raw_string() -> None:
    """A quote in a name ends the string otherwise: Grafana escapes it only behind a flag."""
    choices: dict[str, Choice] = {"breaker": ['say "when"']}
    with pytest.raises(ValueError):
        promql_parser.parse(filled_in('m{breaker=~"$breaker"}', choices, {}))
    raw = filled_in(f"m{{breaker=~`{BREAKER_VARIABLE}`}}", choices, {})
    assert promql_parser.parse(raw).prettify() == r'm{breaker=~"say \"when\""}'
