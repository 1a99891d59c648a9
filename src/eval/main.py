"""The command line: `python -m src.eval.main --predictions P --annotations A --seriesuids S --output DIR`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ..errors import command
from ..logs import Parser, add_log_options, show_log

__all__ = ["main", "make_parser"]

PREDICTIONS = "CSV of marks, or a folder of *_detections.json; several are compared with the first"


@command
def main(arguments: Sequence[str] | None = None) -> None:
    """Evaluate, print a table and write `froc.json`, `froc.csv` and `froc.png`. Returns the exit code.

    Of several detectors each has a folder of its own in the output, and `comparison.json` compares them.
    """
    options = make_parser().parse_args(arguments)
    show_log(options.log)
    from .comparison import save_comparison, side_by_side  # loads numpy, which `--help` does not need
    from .evaluation import evaluate
    from .output import save, table
    from .reports import read_reports
    from .tables import read_findings, read_marks, read_seriesuids

    series = read_seriesuids(options.seriesuids)
    nodules = read_findings(options.annotations, series)
    excluded = read_findings(options.excluded, series, repeats=True) if options.excluded else None
    names = _names(options.predictions)
    results = {}
    for name, path in zip(names, options.predictions, strict=True):
        marks = (read_reports if path.is_dir() else read_marks)(path, series)
        results[name] = evaluate(
            marks, nodules, len(series), excluded, bootstraps=options.bootstraps, seed=options.seed
        )
    if len(results) == 1:
        save(results[names[0]], options.output)
        print(table(results[names[0]].figures))
        return
    for name, result in results.items():
        save(result, options.output / name)
    save_comparison(results, options.output)
    print(side_by_side(results))


def _names(paths: Sequence[Path]) -> list[str]:
    """The last parts of the paths, with numbers if two are the same."""
    stems = [path.resolve().stem for path in paths]
    if len(set(stems)) == len(stems):
        return stems
    return [f"{stem}-{number}" for number, stem in enumerate(stems, start=1)]


def make_parser() -> argparse.ArgumentParser:
    """The parser of this command."""
    parser = Parser(prog="pivot evaluate", description="FROC and CPM by the rules of LUNA16.")
    add = parser.add_argument
    add("--predictions", type=Path, nargs="+", required=True, help=PREDICTIONS)
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
