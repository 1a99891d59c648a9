"""How a run tells what it is doing: as events, which a listener shows as bars or writes as JSON lines.

Every event has `event`, its kind; all but the last two have `scan`, the path as it was given:

    start     index (from 1), total             its inference begins
    windows   done, total                       of the passes of the network over it
    finished  scan_id, detections (a count), seconds, outputs (paths), notes (of reading it, and warnings)
    skipped   -                                 complete from an earlier run (`--resume`)
    failed    error (a type), message
    demo      nodules (of `--demo`: diameter_mm, nodule_type, and found_mm and confidence, null where missed)
    summary   num_scans, total_detections, avg_time, failed (path to message), skipped (paths), notes (path to those of
              reading it), passed_over (path to the reason)

`finished` and `failed` may come after the next scan's `start`, because files are written beside inference.
"""

import json
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypedDict

__all__ = [
    "WARNING",
    "BatchResults",
    "Event",
    "Listener",
    "ListenerError",
    "Mode",
    "as_raised",
    "guarded",
    "listening",
    "silent",
    "told",
]

LEFT_OUT = "left out"  # how notes begin that tell what was not searched
WARNING = "warning"  # and those of lungs that cannot be judged, and of masses
MOST_TOLD = 20  # of what was passed over
Event: TypeAlias = dict[str, Any]
Listener: TypeAlias = Callable[[Event], None]
Mode: TypeAlias = Literal["auto", "bar", "json", "none"]


class BatchResults(TypedDict):
    """The counts and lists at the end of a batch."""

    num_scans: int  # finished in this run
    total_detections: int  # in those
    avg_time: float  # seconds to read, infer and write one of them; wall time is less where these overlap
    failed: dict[str, str]  # path to message
    skipped: list[str]  # paths that were complete already
    notes: dict[str, list[str]]  # path to what reading repaired or left out, and to warnings
    passed_over: dict[str, str]  # path to the reason, of what lies in the folder and is none of its scans


def silent(event: Event) -> None:
    """A listener that ignores all events."""


class ListenerError(Exception):
    """A listener raised something, its cause: no fault of the scan that it was told of."""


def guarded(listener: Listener) -> Listener:
    """The listener, whose errors come as `ListenerError`."""

    def tell(event: Event) -> None:
        try:
            listener(event)
        except Exception as error:
            raise ListenerError from error

    return tell


@contextmanager
def as_raised() -> Iterator[None]:
    """What a guarded listener raised goes on to the caller as it was raised."""
    try:
        yield
    except ListenerError as error:
        raise error.__cause__ or error from None


@contextmanager
def listening(mode: Mode) -> Iterator[Listener]:
    """A listener, called from any thread: bars on stderr, JSON lines on stdout, or silent.

    `auto` shows bars where stderr is a terminal.
    """
    if mode == "json":
        yield _json_lines()
    elif mode == "bar" or (mode == "auto" and sys.stderr.isatty()):
        with _bars() as listener:
            yield listener
    else:
        yield silent


def _json_lines() -> Listener:
    lock = threading.Lock()

    def write(event: Event) -> None:
        with lock:
            sys.stdout.write(json.dumps(event) + "\n")
            sys.stdout.flush()

    return write


@contextmanager
def _bars() -> Iterator[Listener]:
    # Not needed, and not waited for, without bars.
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import (  # noqa: PLC0415
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), redirect_stdout=False) as progress:
        scans = progress.add_task("scans", total=None)
        windows = progress.add_task("windows", total=None)

        def show(event: Event) -> None:
            match event:
                case {"event": "start", "scan": scan, "index": index, "total": total}:
                    progress.update(scans, total=total, completed=index - 1)
                    progress.reset(windows, total=None, description=scan)
                case {"event": "windows", "done": done, "total": total}:
                    progress.update(windows, completed=done, total=total)
                case {"event": "summary"}:
                    progress.update(scans, completed=progress.tasks[scans].total)

        yield show


def told(done: BatchResults, folder: Path) -> list[str]:
    """What a run tells at its end: the counts; then what was not searched, and why, and what must not be overlooked."""
    scans, found, skipped = done["num_scans"], done["total_detections"], len(done["skipped"])
    text = f"{scans} scan{'s' * (scans != 1)}, {found} nodule{'s' * (found != 1)}"
    if scans:
        text += f", {done['avg_time']:.1f} s a scan"
    if skipped:
        text += f"; {skipped} complete already"
    notes = [
        f"{path}: {note}"
        for path, notes in done["notes"].items()
        for note in notes
        if note.startswith((LEFT_OUT, WARNING))
    ]
    passed = [f"passed over: {path}: {reason}" for path, reason in list(done["passed_over"].items())[:MOST_TOLD]]
    more = len(done["passed_over"]) - len(passed)
    return [f"{text}; results in {folder}", *notes, *passed, *([f"passed over: {more} more"] if more else [])]
