"""Nodules and masses as one table: one row each, with the place also in words."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..files import write_csv
from ..types import Detection, Results, Scan
from .output_formatter import rounded

__all__ = ["FINDINGS_COLUMNS", "export", "is_findings_table", "save_findings"]

FINDINGS_COLUMNS = (
    "scan_id",
    "kind",  # nodule or mass
    "id",
    "side",
    "third",
    "lps_x",
    "lps_y",
    "lps_z",
    "image_number",
    "voxel_x",
    "voxel_y",
    "voxel_z",
    "diameter_mm",
    "diameter_source",
    "long_axis_mm",
    "short_axis_mm",
    "volume_mm3",
    "nodule_type",
    "solid_mm",
    "confidence",
    "malignancy_score",
    "lung_rads",
    "fleischner_low_risk",
    "fleischner_high_risk",
    "brock_2a_upper_lobe",
    "brock_2a_other_lobe",
    "bts",
)


def export(scan: Scan, results: Results, path: Path) -> None:  # noqa: ARG001 - as all exports
    """Write the table of one scan."""
    save_findings([results], path)


def is_findings_table(path: Path) -> bool:
    """Whether the file is such a table, by its first line."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.readline().rstrip() == ",".join(FINDINGS_COLUMNS).encode()


def save_findings(reports: Iterable[Mapping[str, Any]], path: str | Path) -> None:
    """Write the table of reports: nodules first, then masses. Null values give empty fields."""
    rows = (
        [report["scan_id"], kind, *_fields(found)]
        for report in reports
        for kind, listed in (("nodule", report["detections"]), ("mass", report["masses"]))
        for found in rounded(listed)
    )
    write_csv(FINDINGS_COLUMNS, rows, path)


def _fields(found: Detection) -> Iterator[object]:
    properties, place = found["properties"], found.get("location")
    yield found["id"]
    yield from (place["side"], place["third"]) if place else (None, None)
    yield from found["coordinates_lps"] or (None, None, None)
    yield found.get("image_number")
    yield from found["coordinates_voxel"]
    yield from (found["diameter_mm"], found["diameter_source"])
    yield from (properties["long_axis_mm"], properties["short_axis_mm"], properties["volume_mm3"])
    yield from (properties["nodule_type"], properties.get("solid_mm"))
    yield from (found["confidence"], found["triage"]["malignancy_score"])
    yield from _guidelines(found.get("guidelines") or {})


def _guidelines(rules: Mapping[str, Any]) -> Iterator[object]:
    fleischner, brock = rules.get("fleischner") or {}, (rules.get("brock") or {}).get("2a") or {}
    yield (rules.get("lung_rads") or {}).get("category")
    yield from (fleischner.get("low_risk"), fleischner.get("high_risk"))
    yield from (brock.get("upper_lobe"), brock.get("other_lobe"))
    yield (rules.get("bts") or {}).get("management")
