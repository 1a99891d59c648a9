"""Finding aerated lung in a scan, roughly and fast."""

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from skimage.morphology import convex_hull_image

from ..types import Affine
from .geometry import spacing_of
from .lungs import LungRegion, Mask

__all__ = ["BODY", "coarse_means", "find_lungs", "inside_body"]

COARSE = 3.0  # mm, about the width of a coarse voxel
# Mean HU of a coarse voxel. Gas in the bowel and air around the body lie below, emphysema mostly above the limit.
AERATED = (-975.0, -600.0)
BODY = -300.0
OPENING = 3  # coarse voxels; partial volume at skin and bowel walls has the HU of lung, but is thinner
LEAST_LITRES = 0.3  # less is no pair of lungs: a block of a scan, or lungs that this rule does not recognise


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
    distance, around = (
        ndimage.distance_transform_edt(~mask, sampling=spacing).astype(np.float32) for mask in (lung, _hulls(lung))
    )
    return LungRegion(distance, around, wide, round(litres, 2))


def coarse_means(array: npt.NDArray[np.generic], affine: Affine) -> tuple[npt.NDArray[np.float32], Affine]:
    """The mean HU of blocks of about 3 mm, and their affine (RAS+)."""
    steps = [max(1, round(COARSE / size)) for size in spacing_of(affine)]
    wide = affine @ np.diag([*map(float, steps), 1.0])
    wide[:3, 3] += affine[:3, :3] @ ((np.array(steps) - 1) / 2)  # the middle of the first block
    return _block_means(array, steps), wide


def _block_means(array: npt.NDArray[np.generic], steps: list[int]) -> npt.NDArray[np.float32]:
    """Means of blocks of `steps` voxels; what is left over at the far ends is left out."""
    order = np.argsort(np.abs(array.strides))  # slice by slice as they lie in memory: sums stay in the cache
    one, two, three = (steps[axis] for axis in order)
    blocks = [n // step for n, step in zip(array.shape, steps, strict=True)]
    slices = array[tuple(slice(n * step) for n, step in zip(blocks, steps, strict=True))].transpose(order)
    total = np.int32 if np.issubdtype(array.dtype, np.integer) else np.float32
    means = np.empty([blocks[axis] for axis in order], dtype=np.float32, order="F")
    for index in range(means.shape[2]):
        thick = slices[:, :, three * index : three * (index + 1)].sum(axis=2, dtype=total)
        rows = sum(thick[:, start::two] for start in range(two))
        means[:, :, index] = sum(rows[start::one] for start in range(one))
    means /= one * two * three
    return means.transpose(np.argsort(order))


def inside_body(tissue: Mask) -> Mask:
    """What the convex hull of the largest piece of tissue holds in each slice: lungs cut by the border as well."""
    labels, count = ndimage.label(tissue)
    if not count:
        return np.zeros_like(tissue)
    body = labels == 1 + np.argmax(np.bincount(labels.ravel())[1:])
    return _hulls(body)


def _hulls(mask: Mask) -> Mask:
    """The convex hull of each slice."""
    hulls = np.zeros_like(mask)
    for box in ndimage.find_objects(mask.astype(np.uint8)):  # the one around all of it
        within = np.moveaxis(mask[box], 2, 0)
        hulls[box] = np.stack([convex_hull_image(one) if one.any() else one for one in within], axis=2)
    return hulls
