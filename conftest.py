"""Every Python block in the documents runs as a test; those of one document share their names."""

from __future__ import annotations

from contextlib import ExitStack, chdir
from tempfile import TemporaryDirectory
from typing import cast

import pytest
from sybil import Sybil
from sybil.integration.pytest import SybilItem
from sybil.parsers.markdown import PythonCodeBlockParser

import breakerscope

pytest_plugins = ["pytester"]


def enter_folder(names: dict[str, object]) -> None:
    """What a document writes goes into a folder of its own."""
    stack = ExitStack()
    stack.enter_context(chdir(stack.enter_context(TemporaryDirectory())))
    names["_stack"] = stack


def forget(names: dict[str, object]) -> None:
    """The next document begins without breakers, and elsewhere."""
    for breaker in breakerscope.breakers():
        breakerscope.remove_breaker(breaker.name)
    cast("ExitStack", names["_stack"]).close()


pytest_collect_file = Sybil(
    parsers=[PythonCodeBlockParser()],
    patterns=["*.md"],
    setup=enter_folder,
    teardown=forget,
).pytest()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests run in random order, but the blocks of a document build on each other."""
    blocks: list[pytest.Item] = [item for item in items if isinstance(item, SybilItem)]
    blocks.sort(key=lambda item: (item.path, item.location[1] or 0))
    items[:] = [item for item in items if not isinstance(item, SybilItem)] + blocks
