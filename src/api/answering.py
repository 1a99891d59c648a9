"""The common part of the processes that the server starts for one answer: their limits, and their output format."""

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import BadScan, PivotError
from ..runs import confined
from ..sandbox import end_with_parent

__all__ = ["answer", "limits_of"]


def answer(
    parser: argparse.ArgumentParser, arguments: list[str] | None, act: Callable[[argparse.Namespace], dict[str, Any]]
) -> None:
    """Print what `act` returns for the options, or its error as `{"error": {"kind": ..., "message": ...}}`."""
    end_with_parent()
    parser.add_argument("--scratch", type=Path, required=True, help="folder for temporary files")
    parser.add_argument("--seconds", type=float, required=True, help="the limit")
    parser.add_argument("--memory", type=int, help="bytes (default: no limit)")
    options = parser.parse_args(arguments)
    try:
        found = act(options)
    except PivotError as error:
        kind = "BadScan" if isinstance(error, BadScan) else "PivotError"
        found = {"error": {"kind": kind, "message": str(error)}}
    sys.stdout.write(json.dumps(found))


def limits_of(options: argparse.Namespace) -> confined.ProcessLimits:
    """Apply the limits of the confined process from now on."""
    until = time.monotonic() + options.seconds

    def check() -> None:
        if time.monotonic() > until:
            msg = f"it took longer than {options.seconds:.0f} s"
            raise PivotError(msg)

    return confined.ProcessLimits(options.scratch, options.memory, check)
