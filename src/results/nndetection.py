"""Findings in nnDetection's format of predictions, as JSON."""

from pathlib import Path

import numpy as np

from ..data.geometry import RAS_TO_LPS
from ..files import write_json
from ..types import Results, Scan
from .boxes import box_of
from .found import findings_of

__all__ = ["export"]


def export(scan: Scan, results: Results, path: Path) -> None:
    """Write boxes, scores and labels (0) of the findings, and the scan's geometry in ITK's convention.

    A box is (z1, y1, z2, y2, x1, x2) in voxels of the array (z, y, x), nnDetection's order; ends are exclusive.
    """
    findings = list(findings_of(results))
    ends = [(*low[::-1], *high[::-1]) for low, high in (box_of(one, scan) for one in findings)]
    lps = RAS_TO_LPS @ scan.affine
    content = {
        "pred_boxes": [[int(v) for v in (z1, y1, z2, y2, x1, x2)] for z1, y1, x1, z2, y2, x2 in ends],
        "pred_scores": [one.found["confidence"] for one in findings],
        "pred_labels": [0 for _ in findings],
        "restore": True,
        "original_size_of_raw_data": list(scan.shape[::-1]),
        "itk_origin": lps[:3, 3].tolist(),
        "itk_spacing": list(scan.spacing),
        "itk_direction": (lps[:3, :3] / np.array(scan.spacing)).ravel().tolist(),
    }
    write_json(content, path)
