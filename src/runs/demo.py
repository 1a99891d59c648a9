"""A first run without data: detect the nodules of a synthetic chest, and compare them with the truth."""

from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from ..data.phantom import PhantomNodule, chest_phantom
from ..detection.pipeline import InferencePipeline
from ..files import whole_file
from ..results.output_formatter import load_report
from ..types import Detection
from .batch import infer_file
from .outputs import output_names
from .progress import Listener

__all__ = ["run_demo"]


def run_demo(pipeline: InferencePipeline, folder: Path, progress: Listener) -> list[dict[str, Any]]:
    """Write `demo.nii.gz` and its results to `folder`. Return each drawn nodule with its detection.

    Raises:
        BadOutput: the folder cannot be written to.
    """
    scan, truth = chest_phantom()
    with whole_file(folder / "demo.nii.gz") as partial:
        nibabel.save(nibabel.Nifti1Image(scan.array, scan.affine), partial)
    infer_file(pipeline, folder / "demo.nii.gz", folder, progress=progress)
    found = load_report(folder / output_names("demo", pipeline.config)[-1])["detections"]
    nodules = [_compare(nodule, found) for nodule in truth]
    progress({"event": "demo", "nodules": nodules})
    return nodules


def _compare(nodule: PhantomNodule, found: list[Detection]) -> dict[str, Any]:
    """A drawn nodule with the strongest detection whose centre lies in it."""
    reach = nodule.diameter_mm / 2
    hits = [hit for hit in found if np.linalg.norm(np.subtract(hit["coordinates"], nodule.coordinates)) < reach]
    return {
        "diameter_mm": nodule.diameter_mm,
        "nodule_type": nodule.nodule_type,
        "found_mm": hits[0]["diameter_mm"] if hits else None,
        "confidence": hits[0]["confidence"] if hits else None,
    }
