"""The findings' masks for the page, as small boxes of bits instead of a volume of labels."""

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..files import write_json
from ..types import NoduleMask, Results, Scan
from .found import findings_of

__all__ = ["mask_in", "packed", "save_outlines"]


def packed(mask: NoduleMask) -> dict[str, Any]:
    """A mask as JSON: the index of its first voxel (`origin`), its `shape`, and its voxels as base64 (`bits`).

    Each voxel is one bit, with the last axis fastest and the highest bit of a byte first.
    """
    bits = base64.b64encode(np.packbits(mask.voxels).tobytes()).decode()
    return {"origin": [int(index) for index in mask.origin], "shape": list(mask.voxels.shape), "bits": bits}


def mask_in(outline: Mapping[str, Any]) -> NoduleMask:
    """Unpack a mask that `packed` packed.

    Raises:
        ValueError: its parts contradict each other.
    """
    a, b, c = (int(size) for size in outline["shape"])
    x, y, z = (int(index) for index in outline["origin"])
    bits = np.frombuffer(base64.b64decode(outline["bits"], validate=True), np.uint8)
    if min(a, b, c) < 1 or min(x, y, z) < 0 or bits.size != -(-a * b * c // 8):
        msg = "no mask: its size and its voxels contradict each other"
        raise ValueError(msg)
    return NoduleMask(np.unpackbits(bits, count=a * b * c).reshape(a, b, c).astype(bool), (x, y, z))


def save_outlines(scan: Scan, results: Results, path: Path) -> None:
    """Write all masks of findings, each with the finding's `number`. `affine` maps voxels to RAS+ mm."""
    masks = [{"number": one.number, **packed(one.mask)} for one in findings_of(results) if one.mask is not None]
    write_json({"affine": scan.affine.tolist(), "masks": masks}, path)
