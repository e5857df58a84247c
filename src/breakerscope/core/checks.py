"""Questions that are asked at each call, so that their answers must be cheap."""

from __future__ import annotations

from collections.abc import Callable

Check = Callable[[], object]
"""A question that is answered by a true or a false value."""
NEVER: Check = ().__len__
"""Says no, at the cost of one C call."""
ALWAYS: Check = (None,).__len__
"""Says yes, at the cost of one C call."""
SLOW_PATH: Check = (None, None).__len__
"""Says yes, for permits whose calls must settle under the lock."""
