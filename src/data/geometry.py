"""Geometry of voxel grids: affines, world points, and axes in a standard order.

Affines are 4x4 and lead from a voxel index to RAS+ millimetres (nibabel). World points that
leave PIVOT are LPS (DICOM, ITK, LUNA16): x and y change sign.
"""

from itertools import permutations

import numpy as np
import numpy.typing as npt

from ..types import Affine, Shape3, Vec3, spacing_of

__all__ = [
    "RAS_TO_LPS",
    "affine_from_spacing",
    "canonical",
    "map_points",
    "spacing_of",
    "sphere_diameter",
    "to_lps",
    "turn_box",
]

RAS_TO_LPS: Affine = np.diag([-1.0, -1.0, 1.0, 1.0])


def affine_from_spacing(spacing: Vec3) -> Affine:
    """An affine without a known position: origin at the first voxel, axes along the array's own."""
    return np.diag([*spacing, 1.0])


def map_points(matrix: npt.NDArray[np.floating], points: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Transform points of shape (..., 3) by a 4x4 matrix."""
    return np.asarray(np.asarray(points) @ matrix[:3, :3].T + matrix[:3, 3], dtype=np.float64)


def to_lps(affine: Affine, index: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Voxel indices of shape (..., 3) in world millimetres, LPS."""
    return map_points(RAS_TO_LPS @ affine, index)


def canonical(
    array: npt.NDArray[np.generic], affine: Affine, axes: str = "LPS"
) -> tuple[npt.NDArray[np.generic], Affine]:
    """The volume with its axes permuted and flipped to run closest to left, posterior, superior.

    A view of `array`, without resampling; the affine still gives each voxel its place. Name other `axes` by their ends:
    R or L, then A or P, then S or I.
    """
    towards = np.diag([1.0 if end in "RAS" else -1.0 for end in axes])
    order, flips = _closest_axes(towards @ affine[:3, :3])
    step = np.zeros((4, 4))
    step[3, 3] = 1
    for axis, (source, flip) in enumerate(zip(order, flips, strict=True)):
        step[source, axis] = -1 if flip else 1
        step[source, 3] = array.shape[source] - 1 if flip else 0
    view = array.transpose(order)[tuple(slice(None, None, -1 if flip else 1) for flip in flips)]
    return view, affine @ step


def turn_box(box: npt.NDArray[np.generic], origin: Shape3, matrix: Affine) -> tuple[npt.NDArray[np.generic], Shape3]:
    """A box of voxels with its first voxel at index `origin`, mapped to a grid with the same voxels and other axes.

    `matrix` maps an index to the index of the same voxel on that grid, like the matrix of `canonical`.
    """
    ends = [map_points(matrix, end) for end in (origin, np.add(origin, box.shape) - 1)]
    x, y, z = (int(first) for first in np.round(np.min(ends, axis=0)))
    order = np.abs(matrix[:3, :3]).argmax(axis=1)
    steps = (-1 if matrix[axis, source] < 0 else 1 for axis, source in enumerate(order))
    return box.transpose(order)[tuple(slice(None, None, step) for step in steps)], (x, y, z)


def _closest_axes(directions: npt.NDArray[np.float64]) -> tuple[tuple[int, ...], list[bool]]:
    """For each world axis: the array axis that runs closest to it, and whether that axis runs backwards."""
    cosines = directions / np.linalg.norm(directions, axis=0)
    # Choose the best of the six permutations, not the best axis each: an oblique scan must use every axis once.
    order = max(permutations(range(3)), key=lambda axes: sum(abs(cosines[world, axes[world]]) for world in range(3)))
    return order, [bool(cosines[world, source] < 0) for world, source in enumerate(order)]


def sphere_diameter(volume: float) -> float:
    """The diameter in mm of the sphere with this volume in mm³."""
    return float(np.cbrt(6 * volume / np.pi))
