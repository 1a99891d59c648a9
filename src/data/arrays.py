"""Scans as callers pass them: a path, a `Scan`, or an array in memory."""

import dataclasses
import os
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ..errors import BadConfig, BadScan
from ..given import array_of, is_path, numbers_of, words_for
from ..types import Affine, Scan, Vec3, Volume, spacing_of
from .checks import as_hounsfield, check_extent, check_shape, nearest_orthogonal
from .geometry import RAS_TO_LPS, affine_from_spacing
from .loader import read_scan
from .pairing import check_spacing

__all__ = ["GivenScan", "as_array", "as_scan"]

GivenScan: TypeAlias = Scan | npt.NDArray[Any] | str | os.PathLike[str]
LEAST_SPACING = 1e-6  # mm
MOST_NAME = 200  # characters


def as_array(scan: GivenScan, spacing: Vec3 | None = None) -> tuple[npt.NDArray[Any], Vec3]:
    """The array of a scan with its spacing in mm, and with an `affine` if its position is known.

    Args:
        scan: a path, a `Scan`, or an (X, Y, Z) array, which may carry an `affine` (RAS+) as `Volume` does.
        spacing: mm along x, y and z; required for an array without an affine.

    Raises:
        BadScan: the input is no scan, or its spacing is missing or contradicts its affine.
    """
    if is_path(scan):
        scan = read_scan(scan)  # type: ignore[arg-type]
    array = Volume(scan.array, scan.affine, scan) if isinstance(scan, Scan) else array_of(scan, "the scan")
    own: Affine | None = getattr(array, "affine", None)
    if spacing is None:
        if own is None:
            msg = "an array without an affine needs its spacing: predict(scan, spacing)"
            raise BadScan(msg)
        return array, spacing_of(own)
    try:
        x, y, z = numbers_of(spacing, "the spacing", least=LEAST_SPACING)
    except BadConfig:
        msg = f"the spacing {words_for(spacing)} must be three positive numbers, millimetres along x, y and z"
        raise BadScan(msg) from None
    check_spacing(array, (x, y, z))
    return array, (x, y, z)


def as_scan(scan: GivenScan, spacing: Vec3 | None, scan_id: str | None = None) -> tuple[Scan, bool]:
    """The input as a `Scan`, and whether its position in the world is known.

    Args:
        scan: a path, a `Scan`, or an (X, Y, Z) array in HU, which may carry an `affine` (RAS+) as `Volume` does.
        spacing: mm along x, y and z; required for an array without an affine.
        scan_id: its name; by default the name that the input carries (as from `load_scan`), else `scan`.

    Raises:
        BadConfig: `scan_id` cannot begin a file name.
        BadScan: the array is no chest CT volume, or its spacing is missing or contradicts its affine.
    """
    given, steps = as_array(scan, spacing)
    own: Affine | None = getattr(given, "affine", None)
    source: Scan | None = getattr(given, "source", None)
    name = _name(scan_id) if scan_id is not None else source.scan_id if source else "scan"
    if source is not None and (source is scan or is_path(scan)):
        return dataclasses.replace(source, scan_id=name), True
    try:
        shape, _ = check_shape(np.shape(given))
        affine, straightened = nearest_orthogonal(RAS_TO_LPS @ affine_from_spacing(steps) if own is None else own)
        check_extent(shape, affine)
        array, changed = as_hounsfield(np.asarray(given).reshape(shape), affine)
    except BadScan as error:
        msg = f"the given array {error}"
        raise BadScan(msg) from error
    about = source or Scan(array, affine)
    notes = (*about.notes, *straightened, *changed)
    return dataclasses.replace(about, array=array, affine=affine, scan_id=name, notes=notes), own is not None


def _name(scan_id: str) -> str:
    """Check that a name can begin a file name."""
    plain = isinstance(scan_id, str) and scan_id.isprintable() and 0 < len(scan_id) <= MOST_NAME
    if plain and not (scan_id.startswith(".") or set(scan_id) & set("/\\:")):
        return scan_id
    msg = f"scan_id {words_for(scan_id)} cannot name files: give a text without / \\ : that does not start with a dot"
    raise BadConfig(msg)
