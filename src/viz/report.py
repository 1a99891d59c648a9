# ruff: noqa: ARG001 - the documented arguments of what is not built
"""The PDF report."""

from pathlib import Path

from ..errors import not_built
from .source import DetectionSource

__all__ = ["generate_report"]


def generate_report(scan_path: str | Path, detections: DetectionSource, output_path: str | Path) -> None:
    """Write a PDF report of a scan's nodules.

    Raises:
        NotBuilt: always, until the report exists.
    """
    not_built("the PDF report", "draw a PNG with src.viz.overlay.visualize_detections")
