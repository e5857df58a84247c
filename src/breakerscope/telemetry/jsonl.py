"""A file with one line of JSON for each event, rotated by size.

The rotation is that of the standard library. The lines are written without a buffer: each one is in
the file, or it is counted as lost. What a full disk took in part is finished before the next line,
so there is never half a line between others. A forked child has a file of its own beside that of
its parent.
"""

from __future__ import annotations

import errno
import os
from logging import makeLogRecord
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any, Self, Unpack

from breakerscope.codec import event_to_json
from breakerscope.core.events import Event, EventType
from breakerscope.event_bus import EventBus
from breakerscope.subscription_options import DEFAULT_QUEUE_SIZE, SubscribeFilter, SubscriptionError

CLOSE_SECONDS = 5.0
"""How long closing waits for the last lines."""


class JsonLines:
    """Writes events to a file until `close()`, or as a context manager. Thread-safe."""

    def __init__(
        self,
        bus: EventBus,
        path: str | os.PathLike[str],
        *types: EventType,
        max_bytes: int | None,
        backups: int,
        queue_size: int = DEFAULT_QUEUE_SIZE,
        **options: Unpack[SubscribeFilter],
    ) -> None:
        if max_bytes is not None and max_bytes < 1:
            raise SubscriptionError(f"max_bytes={max_bytes!r}: allowed is 1 or more, or None")
        if backups < 1:
            raise SubscriptionError(f"backups={backups!r}: allowed is 1 or more")
        self._bus = bus
        self._file = _LineFile(Path(path), max_bytes or 0, backups)
        options.setdefault("name", "jsonl")
        try:
            self._subscription = bus.subscribe(
                self._write, *types, inline=False, queue_size=queue_size, **options
            )
        except SubscriptionError:
            self._file.close()
            raise
        self._subscription.drops_what_raises = True
        self._missed_before = self._missed()

    @property
    def lost(self) -> int:
        """How many lines are missing: dropped for want of room in the queue, or not written.

        Sinks with the same name that write at the same time are counted together.
        """
        return self._missed() - self._missed_before

    def _missed(self) -> int:
        return self._bus.dropped().get(self._subscription.name, 0)

    def close(self, wait: float = CLOSE_SECONDS) -> bool:
        """Stop, after the lines of what happened so far were written. Closing twice is harmless.

        Waits up to `wait` seconds for a slow file, and says whether that was enough. If not, the
        thread goes on by itself.
        """
        ended = self._subscription.close(wait)
        if ended:
            try:
                self._file.finish()
            except OSError as error:
                self._bus.count_dropped(self._subscription.name)
                self._bus.count_error(self._subscription.name, error)
        return ended

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _write(self, event: Event) -> None:
        self._file.write(event_to_json(event))


class _LineFile(RotatingFileHandler):
    """Takes lines from one thread."""

    stream: Any  # where the base class has a text file, this is a file of bytes without a buffer

    def __init__(self, path: Path, max_bytes: int, backups: int) -> None:
        self._rest = b""
        self._pid = os.getpid()
        self._path = path
        # Not the `__init__` of a log handler, which takes a lock of `logging` in a way that an
        # interrupt can lose. Only the rotation is wanted here.
        self.baseFilename = os.path.abspath(path)  # noqa: PTH100 - as the base class has it
        self.maxBytes, self.backupCount = max_bytes, backups
        self.delay = False
        self.formatter = None
        self.stream = self._open()

    def _open(self) -> Any:
        return Path(self.baseFilename).open("ab", buffering=0)

    def write(self, line: str) -> None:
        """Raises OSError if nothing of the line was written."""
        self._start_over_in_a_forked_child()
        if not self._rest and self.shouldRollover(makeLogRecord({"msg": line})):
            self.doRollover()
        if self.stream is None:
            self.stream = self._open()
        data = self._rest + line.encode("ascii") + b"\n"
        try:
            while data:
                data = data[self._write_some(data) :]
        except OSError:
            added = len(line) + 1
            if len(data) >= added:
                self._rest = data[:-added]
                raise
        self._rest = data

    def _write_some(self, data: bytes) -> int:
        count: int | None = self.stream.write(data)
        if not count:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN), self.baseFilename)
        return count

    def close(self) -> None:
        """Close the file."""
        stream, self.stream = self.stream, None
        if stream is not None:
            stream.close()

    def finish(self) -> None:
        """Write what is left of the last line, and close. Raises OSError if that line is torn."""
        self._start_over_in_a_forked_child()
        try:
            while self._rest:
                self._rest = self._rest[self._write_some(self._rest) :]
        finally:
            self._rest = b""
            self.close()

    def _start_over_in_a_forked_child(self) -> None:
        """The parent goes on with its file. A device or a pipe takes the lines of both."""
        if (pid := os.getpid()) != self._pid:
            self._pid = pid
            self._rest = b""
            if self._path.is_file():
                self.close()
                own = self._path.with_name(f"{self._path.stem}.{pid}{self._path.suffix}")
                self.baseFilename = str(own.absolute())
