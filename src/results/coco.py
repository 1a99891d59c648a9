"""Findings as COCO annotations: one image per slice of the scan's third axis, one annotation per finding and slice."""

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..files import write_json
from ..types import Results, Scan
from .boxes import mask_of
from .found import Finding, findings_of

__all__ = ["export"]

KINDS = {"Nodule": 1, "Mass": 2}


def export(scan: Scan, results: Results, path: Path) -> None:
    """Write the slices with findings as images, and each finding's box (x, y, width, height in voxels) and mask.

    `segmentation` is COCO's uncompressed run-length code, `score` the confidence, `nodule` the finding's number.
    """
    found = list(chain.from_iterable(_slices(one, scan) for one in findings_of(results)))
    width, height, _ = scan.shape
    images = sorted({annotation["image_id"] for annotation in found})
    content = {
        "info": {"description": f"PIVOT: {results['model']}, lung nodules", "date_created": results["timestamp"]},
        "images": [
            {"id": z, "file_name": f"{scan.scan_id}/{z:04d}", "slice": z, "width": width, "height": height}
            for z in images
        ],
        "categories": [{"id": number, "name": kind.lower()} for kind, number in KINDS.items()],
        "annotations": [{"id": number, **annotation} for number, annotation in enumerate(found, start=1)],
    }
    write_json(content, path)


def _slices(one: Finding, scan: Scan) -> Iterator[dict[str, Any]]:
    """The annotations of a finding, without their ids."""
    voxels, (x, y, z) = mask_of(one, scan)
    for step in np.flatnonzero(voxels.any(axis=(0, 1))):
        inside = np.argwhere(voxels[..., step])
        (left, top), (right, bottom) = inside.min(axis=0), inside.max(axis=0) + 1
        yield {
            "image_id": int(z + step),
            "category_id": KINDS[one.kind],
            "nodule": one.number,
            "bbox": [int(value) for value in (x + left, y + top, right - left, bottom - top)],
            "area": len(inside),
            "segmentation": {"size": [scan.shape[1], scan.shape[0]], "counts": _runs(voxels[..., step], x, y, scan)},
            "iscrowd": 0,
            "score": one.found["confidence"],
        }


def _runs(section: npt.NDArray[np.bool_], x: int, y: int, scan: Scan) -> list[int]:
    """The lengths of alternate runs of 0 and 1, down the columns of the slice, as COCO counts."""
    whole = np.zeros(scan.shape[:2], dtype=bool)
    whole[x : x + section.shape[0], y : y + section.shape[1]] = section
    line = np.concatenate([[False], whole.ravel(), [not whole[-1, -1]]])  # a column of the picture has one x
    changes = np.flatnonzero(line[1:] != line[:-1])
    return [int(run) for run in np.diff(np.concatenate([[0], changes]))]
