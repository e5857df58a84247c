"""SIGTERM: what waits to be exported is sent before the process ends.

Python ends at once on that signal, without a word to anybody. The handler closes in another thread,
since the one that it interrupts may hold any lock, and waits for it only so long. Then the process
ends by the signal, as it would have.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType

CLOSE_SECONDS = 5.0
"""How long the end waits. Container platforms send SIGKILL after 10 seconds or more."""


class Termination:
    """While in force, SIGTERM closes first. Somebody else's handler is left alone, and so is a
    process whose main thread is not the one that sets this up: Python allows no other.
    """

    def __init__(self, close: Callable[[], object]) -> None:
        self._close: Callable[[], object] | None = close

    def begin(self) -> None:
        """Come into force if that can be."""
        if _in_main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            signal.signal(signal.SIGTERM, self._end)

    def undo(self) -> None:
        """Handle the signal no more. Twice does no harm."""
        self._close = None
        if _in_main_thread() and signal.getsignal(signal.SIGTERM) == self._end:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def _end(self, number: int, _frame: FrameType | None) -> None:
        if self._close is not None:
            closing = threading.Thread(target=self._close, name="breakerscope-end", daemon=True)
            closing.start()
            closing.join(CLOSE_SECONDS)
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        # Still here: the kernel spares the first process of a container what it does not handle.
        os._exit(128 + number)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
