"""A process that measures one nodule of a job's scan and prints JSON. A confined process reads the scan for it."""

import argparse
from pathlib import Path
from typing import Any

from ..runs import confined
from .answering import answer, limits_of

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> None:
    """Print `{"nodule": ...}`, or `{"error": {"kind": ..., "message": ...}}`."""
    parser = argparse.ArgumentParser(prog="python -m src.api.measure", description="measure one nodule of a scan")
    parser.add_argument("scan", type=Path)
    parser.add_argument("--place", required=True, help="LPS mm: x,y,z")
    answer(parser, arguments, _measure)


def _measure(options: argparse.Namespace) -> dict[str, Any]:
    x, y, z = (float(value) for value in options.place.split(","))
    return {"nodule": confined.measure(options.scan, (x, y, z), limits_of(options))}


if __name__ == "__main__":
    main()
