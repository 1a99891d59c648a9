"""LUNA16's nodules as cubes: PIVOT's measurements on the image, beside the outlines and ratings of LIDC's readers."""

from dataclasses import dataclass
from pathlib import Path

from ...measurement.nodule_properties import segment_and_measure
from ...types import Properties
from ..crops import Crop
from ..cubes import load_cubes
from .lidc import RatedNodule

__all__ = ["MeasuredCube", "match_cubes", "measure_cubes"]

SAME_RATING = 0.02  # the cubes' table rounds mean ratings to two decimals
SAME_SIZE = 0.75  # least ratio of both sources' diameters of a nodule


@dataclass(frozen=True, eq=False, slots=True)
class MeasuredCube:
    """One cube: its nodule in the database, and PIVOT's measurements on the image."""

    nodule: RatedNodule
    properties: Properties


def match_cubes(folder: Path, nodules: list[RatedNodule]) -> list[tuple[Crop, RatedNodule]]:
    """The cubes that are found in the database, each with its nodule.

    It is the patient's nodule with the same mean ratings of texture and malignancy, and the nearest diameter.

    Raises:
        BadConfig: the folder does not hold the cubes.
    """
    matched = []
    for cube in load_cubes(folder):
        same = [nodule for nodule in nodules if nodule.patient == cube.patient and _ratings_agree(cube, nodule)]
        nearest = max(same, key=lambda nodule: _size_ratio(cube, nodule), default=None)
        if nearest is not None and _size_ratio(cube, nearest) >= SAME_SIZE:
            matched.append((cube, nearest))
    return matched


def measure_cubes(folder: Path, nodules: list[RatedNodule]) -> list[MeasuredCube]:
    """PIVOT's measurements of the cubes of `match_cubes`, starting from LUNA16's centre and diameter."""
    return [MeasuredCube(nodule, _measured(cube)) for cube, nodule in match_cubes(folder, nodules)]


def _measured(cube: Crop) -> Properties:
    x, y, z = (float(value) for value in cube.centre)
    return segment_and_measure(cube.hu, (x, y, z), _diameter(cube), (1.0, 1.0, 1.0))[0]


def _ratings_agree(cube: Crop, nodule: RatedNodule) -> bool:
    means = ((cube.texture, nodule.mean_rating("texture")), (cube.malignancy, nodule.mean_rating("malignancy")))
    return all(abs(one - other) <= SAME_RATING for one, other in means)


def _size_ratio(cube: Crop, nodule: RatedNodule) -> float:
    """The smaller diameter over the larger one."""
    ratio = _diameter(cube) / nodule.mean("diameter")
    return min(ratio, 1 / ratio)


def _diameter(cube: Crop) -> float:
    return cube.luna_diameter or cube.diameter
