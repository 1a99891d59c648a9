"""Silences libraries while they read and write files for PIVOT.

Real files break rules in ways that do not matter here. Messages of pydicom, highdicom or pynetdicom about them may
contain patient data. PIVOT checks the same things itself, and raises errors. The host's settings are restored.
"""

import logging
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["LOGGERS", "quiet_libraries"]

LOGGERS = ("highdicom", "nibabel.global", "pydicom", "pynetdicom", "python_multipart")
IGNORED = ("ignore", None, Warning, re.compile("pydicom"), 0)  # in `warnings.filters`


class _Hosts:
    """The host's settings, and the number of open contexts, for the whole process."""

    lock = threading.Lock()
    contexts = 0
    levels: dict[str, int] = {}  # noqa: RUF012 - there is one


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Silence the libraries' logs and warnings while the context is open. Several threads may use it at once."""
    with _Hosts.lock:
        if not _Hosts.contexts:
            _Hosts.levels = {name: logging.getLogger(name).level for name in LOGGERS}
            for name in LOGGERS:
                logging.getLogger(name).setLevel(logging.CRITICAL)
        _Hosts.contexts += 1
        if IGNORED not in warnings.filters[:1]:
            warnings.filters.insert(0, IGNORED)  # type: ignore[attr-defined] # a list, whatever its stub says
    try:
        yield
    finally:
        with _Hosts.lock:
            _Hosts.contexts -= 1
            if not _Hosts.contexts:
                for name, level in _Hosts.levels.items():
                    logging.getLogger(name).setLevel(level)
                warnings.filters[:] = [one for one in warnings.filters if one is not IGNORED]  # type: ignore[index]
