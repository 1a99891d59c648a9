"""Marks in the format of grand-challenge.org: "Multiple points", version 1.0."""

from pathlib import Path

from ..files import write_json
from ..types import Results, Scan
from .luna16 import placed_marks

__all__ = ["export"]


def export(scan: Scan, results: Results, path: Path) -> None:
    """Write one point per mark: its position in world mm (LPS), and its confidence as `probability`.

    Candidates below the threshold are included, because FROC counts at every threshold.

    Raises:
        BadScan: the scan's position in the world is unknown.
    """
    points = [
        {"name": f"nodule {number}", "point": list(place), "probability": confidence}
        for number, (place, confidence) in enumerate(placed_marks(scan, results), start=1)
    ]
    content = {"name": "nodules", "type": "Multiple points", "points": points, "version": {"major": 1, "minor": 0}}
    write_json(content, path)
