"""Builds the documentation site into build/site: run by `make docs`, and by a test.

The documents lie where readers of the repository look for them, so the pages come from all over it.
They are gathered under their own paths, and links between them hold in both places.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "build" / "site-source"
SITE = ROOT / "build" / "site"
PAGES = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "dashboards/README.md", "alerts/README.md")
FENCE = re.compile(r"^(```.*?^```)", re.MULTILINE | re.DOTALL)
FETCHED_BY_STYLE = re.compile(r"(?:@import|url\()\s*['\"]?((?:https?:)?//[^'\")\s]+)")
DRAWN_BY_ANOTHER_SERVER = "mermaid"
"""The script that draws such diagrams is fetched from elsewhere when the page is opened."""


def documents() -> list[Path]:
    """All pages of the site, as paths in the repository."""
    found = (ROOT / "docs").rglob("*.md")
    return [*map(Path, PAGES), *sorted(path.relative_to(ROOT) for path in found)]


def for_the_site(text: str) -> str:
    """The same Markdown, as Python-Markdown wants it.

    What belongs to an item of a numbered list is indented by three spaces for CommonMark, and by
    four for Python-Markdown.
    """
    parts = FENCE.split(text)
    parts[::2] = [re.sub(r"^ {3}(?=\S)", "    ", part, flags=re.MULTILINE) for part in parts[::2]]
    return "".join(parts)


def gather() -> None:
    """Put the pages and what they show into build/site-source."""
    shutil.rmtree(SOURCE, ignore_errors=True)
    for page in documents():
        target = SOURCE / page
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(for_the_site((ROOT / page).read_text(encoding="utf-8")), encoding="utf-8")
    for folder in ("assets", "images"):
        shutil.copytree(ROOT / "docs" / folder, SOURCE / "docs" / folder)


class Page(HTMLParser):
    """What a page points to, what can be pointed to in it, and what it fetches by itself."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.fetched: list[str] = []
        self.classes: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Called for each tag."""
        attributes = {name: value or "" for name, value in attrs}
        self.classes.update(attributes.get("class", "").split())
        self.anchors.update(attributes[name] for name in ("id", "name") if name in attributes)
        if "href" in attributes:
            (self.links if tag == "a" else self.fetched).append(attributes["href"])
        if "src" in attributes:
            self.fetched.append(attributes["src"])


def problems(site: Path) -> Iterator[str]:
    """Links to nowhere, and what a page would fetch from another server."""
    for style in sorted(site.rglob("*.css")):
        for address in FETCHED_BY_STYLE.findall(style.read_text(encoding="utf-8")):
            yield f"{style.relative_to(site)}: fetches {address}"
    pages = {path: Page(path) for path in sorted(site.rglob("*.html"))}
    for path, page in pages.items():
        name = path.relative_to(site)
        if DRAWN_BY_ANOTHER_SERVER in page.classes:
            yield f"{name}: a {DRAWN_BY_ANOTHER_SERVER} diagram; take an image"
        for address in page.fetched:
            if urlsplit(address).netloc:
                yield f"{name}: fetches {address}"
        for address in [*page.links, *page.fetched]:
            parts = urlsplit(address)
            # What begins with a slash is on the 404 page, which can be shown under any address.
            if parts.scheme or parts.netloc or parts.path.startswith("/"):
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.is_file():
                yield f"{name}: {address} leads nowhere"
            elif parts.fragment and unquote(parts.fragment) not in pages[target].anchors:
                yield f"{name}: {address} is not on that page"


def main() -> int:
    """Build strictly: a warning, a link to nowhere or a call to another server fails."""
    gather()
    shutil.rmtree(SITE, ignore_errors=True)
    build = [sys.executable, "-m", "zensical", "build", "--strict", "--clean"]
    if failed := subprocess.run(build, cwd=ROOT, check=False).returncode:  # noqa: S603 - our own
        return failed
    found = list(problems(SITE))
    print(*found, sep="\n", file=sys.stderr)
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
