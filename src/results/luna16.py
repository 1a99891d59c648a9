"""The submission table of the LUNA16 challenge."""

from pathlib import Path

from ..errors import BadScan
from ..files import write_csv
from ..types import Results, Scan, Vec3

__all__ = ["export", "placed_marks"]


def export(scan: Scan, results: Results, path: Path) -> None:
    """Write one row per mark: seriesuid, world coordinates in mm (LPS), probability (the confidence).

    A scan that is no DICOM series is listed by its name, which is the series UID in LUNA16.

    Raises:
        BadScan: the scan's position in the world is unknown.
    """
    name = scan.series_uid or scan.scan_id
    table = ([name, *place, confidence] for place, confidence in placed_marks(scan, results))
    write_csv(("seriesuid", "coordX", "coordY", "coordZ", "probability"), table, path)


def placed_marks(scan: Scan, results: Results) -> list[tuple[Vec3, float]]:
    """The position in the world, mm (LPS), and the confidence of each mark.

    Candidates below the threshold are included, because FROC counts at every threshold.

    Raises:
        BadScan: the scan's position in the world is unknown.
    """
    placed = []
    for mark in [*results["detections"], *results["masses"], *results["candidates"]]:
        place = mark["coordinates_lps"]
        if place is None:
            msg = f"{scan.scan_id}: this format needs world coordinates, and the scan's place in the world is not known"
            raise BadScan(msg)
        placed.append((place, mark["confidence"]))
    return placed
