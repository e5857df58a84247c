"""The documentation site: it builds without a warning, links lead somewhere, nothing calls home."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

import pytest

ROOT = Path(__file__).parents[2]
LOADS = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src"}
STYLE_LOADS = re.compile(r"(?:@import|url\()\s*['\"]?((?:https?:)?//[^'\")]+)")


class Page(HTMLParser):
    """What a page loads, where it links to, and which places it has."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.places: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.places |= {value for key in ("id", "name") if (value := found.get(key))}
        target = found.get(LOADS.get(tag, ""))
        if target and found.get("rel") != "canonical":
            self.loads.append(target)
        if tag == "a" and (link := found.get("href")):
            self.links.append(link)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built as `make docs` builds it, elsewhere."""
    folder = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(folder)],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (built.returncode, re.findall(r"^(?:WARNING|ERROR).*", built.stderr, re.MULTILINE)) == (
        0,
        [],
    ), built.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {path: Page(path) for path in sorted(site.rglob("*.html"))}


def test_every_document_is_a_page(site: Path, pages: dict[Path, Page]) -> None:
    documents = {path.relative_to(ROOT / "docs") for path in (ROOT / "docs").rglob("*.md")}
    expected = {
        path.with_name("index.html") if path.name == "README.md" else path.with_suffix(".html")
        for path in documents
    }
    assert expected - {path.relative_to(site) for path in pages} == set()


def test_nothing_is_loaded_from_elsewhere(site: Path, pages: dict[Path, Page]) -> None:
    loads = {load for page in pages.values() for load in page.loads}
    styles = [
        load for path in site.rglob("*.css") for load in STYLE_LOADS.findall(path.read_text())
    ]
    assert [load for load in loads if urlsplit(load).netloc] == []
    assert styles == []


def test_every_link_leads_to_a_place_that_is_there(site: Path, pages: dict[Path, Page]) -> None:
    broken: list[str] = []
    for path, page in pages.items():
        if path.name == "404.html":  # its links begin at the root of a server
            continue
        for link in page.links + page.loads:
            if urlsplit(link).scheme or urlsplit(link).netloc:
                continue
            target, place = urldefrag(link)
            file = (path.parent / unquote(target)).resolve() if target else path
            file = file / "index.html" if file.is_dir() else file
            lacks_place = place and file in pages and unquote(place) not in pages[file].places
            if not file.is_file() or lacks_place:
                broken.append(f"{path.relative_to(site)}: {link}")
    assert broken == []
