"""Resamples voxel grids. Tissue keeps its place in the world."""

import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
from scipy import sparse

from ..errors import BadScan
from ..types import Affine, FloatArray, Shape3, Vec3
from .geometry import map_points, spacing_of

__all__ = ["Box", "check_size", "new_grid", "resample", "through", "to_grid"]

SAME = 1e-3  # mm; smaller differences between spacings are ignored
FWHM_TO_SIGMA = 1 / (2 * math.sqrt(2 * math.log(2)))
REACH = 4  # standard deviations at which a Gaussian is cut
LARGEST = 2**29  # voxels of a new grid, 2 GiB; a chest at 1 mm has about 80 million
SLAB = 8  # rows or slices per thread at a time: no copy of the whole volume is made
Box = tuple[slice, slice, slice]


def new_grid(shape: Shape3, affine: Affine, spacing: Vec3, *, plain: bool = False) -> tuple[Shape3, Affine]:
    """The grid of `spacing` millimetres along the same axes, from the old grid's first voxel to its last.

    It starts where MONAI's `Spacing` starts, so the network sees the same voxels. `plain` gives MONAI's grid: its last
    voxel is the one nearest to the old last voxel, and an axis whose spacing is almost right is left unchanged.
    """
    old = spacing_of(affine)
    if plain:
        steps = [a if abs(a - b) < SAME else b for a, b in zip(old, spacing, strict=True)]
        x, y, z = (round((n - 1) * a / b + 1) for n, a, b in zip(shape, old, steps, strict=True))
        return (x, y, z), affine @ np.diag([*np.divide(steps, old), 1.0])
    if all(abs(a - b) < SAME for a, b in zip(old, spacing, strict=True)):
        return shape, affine
    x, y, z = (math.ceil((n - 1) * a / b - SAME) + 1 for n, a, b in zip(shape, old, spacing, strict=True))
    return (x, y, z), affine @ np.diag([*np.array(spacing) / old, 1.0])


def resample(
    array: npt.NDArray[np.generic], affine: Affine, spacing: Vec3, box: Box | None = None, *, plain: bool = False
) -> tuple[FloatArray, Affine]:
    """An (X, Y, Z) volume on its `new_grid` of `spacing` millimetres, or on a `box` of it, by linear interpolation.

    Where voxels grow, a Gaussian first removes detail that the coarser grid cannot show. Its width makes up the
    difference between the two voxel sizes, taken as the full width at half maximum (Cardoso et al., MICCAI 2015).
    Points beyond the old grid get the volume's minimum. `plain` applies no Gaussian and repeats the last voxel beyond
    the old grid, as MONAI's `Spacing` does with `mode="bilinear"` and `padding_mode="border"`.

    Raises:
        BadScan: the new grid is too large (`check_size`).
    """
    x, y, z = array.shape
    shape, grid = new_grid((x, y, z), affine, spacing, plain=plain)
    box = box or (slice(0, shape[0]), slice(0, shape[1]), slice(0, shape[2]))
    start = [side.start for side in box]
    moved = grid.copy()
    moved[:3, 3] = map_points(grid, start)
    if grid is affine:
        return np.asarray(array[box], dtype=np.float32), moved
    to_x, to_y, to_z = (
        _interpolation(array.shape[axis], shape[axis], a, b, plain=plain)[box[axis]]
        for axis, (a, b) in enumerate(zip(spacing_of(affine), spacing_of(grid) if plain else spacing, strict=True))
    )
    check_size((to_x.shape[0], to_y.shape[0], max(z, to_z.shape[0])), spacing)
    air = float(array.min())
    return through(array, to_x, to_y, to_z, lambda plane: plane - air, base=air), moved


def through(
    array: npt.NDArray[np.generic],
    to_x: sparse.csr_array,
    to_y: sparse.csr_array,
    to_z: sparse.csr_array,
    prepared: Callable[[FloatArray], FloatArray],
    *,
    base: float = 0.0,
    each: bool = False,
) -> FloatArray:
    """An (X, Y, Z) volume, `prepared` plane by plane, multiplied by a matrix (new, old) along each axis, plus `base`.

    With `each`, every plane is clipped to its own range of values.
    """
    depth = array.shape[2]
    planes = np.empty((depth, to_x.shape[0], to_y.shape[0]), np.float32)
    result = np.empty((*planes.shape[1:], to_z.shape[0]), np.float32)

    def in_plane(slices: slice) -> None:
        for index in range(*slices.indices(depth)):
            plane = prepared(array[:, :, index].T.astype(np.float32))  # y, x: memory order
            planes[index] = _in_plane(to_y, to_x, plane)
            if each:
                np.clip(planes[index], plane.min(), plane.max(), out=planes[index])

    def across(rows: slice) -> None:
        result[rows] = np.moveaxis(_across(to_z, planes[:, rows]), 0, 2) + base

    _by_slabs(in_plane, depth)
    _by_slabs(across, len(result))
    return result


