"""The command line: `python -m src.inference.compare --baseline A --followup B`.

A and B are scans, or results of earlier runs with their scans. The exit code is 0, or that of the error.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import command
from ..files import writable_folder
from ..logs import Parser, add_log_options, show_log

# Other modules are imported on demand: torch takes seconds, and `--help` must not wait for it.
if TYPE_CHECKING:
    from ..followup.source import GivenScan
    from ..types import Report

__all__ = ["main", "make_parser"]


@command
def main(arguments: Sequence[str] | None = None) -> None:
    """Compare two examinations, print a table and write all files. Return the exit code."""
    options = make_parser().parse_args(arguments)
    show_log(options.log)
    print(_compare(options))


def _compare(options: argparse.Namespace) -> str:
    from ..followup.comparison import compare
    from ..followup.exam import Exam
    from ..followup.output import text_table, write_comparison
    from ..followup.source import about, interval_between, open_given, version_notes
    from ..guidelines.patient import load_patient

    patient = load_patient(options.patient)
    writable_folder(options.output)
    given = (
        open_given(options.baseline, options.baseline_scan),
        open_given(options.followup, options.followup_scan),
    )
    interval = interval_between(*given, options.interval_days)
    reports = _reports(given, options)
    baseline, followup = (
        Exam(one.scan, [*report["detections"], *report.get("masses", [])], about(one.scan, report))
        for one, report in zip(given, reports, strict=True)
    )
    notes = version_notes(baseline.about, followup.about)
    result = compare(baseline, followup, interval, patient, notes)
    write_comparison(result, baseline, followup, options.output)
    return f"{text_table(result)}\nresults in {options.output}"


def _reports(given: "Sequence[GivenScan]", options: argparse.Namespace) -> "list[Report]":
    """The nodules of both scans. A scan without a report of an earlier run is searched now."""
    if all(one.report for one in given):
        return [one.report for one in given if one.report]
    from ..detection.pipeline import InferencePipeline

    pipeline = InferencePipeline(options.checkpoint, options.config, options.device)
    return [one.report or pipeline.predict(one.scan) for one in given]


def make_parser() -> argparse.ArgumentParser:
    """The parser of this command."""
    parser = Parser(
        prog="pivot compare",
        description="Compare the nodules of two chest CT scans of a patient. Research software, not a medical device.",
    )
    add = parser.add_argument
    what = "a scan, or a *_detections.json or results folder of an earlier run"
    add("--baseline", type=Path, required=True, help=f"the earlier examination: {what}")
    add("--followup", type=Path, required=True, help=f"the later examination: {what}")
    add("--baseline-scan", type=Path, help="the scan of the baseline's results, where it is not beside them")
    add("--followup-scan", type=Path, help="the scan of the follow-up's results, where it is not beside them")
    add("--output", type=Path, default=Path("results"), help="folder for the files (default: %(default)s)")
    add("--interval-days", type=_days, help="between the scans (default: from their DICOM dates)")
    add("--patient", type=Path, help="YAML file about the patient, for the guidelines; never written out")
    add("--checkpoint", type=Path, help="model file (default: model.checkpoint of the config, or the shipped one)")
    add("--config", type=Path, help="YAML file, such as configs/inference.yaml")
    add("--device", help="auto, cpu, cuda, cuda:1 or mps (default: model.device of the config)")
    add_log_options(parser)
    return parser


def _days(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) == 0:
        msg = f"{text!r} is not a whole number of days of at least 1"
        raise argparse.ArgumentTypeError(msg)
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
