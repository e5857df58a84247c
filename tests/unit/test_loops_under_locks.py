"""No loop in a `with` block jumps out of it.

CPython 3.13 looks for signals before it jumps back, and the jump of a `while`, or that of a `for`
whose last statement is a condition, does not belong to the block: what a signal handler raises
there leaves without `__exit__`, and a lock is lost. A loop in a function that the block calls is
safe. Found by `test_interrupts`.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import breakerscope

PACKAGE = Path(breakerscope.__file__).parent
APART = {"demo", "mixin"}
"""They are no part of anybody's process."""


def inside(nodes: list[ast.stmt]) -> Iterator[ast.AST]:
    """What is executed in this very frame."""
    for node in nodes:
        yield from inside_of(node)


def inside_of(node: ast.AST) -> Iterator[ast.AST]:
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
        yield node
        for child in ast.iter_child_nodes(node):
            yield from inside_of(child)


def leaves(loop: ast.AST) -> bool:
    """Whether it has a jump back of its own, which does not belong to the block around it."""
    if isinstance(loop, ast.While):
        return True
    if not isinstance(loop, ast.For | ast.AsyncFor):
        return False
    last = loop.body[-1]
    return (isinstance(last, ast.If) and not last.orelse) or any(
        isinstance(each, ast.Continue) for each in inside(loop.body)
    )


def found_in(source: str) -> list[int]:
    """The lines of such loops."""
    blocks = [
        node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.With | ast.AsyncWith)
    ]
    lines = {
        loop.lineno
        for block in blocks
        for loop in inside(block.body)
        if isinstance(loop, ast.While | ast.For | ast.AsyncFor) and leaves(loop)
    }
    return sorted(lines)


def test_no_loop_jumps_out_of_a_block() -> None:
    files = [
        file for file in PACKAGE.rglob("*.py") if not APART & {*file.relative_to(PACKAGE).parts}
    ]
    assert len(files) > 50
    assert [
        f"{file.relative_to(PACKAGE)}:{line}"
        for file in sorted(files)
        for line in found_in(file.read_text(encoding="utf-8"))
    ] == []


@pytest.mark.parametrize(
    ("body", "lines"),
    [
        ("while a: b()", [2]),
        ("for a in b:\n  if a: c()", [2]),
        ("for a in b:\n  if a: continue\n  c()", [2]),
        ("for a in b: c(a)", []),
        ("for a in b:\n  if a: c()\n  d()", []),
        ("def f():\n  while a: b()", []),
    ],
)
def test_what_is_such_a_loop(body: str, lines: list[int]) -> None:
    indented = "".join(f"\n {line}" for line in body.splitlines())
    assert found_in(f"with lock:{indented}") == lines
    assert found_in(body) == []
