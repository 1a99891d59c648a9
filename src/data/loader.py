"""Reading a scan from any supported file: the one door through which volumes enter."""

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ..types import Scan, Vec3, Volume
from .geometry import RAS_TO_LPS

__all__ = ["load_scan", "read_scan"]


def read_scan(path: str | Path) -> Scan:
    """The scan at `path`: (X, Y, Z) int16 or float32 HU."""
    image = sitk.ReadImage(str(path))
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    array = sitk.GetArrayFromImage(image).transpose(2, 1, 0)
    return Scan(array, RAS_TO_LPS @ affine, Path(path).name.split(".")[0])


def load_scan(path: str | Path) -> tuple[Volume, Vec3]:
    """The scan's (X, Y, Z) array in HU and its spacing in millimetres."""
    scan = read_scan(path)
    return Volume(scan.array, scan.affine), scan.spacing
