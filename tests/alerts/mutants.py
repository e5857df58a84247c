"""Small changes of a rule, each of which makes it wrong."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import promql_parser as promql
from promql_parser import BinaryExpr, Call, Expr, MatrixSelector, NumberLiteral, VectorSelector

from breakerscope.mixin.alert_settings import seconds
from tests.alerts.promtool import Json

FLIPPED = {">": "<", "<": ">", "==": "!="}
STRETCH = 1.5
RANGE = re.compile(r"\[\w+\]")


@dataclass(frozen=True)
class Mutant:
    rule: Json
    what: str


def mutants(rule: Json) -> Iterator[Mutant]:
    """All of them, one change each."""
    tree = promql.parse(rule["expr"])
    nodes: list[Expr] = []
    promql.walk(tree, nodes.append)
    for at, node in enumerate(nodes):
        for what, text in _changes(node):
            expression = _replaced(tree, at, promql.parse(text)).prettify()
            yield Mutant({**rule, "expr": expression}, f"{what}: {node} -> {text}")
    for key, word in (("for", "for"), ("keep_firing_for", "keep")):
        if key in rule:
            without = {name: value for name, value in rule.items() if name != key}
            yield Mutant(without, f"{word} removed")
            twice = f"{2 * seconds(rule[key])}s"
            yield Mutant({**rule, key: twice}, f"{word} doubled")


def _changes(node: Expr) -> Iterator[tuple[str, str]]:
    if isinstance(node, BinaryExpr):
        operator = str(node.op)
        left, right = f"({node.lhs})", f"({node.rhs})"
        if operator in FLIPPED:
            yield "compare", left
            yield "flip", f"{left} {FLIPPED[operator]} {right}"
        elif operator in {"and", "or"}:
            yield "guard", left
            yield "guard", right
        elif operator == "unless":
            yield "guard", left
    elif isinstance(node, NumberLiteral) and node.val:
        yield "number", f"{node.val * (2 if node.val == 1 else STRETCH)}"
        yield "number", f"{node.val / STRETCH}"
    elif isinstance(node, Call) and node.func.name == "clamp_min":
        yield "guard", str(node.args[0])
    elif isinstance(node, MatrixSelector):
        length = int(node.range.total_seconds())
        for other in (int(length * STRETCH), int(length / STRETCH)):
            yield "window", RANGE.sub(f"[{other}s]", str(node))
    elif isinstance(node, VectorSelector):
        yield from _selector(node)


def _selector(node: VectorSelector) -> Iterator[tuple[str, str]]:
    text = str(node)
    name = node.name or ""
    offset = text.partition("} offset ")[2]
    matchers = [str(each) for each in node.matchers.matchers]
    if offset:
        yield "offset", text.removesuffix(f" offset {offset}")
    for at in range(len(matchers)):
        kept = ", ".join(matchers[:at] + matchers[at + 1 :])
        yield "matcher", f"{name}{{{kept}}}" + (f" offset {offset}" if offset else "")


def _replaced(tree: Expr, at: int, new: Expr) -> Expr:
    count = -1

    def visit(_node: Expr) -> Expr | None:
        nonlocal count
        count += 1
        return new if count == at else None

    return promql.transform(tree, visit)