def check_size(shape: Shape3, spacing: Vec3) -> None:
    """Refuse a grid of `shape` and `spacing` mm that is larger than a chest needs, before memory is allocated.

    Raises:
        BadScan: it is larger.
    """
    if math.prod(shape) > LARGEST:
        size = " x ".join(str(n) for n in shape)
        step = " x ".join(f"{length:g}" for length in spacing)
        msg = f"takes {size} voxels of {step} mm, more than {LARGEST}: crop it to the chest, or check its voxel spacing"
        raise BadScan(msg)


def to_grid(array: npt.NDArray[np.generic], affine: Affine, shape: Shape3, target: Affine) -> FloatArray:
    """An (X, Y, Z) map resampled linearly to another grid of `shape` and an affine; zero outside the map.

    The axes of the two grids are parallel, in any order and direction.
    """
    index = np.linalg.inv(affine) @ target
    order = np.abs(index[:3, :3]).argmax(axis=0)  # for each target axis, the parallel axis of the map
    turned = np.asarray(array, np.float32).transpose(order)
    to_x, to_y, to_z = (
        _linear(turned.shape[axis], index[own, axis] * np.arange(shape[axis]) + index[own, 3])
        for axis, own in enumerate(order)
    )
    whole = np.zeros(shape[::-1], np.float32)  # z, y, x: memory order

    def fill(slices: slice) -> None:
        rows = to_z[slices]
        if rows.nnz:  # pages beyond the map are never touched
            used = range(rows.indices.min(), rows.indices.max() + 1)
            planes = np.stack([_in_plane(to_x, to_y, turned[:, :, index]) for index in used])
            whole[slices] = _across(rows[:, used.start : used.stop], planes)

    _by_slabs(fill, shape[2])
    return whole.transpose(2, 1, 0)


def _by_slabs(work: Callable[[slice], None], size: int) -> None:
    """Run the work on all of `size` rows, `SLAB` at a time, with one thread per processor."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for done in [pool.submit(work, slice(first, first + SLAB)) for first in range(0, size, SLAB)]:
            done.result()


def _interpolation(old: int, new: int, a: float, b: float, *, plain: bool) -> sparse.csr_array:
    """Weights from `old` samples `a` mm apart to `new` samples `b` mm apart, with the same first sample: (new, old)."""
    if plain:
        return _linear(old, (np.arange(new) * b / a).clip(0, old - 1))
    linear = _linear(old, np.arange(new) * b / a)
    return linear @ _gaussian(old, math.sqrt(b**2 - a**2) * FWHM_TO_SIGMA / a) if b > a + SAME else linear


def _linear(old: int, places: npt.NDArray[np.floating]) -> sparse.csr_array:
    """Weights from `old` samples to places between them, in samples from the first: (len(places), old).

    Up to half a sample beyond either end the last sample is used; further out, 0.
    """
    rows = np.flatnonzero(abs(places - (old - 1) / 2) <= old / 2)
    inside = places[rows].clip(0, old - 1)
    left = np.floor(inside).astype(int)
    right = np.minimum(left + 1, old - 1)
    weight = inside - left
    return sparse.csr_array(
        (np.r_[1 - weight, weight], (np.r_[rows, rows], np.r_[left, right])),
        shape=(len(places), old),
        dtype=np.float32,
    )


def _gaussian(size: int, sigma: float) -> sparse.csr_array:
    """Weights of a Gaussian of `sigma` samples; the last sample is repeated at the edges: (size, size)."""
    reach = math.ceil(REACH * sigma)
    offsets = np.arange(-reach, reach + 1)
    kernel = np.exp(-0.5 * (offsets / sigma) ** 2)
    rows = np.repeat(np.arange(size), len(offsets))
    columns = np.clip(rows + np.tile(offsets, size), 0, size - 1)
    values = np.tile(kernel / kernel.sum(), size).astype(np.float32)
    return sparse.csr_array((values, (rows, columns)), shape=(size, size))


def _in_plane(first: sparse.csr_array, second: sparse.csr_array, plane: FloatArray) -> FloatArray:
    """Multiply the first and the second axis of a plane by a matrix each. The result is transposed."""
    return np.asarray(second @ np.ascontiguousarray((first @ plane).T))


def _across(matrix: sparse.csr_array, planes: FloatArray) -> FloatArray:
    """Multiply the first axis of a block by a matrix."""
    return np.asarray(matrix @ planes.reshape(len(planes), -1)).reshape(-1, *planes.shape[1:])
