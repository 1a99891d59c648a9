"""Tiny training data: a chest of 128 x 96 x 112 mm in LUNA16's layout, crops, and a configuration."""

import csv
import functools
import io
import lzma
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from src.data.geometry import RAS_TO_LPS
from src.data.phantom import Lesion, chest_phantom
from src.train.config import TrainConfig
from src.types import Scan

__all__ = ["CROP_CENTRE", "chest", "tiny_config", "tiny_crops", "write_crops", "write_cubes", "write_luna16"]

SHRINK = 0.4  # preparing a whole chest at 1 mm would take half a minute
LESIONS = (Lesion(25), Lesion(20), Lesion(16))
CROP_CENTRE = (27, 26, 24)  # z, y, x: slightly off the middle, as in the real crops
FLIPPED = np.diag([-1.0, 1.0, -1.0])


@functools.cache
def chest() -> tuple[Scan, list[tuple[npt.NDArray[np.float64], float]]]:
    """The small chest at 1.6 mm, and its nodules: LPS millimetres and diameter."""
    scan, nodules = chest_phantom(0, (4.0, 4.0, 4.0), LESIONS)
    shrink = np.diag([SHRINK, SHRINK, SHRINK, 1.0])
    truths = [(np.array(n.coordinates_lps) * SHRINK, n.diameter_mm * SHRINK) for n in nodules]
    return Scan(scan.array, shrink @ scan.affine), truths


def write_luna16(folder: Path, subsets: Sequence[str] = ("subset0", "subset0", "subset9")) -> list[str]:
    """Write a scan into each named subfolder, every second one upside down. Returns the names.

    The first two nodules of the chest are annotated, the third one is excluded.
    """
    names = []
    for number, subset in enumerate(subsets):
        name = f"1.2.826.0.{number}"
        (folder / subset).mkdir(parents=True, exist_ok=True)
        _write_mhd(folder / subset / f"{name}.mhd", flipped=number % 2 == 1)
        names.append(name)
    truths = chest()[1]
    _write_table(folder / "annotations.csv", names, truths[:2])
    _write_table(folder / "annotations_excluded.csv", names, [(truths[2][0], -1.0)])
    return names


def _write_mhd(path: Path, *, flipped: bool) -> None:
    scan, _ = chest()
    array, affine = scan.array, RAS_TO_LPS @ scan.affine
    if flipped:
        array = array[::-1, :, ::-1]
        last = np.array(array.shape) - 1
        affine = affine @ np.block([[FLIPPED, np.array([[last[0]], [0], [last[2]]])], [np.zeros((1, 3)), np.eye(1)]])
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.transpose(2, 1, 0)))
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    image.SetDirection((affine[:3, :3] / spacing).ravel().tolist())
    sitk.WriteImage(image, str(path))


def _write_table(path: Path, names: Sequence[str], truths: Sequence[tuple[npt.NDArray[np.float64], float]]) -> None:
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["seriesuid", "coordX", "coordY", "coordZ", "diameter_mm"])
        table.writerows([name, *point.tolist(), diameter] for name in names for point, diameter in truths)


def tiny_crops(count: int = 6) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.bool_], list[float]]:
    """Balls of 5 mm and more in lung, (count, 51, 51, 51) HU and masks, order z, y, x, and their diameters."""
    distance = np.linalg.norm(np.indices((51, 51, 51)).transpose(1, 2, 3, 0) - CROP_CENTRE, axis=-1)
    diameters = [5.0 + 2 * i for i in range(count)]
    masks = np.stack([distance < d / 2 for d in diameters])
    noise = np.random.default_rng(0).normal(0, 20, masks.shape)
    return (np.where(masks, 40, -850) + noise).astype(np.int16), masks, diameters


def write_crops(folder: Path, patients: Sequence[str] = ("a", "a", "b", "c", "d", "e")) -> None:
    """Write the files that `data` names: crops, their table, and backgrounds `one` and `two`."""
    hu, masks, diameters = tiny_crops(len(patients))
    ids = [f"crop{i}" for i in range(len(patients))]
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "lidc_nodule_crops.npz", crop_id=ids, hu=hu, mask=masks)
    with (folder / "lidc_nodule_crops.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["crop_id", "patient_id", "eq_diam_mm", "texture", "malignancy"])
        table.writerows([*row, 5.0, 3.0] for row in zip(ids, patients, diameters, strict=True))
    (folder / "backgrounds").mkdir(exist_ok=True)
    for name in ("one", "two"):
        nib.save(nib.Nifti1Image(chest()[0].array, chest()[0].affine), folder / "backgrounds" / f"{name}.nii.gz")


def tiny_config(folder: Path, **changes: Any) -> TrainConfig:  # noqa: ANN401 - whatever the configuration holds
    """The configuration of a six-step run on the LUNA16 layout in `folder`, on one CPU thread."""
    values: dict[str, Any] = {
        "luna16": folder / "luna16",
        "luna16_validation_subset": 9,
        "cache": folder / "cache",
        "features": (4, 8, 8, 8),
        "seed": 1,
        "steps": 6,
        "batch_size": 1,
        "warmup": 2,
        "validate_every": 6,
        "mine_every": 3,
        "workers": 0,
        "device": "cpu",
        "run": folder / "run",
        "checkpoint": folder / "model.pth",
        "name": "tiny",
    }
    return TrainConfig.model_validate(values | changes)


def write_cubes(folder: Path, patients: Sequence[str] = ("a", "b"), subsets: Sequence[int] = (0, 8)) -> None:
    """Write LUNA16 nodule cubes: balls of 10 mm at (z 25, y 24, x 23), another at x 40, and two false positives."""
    folder.mkdir(parents=True, exist_ok=True)
    z, y, x = np.indices((50, 50, 50))
    ball, other = ((x - at) ** 2 + (y - 24) ** 2 + (z - 25) ** 2 < 25 for at in (23, 40))
    label = np.where(ball, 1, np.where(other, 2, 0)).astype(np.uint8)
    codes = np.where(label > 0, 133, 22).astype(np.uint8)  # 40 and -848 HU
    codes[10, 24, 23] = 60  # -544 HU, towards the feet
    count = len(patients)
    for name, array in (
        ("luna16_nodules_hu8_0", np.stack([codes])),
        ("luna16_nodules_hu8_1", np.stack([codes] * (count - 1))),
        ("luna16_nodules_label", np.stack([label] * count)),
    ):
        buffer = io.BytesIO()
        np.save(buffer, array)
        (folder / f"{name}.npy.xz").write_bytes(lzma.compress(buffer.getvalue(), preset=0))
    columns = {
        "eq_diam_mm": 10.0,
        "luna_diam_mm": 9.0,
        "mean_texture": 4.5,
        "mean_malignancy": 3.5,
        "orig_slice_spacing_mm": 2.5,
        "contrast_used": 1,
        "excluded_findings_zyx_d": "10.0,24.0,23.0,-1;25.0,24.0,26.0,-1;25.0,24.0,40.0,8.1",
        "usable": 1,
    }
    with (folder / "luna16_nodules.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["crop_id", "patient_id", "series_uid", "subset", *columns])
        rows = zip(range(count), patients, subsets, strict=True)
        table.writerows([f"cube{i}", patient, f"1.2.{i}", subset, *columns.values()] for i, patient, subset in rows)
