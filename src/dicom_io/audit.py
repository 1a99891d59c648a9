"""The audit trail: a JSON object a line, of what happened to which study, and why. Never of whom.

Lines hold times, UIDs, AE titles, counts, outcomes and reasons; callers pass nothing that names a patient.
"""

import json
import os
import threading
import traceback
from datetime import UTC, datetime
from pathlib import Path

from ..errors import BadOutput

__all__ = ["Audit", "unforeseen"]


class Audit:
    """Appends to the file at `path`; any number of threads may write.

    Raises:
        BadOutput: the file cannot be opened for writing.
    """

    def __init__(self, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        except OSError as error:
            msg = f"cannot write the audit trail {path}: {error.strerror}"
            raise BadOutput(msg) from error
        self._lock = threading.Lock()

    def write(self, event: str, **facts: object) -> None:
        """Append one event; it is on disk when this returns."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"time": now, "event": event, **facts}, default=str) + "\n"
        with self._lock:
            os.write(self._file, line.encode())
            os.fsync(self._file)


def unforeseen(error: Exception) -> str:
    """What an error is that nobody foresaw, and where; without its message, which may quote a header."""
    *_, frame = traceback.extract_tb(error.__traceback__)
    return f"unexpected {type(error).__name__} in {Path(frame.filename).name}, line {frame.lineno}"
