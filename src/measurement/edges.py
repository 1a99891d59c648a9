"""Estimates the blur of slices from a nodule's own edge. Voxel sizes do not reveal it if slices overlap."""

import numpy as np
from scipy import ndimage

from ..types import FloatArray
from .masks import Mask

__all__ = ["slice_blur"]

ALONG = 0.8  # cosine between an edge's normal and the axis that it counts for
LEAST = 12  # least number of edge voxels for an estimate
THICKEST = 8.0  # mm


def slice_blur(smooth: FloatArray, body: Mask, other: Mask, lung: float, step: float, axis: int) -> float:
    """The slice thickness in mm that explains the blur of a nodule's edge along `axis`; 0 without blur.

    `smooth` (X, Y, Z) in HU is isotropic with `step` mm. A nodule's edge may itself be soft, but equally in all
    directions. So the extra width along one axis comes from the slices. A step blurred with SD s has a slope of its
    height / (s sqrt(2 pi)), and slices of t mm have an SD of t / sqrt(12).
    """
    core = float(np.percentile(smooth[body], 75))
    dense = body & (smooth > (core + lung) / 2)  # without a rim of ground-glass or of blur
    gradient = np.array(np.gradient(smooth, step))
    slope = np.sqrt((gradient**2).sum(axis=0))
    # Within half a millimetre of the boundary, away from vessels and walls.
    near = max(1, round(0.5 / step))
    edge = ndimage.binary_dilation(dense, iterations=near) & ~ndimage.binary_erosion(dense, iterations=near)
    edge &= ~ndimage.binary_dilation(other, iterations=2 * near) & (slope > 0)
    if not edge.any():
        return 0.0
    towards = np.abs(gradient[axis][edge]) / slope[edge]
    steep = slope[edge]
    along, across = steep[towards > ALONG], steep[towards < 1 - ALONG]
    if min(along.size, across.size) < LEAST:
        return 0.0
    wide, narrow = ((core - lung) / (np.sqrt(2 * np.pi) * np.percentile(part, 75)) for part in (along, across))
    return float(min(np.sqrt(12 * max(wide**2 - narrow**2, 0.0)), THICKEST))
