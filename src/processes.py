"""How processes end, with the one that they work for and on a signal; and how much memory they may take."""

import multiprocessing
import os
import signal
import socket
import sys
import threading
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from pathlib import Path

__all__ = ["helpers", "limit_memory", "memory_of_machine", "stop_on_signal"]

STOPPING = {int(signal.SIGTERM), int(signal.SIGINT)}
CGROUP = Path("/proc/self/cgroup")
CGROUPS = Path("/sys/fs/cgroup")


def helpers(count: int) -> ProcessPoolExecutor:
    """A pool of processes that end when this one does, even if it is killed; Ctrl-C ends this one alone.

    They are spawned, because a process that runs torch's threads does not survive a fork.
    """
    return ProcessPoolExecutor(count, multiprocessing.get_context("spawn"), _serve)


def stop_on_signal(stopping: threading.Event) -> None:
    """Set the event when SIGTERM or SIGINT comes; to be called in the main thread.

    A handler must not set it: Python runs handlers in the main thread, perhaps while that holds the event's own lock to
    wait for it, and both would wait for ever. So the number of the signal goes through a socket to a thread.
    """
    numbers, arriving = socket.socketpair()
    arriving.settimeout(0)  # Python demands one that does not block
    signal.set_wakeup_fd(arriving.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=_stop, args=(numbers, arriving, stopping), daemon=True).start()
    for number in STOPPING:
        signal.signal(number, lambda *_: None)


def memory_of_machine() -> int | None:
    """Bytes of memory that this machine, or the container that this is, has; None where nothing tells."""
    found = []
    with suppress(OSError, ValueError, AttributeError):
        found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    with suppress(OSError, ValueError):  # of a container, or of a service of systemd
        own = CGROUPS / CGROUP.read_text().rpartition("::/")[2].strip()
        limits = [folder / "memory.max" for folder in (own, *own.parents) if folder.is_relative_to(CGROUPS)]
        for path in (*limits, CGROUPS / "memory/memory.limit_in_bytes"):
            with suppress(OSError, ValueError):  # none, or `max`
                found.append(int(path.read_text()))
    return min(found, default=None)


def limit_memory(count: int | None) -> None:
    """Let this process and those that it starts have `count` bytes of data each at most: then memory runs out.

    Address space would be the wrong measure, of which GPU drivers set aside far more than they use.
    """
    if count is None or not sys.platform.startswith("linux"):
        return
    import resource  # noqa: PLC0415 - not everywhere

    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    least = count if most == resource.RLIM_INFINITY else min(count, most)
    resource.setrlimit(resource.RLIMIT_DATA, (least, most))


def _stop(numbers: socket.socket, _arriving: socket.socket, stopping: threading.Event) -> None:
    """Wait for signals that stop, for as long as the process lives: Python writes into the socket till then."""
    while True:
        if set(numbers.recv(64)) & STOPPING:
            stopping.set()


def _serve() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)
