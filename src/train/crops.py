"""Nodule crops with outlines, and their split by patient."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from ..errors import BadConfig
from ..types import FloatArray
from .targets import Mask, Points

__all__ = ["Crop", "load_crops", "split_by_patient"]

NEAR = 3.0  # mm; a mark this near to an outline may belong to the nodule


@dataclass(frozen=True, eq=False)
class Crop:
    """A nodule and its surroundings: (X, Y, Z) float32 or int16 HU at 1 mm, about 50 mm wide, with its outline."""

    crop_id: str
    patient: str
    hu: FloatArray | npt.NDArray[np.int16]
    mask: Mask
    centre: Points  # the outline's centroid in voxels; up to 2 mm from the crop's middle on each axis
    diameter: float  # mm, of the sphere with the outline's volume
    texture: float  # 1 ground-glass to 5 solid, the mean of the readers' ratings
    malignancy: float  # 1 to 5, the mean of the readers' ratings
    luna_diameter: float | None = None  # mm, by LUNA16's reference
    series_uid: str | None = None  # of the scan that it was cut from
    subset: int | None = None  # LUNA16's, 0 to 9
    slice_spacing: float | None = None  # mm, of that scan
    contrast: bool | None = None  # whether that scan was taken with contrast medium
    other: Mask | None = None  # other outlined nodules; neither positive nor negative
    lookalikes: Points | None = None  # (n, 3) voxels that readers marked as no nodule

    def certainly_false(self, points: Points) -> Mask:
        """Which of the (n, 3) marks in the crop are certainly false: more than 3 mm from any outline."""
        outlined = self.mask if self.other is None else self.mask | self.other
        voxels = np.floor(np.asarray(points, dtype=np.float64) + 0.5)
        inside = np.asarray(((voxels >= 0) & (voxels < np.array(outlined.shape))).all(axis=1))
        distance = ndimage.distance_transform_edt(~outlined) if inside.any() else np.zeros(outlined.shape)
        inside[inside] = distance[tuple(voxels[inside].astype(np.intp).T)] > NEAR
        return inside


def load_crops(folder: Path) -> list[Crop]:
    """All crops of `lidc_nodule_crops.npz`, with the readers' ratings from its table.

    Raises:
        BadConfig: a file is missing or broken, or the table lacks a crop or a column.
    """
    archive, table = folder / "lidc_nodule_crops.npz", folder / "lidc_nodule_crops.csv"
    try:
        with table.open(newline="", encoding="utf-8") as file:
            rows = {row["crop_id"]: row for row in csv.DictReader(file)}
        with np.load(archive) as data:
            stored = zip((str(name) for name in data["crop_id"]), data["hu"], data["mask"], strict=True)
            return [_crop(rows[name], hu, mask) for name, hu, mask in stored]
    except OSError as error:
        msg = f"data: {folder} must hold {archive.name} and {table.name} ({error.strerror or error})"
        raise BadConfig(msg) from None
    except KeyError as error:
        msg = f"data: {archive.name} or {table.name} in {folder} lacks {error}"
        raise BadConfig(msg) from None
    except (ValueError, TypeError, BadZipFile) as error:
        msg = f"data: {archive.name} or {table.name} in {folder} is damaged: {error}"
        raise BadConfig(msg) from None


def _crop(row: dict[str, str], hu: npt.NDArray[np.int16], mask: Mask) -> Crop:
    outline = mask.transpose(2, 1, 0).astype(bool)  # stored z, y, x
    return Crop(
        row["crop_id"],
        row["patient_id"],
        hu.transpose(2, 1, 0).astype(np.float32),
        outline,
        np.array(ndimage.center_of_mass(outline)),
        float(row["eq_diam_mm"]),
        float(row["texture"]),
        float(row["malignancy"]),
    )


def split_by_patient(crops: Sequence[Crop], every: int = 5) -> tuple[list[Crop], list[Crop]]:
    """Training and validation crops. Each `every`-th patient, ordered by diameter, is validation.

    Raises:
        BadConfig: there are too few patients to hold one out.
    """
    order = sorted({crop.patient: crop.diameter for crop in crops}.items(), key=lambda item: (item[1], item[0]))
    held_out = {patient for i, (patient, _) in enumerate(order) if i % every == every // 2}
    if not held_out:
        msg = f"data: the crops are of {len(order)} patients: at least {every // 2 + 1} are needed to hold one out"
        raise BadConfig(msg)
    return [c for c in crops if c.patient not in held_out], [c for c in crops if c.patient in held_out]
