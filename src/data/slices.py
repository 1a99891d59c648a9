"""Single DICOM files: their headers, the slices they hold, and the pixels of these in HU."""

import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.dataset import Dataset
from pydicom.pixels.utils import pixel_array
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage

from ..errors import BadScan
from .checks import AIR

__all__ = ["Slice", "is_ct_image", "is_dicom", "read_header", "read_pixels", "slices_of"]

# Real files bend the rules in ways that do not matter here, and users cannot act on the warnings.
logging.getLogger("pydicom").setLevel(logging.CRITICAL)
warnings.filterwarnings("ignore", module="pydicom")

DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
CT_CLASSES = (CTImageStorage, EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage)
# Headers are read for these alone, so that nothing about the patient can reach a message.
TAGS = [
    "SOPClassUID",
    "Modality",
    "ImageType",
    "BodyPartExamined",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "SeriesNumber",
    "InstanceNumber",
    "Rows",
    "Columns",
    "SamplesPerPixel",
    "BitsStored",
    "PixelRepresentation",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "NumberOfFrames",
    "PixelSpacing",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "RescaleSlope",
    "RescaleIntercept",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
]

Vector = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False, slots=True)
class Slice:
    """One axial image: where it lies (LPS millimetres) and how its stored values become HU."""

    path: Path
    frame: int
    number: int  # InstanceNumber, or the frame's number from 1 on
    size: tuple[int, int]  # columns, rows
    spacing: Vector  # mm between columns, mm between rows
    position: Vector  # of the centre of the first pixel
    along_row: Vector  # unit vector in which the column index grows
    along_column: Vector
    slope: float
    intercept: float
    largest: float  # HU that the stored bits allow
    padding: tuple[int, int] | None  # first and last stored value outside the field of view

    @property
    def normal(self) -> Vector:
        """The unit vector perpendicular to the slice."""
        return np.cross(self.along_row, self.along_column)


def is_dicom(path: Path) -> bool:
    """Whether the file has the DICOM mark behind its preamble."""
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def read_header(path: Path) -> Dataset | None:
    """The few attributes that PIVOT uses; None for a file that is not DICOM."""
    if not is_dicom(path):
        if path.suffix.lower() in DICOM_SUFFIXES:
            msg = f"{path.name} is not a DICOM file, or is damaged: copy it again or take it out of the folder"
            raise BadScan(msg)
        return None
    try:
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=TAGS)
        sop_class = header.get("SOPClassUID") or header.file_meta.MediaStorageSOPClassUID
    except Exception as error:
        msg = f"{path.name} is a damaged DICOM file: copy it again or take it out of the folder"
        raise BadScan(msg) from error
    header.SOPClassUID = sop_class
    return header


def is_ct_image(header: Dataset) -> bool:
    """Whether the file holds CT images, not a report, a screenshot or another modality."""
    return header.SOPClassUID in CT_CLASSES and header.get("Modality", "CT") == "CT"


def slices_of(path: Path, header: Dataset) -> Iterator[Slice]:
    """The slice of a classic CT file, or one slice for each frame of an enhanced one."""
    frames = int(header.get("NumberOfFrames") or 1)
    groups = header.get("PerFrameFunctionalGroupsSequence") or []
    if len(groups) != frames and (groups or frames > 1):
        msg = f"{path.name} holds {frames} frames but positions for {len(groups)}: convert it to single-frame DICOM"
        raise BadScan(msg)
    shared = (header.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    for frame in range(frames):
        sources = [*_items(groups[frame]), *_items(shared), header] if groups else [header]
        try:
            yield _slice(path, frame, header, sources, enhanced=bool(groups))
        except (TypeError, ValueError) as error:
            msg = f"{path.name} has a malformed header ({error}): export the series again"
            raise BadScan(msg) from None


def read_pixels(path: Path, slices: list[Slice]) -> Iterator[tuple[npt.NDArray[Any], int]]:
    """For each slice of one file its (columns, rows) HU, int32 or float64, and how many pixels were padding."""
    try:
        dataset = pydicom.dcmread(path)
        if "PixelData" in dataset:
            for one in slices:
                yield _as_hounsfield(pixel_array(dataset, index=one.frame), one)
            return
    except Exception as error:
        where = f"{path.name} (instance {slices[0].number})"
        msg = f"{where} cannot be decoded: it is damaged, cut short, or compressed in an unsupported way"
        raise BadScan(msg) from error
    msg = f"{path.name} (instance {slices[0].number}) has no pixel data: export the series again with images"
    raise BadScan(msg)


def _items(groups: Dataset) -> list[Dataset]:
    return [element.value[0] for element in groups if element.VR == "SQ" and element.value]


def _slice(path: Path, frame: int, header: Dataset, sources: list[Dataset], *, enhanced: bool) -> Slice:
    def get(name: str) -> Any:  # noqa: ANN401 - numbers, lists and texts alike
        value = next((source.get(name) for source in sources if source.get(name) not in (None, "")), None)
        if value is None:
            msg = f"{path.name} has no {name}: export the series again as original CT images"
            raise BadScan(msg)
        return value

    if header.get("SamplesPerPixel", 1) != 1:
        msg = f"{path.name} is a colour image: export the series again as original CT images"
        raise BadScan(msg)
    row, column = np.reshape(np.asarray(get("ImageOrientationPatient"), float), (2, 3))
    if not np.allclose(np.array([row, column]) @ np.transpose([row, column]), np.eye(2), atol=1e-3):
        msg = f"{path.name} has an ImageOrientationPatient that is no pair of perpendicular unit vectors"
        raise BadScan(msg)
    between_rows, between_columns = np.asarray(get("PixelSpacing"), float)
    slope, intercept = float(get("RescaleSlope")), float(get("RescaleIntercept"))
    return Slice(
        path=path,
        frame=frame,
        number=frame + 1 if enhanced else int(header.get("InstanceNumber") or 0),
        size=(int(get("Columns")), int(get("Rows"))),
        spacing=np.array([between_columns, between_rows]),
        position=np.reshape(np.asarray(get("ImagePositionPatient"), float), 3),
        along_row=row,
        along_column=column,
        slope=slope,
        intercept=intercept,
        largest=(2 ** (int(get("BitsStored")) - _signed(header)) - 1) * slope + intercept,
        padding=_padding(header),
    )


def _signed(header: Dataset) -> int:
    return int(header.get("PixelRepresentation") or 0)


def _padding(header: Dataset) -> tuple[int, int] | None:
    """PS3.3 C.7.5.1.1.2: one stored value, or the range up to a limit; often written with the wrong sign."""
    value = header.get("PixelPaddingValue")
    if not isinstance(value, int):
        return None
    limit = header.get("PixelPaddingRangeLimit")
    ends = [end - 65536 if _signed(header) and end > 32767 else end for end in (value, limit) if isinstance(end, int)]
    return min(ends), max(ends)


def _as_hounsfield(stored: npt.NDArray[Any], one: Slice) -> tuple[npt.NDArray[Any], int]:
    whole = one.slope.is_integer() and one.intercept.is_integer()
    slope, intercept = (int(one.slope), int(one.intercept)) if whole else (one.slope, one.intercept)
    values: npt.NDArray[Any] = stored.astype(np.int32 if whole else np.float64)
    values *= slope
    values += intercept
    outside = values < AIR
    if one.padding:
        outside |= (stored >= one.padding[0]) & (stored <= one.padding[1])
        outside &= values != AIR
    values[outside] = AIR
    return values.T, int(np.count_nonzero(outside))
