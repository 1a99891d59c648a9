"""Prepares a scan for a network."""

from typing import Literal

import numpy as np

from ..types import Preprocessed, Scan, Vec3
from .geometry import canonical, map_points
from .intensity import normalize_intensity
from .resample import Box, resample

__all__ = ["preprocess"]


def preprocess(
    scan: Scan,
    spacing: Vec3,
    clip_range: tuple[float, float],
    method: Literal["minmax", "zscore"] | None,
    box: Box | None = None,
) -> Preprocessed:
    """The scan, or a box of it: axes to left, back and head, resampled to `spacing` mm, clipped and normalised.

    The result does not depend on the order and the direction of the file's axes.
    """
    array, affine = canonical(scan.array, scan.affine)
    whole = method == "zscore"  # mean and deviation are those of the whole volume
    resampled, moved = resample(array, affine, spacing, None if whole else box)
    if np.shares_memory(resampled, scan.array):
        resampled = resampled.copy()
    normalized = normalize_intensity(resampled, clip_range, method)
    if whole and box is not None:
        moved = moved.copy()
        moved[:3, 3] = map_points(moved, [side.start for side in box])
        normalized = normalized[box]
    return Preprocessed(normalized, moved)
