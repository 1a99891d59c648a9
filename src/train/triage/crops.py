"""The 98 image crops of LIDC nodules: PIVOT's measurements and the readers' outlines."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...measurement.nodule_properties import segment_and_measure
from ...types import Properties
from ..crops import Crop, load_crops
from .lidc import RATINGS, RatedNodule

__all__ = ["MeasuredCrop", "match_crops", "measure_crops"]

CLOSE = 0.07  # log of the ratio between the diameters of one outline in both sources


@dataclass(frozen=True, eq=False, slots=True)
class MeasuredCrop:
    """One crop: its nodule in the database, and PIVOT's measurements on the image."""

    nodule: RatedNodule
    properties: Properties
    rating: float  # malignancy, 1 to 5, by the reader of the crop's outline


@dataclass(frozen=True, slots=True)
class _Match:
    crop: int  # position among the crops
    number: int  # in the crop's name
    offset: int  # the patient's number minus the crop's
    error: float
    nodule: RatedNodule


def match_crops(folder: Path, nodules: list[RatedNodule]) -> list[tuple[Crop, RatedNodule]]:
    """The crops that are found in the database, each with its nodule.

    Raises:
        BadConfig: the folder does not hold the crops.
    """
    crops = load_crops(folder)
    matches = _chain(sorted(_matches(folder, crops, nodules), key=lambda match: (match.number, match.offset)))
    return [(crops[match.crop], match.nodule) for match in matches]


def measure_crops(folder: Path, nodules: list[RatedNodule]) -> list[MeasuredCrop]:
    """PIVOT's measurements of the crops of `match_crops`, starting from the readers' diameter."""
    return [MeasuredCrop(nodule, _measured(crop), crop.malignancy) for crop, nodule in match_crops(folder, nodules)]


def _measured(crop: Crop) -> Properties:
    x, y, z = (float(value) for value in crop.centre)
    return segment_and_measure(crop.hu, (x, y, z), crop.diameter, (1.0, 1.0, 1.0))[0]


def _matches(folder: Path, crops: list[Crop], nodules: list[RatedNodule]) -> Iterator[_Match]:
    """Outlines with a crop's seven ratings and its size, of patients with a higher number than the crop's."""
    with (folder / "lidc_nodule_crops.csv").open(newline="") as file:
        ratings = {row["crop_id"]: {name: float(row[name]) for name in RATINGS} for row in csv.DictReader(file)}
    for index, crop in enumerate(crops):
        number = int(crop.crop_id.split("_")[0])
        for nodule in nodules:
            offset = int(nodule.patient[-4:]) - number
            for outline in nodule.outlines if offset > 0 else ():
                error = abs(float(np.log(outline.diameter_with_line / crop.diameter)))
                if error < CLOSE and outline.ratings == ratings[crop.crop_id]:
                    yield _Match(index, number, offset, error, nodule)


def _chain(matches: list[_Match]) -> list[_Match]:
    """The longest sequence of matches (then the closest in size) whose offset never falls.

    Crops are numbered in the patients' order, with gaps. The patient's number in the crops' table is right only up to
    the first gap.
    """
    best: list[tuple[float, int]] = []  # for each match: the value of the best chain to it, and the match before
    for i, match in enumerate(matches):
        before = [
            (best[j][0], j) for j in range(i) if matches[j].number < match.number and matches[j].offset <= match.offset
        ]
        value, link = max(before, default=(0.0, -1))
        best.append((value + 1 - 2 * match.error, link))
    chain, at = [], int(np.argmax([value for value, _ in best])) if best else -1
    while at >= 0:
        chain.append(matches[at])
        at = best[at][1]
    return chain[::-1]
