"""What a command writes to stderr while it works: one convention for all command lines.

Warnings and errors by default, in training also its progress; `--quiet`: errors alone; `--verbose`, or PIVOT_LOG=debug
in the environment: everything. Only commands set this; modules log to the logger "pivot" or one below it. What names
the scan goes to "pivot.scan", which the service turns off, for a scan may be called after a patient.
"""

import argparse
import logging
import os

from .errors import BadConfig

__all__ = ["add_log_options", "show_log"]

LEVELS = ("debug", "info", "warning", "error")


def add_log_options(parser: argparse.ArgumentParser) -> None:
    """The options `--quiet` and `--verbose`, which exclude each other."""
    one = parser.add_mutually_exclusive_group()
    one.add_argument("--quiet", dest="log", action="store_const", const="error", help="no warnings on stderr")
    one.add_argument("--verbose", dest="log", action="store_const", const="debug", help="tell more on stderr")


def show_log(chosen: str | None, default: str = "warning") -> None:
    """Log to stderr from the chosen level on; without one, from that which PIVOT_LOG names, else from `default`.

    Raises:
        BadConfig: PIVOT_LOG names none.
    """
    level = chosen or os.environ.get("PIVOT_LOG", default).lower()
    if level not in LEVELS:
        msg = f"PIVOT_LOG is {level!r}: use one of {', '.join(LEVELS)}"
        raise BadConfig(msg)
    logging.basicConfig(format="%(levelname)s: %(message)s")
    logging.getLogger("pivot").setLevel(level.upper())
