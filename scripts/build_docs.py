"""Builds the documentation site into build/site: run by `make docs`, and by a test.

The documents lie where GitHub readers look for them, so the pages come from all over the
repository. They are gathered under their own paths, and links between them hold in both places.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "build" / "site-source"
SITE = ROOT / "build" / "site"
PAGES = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "dashboards/README.md", "alerts/README.md")
FENCE = re.compile(r"^(```.*?^```)", re.MULTILINE | re.DOTALL)


def documents() -> list[Path]:
    """All pages of the site, as paths in the repository."""
    found = (ROOT / "docs").rglob("*.md")
    return [*(Path(page) for page in PAGES), *sorted(path.relative_to(ROOT) for path in found)]


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
    shutil.copytree(ROOT / "docs" / "images", SOURCE / "docs" / "images")
    shutil.copy(ROOT / "docs" / "site.css", SOURCE / "docs" / "site.css")


def main() -> int:
    """Build strictly: a warning, or a link to nowhere, fails."""
    gather()
    shutil.rmtree(SITE, ignore_errors=True)
    build = [sys.executable, "-m", "zensical", "build", "--strict", "--clean"]
    return subprocess.run(build, cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
