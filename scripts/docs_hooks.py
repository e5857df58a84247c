"""Pages of the documentation site that stand outside of docs/: the same files, no copies."""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "alerts/README.md": "load-alerts.md",
    "dashboards/README.md": "import-dashboards.md",
}
"""Path in the repository -> path in the site."""
LINK = re.compile(r"(\]\()([^)#\s]+)(#[^)]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add them."""
    for source, page in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=_moved(text, source, page)))
    return files


def on_page_markdown(
    markdown: str,
    page: Page,
    config: MkDocsConfig,  # noqa: ARG001 - mkdocs gives it by name
    files: Files,  # noqa: ARG001
) -> str:
    """Links to them from the pages in docs/."""
    path = page.file.src_uri
    return markdown if path in PAGES.values() else _moved(markdown, f"docs/{path}", path)


def _moved(text: str, source: str, page: str) -> str:
    """The text with its links as they are in the site."""

    def link(found: re.Match[str]) -> str:
        target = found[2]
        if "://" in target:
            return found[0]
        path = _normal(Path(source).parent / target)
        if target.endswith("/"):  # a folder of the repository is its first page
            path = _first(path)
        there = PAGES.get(path, path.removeprefix("docs/"))
        up = "../" * (page.count("/"))
        return f"{found[1]}{up}{there}{found[3] or ''})"

    return LINK.sub(link, text)


def _normal(path: Path) -> str:
    return (ROOT / path).resolve().relative_to(ROOT).as_posix()


def _first(folder: str) -> str:
    return min(each.relative_to(ROOT).as_posix() for each in (ROOT / folder).glob("*.md"))
