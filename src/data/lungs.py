"""Where lung is: to tell where nodules can be, and marks in the chest from those in the bowel or on the table."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from ..types import Affine, FloatArray, Shape3
from .geometry import map_points, spacing_of

__all__ = ["LungRegion", "Mask", "search_region"]

CERTAIN_LITRES = 1.0  # less may be what is left of lungs that disease has filled
CERTAIN_SHARE = 0.15  # of the lung on either side of the body's middle; less, and one lung may not be recognised
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class LungRegion:
    """Aerated lung, as `aeration.find_lungs` finds it, in coarse voxels (X, Y, Z) placed by `affine` (RAS+).

    `around` is the distance in mm to what the lungs enclose: their convex hull in each slice, so that hila
    and masses that indent a lung belong to it.
    """

    lung: Mask
    around: FloatArray
    affine: Affine
    litres: float

    def distance_to(self, world: npt.NDArray[np.float64]) -> float:
        """The distance in mm from a world point (RAS+) to the nearest aerated lung, to about 3 mm."""
        index = map_points(np.linalg.inv(self.affine), world)
        return float(np.linalg.norm((self._voxels - index) * spacing_of(self.affine), axis=1).min())

    @cached_property
    def _voxels(self) -> npt.NDArray[np.intp]:
        return np.argwhere(self.lung)


def search_region(lungs: LungRegion | None, shape: Shape3, affine: Affine, reach: float) -> Mask | None:
    """Where in a grid of `shape` and `affine` (RAS+) nodules can be: up to `reach` mm from what the lungs enclose.

    The grid's axes run along those of the lungs. None means anywhere: too little lung is recognised, or
    hardly any on one side.
    """
    if lungs is None or not _is_certain(lungs):
        return None
    index = np.linalg.inv(lungs.affine) @ affine
    axes = (
        np.clip(np.rint(index[axis, axis] * np.arange(size) + index[axis, 3]), 0, count - 1).astype(int)
        for axis, (size, count) in enumerate(zip(shape, lungs.around.shape, strict=True))
    )
    region: Mask = (lungs.around <= reach)[np.ix_(*axes)]
    return region


def _is_certain(lungs: LungRegion) -> bool:
    across = lungs.lung.sum(axis=(1, 2))
    filled = np.flatnonzero(across)
    left = across[: (filled[0] + filled[-1] + 1) // 2].sum() / across.sum()
    return lungs.litres >= CERTAIN_LITRES and CERTAIN_SHARE <= left <= 1 - CERTAIN_SHARE
