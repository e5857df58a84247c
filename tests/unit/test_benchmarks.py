"""How the results of the benchmarks are read, and that docs/performance.md shows them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from benchmarks import report
from benchmarks.targets import AGAINST_RESILIX, TARGETS, Target

ALL_TARGETS = (*TARGETS, *AGAINST_RESILIX)


def timing(name: str, group: str, median: float, minimum: float) -> dict[str, Any]:
    return {"name": name, "group": group, "median": median, "minimum": minimum, "best": minimum}


SUCCESS = [
    timing("empty function", "floor", 20, 10),
    timing("decorator", "ours", 300, 250),
    timing("call()", "ours", 400, 350),
    timing("with guard()", "ours", 500, 450),
    timing("circuitbreaker", "peer", 600, 500),
    timing("resilix", "peer", 240, 200),
]


def a_run(python: str) -> report.Results:
    about = {"python": python, "cpu": "c", "cores": 2, "system": "s", "mode": "full", "date": "d"}
    more = {"load": "0.00", "versions": {"resilix": "1.1.0"}, "disturbed": []}
    return {"about": about | more, "success": SUCCESS, "threads": SUCCESS}


def target(row: str = "success", **options: Any) -> Target:
    return Target("key", "words", row, "decorator", 1.0, **options)


@pytest.mark.parametrize(
    ("asked", "of_medians", "of_minima"),
    [
        (target(), 0.5, 0.5),
        (target(reference="resilix"), 1.25, 1.25),
        (target("threads", reference="empty function"), 15, 25),
        (target(reference=None), 300, 250),
        (target(reference="not in this row"), None, None),
        (target("not measured"), None, None),
    ],
)
def test_a_ratio_is_to_the_reference_of_the_target(
    asked: Target, of_medians: float | None, of_minima: float | None
) -> None:
    run = a_run("CPython 3.12.1")
    assert report.ratio(asked, run) == of_medians
    assert report.ratio(asked, run, "minimum") == of_minima


@pytest.mark.parametrize(
    ("asked", "reached", "words"),
    [
        (target(aim=0.5), 0.5, "pass, aim met"),
        (target(aim=0.5), 1.0, "pass, aim missed"),
        (target(aim=0.5), 1.01, "**miss**"),
        (target(), 1.0, "pass"),
        (target(), 1.01, "**miss**"),
        (target(aim=2.0, more=True), 2.0, "pass, aim met"),
        (target(aim=2.0, more=True), 1.0, "pass, aim missed"),
        (target(aim=2.0, more=True), 0.9, "**miss**"),
        (target(), None, "not measured"),
    ],
)
def test_verdict(asked: Target, reached: float | None, words: str) -> None:
    assert report.verdict(asked, reached) == words


def test_the_details_show_each_subject_beside_both_references() -> None:
    lines = report.details(a_run("CPython 3.12.1")).splitlines()
    assert "| **decorator** | **ours** | 0.50 | 0.50 | 1.25 | 1.25 | 300 | 250 |" in lines
    assert "| decorator | 0.50 | 1.25 | 300 | 250 |" in lines


def test_the_details_show_the_ratio_to_a_baseline() -> None:
    row = [timing("alone", "baseline", 100, 100), timing("beside", "ours", 450, 400)]
    lines = report.details({"subscriber_beside": row}).splitlines()
    assert "| **beside** | **ours** | 4.50 | 4.00 | 450 | 400 |" in lines


def test_the_document_has_a_part_for_each_python() -> None:
    before = "\n".join(
        f"a\n<!-- measured: {part} -->\nold\n<!-- end -->\nb"
        for part in ("machine", "summary", "details")
    )
    after = report.rendered(before, [a_run("CPython 3.12.1"), a_run("CPython 3.13.0")])
    assert "old" not in after
    headings = [line for line in after.splitlines() if line.startswith("### ")]
    pythons = ["CPython 3.12", "CPython 3.13"]
    assert headings == [f"### {part}{p}" for part in ("", "All rows, ") for p in pythons]
    again = report.rendered(after, [a_run("CPython 3.12.1")])
    assert "3.13" not in again
    assert again.count("a\n<!-- measured") == again.count("<!-- end -->\nb") == 3


def test_the_last_run_of_each_python_by_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    for name in ("latest-3.12", "latest-3.9", "quick-3.12", "partial-3.13"):
        (tmp_path / f"{name}.json").write_text(json.dumps(name))
    assert report.latest() == ["latest-3.9", "latest-3.12"]


def test_the_targets_are_told_apart() -> None:
    assert len({each.key for each in ALL_TARGETS}) == len(ALL_TARGETS)


def test_the_document_shows_the_results() -> None:
    shown = report.DOCUMENT.read_text(encoding="utf-8")
    assert shown == report.rendered(shown, report.latest()), "run `python -m benchmarks.report`"
