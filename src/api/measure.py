"""A process that measures one nodule of a job's scan, and prints it as JSON. The server starts it: it reads no scan."""

import argparse
import json
import sys
import time
from pathlib import Path

from ..errors import BadScan, PivotError
from ..runs import confined
from ..sandbox import end_with_parent

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> None:
    """Print `{"nodule": ...}`, or `{"error": {"kind": ..., "message": ...}}`."""
    end_with_parent()
    parser = argparse.ArgumentParser(prog="python -m src.api.measure", description="measure one nodule of a scan")
    parser.add_argument("scan", type=Path)
    parser.add_argument("--place", required=True, help="LPS mm: x,y,z")
    parser.add_argument("--scratch", type=Path, required=True, help="folder for temporary files")
    parser.add_argument("--seconds", type=float, required=True, help="the limit")
    parser.add_argument("--memory", type=int, help="bytes (default: no limit)")
    options = parser.parse_args(arguments)
    until = time.monotonic() + options.seconds

    def check() -> None:
        if time.monotonic() > until:
            msg = f"measuring took longer than {options.seconds:.0f} s"
            raise PivotError(msg)

    x, y, z = (float(value) for value in options.place.split(","))
    try:
        bounds = confined.Bounds(options.scratch, options.memory, check)
        answer = {"nodule": confined.measure(options.scan, (x, y, z), bounds)}
    except PivotError as error:
        answer = {"error": {"kind": "BadScan" if isinstance(error, BadScan) else "PivotError", "message": str(error)}}
    sys.stdout.write(json.dumps(answer))


if __name__ == "__main__":
    main()
