"""Dashboards and alerts as files: all of them, or none."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from importlib import resources
from pathlib import Path

from breakerscope.mixin.config import MixinConfig, MixinError, require


def rendered(config: MixinConfig | None = None) -> Mapping[str, str]:
    """The dashboards as JSON, by the name of their file. None: as the wheel has them.

    Raises MixinError if it takes the extra, and that is not installed.
    """
    if config is None and (shipped := _shipped("rendered")):
        return shipped
    require("grafana_foundation_sdk")
    from breakerscope.mixin.render import render

    return render(config or MixinConfig())


def rendered_alerts(config: MixinConfig | None = None) -> Mapping[str, str]:
    """The rules and the routes as YAML, as `rendered` does it for the dashboards."""
    if config is None and (shipped := _shipped("rendered_alerts")):
        return shipped
    require("grafana_foundation_sdk")
    require("yaml")
    from breakerscope.mixin.alerts import render

    return render(config or MixinConfig())


def _shipped(name: str) -> Mapping[str, str]:
    """The files in the wheel. Nothing in a checkout, where they are made."""
    folder = resources.files("breakerscope.mixin") / name
    if not folder.is_dir():
        return {}
    files = sorted(folder.iterdir(), key=lambda file: file.name)
    return {file.name: file.read_text(encoding="utf-8") for file in files}


def export(folder: Path, config: MixinConfig | None = None) -> Sequence[Path]:
    """Write the dashboards into a folder, which is made if need be. Returns the files.

    Raises MixinError, and leaves what was there, if one of them cannot be written.
    """
    return _write_all(folder, rendered(config))


def export_alerts(folder: Path, config: MixinConfig | None = None) -> Sequence[Path]:
    """The same for the rules and the routes."""
    return _write_all(folder, rendered_alerts(config))


def _write_all(folder: Path, texts: Mapping[str, str]) -> Sequence[Path]:
    if folder.exists() and not folder.is_dir():
        raise MixinError(f"cannot write to {folder}: it is a file; allowed is a folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return _write(folder, texts)
    except OSError as error:
        raise MixinError(f"cannot write to {folder}: {error.strerror}") from error


def _write(folder: Path, texts: Mapping[str, str]) -> Sequence[Path]:
    """First all beside their places, then each into its place."""
    with ExitStack() as undo:
        waiting: list[tuple[Path, Path]] = []
        for name, text in texts.items():
            number, beside = tempfile.mkstemp(prefix=f".{name}-", dir=folder)
            waiting.append((Path(beside), folder / name))
            undo.callback(Path(beside).unlink, missing_ok=True)
            with os.fdopen(number, "w", encoding="utf-8", newline="\n") as file:
                file.write(text)
            Path(beside).chmod(0o644)
        for beside_it, place in waiting:
            beside_it.replace(place)
    return [place for _, place in waiting]
