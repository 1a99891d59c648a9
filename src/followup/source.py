"""Reads an examination from the command line: a scan, or the results of an earlier run with their scan."""

import logging
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .. import __version__
from ..data.dates import scan_date
from ..data.loader import read_scan, scan_name
from ..data.survey import find_scans
from ..errors import BadConfig, BadOutput, BadScan
from ..results.output_formatter import load_report
from ..types import Report, Scan
from .comparison import Interval

__all__ = ["GivenScan", "about", "interval_between", "open_given", "version_notes"]

log = logging.getLogger("pivot")
RESULTS = "_detections.json"


class GivenScan(NamedTuple):
    """A scan with its date and, if there is one, the report of an earlier run."""

    scan: Scan
    report: Report | None
    day: date | None


def open_given(given: Path, scan_path: Path | None = None) -> GivenScan:
    """Read a scan file or a DICOM folder; or a `*_detections.json`, or a folder with one, and its scan.

    Raises:
        BadScan: the scan cannot be read.
        BadOutput: the JSON cannot be read, or lacks what a comparison needs.
        BadConfig: the scan of the results is missing or different, or there are several results.
    """
    results = _results(given)
    if results is None:
        if scan_path is not None:
            msg = f"{given} is a scan: a scan beside it is given for results of an earlier run only"
            raise BadConfig(msg)
        scan = read_scan(given)
        return GivenScan(scan, None, scan_date(given, scan.series_uid))
    report = load_report(results)
    path = scan_path or _beside(results, report["scan_id"])
    scan = read_scan(path)
    _check(results, report, path, scan)
    return GivenScan(scan, report, scan_date(path, scan.series_uid))


def about(scan: Scan, report: Report) -> dict[str, Any]:
    """The metadata of an examination in a comparison."""
    versions = report["metadata"].get("versions", {})
    return {
        "scan_id": report["scan_id"],
        "series_uid": scan.series_uid,
        "spacing": [round(v, 6) for v in scan.spacing],
        "shape": list(scan.shape),
        "model": report["model"],
        "pivot": versions.get("pivot") if isinstance(versions, dict) else None,
        "num_detections": len(report["detections"]),
    }


def interval_between(before: GivenScan, after: GivenScan, days: int | None) -> Interval:
    """The given days, else those between the scans' own dates.

    Raises:
        BadConfig: the follow-up is older than the baseline.
    """
    own = None if before.day is None or after.day is None else (after.day - before.day).days
    if own is not None and own < 0:
        msg = f"the follow-up was made {-own} days before the baseline: swap --baseline and --followup"
        raise BadConfig(msg)
    if days is not None:
        if own is not None and own != days:
            log.warning("the scans' own dates lie %d days apart; the given %d days are used", own, days)
        return Interval(days=days, source="given", reason=None)
    if own is not None:
        return Interval(days=own, source="DICOM dates", reason=None)
    lacking = " and ".join(name for name, one in (("baseline", before), ("follow-up", after)) if one.day is None)
    return Interval(days=None, source=None, reason=f"no date in the {lacking}: give --interval-days")


def version_notes(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Warnings about measurements of other versions of PIVOT, whose volumes may differ."""
    others = sorted({str(one["pivot"]) for one in (before, after)} - {__version__})
    if not others:
        return []
    return [f"volumes measured by PIVOT {', '.join(others)}, this is {__version__}: measure both anew to be sure"]


def _results(given: Path) -> Path | None:
    """The JSON of an earlier run; None for a scan."""
    if given.name.endswith(".json"):
        return given
    if not given.is_dir():
        return None
    found = sorted(path for path in given.iterdir() if path.name.endswith(RESULTS))
    if len(found) > 1:
        names = ", ".join(path.name for path in found[:4])
        msg = f"{given} holds the results of {len(found)} scans ({names}): name the one to compare"
        raise BadConfig(msg)
    return found[0] if found else None


def _beside(results: Path, scan_id: str) -> Path:
    """The scan of that name in the folder of the results."""
    try:
        found = [path for path in find_scans(results.parent) if scan_name(path) == scan_id]
    except BadScan:
        found = []
    if not found:
        msg = f"{results}: the scan {scan_id} is not beside it: give it with --baseline-scan or --followup-scan"
        raise BadConfig(msg)
    return found[0]


def _check(results: Path, report: Report, path: Path, scan: Scan) -> None:
    """Refuse a scan that does not belong to the report, and a report without measurements."""
    metadata = report["metadata"]
    affine = np.array(metadata.get("affine", ()), dtype=np.float64)
    same = metadata.get("shape") == list(scan.shape) and affine.shape == (4, 4)
    if not same or not np.allclose(affine, scan.affine, atol=1e-3):
        msg = f"{path} is not the scan that {results} is about: shape or place differ"
        raise BadConfig(msg)
    if not all("properties" in found and "id" in found for found in report["detections"]):
        msg = f"{results} lacks `properties` or `id` of a nodule: run the inference again"
        raise BadOutput(msg)
