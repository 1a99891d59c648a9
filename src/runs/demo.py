"""A first run without data: detect the nodules of a synthetic chest, and compare them with the truth."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

import nibabel
import numpy as np

from ..data.phantom import PhantomNodule, chest_phantom
from ..detection.pipeline import InferencePipeline
from ..files import whole_file
from ..results.found import Finding, findings_of
from ..results.output_formatter import load_report
from ..viz.shares import share
from .batch import infer_file
from .outputs import output_names
from .progress import Listener

__all__ = ["DemoResults", "demo_table", "run_demo"]

ROW = "{:>9}  {:13}  {:>9}  {:>10}  {:>10}"  # 59


class DemoResults(TypedDict):
    """The drawn nodules with their marks, and the marks that lie in none of them. `number` is that of the picture."""

    nodules: list[dict[str, Any]]  # diameter_mm, nodule_type, found_mm, confidence, number; the last three null: missed
    false_marks: list[dict[str, Any]]  # found_mm, confidence, number


def run_demo(pipeline: InferencePipeline, folder: Path, progress: Listener) -> DemoResults:
    """Write `demo.nii.gz` and its results to `folder`. Compare the drawn nodules with the marks.

    Raises:
        BadOutput: the folder cannot be written to.
    """
    scan, truth = chest_phantom()
    with whole_file(folder / "demo.nii.gz") as partial:
        nibabel.save(nibabel.Nifti1Image(scan.array, scan.affine), partial)
    infer_file(pipeline, folder / "demo.nii.gz", folder, progress=progress)
    found = list(findings_of(load_report(folder / output_names("demo", pipeline.config)[-1])))
    results: DemoResults = {
        "nodules": [_compare(nodule, found) for nodule in truth],
        "false_marks": [_about(one) for one in found if not any(_lies_in(one, nodule) for nodule in truth)],
    }
    progress({"event": "demo", **results})
    return results


def demo_table(results: DemoResults) -> list[str]:
    """A line for each drawn nodule and each false mark, then the totals."""
    rows = [("drawn: mm", "type", "found: mm", "confidence", "in picture")]
    rows += [(f"{one['diameter_mm']:.1f}", one["nodule_type"], *_cells(one)) for one in results["nodules"]]
    rows += [("", "false mark", *_cells(one)) for one in results["false_marks"]]
    lines = [ROW.format(*row).rstrip() for row in rows]
    drawn, false = len(results["nodules"]), len(results["false_marks"])
    hits = sum(one["found_mm"] is not None for one in results["nodules"])
    return [
        *lines,
        f"{hits} of {drawn} nodules found; {false} false mark{'s' * (false != 1)}, where no nodule is drawn",
    ]


def _cells(mark: dict[str, Any]) -> tuple[str, str, str]:
    if mark["found_mm"] is None:
        return "missed", "", ""
    return f"{mark['found_mm']:.1f}", share(mark["confidence"]), f"no. {mark['number']}"


def _compare(nodule: PhantomNodule, found: Sequence[Finding]) -> dict[str, Any]:
    """A drawn nodule with the strongest mark whose centre lies in it."""
    hit = next((one for one in found if _lies_in(one, nodule)), None)
    return {"diameter_mm": nodule.diameter_mm, "nodule_type": nodule.nodule_type, **_about(hit)}


def _lies_in(one: Finding, nodule: PhantomNodule) -> bool:
    away = np.linalg.norm(np.subtract(one.found["coordinates"], nodule.coordinates))
    return bool(away < nodule.diameter_mm / 2)


def _about(one: Finding | None) -> dict[str, Any]:
    return {
        "found_mm": one and one.found["diameter_mm"],
        "confidence": one and one.found["confidence"],
        "number": one and one.number,
    }
