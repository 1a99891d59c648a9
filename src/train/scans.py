"""Whole scans for training: at 1 mm, with the places where nodules grow."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from ..data.geometry import RAS_TO_LPS, canonical, map_points
from ..data.loader import read_scan
from ..data.lung_finder import find_lungs
from ..data.lungs import lung_on_grid
from ..data.resample import resample
from ..errors import BadScan
from ..types import Affine, FloatArray
from .targets import Mask, Points, Truth, within

__all__ = ["LungScan", "Places", "balls", "load_lung_scan"]

SPACING = (1.0, 1.0, 1.0)  # mm
PARENCHYMA = (-950.0, -700.0)  # HU of aerated lung after smoothing
RIM, RIM_BELOW = 5, -350.0  # voxels around aerated lung; smoothed HU that is still mostly air
OPACITY = (-700.0, -200.0)  # HU of ground-glass and small consolidations, but also of larger vessels
OPACITY_RIM = 4  # voxels around an opacity, for its faint border and its denser core
PADDING = -1000.0  # HU beyond the scan
NEAR = 3.0  # mm; a mark this near to a finding may belong to it

Places = npt.NDArray[np.integer[Any]]  # (n, 3) voxels


@dataclass(frozen=True, eq=False)
class LungScan:
    """A whole scan at 1 mm, (X, Y, Z) int16 HU, x to the left, y to the back, z to the head."""

    name: str
    voxels: npt.NDArray[np.int16] | Path  # a .npy file stays on disk
    affine: Affine
    lung: Places  # voxels of aerated lung
    rim: Places  # voxels of lung beside the pleura or a vessel
    ignore: Mask | None = None  # voxels that may be lesions without an annotation
    truths: tuple[Truth, ...] = ()  # its nodules
    excluded: tuple[Truth, ...] = ()  # uncertain findings

    @property
    def hu(self) -> npt.NDArray[np.int16]:
        """The voxels. A file is opened at each use, because most systems do not allow 888 open files."""
        if isinstance(self.voxels, Path):
            return np.load(self.voxels, mmap_mode="r")  # type: ignore[no-any-return]
        return self.voxels

    def patch(self, corner: npt.NDArray[np.integer[Any]], size: int) -> tuple[FloatArray, Mask | None, list[Truth]]:
        """A cube of `size` voxels: its HU, its voxels without weight, and the nodules centred in it.

        The visible part of a nodule that is centred outside has no weight.
        """
        box = tuple(slice(a, a + size) for a in corner)
        hu = self.hu[box].astype(np.float32)
        missing = [(0, size - n) for n in hu.shape]
        ignore = None if self.ignore is None else np.pad(self.ignore[box], missing)
        found = [Truth(t.centre - corner, t.diameter) for t in self.truths]
        centred = [bool((t.centre >= 0).all() and (t.centre <= size - 1).all()) for t in found]
        unsure = [Truth(t.centre - corner, t.diameter) for t in self.excluded]
        unsure += [t for t, inside in zip(found, centred, strict=True) if not inside]
        if self.truths or self.excluded:
            unknown = balls(size, unsure)
            ignore = unknown if ignore is None else ignore | unknown
        truths = [t for t, inside in zip(found, centred, strict=True) if inside]
        return np.pad(hu, missing, constant_values=PADDING), ignore, truths

    def certainly_false(self, points: Points) -> Mask:
        """Which of the (n, 3) marks are certainly false: not on a nodule, an excluded finding or an opacity."""
        certain = ~within(points, (*self.truths, *self.excluded), NEAR)
        if self.ignore is not None and len(points):
            places = np.clip(np.round(points).astype(np.intp), 0, np.array(self.ignore.shape) - 1)
            certain &= ~self.ignore[tuple(places.T)]
        return certain

    def to_voxels(self, world: Points) -> Points:
        """The voxel positions of world points (n, 3) in LPS millimetres."""
        return map_points(np.asarray(np.linalg.inv(RAS_TO_LPS @ self.affine), dtype=np.float64), world)


def balls(size: int, findings: Sequence[Truth]) -> Mask:
    """The voxels of a cube that lie in a finding."""
    mask = np.zeros((size, size, size), dtype=bool)
    for centre, diameter in findings:
        low = np.clip(np.floor(centre - diameter / 2), 0, size).astype(int)
        high = np.clip(np.ceil(centre + diameter / 2) + 1, 0, size).astype(int)
        box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        distance = sum((axis - c) ** 2 for axis, c in zip(np.ogrid[box], centre, strict=True))
        mask[box] |= distance <= (diameter / 2) ** 2
    return mask


def load_lung_scan(path: Path, *, has_opacities: bool = False) -> LungScan:
    """The scan at `path`, in memory. With `has_opacities`, lesion-like densities in its lungs have no weight.

    Raises:
        BadScan: it cannot be read, or shows no lungs.
    """
    scan = read_scan(path)
    turned, placed = canonical(scan.array, scan.affine)
    lungs = find_lungs(turned, placed)
    array, affine = resample(turned, placed, SPACING)
    smooth = ndimage.gaussian_filter(array, 2.0)
    lung = lung_on_grid(lungs, smooth.shape, affine) & (smooth > PARENCHYMA[0]) & (smooth < PARENCHYMA[1])
    if not lung.any():
        msg = f"{path}: shows no aerated lung inside a body: leave it out"
        raise BadScan(msg)
    ignore = None
    if has_opacities:
        near_lung = ndimage.binary_dilation(lung, iterations=8)
        opacity = near_lung & (smooth > OPACITY[0]) & (smooth < OPACITY[1])
        ignore = ndimage.binary_dilation(opacity, iterations=OPACITY_RIM)
    rim = ndimage.binary_dilation(lung, iterations=RIM) & ~lung & (smooth < RIM_BELOW)
    hu = np.ascontiguousarray(np.rint(array), dtype=np.int16)
    return LungScan(scan.scan_id, hu, affine, _points(lung), _points(rim), ignore)


def _points(mask: Mask) -> npt.NDArray[np.int32]:
    return np.argwhere(mask).astype(np.int32)
