"""A process that measures one nodule of a job's scan, and prints it as JSON. The server starts it: it reads no scan."""

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

__all__ = ["bounds_of", "limits", "main", "said"]


def limits(parser: argparse.ArgumentParser) -> None:
    """Add the options of the limits, which `bounds_of` reads."""
    parser.add_argument("--scratch", type=Path, required=True, help="folder for temporary files")
    parser.add_argument("--seconds", type=float, required=True, help="the limit")
    parser.add_argument("--memory", type=int, help="bytes (default: no limit)")


def bounds_of(options: argparse.Namespace) -> confined.Bounds:
    """The limits of the confined process, from now on."""
    until = time.monotonic() + options.seconds

    def check() -> None:
        if time.monotonic() > until:
            msg = f"it took longer than {options.seconds:.0f} s"
            raise PivotError(msg)

    return confined.Bounds(options.scratch, options.memory, check)


def said(act: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `act` returns, or its error as `{"error": {"kind": ..., "message": ...}}`."""
    try:
        return act()
    except PivotError as error:
        return {"error": {"kind": "BadScan" if isinstance(error, BadScan) else "PivotError", "message": str(error)}}


def main(arguments: list[str] | None = None) -> None:
    """Print `{"nodule": ...}`, or `{"error": {"kind": ..., "message": ...}}`."""
    end_with_parent()
    parser = argparse.ArgumentParser(prog="python -m src.api.measure", description="measure one nodule of a scan")
    parser.add_argument("scan", type=Path)
    parser.add_argument("--place", required=True, help="LPS mm: x,y,z")
    limits(parser)
    options = parser.parse_args(arguments)
    x, y, z = (float(value) for value in options.place.split(","))
    answer = said(lambda: {"nodule": confined.measure(options.scan, (x, y, z), bounds_of(options))})
    sys.stdout.write(json.dumps(answer))


if __name__ == "__main__":
    main()
