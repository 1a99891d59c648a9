"""The neighbourhood of a point on a fine isotropic grid, and the mapping back to the scan's grid."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.interpolate import make_interp_spline

from ..types import FloatArray, Shape3, Vec3
from .masks import Mask, box_around

__all__ = ["Cube", "on_scan", "sample_cube", "touches_border"]


@dataclass(frozen=True, eq=False, slots=True)
class Cube:
    """The scan about a point: `hu` of shape (N, N, N), N odd, with the point in the middle voxel.

    The grid is isotropic with `step` millimetres along the scan's axes. `inside` is false outside the scan. `thickness`
    is the scan's largest voxel side in millimetres.
    """

    hu: FloatArray
    inside: Mask
    step: float
    thickness: float

    @property
    def middle(self) -> Shape3:
        """The index of the point."""
        x, y, z = (n // 2 for n in self.hu.shape)
        return x, y, z

    def away_from(self, index: Shape3) -> FloatArray:
        """The distance in millimetres of each voxel from one voxel."""
        x, y, z = (self.step * (np.arange(n, dtype=np.float32) - i) for n, i in zip(self.hu.shape, index, strict=True))
        return np.sqrt(x[:, None, None] ** 2 + y[:, None] ** 2 + z**2)


def sample_cube(scan: npt.NDArray[np.generic], point: Vec3, spacing: Vec3, half: float, step: float) -> Cube:
    """Interpolate the scan around a point with cubic splines, axis by axis, and read nothing else."""
    count = int(np.ceil(half / step))
    targets = [(p + np.arange(-count, count + 1) * step) / s for p, s in zip(point, spacing, strict=True)]
    bounds = [_bounds(target, n) for target, n in zip(targets, scan.shape, strict=True)]
    hu = np.clip(np.asarray(scan[tuple(slice(*b) for b in bounds)], dtype=np.float32), -1024, 3071)
    for axis, (target, (low, high)) in enumerate(zip(targets, bounds, strict=True)):
        weights = _spline(np.clip(target - low, 0, high - low - 1), high - low)
        hu = np.moveaxis(np.tensordot(weights, hu, axes=(1, axis)), 0, axis)
    x, y, z = (np.abs(target - (n - 1) / 2) < n / 2 for target, n in zip(targets, scan.shape, strict=True))
    return Cube(np.ascontiguousarray(hu), x[:, None, None] & y[:, None] & z, step, max(spacing))


def touches_border(body: Mask, cube: Cube) -> bool:
    """Whether a nodule reaches the border of the scan, or of the cube: then it leaks."""
    faces = (body[[0, -1]], body[:, [0, -1]], body[:, :, [0, -1]])
    return bool((body & ~cube.inside).any() or any(face.any() for face in faces))


def on_scan(body: Mask, cube: Cube, shape: tuple[int, ...], point: Vec3, spacing: Vec3) -> tuple[Mask, Shape3]:
    """A body on the scan's own grid: its bounding box, and the index of the box's first voxel."""
    axes, origin = [], []
    for box, n, p, s in zip(box_around(body, 0, cube.step), shape, point, spacing, strict=True):
        low, high = ((p + (i - body.shape[0] // 2) * cube.step) / s for i in (box.start, box.stop - 1))
        first = int(np.clip(np.round(low), 0, n - 1))
        voxels = np.arange(first, int(np.clip(np.round(high), first, n - 1)) + 1)
        axes.append((voxels * s - p) / cube.step + body.shape[0] // 2)
        origin.append(first)
    grid = np.stack(np.meshgrid(*axes, indexing="ij"))
    share = ndimage.map_coordinates(body.astype(np.float32), grid, order=1, mode="nearest")
    x, y, z = origin
    return share >= min(0.5, share.max()), (x, y, z)


def _bounds(target: npt.NDArray[np.floating], n: int, margin: int = 4) -> tuple[int, int]:
    """The first sample, and the one after the last, that interpolation at `target` needs."""
    low = int(np.clip(np.floor(target[0]) - margin, 0, n - 1))
    return low, int(np.clip(np.ceil(target[-1]) + margin, low + 1, n))


def _spline(target: npt.NDArray[np.floating], n: int) -> FloatArray:
    """The (len(target), n) weights of a cubic spline of n samples at `target`."""
    if n == 1:
        return np.ones((len(target), 1), dtype=np.float32)
    weights: FloatArray = make_interp_spline(np.arange(n), np.eye(n), k=min(3, n - 1))(target).astype(np.float32)
    return weights
