"""A scan's files for other programs (`src/exports.py`), and its DICOM objects."""

from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ..errors import BadScan
from ..exports import EXPORTS
from ..files import whole_files
from ..types import Results, Scan

if TYPE_CHECKING:
    from ..config import Config

__all__ = [
    "DICOM",
    "ExportObjects",
    "check_objects",
    "exported_names",
    "write_dicom",
    "write_exports",
    "write_exports_alone",
]

DICOM = "_dicom"
# `dicom_io.export.export_objects`, or another function that has it done.
ExportObjects: TypeAlias = Callable[
    [str | Path, Results, Path, Path | None, Sequence[npt.NDArray[np.uint8]], Sequence[str]], Any
]


def check_objects(scan: Scan, source: str | Path) -> None:
    """Refuse a scan that DICOM objects cannot refer to.

    Raises:
        BadScan: the scan is no DICOM series, or its headers lack or contradict the objects' content.
    """
    if scan.series_uid is None:
        msg = "output.save_dicom (--dicom, or a DICOM export) needs a DICOM series, because the results are added "
        msg += "to its study: give one"
        raise BadScan(msg)
    from ..dicom_io.context import check_series

    check_series(source)


def exported_names(scan_id: str, config: "Config") -> list[str]:
    """The names of a scan's files for other programs, and of the folder of its DICOM objects."""
    exports = (EXPORTS[name] for name in config.output.formats.exports)
    names = [f"{scan_id}{suffix}" for export in exports if not export.dicom for suffix in export.suffixes]
    return [*([f"{scan_id}{DICOM}"] if config.output.dicom else []), *names]


def write_exports(scan: Scan, results: Results, config: "Config", folder: Path) -> None:
    """Write the files for other programs, except DICOM objects, into `folder`."""
    for module, suffixes, dicom in (EXPORTS[name] for name in config.output.formats.exports):
        if not dicom:
            names = [f"{results['scan_id']}{suffix}" for suffix in suffixes]
            import_module(f"..{module}", __package__).export(scan, results, *(folder / name for name in names))


def write_dicom(
    scan: Scan,
    results: Results,
    folder: Path,
    source: str | Path | None,
    asked: Sequence[str],
    export: ExportObjects | None = None,
) -> None:
    """Write the results as DICOM objects, with the PDF report if it was written beside `folder`."""
    from ..viz.key_images import key_images

    if source is None:
        msg = "output.save_dicom needs the path of the DICOM series: give it as `source`"
        raise BadScan(msg)
    if export is None:
        from ..dicom_io.export import export_objects

        export = export_objects
    folder.mkdir()
    report = folder.with_name(f"{results['scan_id']}_report.pdf")
    export(source, results, folder, report if report.is_file() else None, key_images(scan, results), asked)


def write_exports_alone(scan: Scan, results: Results, config: "Config", folder: Path, source: Path) -> list[Path]:
    """Write only the files for other programs into `folder`: all, or none.

    Raises:
        BadOutput: the folder cannot be written to.
        BadScan: as for `check_objects`.
    """
    names = exported_names(results["scan_id"], config)
    with whole_files(folder, last=names[-1]) as draft:
        write_exports(scan, results, config, draft)
        if config.output.dicom:
            write_dicom(scan, results, draft / f"{results['scan_id']}{DICOM}", source, config.output.formats.exports)
    return [folder / name for name in names]
