"""The reference has every public name once, and the documents show it in code that runs."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import breakerscope
from breakerscope import pytest_plugin, testing

ROOT = Path(__file__).parents[2]
DIRECTIVE = re.compile(r"^::: ([\w.]+)$", re.MULTILINE)
BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
FIXTURE = re.compile(r"@pytest\.fixture\ndef (\w+)")

BEHIND_THEM = [
    "breakerscope.subscription_options.SubscribeFilter",
    "breakerscope.subscription_options.SubscribeOptions",
    "breakerscope.instrument.BreakerOptions",
    "breakerscope.telemetry.jsonl.JsonLines",
    "breakerscope.telemetry.otel_metrics.with_durations",
]
"""What public functions take or give, and what is imported from a module of its own."""


def directives() -> Counter[str]:
    pages = (ROOT / "docs" / "reference").glob("*.md")
    return Counter(name for page in pages for name in DIRECTIVE.findall(page.read_text()))


def test_the_reference_has_every_public_name_once() -> None:
    source = Path(pytest_plugin.__file__).read_text()
    of_tests = ["BreakerTime", "FakeClock", "capture_events", "force_state", "strict_listeners"]
    assert all(hasattr(testing, name) for name in of_tests)
    assert directives() == Counter(
        [
            *(f"breakerscope.{name}" for name in breakerscope.__all__),
            *BEHIND_THEM,
            *(f"breakerscope.testing.{name}" for name in of_tests),
            *(f"breakerscope.pytest_plugin.{name}" for name in FIXTURE.findall(source)),
        ]
    )


def names_used(block: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(block)):
        match node:
            case ast.Attribute(value=ast.Name(id="bs" | "breakerscope"), attr=name):
                yield name
            case ast.ImportFrom(module="breakerscope", names=imported):
                yield from (alias.name for alias in imported)


def test_every_public_name_is_shown_in_code_that_runs() -> None:
    documents = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    blocks = [block for path in documents for block in BLOCK.findall(path.read_text())]
    shown = {name for block in blocks for name in names_used(block)}
    assert set(breakerscope.__all__) - shown == set()
