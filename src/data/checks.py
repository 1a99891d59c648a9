"""Checks for every scan, independent of its file format: grid, affine and values."""

from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import BadScan
from ..types import Affine, Shape3
from .geometry import spacing_of
from .plausibility import AIR, check_hounsfield, is_drawn

__all__ = ["AIR", "LARGEST_SHIFT", "as_hounsfield", "check_extent", "check_shape", "nearest_orthogonal"]

WRAPPED = (61440, 64512)  # -4096 to -1024 HU read as unsigned 16-bit numbers
MIN_VOXELS, MAX_VOXELS = 8, 4096  # voxels along an axis
MAX_TOTAL = 2**31  # voxels in all
MIN_EXTENT, MAX_EXTENT = 20.0, 3000.0  # mm
WHOLE = 200.0  # mm along two axes; a smaller volume is a piece of a chest
LARGEST_SHIFT = 0.5  # mm; two headers that place a voxel further apart contradict each other
NO_SHEAR = 1e-4  # deviation that rounding to float32 explains
SMALL_SHEAR = 0.02  # about one degree

Voxels = npt.NDArray[Any]


def check_shape(shape: tuple[int, ...]) -> tuple[Shape3, tuple[str, ...]]:
    """The first three axes of `shape`, in voxels. Drops a fourth axis of length 1 and notes it."""
    if len(shape) < 3:
        msg = f"holds a {len(shape)}D image of {_times(shape)} pixels: a CT volume has three axes"
        raise BadScan(msg)
    if any(n > 1 for n in shape[3:]):
        msg = f"holds {len(shape)}D data of {_times(shape)}: extract one volume with three axes"
        raise BadScan(msg)
    x, y, z = (int(n) for n in shape[:3])
    if max(x, y, z) > MAX_VOXELS or x * y * z > MAX_TOTAL:
        msg = (
            f"declares {_times((x, y, z))} voxels, more than any CT (limits: {MAX_VOXELS} an axis, {MAX_TOTAL} in all)"
        )
        raise BadScan(msg)
    if min(x, y, z) < MIN_VOXELS:
        msg = f"has only {_times((x, y, z))} voxels: at least {MIN_VOXELS} are needed along each axis"
        raise BadScan(msg)
    notes = (f"{len(shape)}D data of {_times(shape)} read as one volume",) if len(shape) > 3 else ()
    return (x, y, z), notes


def check_extent(shape: Shape3, affine: Affine) -> None:
    """Refuse a grid whose size in millimetres no chest CT has."""
    extent = np.multiply(shape, spacing_of(affine))
    if extent.min() < MIN_EXTENT or extent.max() > MAX_EXTENT:
        size = " x ".join(f"{length:.4g}" for length in extent)
        msg = f"measures {size} mm, outside {MIN_EXTENT:g} to {MAX_EXTENT:g} mm: check the voxel spacing and its unit"
        raise BadScan(msg)


def nearest_orthogonal(affine: Affine) -> tuple[Affine, tuple[str, ...]]:
    """The affine with orthogonal axes (polar decomposition). Repairs a small shear and notes it."""
    matrix = affine[:3, :3]
    spacing = np.linalg.norm(matrix, axis=0)
    if not np.isfinite(affine).all() or spacing.min() == 0:
        msg = "has an affine with zero, infinite or NaN entries: write the scan again with its voxel spacing"
        raise BadScan(msg)
    cosines = matrix / spacing
    left, _, right = np.linalg.svd(cosines)
    deviation = float(np.abs(cosines - left @ right).max())
    if deviation <= NO_SHEAR:
        return affine, ()
    if deviation > SMALL_SHEAR:
        msg = f"has a sheared affine (axes are off by {deviation:.3f}): resample it to a straight grid"
        raise BadScan(msg)
    repaired = affine.copy()
    repaired[:3, :3] = left @ right * spacing
    return repaired, (f"axes deviated by {deviation:.4f} from right angles and were replaced by the nearest rotation",)


def as_hounsfield(array: Voxels, affine: Affine) -> tuple[Voxels, tuple[str, ...]]:
    """The volume as int16, or as float32 if HU are fractional or out of range; never below -1024 HU.

    The affine tells whether the volume is large enough for a whole chest.

    Raises:
        BadScan: the values cannot be Hounsfield units of a chest CT.
    """
    _check_numbers(array)
    low, high = array.min(), array.max()
    if low == high:
        msg = f"holds the value {low:g} in every voxel: this is not a CT scan"
        raise BadScan(msg)
    array, wrapped = _without_wrapped(array, float(high))
    check_hounsfield(array, whole=sorted(np.multiply(array.shape, spacing_of(affine)))[1] >= WHOLE)
    phantom = ("lung and tissue have no noise: read as a digital phantom",) if is_drawn(array) else ()
    padding = int(np.count_nonzero(array < AIR))
    if padding:
        array = np.maximum(array, AIR)
    return _narrow(array, float(array.max())), (*wrapped, *padding_note(padding), *phantom)


def _without_wrapped(array: Voxels, high: float) -> tuple[Voxels, tuple[str, ...]]:
    """Restore padding that was stored as an unsigned number, such as 63536 for -2000."""
    if not WRAPPED[0] <= high <= WRAPPED[1]:
        return array, ()
    places = array > np.iinfo(np.int16).max
    if len(np.unique(array[places])) > 2:
        return array, ()
    note = f"{np.count_nonzero(places)} voxels of {high:g} are padding, {high - 2**16:g} stored as an unsigned number"
    return np.where(places, AIR, array), (f"{note}, and were set to air ({AIR} HU)",)


def padding_note(count: int) -> tuple[str, ...]:
    """The note on `count` voxels that were set to air; empty for 0."""
    return (f"{count} voxels of padding or below {AIR} HU were set to air ({AIR} HU)",) if count else ()


def _check_numbers(array: Voxels) -> None:
    if array.dtype.kind not in "iuf":
        msg = f"holds {array.dtype.name} values: a CT has one real number in each voxel"
        raise BadScan(msg)
    invalid = array.size - int(np.count_nonzero(np.isfinite(array))) if array.dtype.kind == "f" else 0
    if invalid:
        msg = f"holds {invalid} NaN or infinite voxels ({invalid / array.size:.2%}): repair the scan before reading it"
        raise BadScan(msg)


def _narrow(array: Voxels, high: float) -> Voxels:
    if high > np.iinfo(np.int16).max:
        return array.astype(np.float32, copy=False)
    if array.dtype.kind in "iu":
        return array.astype(np.int16, copy=False)
    whole = np.empty(array.shape, np.int16, order="F")
    for z in range(array.shape[2]):
        whole[..., z] = array[..., z]
        if not np.array_equal(whole[..., z], array[..., z]):
            return array.astype(np.float32, copy=False)
    return whole


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(str(n) for n in shape)
