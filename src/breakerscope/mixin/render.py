"""Dashboards as bytes, and bytes as files. The same configuration always gives the same bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from breakerscope.mixin.config import MixinConfig
from breakerscope.mixin.dashboards import BOARDS, build
from breakerscope.mixin.sdk import JSONEncoder


def render(config: MixinConfig) -> Mapping[str, str]:
    """The dashboards as JSON, by the name of their file."""
    return {board.file: _json(build(board, config)) for board in BOARDS}


def _json(built: object) -> str:
    plain = json.loads(json.dumps(built, cls=JSONEncoder), object_hook=_without_placement)
    return json.dumps(plain, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def _without_placement(found: dict[str, Any]) -> dict[str, Any]:
    """The SDK puts every link and annotation out of sight, into a menu, unasked."""
    return {key: value for key, value in found.items() if value != "inControlsMenu"}
