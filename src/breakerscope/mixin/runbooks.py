"""The runbooks: in the wheel beside this file, in a checkout among the documents."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from breakerscope.mixin.config import MixinError
from breakerscope.names import nearest

PREFIX = "CircuitBreaker"


def runbook_text(alert: str) -> str:
    """The runbook of an alert as Markdown. Raises MixinError for an alert that is none of ours."""
    shipped = resources.files("breakerscope.mixin") / "runbooks"
    folder = shipped if shipped.is_dir() else Path(__file__).parents[3] / "docs" / "runbooks"
    files = {file.name.removesuffix(".md"): file for file in folder.iterdir()}
    files.pop("README", None)
    if (file := files.get(alert.removeprefix(PREFIX))) is None:
        near = nearest(alert.removeprefix(PREFIX), files)
        hint = f"did you mean {near}? " if near else ""
        known = ", ".join(sorted(files))
        raise MixinError(f"no alert is called {alert!r}: {hint}There are {known}")
    return file.read_text(encoding="utf-8")
