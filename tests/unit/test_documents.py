"""What the documents say about the code is what the code says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_rendered_parts_are_up_to_date() -> None:
    check = [sys.executable, str(ROOT / "scripts" / "render_docs.py"), "--check"]
    assert subprocess.run(check, check=False).returncode == 0, "run `make docs-parts`"
