"""One of the two examinations: a scan with its nodules and lungs."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, TypedDict

import numpy as np
import numpy.typing as npt

from ..data.geometry import RAS_TO_LPS, canonical, map_points, spacing_of, to_lps
from ..measurement.nodule_properties import segment_and_measure
from ..types import Affine, Detection, Properties, Scan, Vec3
from .registration import LungImage, Points, lungs_of

__all__ = ["Exam", "Seen"]

BESIDE_LUNG = 6.0  # mm from aerated lung to a nodule's edge; further away is outside the lungs
SAME_SIZE = 1.6  # ratio of diameters within which a nodule at the place may be the same
SAME_PLACE = 8.0  # mm between the expected place and the nodule there


class Seen(TypedDict):
    """A nodule in one of the examinations."""

    id: int | None  # of the detection; null if the detector missed it
    found_by: Literal["detector", "second look"]
    coordinates_lps: Vec3
    diameter_mm: float
    properties: Properties


@dataclass(frozen=True, eq=False)
class Exam:
    """A scan with its detections; `about` is the report's metadata."""

    scan: Scan
    detections: Sequence[Detection]
    about: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def lungs(self) -> LungImage:
        """The scan's lungs. Raises `BadScan` if there are none."""
        return lungs_of(self.scan)

    @cached_property
    def standard(self) -> tuple[npt.NDArray[np.generic], Affine]:
        """The scan with its axes in standard order, and its affine (RAS+)."""
        return canonical(self.scan.array, self.scan.affine)

    def seen(self) -> list[Seen]:
        """The detections as nodules."""
        return [
            Seen(
                id=found["id"],
                found_by="detector",
                coordinates_lps=_vec3(to_lps(self.scan.affine, np.divide(found["coordinates"], self.scan.spacing))),
                diameter_mm=found["diameter_mm"],
                properties=found["properties"],
            )
            for found in self.detections
        ]

    def shows(self, point: Points, diameter: float) -> bool:
        """Whether a nodule of that diameter at an LPS point would be in the image and in the lungs."""
        array, affine = self.standard
        world = map_points(RAS_TO_LPS, point)
        index = map_points(np.linalg.inv(affine), world)
        reach = diameter / 2 / np.array(spacing_of(affine))
        inside = (index >= reach).all() and (index <= np.array(array.shape) - 1 - reach).all()
        return bool(inside) and self.lungs.lungs.distance_to(world) <= diameter / 2 + BESIDE_LUNG

    def look(self, point: Points, diameter: float) -> Seen | None:
        """The nodule at an LPS point, if its size is close to that diameter."""
        array, affine = self.standard
        spacing = spacing_of(affine)
        index = map_points(np.linalg.inv(affine), map_points(RAS_TO_LPS, point))
        properties, body = segment_and_measure(array, _vec3(index * spacing), diameter, spacing)
        if body is None:
            return None
        centre = to_lps(affine, np.divide(body.centre, spacing))
        size = properties["effective_diameter_mm"]
        alike = size is not None and 1 / SAME_SIZE <= size / diameter <= SAME_SIZE
        if size is None or not alike or np.linalg.norm(centre - point) > SAME_PLACE:
            return None
        return Seen(
            id=None,
            found_by="second look",
            coordinates_lps=_vec3(centre),
            diameter_mm=round(size, 2),
            properties=properties,
        )


def _vec3(values: npt.NDArray[np.float64]) -> Vec3:
    x, y, z = (round(float(v), 3) for v in values)
    return x, y, z
