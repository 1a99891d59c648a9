"""The submission table of the LUNA16 challenge."""

from pathlib import Path

from ..errors import BadScan
from ..files import write_csv
from ..types import Results, Scan

__all__ = ["export"]


def export(scan: Scan, results: Results, path: Path) -> None:
    """Write a row a mark: seriesuid, world coordinates in mm (LPS), probability (the confidence).

    Candidates below the threshold are rows too, since FROC counts at every threshold. A scan that is no DICOM series
    goes by its name, which in LUNA16 is the series UID.

    Raises:
        BadScan: the scan's place in the world is not known.
    """
    marks = [*results["detections"], *results["masses"], *results["candidates"]]
    rows = [(mark["coordinates_lps"], mark["confidence"]) for mark in marks]
    if any(place is None for place, _ in rows):
        msg = f"{scan.scan_id}: a LUNA16 table needs world coordinates, and the scan's place in the world is not known"
        raise BadScan(msg)
    table = ([scan.series_uid or scan.scan_id, *(place or ()), share] for place, share in rows)
    write_csv(("seriesuid", "coordX", "coordY", "coordZ", "probability"), table, path)
