"""The documented name of `triage.calibration`."""

from pathlib import Path

from ..results.output_formatter import GivenDetections, marks_of
from ..triage import calibration
from ..types import Detection

__all__ = ["calibrate_scores"]


def calibrate_scores(detections: GivenDetections, calibration_file: str | Path) -> list[Detection]:
    """`triage.calibration.calibrate_scores` of a list of detections or peaks, a report, or the path of its JSON.

    Raises:
        BadConfig: the calibration file is missing, damaged or not monotone.
        BadOutput: the input has no detections, or a score outside 0..1.
    """
    return calibration.calibrate_scores(marks_of(detections), calibration_file)
