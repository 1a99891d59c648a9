"""Confines the current process with Landlock (Linux 5.13 and newer), before it reads untrusted files.

The numbers are from linux/landlock.h (https://docs.kernel.org/userspace-api/landlock.html). They are the same on every
architecture. Neither Python nor glibc has functions for these system calls.
"""

import ctypes
import os
import sys
import sysconfig
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

__all__ = ["UNCONFINED", "can_confine", "confine", "end_with_parent", "needed_by_python"]

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446  # system calls
VERSION, PATH_BENEATH = 1, 1  # a flag, and a kind of rule
SET_NO_NEW_PRIVS, SET_PDEATHSIG, SIGKILL = 38, 1, 9  # of prctl
EXECUTE, READ_FILE, READ_DIR = 1 << 0, 1 << 2, 1 << 3
ONLY_OF_FOLDERS = ~(EXECUTE | 1 << 1 | READ_FILE | 1 << 14 | 1 << 15)  # all but execute, write, read, truncate, ioctl
SPECIAL = 1 << 6 | 1 << 9 | 1 << 10 | 1 << 11 | 1 << 12  # making devices, sockets, pipes and symbolic links
# Number of rights on files, on TCP, and of scopes (sockets, signals), by version of the kernel's interface.
FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
TCP_RIGHTS = {4: 3}
SCOPES = {6: 3}
SYSTEM = ("/usr/lib", "/usr/lib64", "/lib", "/lib64", "/usr/local/lib", "/etc/ld.so.cache", "/dev/urandom")
DEVICES = ("/dev/null",)
UNCONFINED = "this kernel has no Landlock (Linux 5.13): a faulty reader of scans could open other files"


class _Ruleset(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("tcp", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


def can_confine() -> bool:
    """Whether the kernel has Landlock, and this process may use it."""
    return _version() > 0


def confine(readable: Iterable[str | Path], writable: Iterable[str | Path]) -> bool:
    """Confine this thread, and those that it starts, to these files and folders.

    In the writable folders it can make files and folders, but no links, pipes, sockets or devices.
    TCP connections are forbidden too, if the kernel supports this. The confinement cannot be undone. Return False, and
    change nothing, if the kernel cannot confine (`can_confine`).

    Raises:
        OSError: the kernel supports it, but refused.
    """
    version = _version()
    if version < 1:
        return False
    files = (1 << _known(FILE_RIGHTS, version)) - 1
    rules = _Ruleset(files, _known(TCP_RIGHTS, version), _known(SCOPES, version))
    ruleset = _call(CREATE_RULESET, ctypes.byref(rules), ctypes.sizeof(rules), 0)
    try:
        for path in readable:
            _allow(ruleset, path, EXECUTE | READ_FILE | READ_DIR)
        for path in (*writable, *DEVICES):
            _allow(ruleset, path, files & ~SPECIAL)
        _libc().prctl(SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        _call(RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)
    return True


def needed_by_python() -> list[str]:
    """The paths of this interpreter, its packages, this package, and the system's libraries."""
    places = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    places |= {
        path for path in sys.path if path.endswith(("site-packages", "dist-packages"))
    }  # a .pth file may add some
    return [*sorted(places), os.path.join(sys.base_prefix, "lib"), str(Path(__file__).parent), *SYSTEM]  # noqa: PTH118


def end_with_parent() -> None:
    """Make the kernel kill this process when its parent ends, however it ends."""
    if sys.platform.startswith("linux"):
        _libc().prctl(SET_PDEATHSIG, SIGKILL, 0, 0, 0)


def _allow(ruleset: int, path: str | Path, rights: int) -> None:
    with suppress(FileNotFoundError):
        parent = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            allowed = rights if os.path.isdir(path) else rights & ~ONLY_OF_FOLDERS  # noqa: PTH112
            rule = _Beneath(allowed, parent)
            _call(ADD_RULE, ruleset, PATH_BENEATH, ctypes.byref(rule), 0)
        finally:
            os.close(parent)


def _version() -> int:
    if not sys.platform.startswith("linux"):
        return 0
    with suppress(OSError):
        return _call(CREATE_RULESET, None, 0, VERSION)
    return 0


def _known(by_version: dict[int, int], version: int) -> int:
    return next((by_version[known] for known in sorted(by_version, reverse=True) if known <= version), 0)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _call(number: int, *arguments: object) -> int:
    result = int(_libc().syscall(number, *arguments))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
