"""Detections as JSON and CSV, and back."""

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..data.files import whole_file
from ..errors import BadOutput
from ..types import Detection, Report

__all__ = ["CSV_COLUMNS", "load_detections", "load_report", "save_csv", "save_json"]

CSV_COLUMNS = (
    "scan_id",
    "detection_id",
    "coord_x",
    "coord_y",
    "coord_z",
    "diameter_mm",
    "confidence",
    "malignancy_score",
    "risk_category",
)
REPORT_KEYS = ("scan_id", "model", "timestamp", "metadata", "detections", "summary")


def save_json(report: Mapping[str, Any], path: str | Path) -> None:
    """Write a report's `*_detections.json`; further keys, such as the heatmap, are left out."""
    with whole_file(path) as partial:
        text = json.dumps({key: report[key] for key in REPORT_KEYS}, indent=2, allow_nan=False)
        partial.write_text(text + "\n", encoding="utf-8")


def save_csv(report: Mapping[str, Any], path: str | Path) -> None:
    """Write a report's `*_detections.csv`: a row a nodule, coordinates in millimetres as in the JSON."""
    with whole_file(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(CSV_COLUMNS)
        writer.writerows(_row(report["scan_id"], detection) for detection in report["detections"])


def _row(scan_id: str, detection: Detection) -> list[object]:
    triage = detection["triage"]
    return [
        scan_id,
        detection["id"],
        *detection["coordinates"],
        detection["diameter_mm"],
        detection["confidence"],
        triage["malignancy_score"],  # an empty field when there is no score
        triage["risk_category"],
    ]


def load_report(path: str | Path) -> Report:
    """The content of a `*_detections.json`.

    Raises:
        BadOutput: no such file, or not written by PIVOT.
    """
    try:
        report = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        msg = f"cannot read {path}: {error.strerror}"
        raise BadOutput(msg) from None
    except ValueError as error:
        msg = f"{path} is not JSON ({error})"
        raise BadOutput(msg) from None
    missing = [key for key in REPORT_KEYS if not isinstance(report, dict) or key not in report]
    if missing:
        msg = f"{path} is not a detections file of PIVOT: it lacks {', '.join(missing)}"
        raise BadOutput(msg)
    result: Report = report
    return result


def load_detections(path: str | Path) -> list[Detection]:
    """The nodules in a `*_detections.json`, strongest first as they were written.

    Raises:
        BadOutput: no such file, or not written by PIVOT.
    """
    return load_report(path)["detections"]
