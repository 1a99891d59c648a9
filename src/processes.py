"""Helper processes, stopping on a signal, and the limits of memory and processors."""

import math
import multiprocessing
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from pathlib import Path

__all__ = ["helpers", "limit_memory", "memory_of_machine", "openmp_settings", "stop_on_signal"]

STOPPING = {int(signal.SIGTERM), int(signal.SIGINT)}
CGROUP = Path("/proc/self/cgroup")
CGROUPS = Path("/sys/fs/cgroup")
CPU = "cpu/cpu.cfs_"  # files of version 1


def helpers(count: int) -> ProcessPoolExecutor:
    """A pool of processes that end when this one does, even if it is killed. They ignore Ctrl-C.

    They are spawned, because a fork of a process with torch's threads may hang.
    """
    return ProcessPoolExecutor(count, multiprocessing.get_context("spawn"), _serve)


def stop_on_signal(stopping: threading.Event) -> None:
    """Set the event when SIGTERM or SIGINT comes. Call this in the main thread.

    A signal handler must not set the event. Python runs handlers in the main thread, which may hold the event's lock
    while it waits for the event: a deadlock. So the signal's number goes through a socket to another thread.
    """
    numbers, arriving = socket.socketpair()
    arriving.settimeout(0)  # Python requires a non-blocking socket
    signal.set_wakeup_fd(arriving.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=_stop, args=(numbers, arriving, stopping), daemon=True).start()
    for number in STOPPING:
        signal.signal(number, lambda *_: None)


def memory_of_machine() -> int | None:
    """The bytes of memory of this machine or container; None if unknown."""
    found = []
    with suppress(OSError, ValueError, AttributeError):
        found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for limit in (*_limits("memory.max"), *_limits("memory/memory.limit_in_bytes")):
        with suppress(ValueError):  # `max`
            found.append(int(limit))
    return min(found, default=None)


def openmp_settings() -> dict[str, str]:
    """Environment variables for a process that will import torch. Variables that are set already keep their values.

    Waiting threads sleep. If they spin, as by default, they take time from other processes on a busy machine. The
    number of threads is at most the CPU quota of the container or of systemd's service, which torch does not know.
    """
    settings = {"OMP_WAIT_POLICY": "PASSIVE"}
    quotas = [tuple(line.split()) for line in _limits("cpu.max")]
    quotas += zip(_limits(f"{CPU}quota_us"), _limits(f"{CPU}period_us"), strict=False)
    cores = [math.ceil(int(quota) / int(period)) for quota, period in quotas if quota not in ("max", "-1")]
    if cores and min(cores) < (os.cpu_count() or 1):
        settings["OMP_NUM_THREADS"] = str(max(1, min(cores)))
    return {name: os.environ.get(name, value) for name, value in settings.items()}


def _limits(name: str) -> Iterator[str]:
    """The content of the control groups' files of this name that hold for this process: versions 2 and 1."""
    with suppress(OSError, ValueError):
        own = CGROUPS / CGROUP.read_text().rpartition("::/")[2].strip()
        for folder in (own, *own.parents):
            if folder.is_relative_to(CGROUPS):
                with suppress(OSError):
                    yield (folder / name).read_text().strip()


def limit_memory(count: int | None) -> None:
    """Limit this process, and each process that it starts, to `count` bytes of data.

    The address space is not limited, because GPU drivers reserve far more of it than they use.
    """
    if count is None or not sys.platform.startswith("linux"):
        return
    import resource  # noqa: PLC0415 - not everywhere

    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    least = count if most == resource.RLIM_INFINITY else min(count, most)
    resource.setrlimit(resource.RLIMIT_DATA, (least, most))


def _stop(numbers: socket.socket, _arriving: socket.socket, stopping: threading.Event) -> None:
    """Wait for stopping signals until the process ends. Python writes into the other socket, which must stay open."""
    while True:
        if set(numbers.recv(64)) & STOPPING:
            stopping.set()


def _serve() -> None:
    os.environ.update(openmp_settings())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)
