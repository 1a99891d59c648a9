"""LUNA16's reference nodules as cubes of 50 mm at 1 mm, each in its own surroundings, with the readers' ratings."""

import csv
import io
import lzma
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from ..errors import BadConfig
from .crops import Crop

__all__ = ["load_cubes"]

HU_STEP, HU_ZERO = 8, -1024  # HU of a stored step, and of a stored zero
NODULE, OTHER = 1, 2  # labels; `OTHER`: a reader outlined another nodule there
OWN = 5.0  # mm; a reader's mark further from all outlines is certainly another structure
TABLE, LABELS = "luna16_nodules.csv", "luna16_nodules_label.npy.xz"
VOXELS = ("luna16_nodules_hu8_0.npy.xz", "luna16_nodules_hu8_1.npy.xz")


def load_cubes(folder: Path) -> list[Crop]:
    """The usable cubes of `luna16_nodules*`. Their outlines agree with the readers and are not cut.

    Raises:
        BadConfig: a file is missing or broken, or the files do not match.
    """
    try:
        with (folder / TABLE).open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        codes = np.concatenate([_stored(folder / name) for name in VOXELS])
        labels = _stored(folder / LABELS)
        if not len(rows) == len(codes) == len(labels):
            msg = f"{len(rows)} rows, {len(codes)} cubes, {len(labels)} outlines"
            raise ValueError(msg)  # noqa: TRY301 - reported like errors of reading
        return [_crop(*each) for each in zip(rows, codes, labels, strict=True) if each[0]["usable"] == "1"]
    except OSError as error:
        msg = f"cubes: {folder} must hold {TABLE}, {LABELS} and {', '.join(VOXELS)} ({error.strerror or error})"
        raise BadConfig(msg) from None
    except KeyError as error:
        msg = f"cubes: {folder / TABLE} lacks the column {error}"
        raise BadConfig(msg) from None
    except (ValueError, lzma.LZMAError) as error:
        msg = f"cubes: the files luna16_nodules* in {folder} are damaged or do not match: {error}"
        raise BadConfig(msg) from None


def _stored(path: Path) -> npt.NDArray[np.uint8]:
    stored: npt.NDArray[np.uint8] = np.load(io.BytesIO(lzma.decompress(path.read_bytes())), allow_pickle=False)
    return stored


def _crop(row: dict[str, str], codes: npt.NDArray[np.uint8], label: npt.NDArray[np.uint8]) -> Crop:
    codes, label = codes.transpose(2, 1, 0), label.transpose(2, 1, 0)  # stored z, y, x
    mask, other = label == NODULE, label == OTHER
    return Crop(
        row["crop_id"],
        row["patient_id"],
        codes.astype(np.int16) * HU_STEP + HU_ZERO,
        mask,
        np.array(ndimage.center_of_mass(mask)),
        float(row["eq_diam_mm"]),
        float(row["mean_texture"]),
        float(row["mean_malignancy"]),
        luna_diameter=float(row["luna_diam_mm"]),
        series_uid=row["series_uid"],
        subset=int(row["subset"]),
        slice_spacing=float(row["orig_slice_spacing_mm"]),
        contrast=row["contrast_used"] == "1",
        other=other if other.any() else None,
        lookalikes=_lookalikes(row["excluded_findings_zyx_d"].split(";"), mask | other),
    )


def _lookalikes(findings: Sequence[str], outlined: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """The voxels (n, 3) away from all outlines that readers marked as a non-nodule, or as smaller than 3 mm."""
    marked = [[float(value) for value in finding.split(",")] for finding in findings if finding]
    points = np.array([[x, y, z] for z, y, x, diameter in marked if diameter < 0]).reshape(-1, 3)
    distance = ndimage.distance_transform_edt(~outlined)
    nearest = np.clip(np.round(points).astype(np.intp), 0, np.array(outlined.shape) - 1)
    kept: npt.NDArray[np.float64] = points[distance[tuple(nearest.T)] > OWN]
    return kept
