"""Keeps data of a job's scan beside the results, for viewers and for reviewed reports."""

import os
import shutil
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt

from ..files import whole_file
from ..types import Affine, Scan
from .storage import scan_id

__all__ = ["coarse", "keep_preview", "keep_scan", "keep_series"]

PREVIEW_VOXELS = 2**21  # a coarse image of 4 MB, which a browser shows at once
LEAST, MOST = -32768, 32767


def keep_scan(scan: Scan, upload: Path, folder: Path) -> None:
    """Keep the scan as NIfTI, for viewers. If the upload is NIfTI, it is linked."""
    folder.mkdir(parents=True, exist_ok=True)
    if upload.name.endswith((".nii", ".nii.gz")):
        _link(upload, folder / upload.name)
    else:
        nibabel.save(nibabel.Nifti1Image(scan.array, scan.affine), folder / f"{scan_id(upload.name)}.nii.gz")


def keep_preview(scan: Scan, path: Path) -> None:
    """Keep a coarse image of a large scan, which viewers show while the scan loads. Small scans get none."""
    if scan.array.size <= PREVIEW_VOXELS:
        return
    array, affine = coarse(scan.array, scan.affine, PREVIEW_VOXELS)
    image = nibabel.Nifti1Image(np.clip(np.rint(array), LEAST, MOST).astype(np.int16), affine)
    with whole_file(path) as partial:
        partial.write_bytes(image.to_bytes())


def coarse(array: npt.NDArray[np.generic], affine: Affine, most: int) -> tuple[npt.NDArray[np.float32], Affine]:
    """An (X, Y, Z) array as means of blocks, at most `most` of them, and its affine. Both fill the same box."""
    shrink = (array.size / most) ** (1 / 3)
    shape = [max(1, int(n / shrink)) for n in array.shape]
    means: npt.NDArray[Any] = array
    for axis, (n, m) in enumerate(zip(array.shape, shape, strict=True)):
        edges = np.linspace(0, n, m + 1).astype(int)
        width = np.diff(edges).astype(np.float32).reshape([-1 if one == axis else 1 for one in range(3)])
        means = np.add.reduceat(means, edges[:-1], axis=axis, dtype=np.float32) / width
    step = np.divide(array.shape, shape)
    place = np.eye(4)
    place[:3, :3], place[:3, 3] = np.diag(step), (step - 1) / 2
    return means, affine @ place


def keep_series(source: Path, folder: Path) -> None:
    """Keep the DICOM series, so that a reviewed report can refer to it too."""
    folder.mkdir()
    if source.is_dir():
        shutil.copytree(source, folder / source.name, copy_function=_link)
    else:
        _link(source, folder / source.name)


def _link(source: str | Path, target: str | Path) -> None:
    """The same file under another name: a link or, on a file system without links, a copy."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
