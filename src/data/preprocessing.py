"""A scan as a network sees it."""

from typing import Literal

import numpy as np

from ..types import Preprocessed, Scan, Vec3
from .geometry import canonical
from .intensity import normalize_intensity
from .resample import resample

__all__ = ["preprocess"]


def preprocess(
    scan: Scan, spacing: Vec3, clip_range: tuple[float, float], method: Literal["minmax", "zscore"] | None
) -> Preprocessed:
    """The scan with axes to left, back and head, on a grid of `spacing` mm, clipped and normalised.

    Whatever order and direction the file's axes have, the network sees the same volume.
    """
    array, affine = canonical(scan.array, scan.affine)
    resampled, affine = resample(array, affine, spacing)
    if np.shares_memory(resampled, scan.array):
        resampled = resampled.copy()
    return Preprocessed(normalize_intensity(resampled, clip_range, method), affine)
