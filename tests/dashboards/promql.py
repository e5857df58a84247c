"""Queries as trees, by the parser of Prometheus 3.x."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import promql_parser
from promql_parser import AggregateExpr, BinaryExpr, Call, MatrixSelector, VectorSelector

from tests.dashboards.grafana import filled_in

RATE_INTERVAL = "4711s"
"""An unlikely number, so that it can be told from one that somebody wrote."""

OWN: Mapping[str, str] = {
    "__rate_interval": RATE_INTERVAL,
    "__interval": "17s",
    "__range": "3600s",
    # As they stand: a rule asks for just these words.
    "job": "$job",
    "instance": "$instance",
    "breaker": "$breaker",
}


@dataclass
class Found:
    """A selector, with what is around it, the nearest last."""

    selector: VectorSelector
    around: list[promql_parser.Expr]

    @property
    def matchers(self) -> list[tuple[str, str, str]]:
        return [
            (each.name, _OPERATORS[str(each.op)], each.value)
            for each in self.selector.matchers.matchers
        ]

    @property
    def window(self) -> float | None:
        """The seconds of its range; None for one without."""
        near = self.around[-1] if self.around else None
        return near.range.total_seconds() if isinstance(near, MatrixSelector) else None

    @property
    def function(self) -> str:
        """The function that is called with its range."""
        outside = self.around[-2] if len(self.around) > 1 else None
        return outside.func.name if isinstance(outside, Call) else ""


_OPERATORS = {
    str(operator): sign
    for operator, sign in (
        (promql_parser.MatchOp.Equal, "="),
        (promql_parser.MatchOp.NotEqual, "!="),
        (promql_parser.MatchOp.Re, "=~"),
        (promql_parser.MatchOp.NotRe, "!~"),
    )
}


def parse(expression: str) -> promql_parser.Expr:
    """Raises ValueError."""
    return promql_parser.parse(filled_in(expression, {}, OWN))


def selectors(expression: str) -> Iterator[Found]:
    """All selectors of a query. Raises ValueError if it is no PromQL."""
    around: list[promql_parser.Expr] = []
    found: list[Found] = []

    def enter(node: promql_parser.Expr) -> None:
        if isinstance(node, VectorSelector):
            found.append(Found(node, list(around)))
        around.append(node)

    def leave(_node: promql_parser.Expr) -> None:
        around.pop()

    promql_parser.walk(parse(expression), enter, leave)
    return iter(found)


def labels(expression: str) -> set[str]:
    """Every label that a query names: in matchers, and where series are grouped and joined."""
    found: set[str] = set()

    def enter(node: promql_parser.Expr) -> None:
        if isinstance(node, VectorSelector):
            found.update(each.name for each in node.matchers.matchers)
        if isinstance(node, AggregateExpr) and node.modifier is not None:
            found.update(node.modifier.labels)
        if isinstance(node, BinaryExpr) and node.modifier is not None:
            matching = node.modifier.matching
            found.update(matching.labels if matching is not None else [])

    promql_parser.walk(parse(expression), enter)
    return found
