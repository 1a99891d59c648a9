"""The properties of a nodule at any point of a scan."""

import numpy as np
import numpy.typing as npt

from ..data.arrays import GivenScan, as_array
from ..data.geometry import canonical, map_points, spacing_of
from ..errors import BadScan
from ..given import number_of, numbers_of
from ..types import Affine, NoduleMask, Properties, Scan, Vec3
from .nodule_properties import segment_and_measure
from .segmentation import Segmentation

__all__ = ["extract_properties", "measured_at"]

GUESSES = (8.0, 5.0, 13.0, 20.0, 3.0)  # mm, tried if no diameter is given
MOST_GUESS = 300.0  # mm


def extract_properties(
    scan: GivenScan,
    coordinates: Vec3,
    diameter: float | None = None,
    spacing: Vec3 | None = None,
    axial_axis: int = 2,
) -> Properties:
    """Volume (mm3), diameters (mm), HU statistics and type of the nodule at a point of an (X, Y, Z) scan in HU.

    `coordinates` are millimetres from the first voxel. `diameter` is a first guess in millimetres, or None, as for a
    peak. `axial_axis` is the array axis that runs from head to feet; the affine of a scan overrides it. With the
    coordinates and the diameter of a detection you get the detection's own values. If the nodule cannot be segmented,
    or the result is less than 0.6 times or more than twice as wide as the guess, the HU statistics are those of a ball
    of the guessed diameter. All else is then unknown: NaN, so that it can be formatted as a number (null in the JSON),
    or None for the type.

    Raises:
        BadConfig: the coordinates, the diameter or the axis are invalid.
        BadScan: the input is no scan, or its spacing is missing or contradicts its affine.
    """
    scan, spacing = as_array(scan, spacing)
    if scan.ndim != 3:
        msg = f"the scan has the shape {scan.shape}: a nodule is measured in an array (X, Y, Z)"
        raise BadScan(msg)
    x, y, z = numbers_of(coordinates, "coordinates")
    axial_axis = int(number_of(axial_axis, "axial_axis", 0, 2))
    affine: Affine | None = getattr(scan, "affine", None)
    if affine is not None:  # along the axes that the pipeline uses
        scan, turned, (x, y, z) = _along_body(np.asarray(scan), affine, (x, y, z), spacing)
        spacing, axial_axis = spacing_of(turned), 2
    if diameter is None:
        found = _of_unknown_size(scan, (x, y, z), spacing, axial_axis)[0]
    else:
        known = number_of(diameter, "diameter", 0, MOST_GUESS)
        found = segment_and_measure(scan, (x, y, z), known, spacing, axial_axis)[0]
    unknown = {key: np.nan for key, value in found.items() if value is None and key not in ("nodule_type", "solid_mm")}
    return {**found, **unknown}  # type: ignore[typeddict-item]


def measured_at(scan: Scan, coordinates: Vec3) -> tuple[Properties, NoduleMask | None]:
    """The properties of the nodule at a point of a scan, as in `extract_properties`, and its mask.

    Unknown values are None. So is the mask of a nodule without a clear boundary.
    """
    array, turned, point = _along_body(scan.array, scan.affine, coordinates, scan.spacing)
    properties, body = _of_unknown_size(array, point, spacing_of(turned), 2)
    return properties, None if body is None else body.on_grid(np.linalg.inv(scan.affine) @ turned)


def _along_body(
    array: npt.NDArray[np.generic], affine: Affine, coordinates: Vec3, spacing: Vec3
) -> tuple[npt.NDArray[np.generic], Affine, Vec3]:
    """A scan along the axes that the pipeline uses, its affine, and a point in mm from its first voxel."""
    turned_array, turned = canonical(array, affine)
    index = map_points(np.linalg.inv(turned) @ affine, np.divide(coordinates, spacing))
    x, y, z = (float(value) for value in index * spacing_of(turned))
    return turned_array, turned, (x, y, z)


def _of_unknown_size(
    scan: npt.NDArray[np.generic], point: Vec3, spacing: Vec3, axial_axis: int
) -> tuple[Properties, Segmentation | None]:
    """The properties and the body of the nodule of a mark without a diameter: the best fit of several guesses."""
    tried = {guess: segment_and_measure(scan, point, guess, spacing, axial_axis) for guess in GUESSES}

    def misfit(guess: float) -> float:
        measured = tried[guess][0]["effective_diameter_mm"]
        return np.inf if not measured else abs(float(np.log(measured / guess)))

    return tried[min(tried, key=misfit)]
