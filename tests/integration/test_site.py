"""The documentation site is built strictly: what is wrong in a page is an error, not a page."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import breakerscope

ROOT = Path(__file__).parents[2]
COLOURS = re.compile(r"\x1b\[[0-9;]*m")
PARTS = ("alerts", "dashboards", "docs", "scripts", "src")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of what the site is made of."""
    for part in PARTS:
        shutil.copytree(ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
    for file in [*ROOT.glob("*.md"), ROOT / "zensical.toml"]:
        shutil.copy(file, tmp_path)
    return tmp_path


def build(project: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(project / "scripts" / "build_docs.py")]
    # No way out: a build that asked another server for something would fail.
    closed = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
    return subprocess.run(
        command, env=os.environ | closed, capture_output=True, text=True, check=False, timeout=100
    )


def test_the_site_is_built(project: Path) -> None:
    built = build(project)
    assert built.returncode == 0, built.stdout + built.stderr
    site = project / "build" / "site"
    pages = (site / "docs" / "reference").glob("*.html")
    reference = "".join(page.read_text(encoding="utf-8") for page in pages)
    for name in breakerscope.__all__:
        assert f'id="breakerscope.{name}"' in reference
    steps = (site / "docs" / "runbooks" / "Tripped.html").read_text(encoding="utf-8")
    assert steps.count("<ol>") == 2, "a block between two steps must not end their list"
    search = (site / "search.json").read_text(encoding="utf-8").lower()
    looked_for = ["half-open", "django", "celery", "redis", "terminal", "notebook", "pybreaker"]
    assert [words for words in looked_for if words not in search] == []


def test_a_style_from_elsewhere_fails(project: Path) -> None:
    with (project / "docs" / "assets" / "site.css").open("a", encoding="utf-8") as style:
        style.write('@import "https://example.org/font.css";')
    built = build(project)
    assert built.returncode == 1
    assert "fetches https://example.org/font.css" in built.stderr


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[there](docs/nowhere.md)", "docs/nowhere.md"),
        ("[there](docs/adr/)", "docs/adr/ leads nowhere"),
        ("[there](docs/guide.md#no-such-section)", "no-such-section"),
        ("[there](#no-such-section)", "no-such-section"),
        ("![picture](docs/images/nothing.png)", "nothing.png"),
        ("![picture](https://example.org/badge.svg)", "fetches https://example.org/badge.svg"),
        ('<script src="//example.org/a.js"></script>', "fetches //example.org/a.js"),
        ("::: breakerscope.no_such_name", "no_such_name"),
        ('<pre class="mermaid">graph</pre>', "mermaid"),
    ],
)
def test_what_is_wrong_fails(project: Path, text: str, told: str) -> None:
    with (project / "README.md").open("a", encoding="utf-8") as readme:
        readme.write(f"\n{text}\n")
    built = build(project)
    assert built.returncode != 0
    assert told in COLOURS.sub("", built.stdout + built.stderr)
