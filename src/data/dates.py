"""The acquisition date that DICOM files state. Only intervals between dates leave PIVOT."""

from datetime import date, datetime
from pathlib import Path

import pydicom

from ..errors import BadScan
from ..quiet import quiet_libraries
from .archive import unpacked
from .headers import is_dicom, open_dicom

__all__ = ["scan_date"]

DATES = ("AcquisitionDate", "SeriesDate", "StudyDate")  # the first one present counts


@quiet_libraries()
def scan_date(path: Path, series_uid: str | None) -> date | None:
    """The date of a DICOM series in a file, folder or zip; None if none is stated.

    Raises:
        BadScan: the archive cannot be unpacked.
    """
    if series_uid is None:
        return None
    if path.suffix.lower() == ".zip":
        try:
            with unpacked(path) as folder:
                return scan_date(folder, series_uid)
        except BadScan as error:
            msg = f"{path}: {error}"
            raise BadScan(msg) from None
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    for file in files:
        if file.is_file() and is_dicom(file):
            header = open_dicom(file, stop_before_pixels=True, specific_tags=["SeriesInstanceUID", *DATES])
            if str(header.get("SeriesInstanceUID")) == series_uid:
                return _date(header)
    return None


def _date(header: pydicom.Dataset) -> date | None:
    for name in DATES:
        try:
            return datetime.strptime(str(header.get(name) or "")[:8], "%Y%m%d").date()  # noqa: DTZ007 - a day, no time
        except ValueError:
            continue
    return None
