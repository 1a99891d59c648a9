"""The boxes of findings on the scan's voxel grid."""

import numpy as np
import numpy.typing as npt

from ..types import Scan
from .found import Finding

__all__ = ["box_of", "mask_of"]


def mask_of(one: Finding, scan: Scan) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.intp]]:
    """The voxels of a finding and the index of the first one. Without a mask: the ball of its diameter."""
    if one.mask is not None:
        return one.mask.voxels, np.array(one.mask.origin)
    centre = np.divide(one.found["coordinates"], scan.spacing)
    reach = one.found["diameter_mm"] / 2 / np.array(scan.spacing)
    low = np.clip(np.floor(centre - reach).astype(int), 0, np.array(scan.shape) - 1)
    high = np.clip(np.ceil(centre + reach).astype(int) + 1, low + 1, scan.shape)
    index = np.moveaxis(np.indices(high - low), 0, -1) + low
    away = np.linalg.norm((index - centre) * scan.spacing, axis=-1)
    return away <= max(one.found["diameter_mm"] / 2, float(away.min())), low


def box_of(one: Finding, scan: Scan) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """The index of a finding's first voxel, and the index after the last one, along x, y and z."""
    voxels, origin = mask_of(one, scan)
    inside = np.argwhere(voxels)
    return inside.min(axis=0) + origin, inside.max(axis=0) + 1 + origin
