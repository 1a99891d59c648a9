"""Files that hold a whole volume: NIfTI, MetaImage and NRRD, read by PIVOT itself.

A header is parsed once, into values, and these say which bytes are voxels: no other program reads the header again,
and no file is opened but those of plain names beside it.
"""

from pathlib import Path
from typing import Any

import numpy.typing as npt

from ..types import Affine
from .metaimage import metaimage
from .nifti import nifti
from .nrrd import nrrd
from .voxels import voxels_of

__all__ = ["read_volume"]

HEADERS = {".nii.gz": nifti, ".nii": nifti, ".mhd": metaimage, ".mha": metaimage, ".nrrd": nrrd, ".nhdr": nrrd}


def read_volume(path: Path, suffix: str) -> tuple[npt.NDArray[Any], Affine, tuple[str, ...]]:
    """Values of shape (X, Y, Z) as scaled by the header, the affine (RAS+), and notes on repairs."""
    stated = HEADERS[suffix](path)
    return voxels_of(stated), stated.affine, stated.notes
