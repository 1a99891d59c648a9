"""The documented name of `detection.sliding_window`."""

from ..detection.sliding_window import sliding_window_inference

__all__ = ["sliding_window_inference"]
