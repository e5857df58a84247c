"""SIGTERM closes what exports, and ends the process as it would have."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from breakerscope.telemetry.termination import Termination

pytestmark = pytest.mark.skipif(os.name != "posix", reason="elsewhere it cannot be handled")


def ended(program: str) -> tuple[int, str]:
    """The exit code of a program that is ended by SIGTERM, and what it printed."""
    head = "import os, signal, threading\nfrom breakerscope.telemetry import termination\n"
    tail = "\nsignal.raise_signal(signal.SIGTERM)\nprint('went on', flush=True)\n"
    done = subprocess.run(
        [sys.executable, "-c", head + program + tail],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""
    return done.returncode, done.stdout


ELSEWHERE = "t = threading.Thread(target=it.undo); t.start(); t.join()"
BEGUN = "it = termination.Termination(lambda: print('closed', flush=True)); it.begin()"


@pytest.mark.parametrize(
    ("program", "code", "printed"),
    [
        (BEGUN, -signal.SIGTERM, "closed\n"),
        (f"{BEGUN}; it.undo(); it.undo()", -signal.SIGTERM, ""),
        # Undone by a thread that cannot take the handler away.
        (
            f"{BEGUN}; t = threading.Thread(target=it.undo); t.start(); t.join()",
            -signal.SIGTERM,
            "",
        ),
        # Somebody else handles it, before or later.
        (f"signal.signal(signal.SIGTERM, lambda *_: os._exit(3)); {BEGUN}", 3, ""),
        (f"{BEGUN}; signal.signal(signal.SIGTERM, lambda *_: os._exit(3)); it.undo()", 3, ""),
        # The first process of a container is not ended by what it leaves alone.
        (f"termination.os.kill = lambda *_: None; {BEGUN}", 128 + signal.SIGTERM, "closed\n"),
        # What never ends is waited for so long, and no longer.
        (
            "termination.CLOSE_SECONDS = 0.1;"
            " termination.Termination(threading.Event().wait).begin()",
            -signal.SIGTERM,
            "",
        ),
        # The thread that is interrupted holds the lock that closing needs.
        (
            "termination.CLOSE_SECONDS = 0.1; lock = threading.Lock(); lock.acquire();"
            " termination.Termination(lock.acquire).begin()",
            -signal.SIGTERM,
            "",
        ),
    ],
)
def test_the_end(program: str, code: int, printed: str) -> None:
    assert ended(program) == (code, printed)


def test_another_thread_than_the_main_one_changes_nothing() -> None:
    before = signal.getsignal(signal.SIGTERM)
    termination = Termination(lambda: None)
    thread = threading.Thread(target=termination.begin)
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGTERM) is before
    termination.undo()
    assert signal.getsignal(signal.SIGTERM) is before
