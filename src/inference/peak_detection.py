"""The documented name of `detection.peak_detection`."""

from ..detection.peak_detection import detect_peaks

__all__ = ["detect_peaks"]
