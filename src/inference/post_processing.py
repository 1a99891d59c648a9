"""The documented name of `detection.post_processing`."""

from ..detection.post_processing import non_maximum_suppression

__all__ = ["non_maximum_suppression"]
