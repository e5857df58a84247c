"""The reference has every public name once, and the documents show it in code that runs."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import breakerscope
from breakerscope import pytest_plugin, testing

ROOT = Path(__file__).parents[2]
DIRECTIVE = re.compile(r"^::: ([\w.]+)$", re.MULTILINE)
BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)
FIXTURE = re.compile(r"@pytest\.fixture\ndef (\w+)")

SHOWN_BY_THEIR_MAKER = {
    "AsyncStream": "what astream() gives",
    "BreakersPer": "what breakers_per() gives",
    "Clock": "what FakeClock.clock is",
    "EventRoute": "a type for checkers: the values of events=",
    "Figures": "a part of a reading",
    "Guard": "what guard() gives",
    "LogLevel": "a type for checkers: the values of log_levels=",
    "Reading": "what read() gives",
    "Recent": "what recent() gives",
    "SpanPolicy": "a type for checkers: the values of traces=",
    "Subscription": "what subscribe() gives",
    "Telemetry": "what setup_telemetry() gives",
}
"""Public for type annotations; nobody writes them in a program."""


def directives() -> Counter[str]:
    pages = (ROOT / "docs" / "reference").glob("*.md")
    return Counter(name for page in pages for name in DIRECTIVE.findall(page.read_text()))


def test_the_reference_has_every_public_name_once() -> None:
    source = Path(pytest_plugin.__file__).read_text()
    of_tests = ["FakeClock", "capture_events", "force_state", "strict_listeners"]
    assert all(hasattr(testing, name) for name in of_tests)
    assert directives() == Counter(
        [
            *(f"breakerscope.{name}" for name in breakerscope.__all__),
            *(f"breakerscope.testing.{name}" for name in of_tests),
            *(f"breakerscope.pytest_plugin.{name}" for name in FIXTURE.findall(source)),
        ]
    )


def test_every_public_name_is_shown_in_code_that_runs() -> None:
    documents = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    code = "\n".join(block for path in documents for block in BLOCK.findall(path.read_text()))
    unseen = {name for name in breakerscope.__all__ if not re.search(rf"\b{name}\b", code)}
    assert unseen - {name for name in unseen if name.endswith("Error")} == set(SHOWN_BY_THEIR_MAKER)
    assert sorted(name for name in unseen if name.endswith("Error")) == []
