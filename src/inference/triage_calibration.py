"""The documented name of `triage.calibration`."""

from ..triage.calibration import calibrate_scores

__all__ = ["calibrate_scores"]
