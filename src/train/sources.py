"""The scans that training learns from: nodule crops and whole backgrounds, split by patient."""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from ..data.geometry import canonical
from ..data.loader import read_scan
from ..errors import BadScan
from ..types import FloatArray

__all__ = ["Background", "Crop", "load_background", "load_crops", "split_by_patient"]

PARENCHYMA = (-950.0, -700.0)  # HU of aerated lung after smoothing; air outside the body lies below
BODY = -300.0  # HU above which smoothed voxels are tissue
RIM, RIM_BELOW = 5, -350.0  # voxels around aerated lung; smoothed HU that is still mostly air
OPACITY = (-700.0, -200.0)  # HU of ground-glass, small consolidations and, unavoidably, of larger vessels


@dataclass(frozen=True, eq=False)
class Crop:
    """A nodule and its surroundings: (51, 51, 51) float32 HU at 1 mm with one reader's outline."""

    crop_id: str
    patient: str
    hu: FloatArray
    mask: npt.NDArray[np.bool_]
    centre: npt.NDArray[np.float64]  # the outline's centroid in voxels; 1 to 2 mm off the crop's middle on each axis
    diameter: float  # mm, of the sphere with the outline's volume
    texture: float  # 1 ground-glass to 5 solid, a reader's rating
    malignancy: float  # 1 to 5, a reader's rating


@dataclass(frozen=True, eq=False)
class Background:
    """A whole scan at 1 mm, (X, Y, Z) int16 HU, x to the left, y to the back, z to the head."""

    name: str
    hu: npt.NDArray[np.int16]
    lung: npt.NDArray[np.int32]  # (n, 3) voxels of aerated lung
    rim: npt.NDArray[np.int32]  # (n, 3) voxels of lung beside the pleura or a vessel
    ignore: npt.NDArray[np.bool_] | None  # where an unmarked true lesion may be


def load_crops(folder: Path) -> list[Crop]:
    """All crops of `lidc_nodule_crops.npz` with the readers' ratings of its table."""
    archive, table = folder / "lidc_nodule_crops.npz", folder / "lidc_nodule_crops.csv"
    if not archive.is_file():
        msg = f"{archive} is missing: give the folder that holds the training data"
        raise BadScan(msg)
    with table.open(newline="") as file:
        rows = {row["crop_id"]: row for row in csv.DictReader(file)}
    with np.load(archive) as data:
        ids, hu, masks = data["crop_id"], data["hu"], data["mask"]
    crops = []
    for crop_id, volume, mask in zip((str(i) for i in ids), hu, masks, strict=True):
        row, outline = rows[crop_id], mask.transpose(2, 1, 0).astype(bool)  # stored z, y, x
        crops.append(
            Crop(
                crop_id,
                row["patient_id"],
                volume.transpose(2, 1, 0).astype(np.float32),
                outline,
                np.array(ndimage.center_of_mass(outline)),
                float(row["eq_diam_mm"]),
                float(row["texture"]),
                float(row["malignancy"]),
            )
        )
    return crops


def split_by_patient(crops: list[Crop], every: int = 5) -> tuple[list[Crop], list[Crop]]:
    """Training and validation crops; each `every`-th patient, ordered by diameter, is validation."""
    order = sorted({crop.patient: crop.diameter for crop in crops}.items(), key=lambda item: (item[1], item[0]))
    held_out = {patient for i, (patient, _) in enumerate(order) if i % every == every // 2}
    return [c for c in crops if c.patient not in held_out], [c for c in crops if c.patient in held_out]


def load_background(path: Path, *, has_opacities: bool = False) -> Background:
    """A background scan; with `has_opacities`, lesion-like densities in the lungs are to be ignored."""
    scan = read_scan(path)
    array, _ = canonical(scan.array, scan.affine)
    smooth = ndimage.gaussian_filter(array.astype(np.float32), 2.0)
    lung = (smooth > PARENCHYMA[0]) & (smooth < PARENCHYMA[1]) & _inside_body(smooth)
    lung = ndimage.binary_opening(lung, iterations=4)  # the blurred skin has the same values, but is thin
    ignore = None
    if has_opacities:
        near_lung = ndimage.binary_dilation(lung, iterations=8)
        ignore = near_lung & (smooth > OPACITY[0]) & (smooth < OPACITY[1])
    rim = ndimage.binary_dilation(lung, iterations=RIM) & ~lung & (smooth < RIM_BELOW)
    return Background(
        scan.scan_id, np.ascontiguousarray(array, dtype=np.int16), _points(lung), _points(rim), ignore
    )


def _points(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.int32]:
    return np.argwhere(mask).astype(np.int32)


def _inside_body(smooth: FloatArray) -> npt.NDArray[np.bool_]:
    """What the body encloses in each axial slice; the table's foam is as light as lung, but outside."""
    labels, count = ndimage.label(smooth > BODY)
    body = labels == 1 + np.argmax(np.bincount(labels.ravel(), minlength=count + 1)[1:])
    return np.stack([ndimage.binary_fill_holes(body[:, :, k]) for k in range(body.shape[2])], axis=2)
