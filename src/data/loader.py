"""Reads a scan from any supported file. Every volume enters PIVOT here.

The DICOM reader and the file readers are imported on first use: each import takes a second.
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy.typing as npt

from ..errors import BadScan, PivotError, lacking
from ..given import path_of
from ..quiet import quiet_libraries
from ..types import Acquisition, Affine, Scan, Vec3, Volume
from .archive import unpacked
from .checks import as_hounsfield, check_extent, nearest_orthogonal
from .formats import DICOM, VOLUMES, format_of, suffix_of, supported

if TYPE_CHECKING:
    from .stacks import Stack

__all__ = ["dicom_slices", "load_scan", "plain_error", "read_scan", "scan_name"]


class Read(NamedTuple):
    """The content of a file."""

    array: npt.NDArray[Any]
    affine: Affine
    notes: tuple[str, ...]
    uid: str | None = None  # SeriesInstanceUID
    body_part: str = ""  # BodyPartExamined
    acquisition: Acquisition = Acquisition()


def load_scan(path: str | Path) -> tuple[Volume, Vec3]:
    """The scan's (X, Y, Z) array in HU with `affine`, `scan_id` and `notes` on repairs; its spacing in mm.

    Raises:
        BadScan, PivotError: as `read_scan`.
    """
    scan = read_scan(path)
    return Volume(scan.array, scan.affine, scan), scan.spacing


@quiet_libraries()
def read_scan(path: str | Path) -> Scan:
    """The scan at `path` (a file, a zip or a DICOM folder): (X, Y, Z) int16 or float32 HU, at least -1024.

    Raises:
        BadScan: the scan cannot be read as a chest CT; the message names the file, the problem and the remedy.
        PivotError: this machine lacks memory, disk or file handles. The scan is not at fault.
    """
    path = path_of(path, "the scan", BadScan)
    try:
        read = _read(path)
        affine, straightened = nearest_orthogonal(read.affine)
        check_extent(read.array.shape, affine)
        array, changed = as_hounsfield(read.array, affine)
    except Exception as error:  # noqa: BLE001 - a broken file can make a library raise anything
        raise _blamed(path, error) from (error.__cause__ if isinstance(error, BadScan) else error)
    notes = read.notes + straightened + changed
    return Scan(array, affine, scan_name(path), read.uid, notes, read.body_part, read.acquisition)


@contextmanager
def dicom_slices(path: str | Path) -> Iterator["Stack"]:
    """The slices of the DICOM series that `read_scan` reads at `path`, in the order of the scan's third axis.

    Inside the context their files exist: a zip stays unpacked.

    Raises:
        BadScan: there is no DICOM series, or it cannot be read.
    """
    from .dicom import series_slices  # noqa: PLC0415

    path = Path(path)
    with quiet_libraries(), ExitStack() as stack:
        try:
            content = stack.enter_context(unpacked(path)) if format_of(path) == ".zip" else path
            if not content.is_dir() and not _is_dicom(content):
                msg = "is no DICOM series"
                raise BadScan(msg)  # noqa: TRY301 - reported like other read errors
            series = series_slices(content)
        except BadScan as error:
            msg = f"{path}: {error}"
            raise BadScan(msg) from error.__cause__
        yield series


def scan_name(path: str | Path) -> str:
    """The name of a folder, or of a file without its known suffix (`.nii.gz` is one suffix)."""
    path = Path(path)
    name = path.name or path.resolve().name
    return name if path.is_dir() else name[: len(name) - len(suffix_of(path))]


def _read(path: Path) -> Read:
    if path.is_dir():
        return _folder(path, "folder")
    with path.open("rb"):  # a missing file is reported before an unknown format
        pass
    if _is_dicom(path):
        return _dicom(path)
    found = format_of(path)
    if found == ".zip":
        with unpacked(path) as folder:
            return _folder(folder, "archive")
    if found in VOLUMES:
        return _volume(path)
    msg = f"is not a DICOM file, and has an unknown suffix: {supported()}"
    raise BadScan(msg)


def _folder(folder: Path, kind: str) -> Read:
    """Read a folder or an unpacked archive: its DICOM files if there are any, else its one volume file."""
    from .dicom import files_in, holds_dicom  # noqa: PLC0415

    volumes = [file for file in files_in(folder) if format_of(file) in VOLUMES]
    names = ", ".join(file.name for file in volumes[:5]) + ", ..." * (len(volumes) > 5)
    if holds_dicom(folder) or not volumes:
        read = _dicom(folder)
        note = f"left out: {names}: the {kind} also holds DICOM files, which take precedence"
        return read._replace(notes=(*read.notes, note)) if volumes else read
    if len(volumes) > 1 or kind == "folder":
        msg = f"holds no DICOM files, but {names}" if kind == "folder" else f"the archive holds {len(volumes)} scans"
        msg += ": give one of these files" if kind == "folder" else f" ({names}): pack each into its own archive"
        raise BadScan(msg)
    return _volume(volumes[0])


def _dicom(path: Path) -> Read:
    from .dicom import read_series  # noqa: PLC0415

    series = read_series(path)
    return Read(series.array, series.affine, series.notes, series.uid, series.body_part, series.acquisition)


def _volume(path: Path) -> Read:
    from .volumes import read_volume  # noqa: PLC0415

    return Read(*read_volume(path, format_of(path)))


def _is_dicom(path: Path) -> bool:
    if suffix_of(path):
        return suffix_of(path) in DICOM
    from .headers import is_dicom  # noqa: PLC0415

    return is_dicom(path)


def _blamed(path: Path, error: Exception) -> PivotError:
    """The error as a message: about the scan or, if the machine lacks a resource, about the machine."""
    lack = lacking(error)
    if lack is None or isinstance(lack, PermissionError):
        return BadScan(f"{path}: {error if isinstance(error, BadScan) else plain_error(error)}")
    return PivotError(f"{path}: {plain_error(lack)}")


def plain_error(error: Exception) -> str:
    """What an exception means to the user, on one line, without the path, which the message already names."""
    match error:
        case FileNotFoundError():
            return "there is no such file or folder"
        case PermissionError():
            return "may not be read: change its permissions"
        case OSError(errno=int()):
            return f"cannot be read ({error.strerror})"
        case MemoryError():
            return "there is not enough memory to read it"
    words = str(error).rsplit("ERROR:", 1)[-1].split()
    reason = " ".join(word for word in words if os.sep not in word)[:200] or type(error).__name__
    return f"is damaged, cut short, or of another format than its name says ({reason})"
