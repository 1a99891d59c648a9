"""How processes end: with the one that they work for, and on a signal."""

import multiprocessing
import os
import signal
import threading
from concurrent.futures import ProcessPoolExecutor

__all__ = ["helpers", "stop_on_signal"]


def helpers(count: int) -> ProcessPoolExecutor:
    """A pool of processes that end when this one does, even if it is killed; Ctrl-C ends this one alone.

    They are spawned, because a process that runs torch's threads does not survive a fork.
    """
    return ProcessPoolExecutor(count, multiprocessing.get_context("spawn"), _serve)


def stop_on_signal(stopping: threading.Event) -> None:
    """Set the event when SIGTERM or SIGINT comes."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())


def _serve() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)
