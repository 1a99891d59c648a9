"""How a run tells what it is doing: as events, which a listener shows as bars or writes as JSON lines.

Every event has `event`, its kind; all but the last two have `scan`, the path as it was given:

    start     index (from 1), total             its inference begins
    windows   done, total                       of the passes of the network over it
    finished  scan_id, detections (a count), seconds, outputs (paths)
    skipped   -                                 complete from an earlier run (`--resume`)
    failed    error (a type), message
    demo      nodules (of `--demo`: diameter_mm, nodule_type, and found_mm and confidence, null where missed)
    summary   num_scans, total_detections, avg_time, failed (path to message), skipped (paths)

`finished` and `failed` may come after the next scan's `start`, because files are written beside inference.
"""

import json
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, TypeAlias

__all__ = ["Event", "Listener", "Mode", "listening", "silent"]

Event: TypeAlias = dict[str, Any]
Listener: TypeAlias = Callable[[Event], None]
Mode: TypeAlias = Literal["auto", "bar", "json", "none"]


def silent(event: Event) -> None:
    """A listener that tells nobody."""


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
