"""The dashboards in words, for their README: one table each, a line for each panel."""

from __future__ import annotations

import re

from breakerscope.catalogue import METRICS
from breakerscope.mixin.config import MixinConfig
from breakerscope.mixin.dashboards import BOARDS, Board, build
from breakerscope.mixin.queries import series_of
from breakerscope.mixin.sdk import models


def tables(config: MixinConfig) -> str:
    """Markdown."""
    return "\n\n".join(_table(board, config) for board in BOARDS)


def _table(board: Board, config: MixinConfig) -> str:
    built = build(board, config)
    lines = [
        f"### {board.title} (`{board.file}`, uid `{built.uid}`)",
        "",
        board.description,
        "",
        "| id | panel | kind | what it shows, and what to do | metrics |",
        "| --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {panel.id_val} | {panel.title} | {panel.type_val} | {panel.description} |"
        f" {', '.join(_metrics_of(panel))} |"
        for panel in built.panels or []
        if isinstance(panel, models.Panel)
    ]
    return "\n".join(lines)


def _metrics_of(panel: models.Panel) -> list[str]:
    """The metrics in its queries. All of them is said shorter."""
    queries = " ".join(str(getattr(target, "expr", "")) for target in panel.targets or [])
    words = set(re.findall(r"\w+", queries))
    names = [metric.name for metric in METRICS if words & {metric.name, *series_of(metric)}]
    return ["all"] if len(names) == len(METRICS) else [f"`{name}`" for name in names]
