"""The command line: `pivot export --results results/scan_detections.json --scan scan.nii.gz --format slicer`."""

import argparse
import sys
from collections.abc import Sequence

from ..errors import command
from ..exports import EXPORTS
from ..logs import Parser, add_log_options, show_log
from .options import path

__all__ = ["main", "make_parser"]


@command
def main(arguments: Sequence[str] | None = None) -> None:
    """Write the results of an earlier run for other programs. Return the exit code."""
    options = make_parser().parse_args(arguments)
    show_log(options.log)
    from ..data.loader import read_scan
    from ..runs.again import export_again

    folder = options.output or options.results.parent
    for written in export_again(options.results, read_scan(options.scan), options.scan, options.format, folder):
        print(written)


def make_parser() -> argparse.ArgumentParser:
    """The parser of this command."""
    parser = Parser(
        prog="pivot export",
        description="Write the results of an earlier run for other programs, without a second run.",
    )
    add = parser.add_argument
    add("--results", type=path, required=True, help="the *_detections.json of the earlier run")
    add("--scan", type=path, required=True, help="the scan that was searched")
    add("--format", action="append", required=True, choices=EXPORTS, metavar="FORMAT", help=", ".join(EXPORTS))
    add("--output", type=path, help="folder for the files (default: that of the results)")
    add_log_options(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
