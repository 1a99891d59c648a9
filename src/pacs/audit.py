"""The audit trail: one JSON object a line, about events of studies and their reasons. It never identifies a patient.

Lines hold times, UIDs, AE titles, counts, outcomes and reasons. Callers pass nothing that identifies a patient. If the
disk is full, lines wait in memory: writers never block. `works` tells whether all lines are on disk.
"""

import errno
import json
import os
import threading
import traceback
from collections import deque
from datetime import UTC, datetime
from pathlib import Path

from ..errors import BadOutput

__all__ = ["Audit", "unforeseen"]

MOST_WAITING = 10_000  # lines


class Audit:
    """Appends whole lines to the file at `path`. Threads may share it.

    Raises:
        BadOutput: the file cannot be opened for writing.
    """

    def __init__(self, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
            size = os.fstat(self._file).st_size
            cut = size > 0 and os.pread(self._file, 1, size - 1) != b"\n"
        except OSError as error:
            msg = f"cannot write the audit trail {path}: {error.strerror}"
            raise BadOutput(msg) from error
        self._lock = threading.Lock()
        self._waiting = deque([b"\n"] if cut else [])  # an earlier process or the machine stopped within a line
        self._lost = 0  # lines

    def write(self, event: str, **facts: object) -> None:
        """Append one event. It is on disk on return, or as soon as the disk has room."""
        with self._lock:
            if len(self._waiting) < MOST_WAITING:
                self._waiting.append(_line(event, **facts))
            else:
                self._lost += 1
            self._flush()

    def works(self) -> bool:
        """Whether all events are on disk. Retries those that wait."""
        with self._lock:
            return self._flush()

    def _flush(self) -> bool:
        try:
            while self._waiting:
                self._append(self._waiting[0])
                self._waiting.popleft()
            if self._lost:
                self._append(_line("events lost", count=self._lost))
                self._lost = 0
        except OSError:
            return False
        return True

    def _append(self, line: bytes) -> None:
        """Append the whole line, or nothing."""
        end = os.fstat(self._file).st_size
        try:
            if os.write(self._file, line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # noqa: TRY301 - as the system would raise
            os.fsync(self._file)
        except OSError:
            os.ftruncate(self._file, end)
            raise


def _line(event: str, **facts: object) -> bytes:
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    return (json.dumps({"time": now, "event": event, **facts}, default=str) + "\n").encode()


def unforeseen(error: Exception) -> str:
    """The type and the place of an unexpected error. Its message is left out: it may quote a header."""
    *_, frame = traceback.extract_tb(error.__traceback__)
    return f"unexpected {type(error).__name__} in {Path(frame.filename).name}, line {frame.lineno}"
