"""From one voxel grid to another, with every voxel keeping its place in the world."""

import math
from itertools import product

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
from scipy import sparse

from ..types import Affine, FloatArray, Shape3, Vec3
from .geometry import RAS_TO_LPS, map_points, spacing_of

__all__ = ["Box", "as_image", "new_grid", "resample", "to_grid"]

SAME = 1e-3  # mm; spacings closer than this are one
FWHM_TO_SIGMA = 1 / (2 * math.sqrt(2 * math.log(2)))
REACH = 4  # standard deviations of a Gaussian that count
SLAB = 16  # slices at a time, so that no copy of the whole volume is made on the way
Box = tuple[slice, slice, slice]


def new_grid(shape: Shape3, affine: Affine, spacing: Vec3) -> tuple[Shape3, Affine]:
    """The grid of `spacing` millimetres along the same axes that has the old one's centre and covers it."""
    old = spacing_of(affine)
    if all(abs(a - b) < SAME for a, b in zip(old, spacing, strict=True)):
        return shape, affine
    x, y, z = (math.ceil(n * a / b) for n, a, b in zip(shape, old, spacing, strict=True))
    scale = np.array(spacing) / old
    grid = affine @ np.diag([*scale, 1.0])
    shift = (np.array(shape) - 1) / 2 - (np.array((x, y, z)) - 1) / 2 * scale
    grid[:3, 3] = affine[:3, :3] @ shift + affine[:3, 3]
    return (x, y, z), grid


def resample(
    array: npt.NDArray[np.generic], affine: Affine, spacing: Vec3, box: Box | None = None
) -> tuple[FloatArray, Affine]:
    """An (X, Y, Z) volume on its `new_grid` of `spacing` millimetres, or on a `box` of it, by linear interpolation.

    Where voxels grow, a Gaussian first removes what the coarser grid cannot show; its width makes up the
    difference between the two voxel sizes, taken as the full width at half maximum (Cardoso et al., MICCAI 2015).
    Beyond the old grid lies its minimum.
    """
    x, y, z = array.shape
    shape, grid = new_grid((x, y, z), affine, spacing)
    box = box or (slice(0, shape[0]), slice(0, shape[1]), slice(0, shape[2]))
    start = [side.start for side in box]
    moved = grid.copy()
    moved[:3, 3] = map_points(grid, start)
    if grid is affine:
        return np.asarray(array[box], dtype=np.float32), moved
    to_x, to_y, to_z = (
        _interpolation(array.shape[axis], shape[axis], a, b)[box[axis]]
        for axis, (a, b) in enumerate(zip(spacing_of(affine), spacing, strict=True))
    )
    air = float(array.min())
    plane = np.empty((to_x.shape[0], to_y.shape[0], z), np.float32)
    for first in range(0, z, SLAB):
        slab = array[:, :, first : first + SLAB].astype(np.float32)
        plane[:, :, first : first + SLAB] = _along(1, to_y, _along(0, to_x, slab - air))
    result = np.empty((*plane.shape[:2], to_z.shape[0]), np.float32)
    for first in range(0, len(result), SLAB):
        result[first : first + SLAB] = _along(2, to_z, plane[first : first + SLAB]) + air
    return result, moved


def to_grid(array: npt.NDArray[np.generic], affine: Affine, shape: Shape3, target: Affine) -> FloatArray:
    """An (X, Y, Z) map on another grid given by `shape` and its affine, linearly; zero outside the map."""
    corners = np.array(list(product(*((-1, size) for size in array.shape))))
    index = map_points(np.linalg.inv(target) @ affine, corners)
    low = np.clip(np.floor(index.min(axis=0)), 0, shape).astype(int)
    high = np.clip(np.ceil(index.max(axis=0)) + 1, low, shape).astype(int)
    whole = np.zeros(shape, np.float32, order="F")  # as files have it, and SimpleITK
    image = as_image(array, affine)
    for first in range(low[2], high[2], SLAB):
        slab = whole[low[0] : high[0], low[1] : high[1], first : min(first + SLAB, high[2])]
        moved = target.copy()
        moved[:3, 3] = map_points(target, (low[0], low[1], first))
        slab[...] = _sample(image, slab.shape, moved)
    return whole


def _interpolation(old: int, new: int, a: float, b: float) -> sparse.csr_array:
    """From `old` samples `a` mm apart to `new` samples `b` mm apart with the same centre: (new, old)."""
    place = (np.arange(new) - (new - 1) / 2) * b / a + (old - 1) / 2
    rows = np.flatnonzero(abs(place - (old - 1) / 2) <= old / 2)  # others lie beyond the old grid
    place = place[rows].clip(0, old - 1)
    left = np.minimum(np.floor(place).astype(int), max(0, old - 2))
    right = np.minimum(left + 1, old - 1)
    weight = place - left
    linear = sparse.csr_array(
        (np.r_[1 - weight, weight], (np.r_[rows, rows], np.r_[left, right])), shape=(new, old), dtype=np.float32
    )
    return linear @ _gaussian(old, math.sqrt(b**2 - a**2) * FWHM_TO_SIGMA / a) if b > a + SAME else linear


def _gaussian(size: int, sigma: float) -> sparse.csr_array:
    """A convolution with a Gaussian of `sigma` samples, whose edges repeat the last sample: (size, size)."""
    reach = math.ceil(REACH * sigma)
    offsets = np.arange(-reach, reach + 1)
    kernel = np.exp(-0.5 * (offsets / sigma) ** 2)
    rows = np.repeat(np.arange(size), len(offsets))
    columns = np.clip(rows + np.tile(offsets, size), 0, size - 1)
    values = np.tile(kernel / kernel.sum(), size).astype(np.float32)
    return sparse.csr_array((values, (rows, columns)), shape=(size, size))


def _along(axis: int, matrix: sparse.csr_array, block: FloatArray) -> FloatArray:
    """The matrix applied along an axis of the block."""
    first = np.moveaxis(block, axis, 0)
    product_: FloatArray = matrix @ first.reshape(len(first), -1)
    return np.moveaxis(product_.reshape(-1, *first.shape[1:]), 0, axis)


def as_image(array: npt.NDArray[np.generic], affine: Affine) -> sitk.Image:
    """An (X, Y, Z) volume as SimpleITK has it, in its place in the world (LPS)."""
    image = sitk.GetImageFromArray(array.transpose(2, 1, 0))  # SimpleITK's arrays are z, y, x
    origin, spacing, direction = _geometry(affine)
    image.SetOrigin(origin)
    image.SetSpacing(spacing)
    image.SetDirection(direction)
    return image


def _sample(image: sitk.Image, shape: tuple[int, ...], affine: Affine) -> FloatArray:
    origin, spacing, direction = _geometry(affine)
    result = sitk.Resample(
        image, shape, sitk.Transform(), sitk.sitkLinear, origin, spacing, direction, 0.0, sitk.sitkFloat32
    )
    return sitk.GetArrayFromImage(result).transpose(2, 1, 0)


def _geometry(affine: Affine) -> tuple[list[float], list[float], list[float]]:
    """Origin, spacing and direction as SimpleITK wants them (LPS)."""
    lps = RAS_TO_LPS @ affine
    spacing = np.array(spacing_of(affine))
    return lps[:3, 3].tolist(), spacing.tolist(), (lps[:3, :3] / spacing).ravel().tolist()
