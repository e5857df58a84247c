"""Renders `dashboards/`, `alerts/` and the routes of the local stack: run by `make dashboards`."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import yaml

from breakerscope.mixin import MixinConfig, rendered, rendered_alerts
from breakerscope.mixin.table import tables

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "dashboards"
ALERTS = ROOT / "alerts"
README = FOLDER / "README.md"
STACK_ROUTES = ROOT / "observability" / "alertmanager.yml"
STACK_HEADER = """\
# Rendered by `make dashboards` from alerts/alertmanager.yml: the same routes and inhibitions. Its
# receivers tell nobody, for nobody is to be paged by a demo; Alertmanager's own page shows them.
"""
PANELS = re.compile(r"(<!-- rendered: panels -->\n).*?(\n<!-- end -->)", re.DOTALL)


def files() -> dict[Path, str]:
    """Every file as it should be."""
    config = MixinConfig()
    found = {FOLDER / name: text for name, text in rendered(config).items()}
    found |= {ALERTS / name: text for name, text in rendered_alerts(config).items()}
    found[STACK_ROUTES] = quiet(found[ALERTS / "alertmanager.yml"])
    before = README.read_text(encoding="utf-8")
    found[README] = PANELS.sub(lambda part: part[1] + tables(config) + part[2], before)
    return found


def quiet(routes: str) -> str:
    """The same routes to receivers that only show. A group is told at once: somebody is looking."""
    config = yaml.safe_load(routes)
    config["receivers"] = [{"name": receiver["name"]} for receiver in config["receivers"]]
    config["route"] |= {"group_wait": "5s", "group_interval": "10s"}
    return STACK_HEADER + str(yaml.safe_dump(config, sort_keys=False, width=4096))


def main() -> int:
    """Write the files; with --check only say whether one would change."""
    changed = {
        file: text
        for file, text in files().items()
        if not file.exists() or file.read_text(encoding="utf-8") != text
    }
    if "--check" in sys.argv:
        for file in changed:
            print(f"not up to date: {file.relative_to(ROOT)}", file=sys.stderr)
        return int(bool(changed))
    for file, text in changed.items():
        file.write_text(text, encoding="utf-8", newline="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
