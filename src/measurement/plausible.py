"""Tells whether a segmented body can be a mark's nodule, or is the wall, the bone or the vessel beside it."""

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from ..data.geometry import sphere_diameter
from ..types import FloatArray, Vec3
from .cube import sample_cube
from .segmentation import Segmentation

__all__ = ["TOO_SMALL", "doubt"]

# Ratios to the mark's diameter. The network's diameters of 99 unseen nodules are 0.78 to 1.29 times the readers'. The
# measured ones are at least 0.69 times the network's, but for one wrong measurement at 0.52 (docs/evaluation.md).
TOO_SMALL, TOO_LARGE = 0.6, 2.0
DENSER = 300.0  # HU that a body may exceed the densest tenth of the voxels around the mark's centre
STANDS_ON = (0.25, 1.5)  # radius of those voxels: fraction of the mark's diameter, and least mm
HELD = 3.5  # mm, or a third of its diameter: largest distance from a mark to its body
BONE = 350.0  # HU
LEAST_BONE = 30.0  # mm3 of bone in a body that continues beyond it
LEAST_LUNG = 0.15  # least fraction of a nodule's surface that faces lung


def doubt(found: Segmentation, scan: npt.NDArray[np.generic], mark: Vec3, diameter: float, spacing: Vec3) -> str | None:
    """Why a body is not the nodule of a `mark` (mm from the first voxel) of that `diameter` (mm); None if it may be."""
    if sphere_diameter(float(found.body.sum()) * found.step**3) > TOO_LARGE * diameter:
        return "more than twice as large as the mark"
    voxels = (np.argwhere(found.mask) + found.origin) * spacing
    reach = max(HELD, diameter / 3) + max(spacing) / 2
    if np.linalg.norm(voxels - mark, axis=1).min() > reach:
        return "does not hold the mark"
    radius = max(STANDS_ON[0] * diameter, STANDS_ON[1])
    cube = sample_cube(scan, mark, spacing, half=radius, step=radius / 4)
    seen = float(np.percentile(cube.hu[cube.away_from(cube.middle) <= radius], 90))
    if float(np.median(found.hu[found.body])) - seen > DENSER:
        return "far denser than the mark"
    return _tissue(found)


def _tissue(found: Segmentation) -> str | None:
    """Why a body is bone or wall; None if it is neither."""
    smooth: FloatArray = ndimage.gaussian_filter(found.hu, 0.5 / found.step)
    labels, count = ndimage.label((smooth > BONE) & (found.body | found.other))
    inside = np.bincount(labels[found.body], minlength=count + 1)[1:] * found.step**3
    beyond = np.bincount(labels[found.other], minlength=count + 1)[1:] * found.step**3
    if ((inside > LEAST_BONE) & (beyond > LEAST_BONE)).any():
        return "reaches into bone"
    surface = ndimage.binary_dilation(found.body) & ~found.body
    if np.mean(~found.other[surface]) < LEAST_LUNG:
        return "lies within the wall"
    return None
