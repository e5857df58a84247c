"""The folder of prometheus_client's multiprocess mode, and whose files are in it."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path

from breakerscope.telemetry.errors import TelemetryError

VARIABLE = "PROMETHEUS_MULTIPROC_DIR"

_NAME = re.compile(r"(?:counter|gauge_[a-z]+|histogram|summary)_(\d+)\.db")
_log = logging.getLogger("breakerscope")


class MultiprocessError(TelemetryError):
    """The multiprocess mode cannot work. The message names the variable and what is allowed."""


def checked_folder(folder: str | os.PathLike[str] | None = None) -> Path:
    """The folder of the files. Raises MultiprocessError if there is none."""
    named = folder or os.environ.get(VARIABLE) or os.environ.get(VARIABLE.lower())
    if not named or not Path(named).is_dir() or not os.access(named, os.W_OK):
        where = VARIABLE if folder is None else "folder"
        raise MultiprocessError(
            f"{where}={named!r}: allowed is a folder that exists and can be written to"
        )
    return Path(named)


def remove_dead_files(folder: str | os.PathLike[str] | None = None) -> list[Path]:
    """Remove the files of processes that have ended from the folder of the multiprocess mode, by
    default the one in PROMETHEUS_MULTIPROC_DIR, and log how many. Returns them.

    For the start of a server, before its workers: to empty the whole folder takes the metrics of
    processes that run, and never to do it adds up what all earlier runs have counted. Files of
    processes that run stay, and so does what is no file of prometheus_client. Processes are known
    by their process ids, so all that share the folder have to be on one machine, or in one
    container. Raises MultiprocessError if there is no such folder, and OSError if a file cannot be
    removed.
    """
    where = checked_folder(folder)
    dead: dict[Path, str] = {
        path: match[1]
        for path in where.iterdir()
        if (match := _NAME.fullmatch(path.name)) and not _is_running(int(match[1]))
    }
    for path in dead:
        path.unlink(missing_ok=True)
    processes = len(set(dead.values()))
    _log.info("removed %d files of %d processes that have ended: %s", len(dead), processes, where)
    return sorted(dead)


def _is_running(process: int) -> bool:
    if os.name != "posix":
        # There, what asks for a process ends it. Nobody forks there either.
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


class OwnFiles:
    """Sees whether somebody has removed the files of this process while it runs. Raises
    MultiprocessError if there is no folder for them.
    """

    def __init__(self) -> None:
        self._folder = checked_folder()
        self._seen: Path | None = None

    def look(self) -> None:
        """Log it once if they are gone. Raises nothing."""
        # Asked each time: this may be a forked child.
        path = self._folder / f"counter_{os.getpid()}.db"
        if os.path.exists(path):  # noqa: PTH110 - that of a path can raise
            self._seen = path
        elif self._seen == path:
            self._seen = None
            _log.error(
                "somebody has removed %s while this process runs: its metrics are lost until it"
                " starts again; remove_dead_files() leaves the files of running processes alone",
                path,
            )
