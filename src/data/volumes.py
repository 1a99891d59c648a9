"""Reads files that hold a whole volume: NIfTI, MetaImage and NRRD.

PIVOT parses each header once, into values, and these locate the voxels. No other library reads the header again, and
only plain names beside the header are opened.
"""

from pathlib import Path
from typing import Any

import numpy.typing as npt

from ..errors import BadScan
from ..types import Affine
from .formats import content_of
from .metaimage import metaimage
from .nifti import nifti
from .nrrd import nrrd
from .voxels import voxels_of

__all__ = ["read_volume"]

HEADERS = {".nii.gz": nifti, ".nii": nifti, ".mhd": metaimage, ".mha": metaimage, ".nrrd": nrrd, ".nhdr": nrrd}


def read_volume(path: Path, suffix: str) -> tuple[npt.NDArray[Any], Affine, tuple[str, ...]]:
    """Values of shape (X, Y, Z), scaled by the header, the affine (RAS+), and notes on repairs.

    Raises:
        BadScan: the content is of another format than the suffix, or damaged.
    """
    held = content_of(path)
    if held and HEADERS.get(held) is not HEADERS[suffix]:
        msg = f"is called {suffix}, but is a {held} file by its content: rename it"
        raise BadScan(msg)
    stated = HEADERS[suffix](path)
    return voxels_of(stated), stated.affine, stated.notes
