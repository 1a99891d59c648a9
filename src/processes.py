"""Processes that work for this one and end with it."""

import multiprocessing
import os
import signal
import threading
from concurrent.futures import ProcessPoolExecutor

__all__ = ["helpers"]


def helpers(count: int) -> ProcessPoolExecutor:
    """A pool of processes that end when this one does, even if it is killed; Ctrl-C ends this one alone.

    They are spawned, because a process that runs torch's threads does not survive a fork.
    """
    return ProcessPoolExecutor(count, multiprocessing.get_context("spawn"), _serve)


def _serve() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)
