"""A scan that comes as an array, from a caller that has read it."""

from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import BadScan
from ..types import Affine, Scan, Vec3
from .checks import as_hounsfield, check_extent, check_shape, nearest_orthogonal
from .geometry import RAS_TO_LPS, affine_from_spacing
from .pairing import check_spacing

__all__ = ["as_scan"]


def as_scan(scan: Scan | npt.NDArray[Any], spacing: Vec3 | None) -> tuple[Scan, bool]:
    """The input as a `Scan`, and whether its place in the world is known.

    Args:
        scan: a `Scan`, or an (X, Y, Z) array in HU, which may carry an `affine` (RAS+) and `notes` as `Volume` does.
        spacing: mm along x, y and z; an array without an affine needs it.

    Raises:
        BadScan: an array that is no chest CT volume, or whose spacing is missing or contradicts its affine.
    """
    if isinstance(scan, Scan):
        return scan, True
    own: Affine | None = getattr(scan, "affine", None)
    affine = _affine(scan, own, spacing)
    try:
        shape, _ = check_shape(np.shape(scan))
        affine, straightened = nearest_orthogonal(affine)
        check_extent(shape, affine)
        array, changed = as_hounsfield(np.asarray(scan).reshape(shape))
    except BadScan as error:
        msg = f"the given array {error}"
        raise BadScan(msg) from error
    return Scan(array, affine, notes=(*getattr(scan, "notes", ()), *straightened, *changed)), own is not None


def _affine(scan: npt.NDArray[Any], own: Affine | None, spacing: Vec3 | None) -> Affine:
    """The array's own affine; else one of its spacing, with axes that are taken to run to the left, back and head."""
    if spacing is None:
        if own is None:
            msg = "an array without an affine needs its spacing: predict(scan, spacing)"
            raise BadScan(msg)
        return own
    steps = np.asarray(spacing, dtype=np.float64)
    if steps.shape != (3,) or not (np.isfinite(steps).all() and (steps > 0).all()):
        msg = f"the spacing {spacing} must be three positive numbers, millimetres along x, y and z"
        raise BadScan(msg)
    if own is None:
        return RAS_TO_LPS @ affine_from_spacing(spacing)
    check_spacing(scan, spacing)
    return own
