"""Writes all DICOM objects of a scan: `nodules_sr.dcm`, `nodules_seg.dcm`, key images, `report.dcm`, and exports."""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import numpy as np
import numpy.typing as npt
from highdicom.base import SOPClass

from ..data.loader import dicom_slices
from ..errors import BadScan
from ..exports import EXPORTS
from ..quiet import quiet_libraries
from ..types import Results
from .context import Context, open_context
from .encapsulated_pdf import encapsulated_pdf
from .secondary_capture import secondary_capture
from .seg import segmentation
from .sr import measurement_report

__all__ = ["export_objects"]


@quiet_libraries()
def export_objects(
    series: str | Path,
    results: Results,
    folder: Path,
    report_pdf: Path | None = None,
    pictures: Sequence[npt.NDArray[np.uint8]] = (),
    asked: Sequence[str] = (),
) -> list[Path]:
    """Write a scan's results as DICOM objects into an existing `folder`. Return their paths, the report first.

    `series` is the input of `read_scan`: a folder, a zip or a file of one DICOM series. `results` are those of
    `InferencePipeline.predict`, with heatmap and masks. `pictures` of shape (rows, columns, 3) become key images. All
    objects belong to the study of the series. The same results of the same series give the same UIDs.

    A Comprehensive 3D SR (TID 1500) is always written; a Segmentation if at least one nodule has a mask; the PDF if
    given; and those exports in `asked` that are DICOM objects.

    Raises:
        BadScan: it is no DICOM series, not that of the results, or its headers lack required attributes.
    """
    with dicom_slices(series) as stack:
        try:
            return _export(open_context(stack, results), folder, report_pdf, pictures, asked)
        except BadScan as error:
            msg = f"{series}: {error}"
            raise BadScan(msg) from error.__cause__


def _export(
    context: Context,
    folder: Path,
    report_pdf: Path | None,
    pictures: Sequence[npt.NDArray[np.uint8]],
    asked: Sequence[str],
) -> list[Path]:
    seg = segmentation(context)
    paths = [_saved(measurement_report(context, seg), folder / "nodules_sr.dcm")]
    if seg:
        paths.append(_saved(seg, folder / "nodules_seg.dcm"))
    for number, picture in enumerate(pictures, start=1):
        image = secondary_capture(context, picture, number)
        paths.append(_saved(image, folder / f"key_image_{number:03d}.dcm"))
    if report_pdf:
        paths.append(_saved(encapsulated_pdf(context, report_pdf), folder / "report.dcm"))
    for export in (EXPORTS[name] for name in asked if EXPORTS[name].dicom):
        made = import_module(f"..{export.module}", __package__).export(context)
        if made is not None:
            paths.append(_saved(made, folder / export.suffixes[0]))
    return paths


def _saved(made: SOPClass, path: Path) -> Path:
    made.save_as(path, enforce_file_format=True)
    return path
