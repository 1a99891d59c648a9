"""Libraries that read and write files for PIVOT say nothing while they do.

Real files bend the rules in ways that do not matter here, and what pydicom, highdicom or pynetdicom tells of them
may hold patient data. PIVOT checks the same things itself, and raises. The host's own settings are kept.
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
    """What the host has set, and how many contexts are open; of the process, as loggers and filters are."""

    lock = threading.Lock()
    contexts = 0
    levels: dict[str, int] = {}  # noqa: RUF012 - there is one


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """While the context is open the libraries log and warn of nothing; several threads may have one open at once."""
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
