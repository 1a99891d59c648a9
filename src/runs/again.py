"""Restores the results of an earlier run from its report and its scan, for exports."""

import glob
from pathlib import Path

import numpy as np

from ..config import Config, load_config
from ..data.geometry import canonical, map_points, spacing_of
from ..errors import BadConfig
from ..files import writable_folder
from ..measurement.nodule_properties import segment_and_measure
from ..results.output_formatter import load_heatmap, load_report
from ..types import Detection, NoduleMask, Report, Results, Scan, Volume
from ..viz.source import check_pairing, read_detections
from .exports import check_objects, write_exports_alone

__all__ = ["export_again"]


def export_again(report_path: Path, scan: Scan, source: Path, exports: list[str], folder: Path) -> list[Path]:
    """Write a report's findings for other programs into `folder`. Return the files' paths.

    The masks are segmented again: a finding's own position and size reproduce its segmentation. The heatmap is the file
    beside the report.

    Raises:
        BadConfig: an export is unknown, or needs the heatmap, which is missing.
        BadOutput: the report is missing or belongs to another scan, or the folder cannot be written to.
        BadScan: a DICOM object is wanted, but `source` is not the DICOM series.
    """
    config: Config = load_config({"output": {"formats": {"exports": exports}}})
    report = load_report(report_path)
    check_pairing(read_detections(report), scan.shape, scan.affine)
    if config.output.dicom:
        check_objects(scan, source)
    beside = next(report_path.parent.glob(f"{glob.escape(report['scan_id'])}_heatmap.*"), None)
    if beside is None and "heatmap_dicom" in exports:
        msg = f"heatmap_dicom needs the heatmap, but there is no {report['scan_id']}_heatmap.nii.gz beside the report"
        raise BadConfig(msg)
    heatmap = load_heatmap(beside) if beside else np.zeros(scan.shape, np.float32)
    found = [*report["detections"], *report["masses"]]
    results = _results(report, Volume(heatmap, scan.affine), [_mask(one, scan) for one in found])
    return write_exports_alone(scan, results, config, writable_folder(folder), source)


def _results(report: Report, heatmap: Volume, masks: list[NoduleMask | None]) -> Results:
    return {**report, "heatmap": heatmap, "masks": masks}


def _mask(found: Detection, scan: Scan) -> NoduleMask | None:
    if found["diameter_source"] != "segmentation":
        return None
    array, affine = canonical(scan.array, scan.affine)
    steps, turn = spacing_of(affine), np.linalg.inv(scan.affine) @ affine
    x, y, z = map_points(np.linalg.inv(turn), np.divide(found["coordinates"], scan.spacing)) * steps
    body = segment_and_measure(array, (float(x), float(y), float(z)), found["diameter_mm"], steps)[1]
    return None if body is None else body.on_grid(turn)
