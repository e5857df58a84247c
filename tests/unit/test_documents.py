"""What the documents say about the code is what the code says."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest

from breakerscope import Outcome, catalogue
from breakerscope.reference import as_json, differences, name_sets

ROOT = Path(__file__).parents[2]


def program(name: str) -> Any:
    """A program of `scripts`, as a module."""
    spec = spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


DOCUMENTS: list[Path] = program("build_docs").documents()


def test_rendered_parts_are_up_to_date() -> None:
    check = [sys.executable, str(ROOT / "scripts" / "render_docs.py"), "--check"]
    assert subprocess.run(check, check=False).returncode == 0, "run `make docs-parts`"


def test_the_catalogue_holds_every_name() -> None:
    told = as_json()
    assert set(told["metrics"]) == {metric.name for metric in catalogue.METRICS}
    listed = [name for names in told.values() if isinstance(names, list) for name in names]
    assert listed == [str(member) for names in name_sets() for member in names]
    assert {catalogue.LogEvent, catalogue.SpanEventName, catalogue.Attribute} <= {*name_sets()}


CALLS = "circuit_breaker_calls_total"


def change(path: str, value: object = None) -> dict[str, Any]:
    """The catalogue with one thing replaced, or taken away."""
    changed = copy.deepcopy(as_json())
    *parents, last = path.split("/")
    place = changed
    for parent in parents:
        place = place[parent]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return changed


@pytest.mark.parametrize(
    ("newer", "told"),
    [
        (change(f"metrics/{CALLS}/help", "Calls."), []),
        (change(f"metrics/{CALLS}"), [f"removed metrics/{CALLS}"]),
        (change("metrics/new", {}), ["added metrics/new"]),
        (
            change(f"metrics/{CALLS}/kind", "gauge"),
            [f'changed metrics/{CALLS}/kind: "counter" -> "gauge"'],
        ),
        (
            change(f"metrics/{CALLS}/labels", ["breaker", "outcome", "host"]),
            [
                f'changed metrics/{CALLS}/labels: ["breaker", "outcome"] ->'
                ' ["breaker", "outcome", "host"]'
            ],
        ),
        (
            change(f"metrics/{CALLS}/values/outcome", [*Outcome, "lost"]),
            [f"added metrics/{CALLS}/values/outcome/lost"],
        ),
        (
            change("events/CallSettled/error", "string"),
            ['changed events/CallSettled/error: ["string", "null"] -> "string"'],
        ),
        (change("trace_keys", ["span_id"]), ["removed trace_keys/trace_id"]),
        (change("trace_keys"), ["removed trace_keys"]),
    ],
)
def test_differences(newer: dict[str, Any], told: list[str]) -> None:
    found = list(differences(as_json(), newer))
    assert [str(difference) for difference in found] == told
    assert [d.breaks for d in found] == [not line.startswith("added") for line in told]


def test_a_name_goes_only_with_a_word_in_the_changelog(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    render_docs = program("render_docs")
    lock, changes = tmp_path / "lock.json", tmp_path / "CHANGELOG.md"
    monkeypatch.setattr(render_docs, "LOCK", lock)
    monkeypatch.setattr(render_docs, "CHANGES", changes)
    lock.write_text(json.dumps(change("metrics/circuit_breaker_colour", {})))
    changes.write_text("# Changelog\n\n## Unreleased\n\n## 0.1\n\n- circuit_breaker_colour\n")
    assert render_docs.unannounced() == ["removed metrics/circuit_breaker_colour"]
    changes.write_text("# Changelog\n\n## Unreleased\n\n- No circuit_breaker_colour.\n")
    assert render_docs.unannounced() == []


# -- the site and its pages ------------------------------------------------------------------------


def pages(nav: list[dict[str, Any]]) -> Iterator[Path]:
    for entry in nav:
        for below in entry.values():
            if isinstance(below, list):
                yield from pages(below)
            else:
                yield Path(below)


def test_the_navigation_lists_every_document_once() -> None:
    config = tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))
    assert sorted(pages(config["project"]["nav"])) == sorted(DOCUMENTS)


LINK = re.compile(r"\]\(([^)\s#]*)(?:#([^)\s]+))?\)")


def prose(document: Path) -> str:
    """The text without its blocks of code."""
    text = document.read_text(encoding="utf-8")
    return re.sub(r"^ *```.*?^ *```", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(document: Path) -> set[str]:
    """What GitHub makes of the headings; a name of the reference leads to the top of that page."""
    text = prose(document)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    slugs = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in headings}
    return slugs | set(re.findall(r"^::: (\S+)$", text, re.MULTILINE))


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_links_lead_somewhere_on_github_too(document: Path) -> None:
    for path, anchor in LINK.findall(prose(ROOT / document)):
        if "://" in path:
            continue
        target = (ROOT / document).parent / path if path else ROOT / document
        assert target.exists(), path
        assert not anchor or anchor in anchors(target), f"{path}#{anchor}"
