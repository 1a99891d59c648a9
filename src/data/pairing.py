"""Checks that inputs match: an array and its spacing, a scan and the results of a scan."""

from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import BadScan
from ..types import Affine, Shape3
from .geometry import map_points, spacing_of

__all__ = ["check_spacing", "is_same_grid", "overlap"]

SAME_PLACE = 0.5  # mm; rounding explains smaller shifts


def check_spacing(array: npt.NDArray[Any], spacing: npt.ArrayLike) -> None:
    """Refuse a spacing (mm, along x, y, z) that contradicts the array's own `affine`, if it has one.

    Raises:
        BadScan: the two differ.
    """
    own: Affine | None = getattr(array, "affine", None)
    if own is not None and not np.allclose(spacing_of(own), spacing, rtol=1e-3):
        given, steps = np.asarray(spacing, np.float64).tolist(), [round(step, 4) for step in spacing_of(own)]
        msg = f"the spacing {given} contradicts the scan's own {steps}: give that, or the right scan"
        raise BadScan(msg)


def is_same_grid(shape: Shape3, affine: Affine, other_shape: Shape3, other: Affine) -> bool:
    """Whether two grids have the same shape, and each voxel in the same place to half a millimetre."""
    if tuple(shape) != tuple(other_shape):
        return False
    corners = _corners(shape, 0.0)
    return bool(np.abs(map_points(affine, corners) - map_points(other, corners)).max() <= SAME_PLACE)


def overlap(shape: Shape3, affine: Affine, other_shape: Shape3, other: Affine) -> float:
    """Intersection over union (0..1) of the bounding boxes of two grids, along the world's axes."""
    one, two = (map_points(on, _corners(size, 0.5)) for on, size in ((affine, shape), (other, other_shape)))
    sides = np.minimum(one.max(0), two.max(0)) - np.maximum(one.min(0), two.min(0))
    common = float(np.prod(np.clip(sides, 0, None)))
    return common / (float(np.prod(np.ptp(one, axis=0)) + np.prod(np.ptp(two, axis=0))) - common)


def _corners(shape: Shape3, beyond: float) -> npt.NDArray[np.float64]:
    """The indices of a grid's eight corners, moved outwards by a number of voxels: (8, 3)."""
    return np.array(list(product(*((-beyond, size - 1 + beyond) for size in shape))), dtype=np.float64)
