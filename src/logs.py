"""The common options of all command lines, and their logging to stderr.

By default commands show warnings and errors; training also shows its progress. `--quiet` shows errors only. `--verbose`
(or PIVOT_LOG=debug) shows everything. Only commands set this up. Modules log to the logger "pivot" or one below it.
Messages that name a scan go to "pivot.scan". The service turns it off, because a scan's name may be a patient's.
"""

import argparse
import logging
import os
from typing import Any, NoReturn

from .errors import BadConfig

__all__ = ["Parser", "add_log_options", "show_log"]

LEVELS = ("debug", "info", "warning", "error")


class Parser(argparse.ArgumentParser):
    """A parser that raises `BadConfig` for errors. Options cannot be abbreviated."""

    def __init__(self, **options: Any) -> None:  # noqa: ANN401 - argparse's
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        """Raise `BadConfig`."""
        msg = f"{message} (see --help)"
        raise BadConfig(msg)


def add_log_options(parser: argparse.ArgumentParser) -> None:
    """Add the options `--quiet` and `--verbose`, which exclude each other."""
    one = parser.add_mutually_exclusive_group()
    one.add_argument("--quiet", dest="log", action="store_const", const="error", help="no warnings on stderr")
    one.add_argument("--verbose", dest="log", action="store_const", const="debug", help="more messages on stderr")


def show_log(chosen: str | None, default: str = "warning") -> None:
    """Log to stderr from the chosen level on. Without one, use PIVOT_LOG's level, else `default`.

    Raises:
        BadConfig: PIVOT_LOG is no level.
    """
    level = chosen or os.environ.get("PIVOT_LOG", default).lower()
    if level not in LEVELS:
        msg = f"PIVOT_LOG is {level!r}: use one of {', '.join(LEVELS)}"
        raise BadConfig(msg)
    logging.basicConfig(format="%(levelname)s: %(message)s")
    logging.getLogger("pivot").setLevel(level.upper())
