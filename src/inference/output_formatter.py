"""The documented name of `results.output_formatter`."""

from ..results.output_formatter import load_detections

__all__ = ["load_detections"]
