"""All errors that a user can cause, each with its exit code (command line) and status (HTTP).

    PivotError           1  500
    ├── BadConfig        2  422   a YAML key, value or command-line combination
    ├── BadScan          3  422   unreadable, not a CT, not a volume, broken geometry
    ├── BadCheckpoint    4  500   not a PIVOT model, damaged, or at odds with the config
    ├── BadOutput        5  500   results cannot be written or read back
    ├── NoLungs          6  500   nothing is found in the scan, but no lungs are recognised either
    └── SomeScansFailed  7  500   a batch finished, but not for every scan

A message states what is wrong, where, and what to do.
"""

import errno
import functools
import os
import sys
import traceback
from collections.abc import Callable
from typing import ParamSpec

__all__ = [
    "OUT_OF_MEMORY",
    "BadCheckpoint",
    "BadConfig",
    "BadOutput",
    "BadScan",
    "NoLungs",
    "PivotError",
    "SomeScansFailed",
    "command",
    "lacking",
    "way_to",
]

_P = ParamSpec("_P")
RESOURCES = {
    getattr(errno, name)
    for name in ["EACCES", "EAGAIN", "EDQUOT", "EIO", "EMFILE", "ENFILE", "ENOMEM", "ENOSPC", "EROFS"]
}

OUT_OF_MEMORY = ("out of memory", "DefaultCPUAllocator")  # in the messages of CUDA and MPS, and of the CPU
NO_THREAD = "can't start new thread"


class PivotError(Exception):
    """The base of all errors that PIVOT raises on purpose."""

    exit_code = 1
    status = 500


class BadConfig(PivotError):
    """A configuration that cannot be used. The message gives the key's path."""

    exit_code = 2
    status = 422


class BadScan(PivotError):
    """A scan that cannot be read as a chest CT volume."""

    exit_code = 3
    status = 422


class BadCheckpoint(PivotError):
    """A model file that cannot be loaded safely, or does not fit the configuration."""

    exit_code = 4


class BadOutput(PivotError):
    """Results that cannot be written or read back."""

    exit_code = 5


class NoLungs(PivotError):
    """A run that finished and found nothing in a scan without recognised lungs. That says nothing about nodules."""

    exit_code = 6


class SomeScansFailed(PivotError):
    """A batch that finished with at least one failed scan."""

    exit_code = 7


def way_to(error: BaseException) -> str:
    """The places where an error was raised, and those of its causes, by their types.

    Messages are left out: they may hold the name of a file or a patient.
    """
    frames = traceback.extract_tb(error.__traceback__)
    places = " > ".join(f"{os.path.basename(frame.filename)}:{frame.lineno} {frame.name}" for frame in frames)  # noqa: PTH119
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return f"{places}; cause: {type(cause).__name__} ({way_to(cause)})" if cause else places


def lacking(error: BaseException) -> MemoryError | OSError | None:
    """The missing resource (memory, disk, file handles or threads) in an error's chain of causes, or None.

    A missing resource is not the input's fault.
    """
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, MemoryError) or (isinstance(seen, OSError) and seen.errno in RESOURCES):
            return seen
        if isinstance(seen, RuntimeError) and any(sign in str(seen) for sign in OUT_OF_MEMORY):
            return MemoryError(str(seen))
        if isinstance(seen, RuntimeError) and NO_THREAD in str(seen):
            return OSError(errno.EAGAIN, NO_THREAD)
        seen = seen.__cause__ or seen.__context__
    return None


def command(main: Callable[_P, int | None]) -> Callable[_P, int]:
    """A command line's `main` that returns an exit code: its own, or 0.

    A `PivotError` is written to stderr in one line, and sets the exit code.
    """

    @functools.wraps(main)
    def run(*args: _P.args, **kwargs: _P.kwargs) -> int:
        try:
            return main(*args, **kwargs) or 0
        except PivotError as error:
            sys.stderr.write(f"error: {error}\n")
            return error.exit_code

    return run
