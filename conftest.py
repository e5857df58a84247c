"""Every Python block in the documents runs as a test; those of one document share their names."""

from __future__ import annotations

import pytest
from sybil import Sybil
from sybil.integration.pytest import SybilItem
from sybil.parsers.markdown import PythonCodeBlockParser

pytest_plugins = ["pytester"]

pytest_collect_file = Sybil(
    parsers=[PythonCodeBlockParser()],
    patterns=["*.md"],
).pytest()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests run in random order, but the blocks of a document build on each other."""
    places = [at for at, item in enumerate(items) if isinstance(item, SybilItem)]
    blocks = [items[at] for at in places]
    blocks.sort(key=lambda item: (item.path, item.location[1] or 0))
    for at, block in zip(places, blocks, strict=True):
        items[at] = block
