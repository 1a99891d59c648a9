"""nnU-Net's grid: it fills the scan's extent. Resampling uses cubic splines."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import ndimage, sparse

from ..types import Affine, FloatArray, Shape3, Vec3
from .geometry import map_points, spacing_of
from .intensity import normalize_intensity
from .resample import Box, check_size, through

__all__ = ["CubicGrid", "cubic_grid", "cubic_resample"]

ANISOTROPIC = 3.0  # longest spacing over another; above this ratio slices are not interpolated
NEGLIGIBLE = 1e-7  # weight of a spline


class CubicGrid(NamedTuple):
    """The grid on which nnU-Net sees a scan."""

    shown: Box  # the scan without its frame of zeros, in voxels of the scan
    shape: Shape3
    affine: Affine  # RAS+
    between: int | None  # the axis with nearest-slice sampling, if slices are much thicker than wide


def cubic_grid(array: npt.NDArray[np.generic], affine: Affine, spacing: Vec3) -> CubicGrid:
    """The grid of about `spacing` millimetres that fills the extent of an (X, Y, Z) scan.

    Raises:
        BadScan: the grid is too large (`check_size`).
    """
    shown = _shown(array)
    old = spacing_of(affine)
    sizes = [side.stop - side.start for side in shown]
    x, y, z = (max(1, round(n * a / b)) for n, a, b in zip(sizes, old, spacing, strict=True))
    check_size((x, y, z), spacing)
    steps = np.divide(sizes, (x, y, z))
    moved = affine @ np.diag([*steps, 1.0])
    moved[:3, 3] = map_points(affine, [side.start for side in shown] + steps / 2 - 0.5)
    thick = _thick(old)
    return CubicGrid(shown, (x, y, z), moved, _thick(spacing) if thick is None else thick)


def cubic_resample(
    array: npt.NDArray[np.generic], grid: CubicGrid, clip_range: tuple[float, float], box: Box | None = None
) -> tuple[FloatArray, Affine]:
    """The scan in HU on this grid, or on a `box` of it, clipped to `clip_range` and scaled to 0..1.

    HU are clipped first. The splines' overshoot is then clipped: to the range of the slice if slices are not
    interpolated, else to the range of the scan.
    """
    box = box or (slice(0, grid.shape[0]), slice(0, grid.shape[1]), slice(0, grid.shape[2]))
    part = array[grid.shown]
    matrices = [
        (_nearest if axis == grid.between else _spline)(part.shape[axis], grid.shape[axis])[box[axis]]
        for axis in range(3)
    ]
    last = 2 if grid.between is None else grid.between
    order = [axis for axis in range(3) if axis != last] + [last]
    limits: list[tuple[float, float]] = []

    def prepared(plane: FloatArray) -> FloatArray:
        values = normalize_intensity(plane, clip_range)
        limits.append((float(values.min()), float(values.max())))
        return values

    to_x, to_y, to_z = (matrices[axis] for axis in order)
    found = through(part.transpose(order), to_x, to_y, to_z, prepared, each=grid.between is not None)
    if grid.between is None:
        np.clip(found, min(low for low, _ in limits), max(high for _, high in limits), out=found)
    moved = grid.affine.copy()
    moved[:3, 3] = map_points(grid.affine, [side.start for side in box])
    return np.ascontiguousarray(found.transpose(np.argsort(order))), moved


def _shown(array: npt.NDArray[np.generic]) -> Box:
    """The part of a scan inside its frame of zeros."""
    other = array != 0
    if not other.any():
        other[:] = True
    x, y, z = (np.flatnonzero(other.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3))
    return slice(int(x[0]), int(x[-1]) + 1), slice(int(y[0]), int(y[-1]) + 1), slice(int(z[0]), int(z[-1]) + 1)


def _thick(spacing: Vec3) -> int | None:
    """The one axis whose voxels are much longer than those of the others; None if there is none."""
    longest = [axis for axis in range(3) if spacing[axis] == max(spacing)]
    return longest[0] if len(longest) == 1 and max(spacing) > ANISOTROPIC * min(spacing) else None


def _spline(old: int, new: int) -> sparse.csr_array:
    """Cubic spline weights from `old` samples to `new` samples over the same extent: (new, old)."""
    weights = np.eye(old)
    if old != new:
        weights = ndimage.zoom(weights, (new / old, 1), order=3, mode="nearest", grid_mode=True)
    weights[np.abs(weights) < NEGLIGIBLE] = 0
    return sparse.csr_array(weights.astype(np.float32))


def _nearest(old: int, new: int) -> sparse.csr_array:
    """Nearest-neighbour weights from `old` samples to `new` samples over the same extent: (new, old)."""
    nearest = np.floor((np.arange(new) + 0.5) * old / new).astype(int).clip(0, old - 1)
    return sparse.csr_array((np.ones(new, np.float32), (np.arange(new), nearest)), shape=(new, old))
