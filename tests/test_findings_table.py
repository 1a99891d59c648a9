"""The table of nodules and masses."""

import csv
from pathlib import Path
from typing import Any

from src.results.findings_table import FINDINGS_COLUMNS, save_findings

FOUND: dict[str, Any] = {
    "id": 0,
    "coordinates": (10.0, 20.0, 30.0),
    "coordinates_voxel": (10, 20, 15),
    "coordinates_lps": (-73.1, 12.3, -88.4),
    "diameter_mm": 8.5,
    "diameter_source": "segmentation",
    "confidence": 0.92,
    "location": {"side": "left", "third": "upper"},
    "properties": {
        "volume_mm3": 321.4,
        "long_axis_mm": 9.1,
        "short_axis_mm": 7.8,
        "nodule_type": "part-solid",
        "solid_mm": 4.2,
    },
    "triage": {"malignancy_score": 0.76},
    "image_number": 112,
    "guidelines": {
        "lung_rads": {"category": "3"},
        "fleischner": {"low_risk": None, "high_risk": "CT in 3 months"},
        "brock": {"2a": {"upper_lobe": 0.12, "other_lobe": 0.08}, "2b": None},
        "bts": {"management": "assess the risk"},
    },
}
UNKNOWN: dict[str, Any] = {
    **FOUND,
    "id": 1,
    "coordinates_lps": None,
    "diameter_mm": 45.0,
    "diameter_source": "network",
    "location": {"side": None, "third": None},
    "properties": dict.fromkeys(FOUND["properties"]),
    "triage": {"malignancy_score": None},
    "image_number": None,
    "guidelines": {"lung_rads": {"category": None}, "brock": {"2a": None}},
}


def _rows(path: Path, report: dict[str, Any]) -> list[dict[str, str]]:
    save_findings([report], path)
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_each_nodule_and_mass_has_a_row_with_its_location_in_words(tmp_path: Path) -> None:
    nodule, mass = _rows(tmp_path / "a.csv", {"scan_id": "a,b", "detections": [FOUND], "masses": [UNKNOWN]})
    assert nodule == {
        "scan_id": "a,b", "kind": "nodule", "id": "0", "side": "left", "third": "upper",
        "lps_x": "-73.1", "lps_y": "12.3", "lps_z": "-88.4",
        "image_number": "112", "voxel_x": "10", "voxel_y": "20", "voxel_z": "15",
        "diameter_mm": "8.5", "diameter_source": "segmentation", "long_axis_mm": "9.1", "short_axis_mm": "7.8",
        "volume_mm3": "321.4", "nodule_type": "part-solid", "solid_mm": "4.2",
        "confidence": "0.92", "malignancy_score": "0.76", "lung_rads": "3",
        "fleischner_low_risk": "", "fleischner_high_risk": "CT in 3 months",
        "brock_2a_upper_lobe": "0.12", "brock_2a_other_lobe": "0.08", "bts": "assess the risk",
    }  # fmt: skip
    assert {key: value for key, value in mass.items() if value} == {
        "scan_id": "a,b", "kind": "mass", "id": "1", "voxel_x": "10", "voxel_y": "20", "voxel_z": "15",
        "diameter_mm": "45.0", "diameter_source": "network", "confidence": "0.92",
    }  # fmt: skip


def test_a_report_of_an_earlier_version_has_no_location_and_no_category(tmp_path: Path) -> None:
    earlier = {key: value for key, value in FOUND.items() if key not in ("location", "guidelines")}
    [row] = _rows(tmp_path / "a.csv", {"scan_id": "a", "detections": [earlier], "masses": []})
    assert tuple(row) == FINDINGS_COLUMNS
    assert row["side"] == row["third"] == row["lung_rads"] == ""
