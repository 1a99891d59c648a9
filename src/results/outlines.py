"""The findings' masks for the page: small boxes of bits, so that it needs no volume of labels."""

import base64
from pathlib import Path

import numpy as np

from ..files import write_json
from ..types import Results, Scan
from .found import findings_of

__all__ = ["save_outlines"]


def save_outlines(scan: Scan, results: Results, path: Path) -> None:
    """Write the masks of all findings that have one.

    `affine` maps voxels to RAS+ mm. A mask has the finding's `number`, the index of its first voxel (`origin`), its
    `shape`, and its voxels as base64: one bit each, the last axis fastest, the highest bit of a byte first.
    """
    masks = [
        {
            "number": one.number,
            "origin": [int(index) for index in one.mask.origin],
            "shape": list(one.mask.voxels.shape),
            "bits": base64.b64encode(np.packbits(one.mask.voxels).tobytes()).decode(),
        }
        for one in findings_of(results)
        if one.mask is not None
    ]
    write_json({"affine": scan.affine.tolist(), "masks": masks}, path)
