"""A process that compares the scans of two jobs and writes the comparison as JSON. It opens no untrusted scan."""

import argparse
import json
from pathlib import Path
from typing import Any

from ..config import Config
from ..files import write_json
from ..followup.comparison import Interval, compare
from ..followup.exam import Exam
from ..followup.linked import point_maps
from ..followup.registration import register
from ..followup.source import about, version_notes
from ..guidelines.patient import Patient
from ..runs import confined
from .answering import answer, limits_of

__all__ = ["main"]

NO_DAYS = "the days between the examinations were not given"


def main(arguments: list[str] | None = None) -> None:
    """Write `--target`, and print `{}` or `{"error": {"kind": ..., "message": ...}}`."""
    parser = argparse.ArgumentParser(prog="python -m src.api.follow", description="compare two jobs")
    parser.add_argument("followup", type=Path, help="the scan as NIfTI")
    parser.add_argument("--baseline", type=Path, required=True, help="the earlier scan as NIfTI")
    parser.add_argument("--task", type=Path, required=True, help="JSON: the reports `baseline` and `followup`")
    parser.add_argument("--target", type=Path, required=True, help="the file to write")
    parser.add_argument("--days", type=int, help="from baseline to follow-up")
    answer(parser, arguments, _compare)


def _compare(options: argparse.Namespace) -> dict[str, Any]:
    task = json.loads(options.task.read_text(encoding="utf-8"))
    bounds = limits_of(options)
    exams = []
    for name in ("baseline", "followup"):
        scan, _ = confined.read(getattr(options, name), Config(), bounds)
        found = [*task[name]["detections"], *task[name]["masses"]]
        sized = [one for one in found if one["diameter_mm"] is not None]
        exams.append(Exam(scan, sized, about(scan, task[name])))
    baseline, followup = exams
    days = options.days
    interval = Interval(days=days, source=days and "given", reason=None if days else NO_DAYS)
    fit = register(baseline.lungs, followup.lungs)
    notes = version_notes(baseline.about, followup.about)
    result = compare(baseline, followup, interval, Patient(), notes, fit)
    write_json({**result, "links": point_maps(fit, baseline.scan, followup.scan)}, options.target)
    return {}


if __name__ == "__main__":
    main()
