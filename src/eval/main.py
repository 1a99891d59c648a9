"""The command line: `python -m src.eval.main --predictions P --annotations A --seriesuids S --output DIR`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ..errors import command
from ..logs import Parser, add_log_options, show_log

__all__ = ["main"]


@command
def main(arguments: Sequence[str] | None = None) -> None:
    """Evaluate, print a table and write `froc.json`, `froc.csv` and `froc.png`. Returns the exit code."""
    options = _parser().parse_args(arguments)
    show_log(options.log)
    from .evaluation import evaluate  # loads numpy, which `--help` does not need
    from .output import save, table
    from .reports import read_reports
    from .tables import read_findings, read_marks, read_series

    series = read_series(options.seriesuids)
    read = read_reports if options.predictions.is_dir() else read_marks
    result = evaluate(
        read(options.predictions, series),
        read_findings(options.annotations, series),
        len(series),
        read_findings(options.excluded, series, repeats=True) if options.excluded else None,
        bootstraps=options.bootstraps,
        seed=options.seed,
    )
    save(result, options.output)
    print(table(result.figures))


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="pivot evaluate", description="FROC and CPM by the rules of LUNA16.")
    add = parser.add_argument
    add("--predictions", type=Path, required=True, help="CSV of marks, or a folder of *_detections.json")
    add("--annotations", type=Path, required=True, help="CSV of nodules")
    add("--excluded", type=Path, help="CSV of findings whose marks are neither hits nor false")
    add("--seriesuids", type=Path, required=True, help="the ids of all evaluated scans, one a line")
    add("--output", type=Path, required=True, help="folder for froc.json, froc.csv and froc.png")
    add("--bootstraps", type=_count, default=1000, help="draws for the intervals (default: %(default)s; 0: none)")
    add("--seed", type=_count, default=0, help="seed of the draws (default: %(default)s)")
    add_log_options(parser)
    return parser


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        msg = f"{text!r} is not a whole number of 0 or more"
        raise argparse.ArgumentTypeError(msg)
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
