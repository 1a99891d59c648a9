"""Finds the scans in a folder, and lists everything else in it."""

from pathlib import Path
from typing import NamedTuple

from ..errors import BadScan
from ..given import path_of
from ..quiet import quiet_libraries
from .formats import SUFFIXES, format_of, suffix_of, supported
from .loader import plain_error, scan_name

__all__ = ["Survey", "find_scans", "survey"]

DATA = (".raw", ".zraw", ".img", ".gz", ".bz2")  # these belong to the scan of the header that names them
HEADERS = (".mhd", ".nhdr")


class Survey(NamedTuple):
    """The scans of a folder, sorted by path."""

    scans: list[Path]
    passed_over: dict[str, str]  # path of each file or folder that is no scan, and why
    twins: dict[Path, Path]  # scans whose results would have the same name


def find_scans(folder: str | Path) -> list[Path]:
    """Every scan directly in `folder`, sorted by name: files, zips and DICOM folders, or the folder itself.

    Raises:
        BadScan: there is no scan, or two would have the same `scan_name`.
    """
    found = survey(folder)
    for scan, other in found.twins.items():
        raise BadScan(twin_message(scan, other))
    return found.scans


def twin_message(scan: Path, other: Path) -> str:
    """The message on two scans whose results would overwrite each other."""
    return f"{scan.parent}: {other.name} and {scan.name} would both be called {scan_name(scan)}: rename one of them"


def survey(folder: str | Path, *, recursive: bool = False) -> Survey:
    """The scans in a folder and, with `recursive`, in the folders below it.

    A folder of DICOM files is one scan, together with everything below it. With `recursive`, a folder below is one scan
    if it holds a single study and no other scans.

    Raises:
        BadScan: there are no scans, or the folder cannot be read.
    """
    folder = path_of(folder, "input_dir", BadScan)
    found = Survey([], {}, {})
    try:
        _look(folder, found, recursive=recursive)
    except OSError as error:
        msg = f"{folder}: {plain_error(error)}"
        raise BadScan(msg) from error
    if not found.scans:
        hint = "" if recursive or not any(Path(path).is_dir() for path in found.passed_over) else ", or use --recursive"
        msg = f"{folder}: holds no scans: {supported()}{hint}"
        raise BadScan(msg)
    names: dict[tuple[Path, str], Path] = {}
    for scan in found.scans:
        other = names.setdefault((scan.parent, scan_name(scan)), scan)
        if other != scan:
            found.twins[scan] = other
    return found


def _look(folder: Path, found: Survey, *, recursive: bool) -> None:
    from .dicom import holds_dicom  # noqa: PLC0415 - imports what reads DICOM

    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    if holds_dicom(folder, nested=False) or (recursive and _is_one_study(folder)):
        found.scans.append(folder)
        reason = f"{folder.name} holds DICOM files, and is one scan together with its subfolders"
        found.passed_over.update((str(entry), reason) for entry in entries if suffix_of(entry) in SUFFIXES)
        return
    for entry in entries:
        if not entry.is_dir():
            part = _is_data(entry, entries) and suffix_of(entry) not in SUFFIXES
            if not part and format_of(entry) in SUFFIXES:
                found.scans.append(entry)
            elif not part:
                found.passed_over[str(entry)] = "no scan, by its suffix and by its content"
        elif recursive and folder.resolve() in (entry.resolve(), *entry.resolve().parents):
            _look(entry, found, recursive=True)
        elif recursive:
            found.passed_over[str(entry)] = "a link that leads out of the folder"
        elif holds_dicom(entry):
            found.scans.append(entry)
        else:
            found.passed_over[str(entry)] = "a folder without DICOM files: only --recursive searches it"


def _is_data(entry: Path, entries: list[Path]) -> bool:
    return entry.suffix.lower() in DATA and any(other.suffix.lower() in HEADERS for other in entries)


def _is_one_study(folder: Path) -> bool:
    """Whether the folders below a folder hold DICOM of a single study, and no other scans."""
    from .dicom import files_in  # noqa: PLC0415 - as above
    from .headers import is_dicom  # noqa: PLC0415

    studies: dict[Path, str] = {}
    for file in files_in(folder):
        if suffix_of(file) in SUFFIXES:
            return False
        if file.parent not in studies and is_dicom(file):
            studies[file.parent] = _study(file) or str(file.parent)
    return len(set(studies.values())) == 1


@quiet_libraries()
def _study(file: Path) -> str:
    """StudyInstanceUID; empty if it is missing or the file is damaged. Reading reports the damage."""
    from .headers import open_dicom  # noqa: PLC0415 - as above

    try:
        header = open_dicom(file, stop_before_pixels=True, specific_tags=["StudyInstanceUID"])
        return str(header.get("StudyInstanceUID") or "")
    except Exception:  # noqa: BLE001 - pydicom raises many types on damaged files
        return ""
