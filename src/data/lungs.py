"""Where lung is, roughly and fast: to tell marks in the chest from marks in the bowel or on the table."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from skimage.morphology import convex_hull_image

from ..types import Affine, Shape3
from .geometry import map_points, spacing_of

__all__ = ["BODY", "LungRegion", "Mask", "coarse_means", "find_lungs", "inside_body", "search_region"]

COARSE = 3.0  # mm, about the width of a coarse voxel
# Mean HU of a coarse voxel. Gas in the bowel and air around the body lie below, emphysema mostly above the limit.
AERATED = (-975.0, -600.0)
BODY = -300.0
OPENING = 3  # coarse voxels; partial volume at skin and bowel walls has the HU of lung, but is thinner
CERTAIN_LITRES = 1.0  # less may be what is left of lungs that disease has filled
CERTAIN_SHARE = 0.15  # of the lung on either side of the body's middle; less, and one lung may not be recognised
LEAST_LITRES = 0.3  # less is no pair of lungs: a block of a scan, or lungs that this rule does not recognise
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class LungRegion:
    """Aerated lung: the distance to it in mm at each coarse voxel (X, Y, Z), their affine (RAS+), and its volume."""

    distance: npt.NDArray[np.float64]
    affine: Affine
    litres: float

    def distance_to(self, world: npt.NDArray[np.float64]) -> float:
        """The distance in mm from a world point (RAS+) to the nearest aerated lung, to about 3 mm."""
        index = np.rint(map_points(np.linalg.inv(self.affine), world)).astype(int)
        return float(self.distance[tuple(np.clip(index, 0, np.array(self.distance.shape) - 1))])


def find_lungs(array: npt.NDArray[np.generic], affine: Affine) -> LungRegion | None:
    """The aerated lung in (X, Y, Z) HU, z along the body, or None where too little is recognised to rely on."""
    coarse, wide = coarse_means(array, affine)
    aerated = (coarse > AERATED[0]) & (coarse < AERATED[1]) & inside_body(coarse > BODY)
    # The edge counts as lung, for a field of view may cut through it.
    lung = ndimage.binary_opening(np.pad(aerated, OPENING, mode="edge"), iterations=OPENING)
    lung = lung[(slice(OPENING, -OPENING),) * 3]
    spacing = spacing_of(wide)
    litres = float(lung.sum() * np.prod(spacing) / 1e6)
    if litres < LEAST_LITRES:
        return None
    return LungRegion(ndimage.distance_transform_edt(~lung, sampling=spacing), wide, round(litres, 2))


def search_region(lungs: LungRegion | None, shape: Shape3, affine: Affine, reach: float) -> Mask | None:
    """Where in a grid of `shape` and `affine` (RAS+) nodules can be: up to `reach` mm from what the lungs enclose.

    What they enclose is their convex hull in each slice, so that hila and masses that indent a lung belong to
    it. The grid's axes run along those of the lungs. None means anywhere: too little lung is recognised, or
    hardly any on one side.
    """
    if lungs is None or not _is_certain(lungs):
        return None
    lung = lungs.distance == 0
    slices = [convex_hull_image(one) if one.any() else one for one in np.moveaxis(lung, 2, 0)]
    distance = ndimage.distance_transform_edt(~np.stack(slices, axis=2), sampling=spacing_of(lungs.affine))
    index = np.linalg.inv(lungs.affine) @ affine
    axes = (
        np.clip(np.rint(index[axis, axis] * np.arange(size) + index[axis, 3]), 0, lung.shape[axis] - 1).astype(int)
        for axis, size in enumerate(shape)
    )
    region: Mask = (distance <= reach)[np.ix_(*axes)]
    return region


def _is_certain(lungs: LungRegion) -> bool:
    across = (lungs.distance == 0).sum(axis=(1, 2))
    filled = np.flatnonzero(across)
    left = across[: (filled[0] + filled[-1] + 1) // 2].sum() / across.sum()
    return lungs.litres >= CERTAIN_LITRES and CERTAIN_SHARE <= left <= 1 - CERTAIN_SHARE


def coarse_means(array: npt.NDArray[np.generic], affine: Affine) -> tuple[npt.NDArray[np.float32], Affine]:
    """The mean HU of blocks of about 3 mm, and their affine (RAS+)."""
    steps = [max(1, round(COARSE / size)) for size in spacing_of(affine)]
    wide = affine @ np.diag([*map(float, steps), 1.0])
    wide[:3, 3] += affine[:3, :3] @ ((np.array(steps) - 1) / 2)  # the middle of the first block
    return _block_means(array, steps), wide


def _block_means(array: npt.NDArray[np.generic], steps: list[int]) -> npt.NDArray[np.float32]:
    """Means of blocks of `steps` voxels; what is left over at the far ends is left out."""
    for axis, step in reversed(list(enumerate(steps))):  # whole slices are added fastest, and leave less to add
        count = array.shape[axis] // step
        kept = array[(slice(None),) * axis + (slice(0, count * step),)]
        shape = (*kept.shape[:axis], count, step, *kept.shape[axis + 1 :])
        array = kept.reshape(shape).mean(axis=axis + 1, dtype=np.float32)
    return np.asarray(array, dtype=np.float32)


def inside_body(tissue: Mask) -> Mask:
    """What the convex hull of the largest piece of tissue holds in each slice: lungs cut by the border as well."""
    labels, count = ndimage.label(tissue)
    if not count:
        return np.zeros_like(tissue)
    body = labels == 1 + np.argmax(np.bincount(labels.ravel())[1:])
    hulls = [convex_hull_image(body[:, :, k]) if body[:, :, k].any() else body[:, :, k] for k in range(body.shape[2])]
    return np.stack(hulls, axis=2)
