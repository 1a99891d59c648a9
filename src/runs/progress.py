"""The progress of a run, as events. A listener shows them as bars, or writes them as JSON lines.

Every event has `event`, its kind. All but the last two have `scan`, the path as given:

    start     index (from 1), total             its inference begins
    windows   done, total                       windows of the network
    finished  scan_id, detections and masses (counts), lung_rads (of the examination, or null),
              lungs (whether any are recognised), seconds, outputs (paths), notes (of reading, and warnings)
    skipped   -                                 complete from an earlier run (`--resume`)
    failed    error (a type), message
    demo      of `--demo`: nodules (diameter_mm, nodule_type, found_mm, confidence, number in the picture; the last
              three are null if missed), and false_marks, where no nodule was drawn (found_mm, confidence, number)
    summary   num_scans, total_detections, avg_time, failed (path: message), skipped (paths), notes (path: notes),
              passed_over (path: reason)

Files are written while the next scan is inferred. So `finished` and `failed` may come after the next `start`.
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
    "summary_lines",
]

LEFT_OUT = "left out"  # prefix of notes about what was not searched
WARNING = "warning"  # prefix of notes about masses, and about lungs that cannot be evaluated
MOST_PASSED_OVER = 20  # lines
Event: TypeAlias = dict[str, Any]
Listener: TypeAlias = Callable[[Event], None]
Mode: TypeAlias = Literal["auto", "bar", "json", "none"]


class BatchResults(TypedDict):
    """The counts and lists at the end of a batch."""

    num_scans: int  # finished in this run
    total_detections: int  # in these scans
    avg_time: float  # seconds to read, infer and write one scan; wall time is less if these overlap
    failed: dict[str, str]  # path: message
    skipped: list[str]  # paths of scans that were complete already
    notes: dict[str, list[str]]  # path: repairs and omissions of reading, and warnings
    passed_over: dict[str, str]  # path: reason, for what lies in the folder and is no scan


def silent(event: Event) -> None:
    """A listener that ignores all events."""


class ListenerError(Exception):
    """An error that a listener raised, as its cause. It is no fault of the scan."""


def guarded(listener: Listener) -> Listener:
    """The listener. Its errors become `ListenerError`."""

    def notify(event: Event) -> None:
        try:
            listener(event)
        except Exception as error:
            raise ListenerError from error

    return notify


@contextmanager
def as_raised() -> Iterator[None]:
    """Raise the original error of a guarded listener."""
    try:
        yield
    except ListenerError as error:
        raise error.__cause__ or error from None


@contextmanager
def listening(mode: Mode) -> Iterator[Listener]:
    """A listener for any thread: bars on stderr, JSON lines on stdout, or silent.

    `auto` shows bars if stderr is a terminal.
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
    from rich.console import Console  # noqa: PLC0415 - only bars need it
    from rich.progress import (  # noqa: PLC0415
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    transient = console.is_terminal  # no bar stays there, after a failure least of all
    with Progress(*columns, console=console, redirect_stdout=False, transient=transient) as progress:
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


def summary_lines(done: BatchResults, folder: Path) -> list[str]:
    """The last lines of a run: the counts, then warnings, and what was not searched with the reason."""
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
    some = list(done["passed_over"].items())[:MOST_PASSED_OVER]
    passed = [f"passed over: {path}: {reason}" for path, reason in some]
    more = len(done["passed_over"]) - len(passed)
    return [f"{text}; results in {folder}", *notes, *passed, *([f"passed over: {more} more"] if more else [])]
