"""Single DICOM files: the slices that they hold, as checked values."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset

from ..errors import BadScan
from .attributes import Attributes, Vector, words
from .headers import Header

__all__ = ["Slice", "SliceIdentity", "slices_of"]

PHASES = (
    "KVP",
    "ContrastBolusAgent",
    "TemporalPositionIdentifier",
    "NominalPercentageOfCardiacPhase",
    "NominalPercentageOfRespiratoryPhase",
)
# Values of RescaleType (0028,1054) that are not Hounsfield units (PS3.3 C.11.1.1.2).
OTHER_UNITS = ("OD", "MGML", "Z_EFF", "ED", "EDW", "PCT")
UNIT = 1e-3  # tolerance of the row and column directions: right angle, and length 1


@dataclass(frozen=True, slots=True)
class SliceIdentity:
    """Attributes that separate patients, series, reconstructions and phases."""

    study: str
    series: str
    number: int  # SeriesNumber
    patient: str
    frame_of_reference: str
    image_type: tuple[str, ...]
    body_part: str
    kernel: str
    acquisition: str
    phase: tuple[str, ...]  # energy, contrast medium, heart phase and breath, as stated
    description: str  # a digest of SeriesDescription
    thickness: float | None  # mm, as stated: not the distance between slices
    between: float | None  # SpacingBetweenSlices, mm, as stated
    diameter: float | None  # reconstruction diameter, mm
    projection: bool


@dataclass(frozen=True, eq=False, slots=True)
class Slice:
    """One axial image: its position (LPS millimetres) and the rescaling to HU."""

    path: Path
    frame: int
    number: int  # InstanceNumber, or the frame's number, from 1
    size: tuple[int, int]  # columns, rows
    spacing: Vector  # mm between columns, mm between rows
    position: Vector  # of the centre of the first pixel
    along_row: Vector  # unit vector in which the column index grows
    along_column: Vector
    slope: float
    intercept: float
    bits: int  # BitsStored
    signed: bool
    padding: tuple[int, int] | None  # first and last stored value of padding
    about: SliceIdentity

    @property
    def normal(self) -> Vector:
        """The unit vector perpendicular to the slice."""
        return np.cross(self.along_row, self.along_column)


def slices_of(header: Header) -> list[Slice]:
    """The slice of a classic CT file, or one slice for each frame of an enhanced CT file.

    Raises:
        BadScan: an attribute is missing, malformed, or impossible for a CT image.
    """
    try:
        return list(_slices(header))
    except (TypeError, ValueError, AttributeError, KeyError, OverflowError) as error:
        msg = f"{header.path.name} has a malformed header ({' '.join(str(error).split())[:200]}): export it again"
        raise BadScan(msg) from None


def _slices(header: Header) -> Iterator[Slice]:
    name, data = header.path.name, header.data
    frames = int(data.get("NumberOfFrames") or 1)
    groups = data.get("PerFrameFunctionalGroupsSequence") or []
    if len(groups) != frames and (groups or frames > 1):
        msg = f"{name} holds {frames} frames but positions for {len(groups)}: convert it to single-frame DICOM"
        raise BadScan(msg)
    if int(data.get("SamplesPerPixel") or 1) != 1:
        msg = f"{name} is a colour image (SamplesPerPixel 3): export the series again as original CT images"
        raise BadScan(msg)
    shared = (data.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    for frame in range(frames):
        sources = [*_items(groups[frame]), *_items(shared), data] if groups else [data]
        yield _slice(header, frame, Attributes(name, sources), enhanced=bool(groups))


def _items(groups: Dataset) -> list[Dataset]:
    return [element.value[0] for element in groups if element.VR == "SQ" and element.value]


def _slice(header: Header, frame: int, of: Attributes, *, enhanced: bool) -> Slice:
    row, column = np.reshape(of.numbers("ImageOrientationPatient", 6), (2, 3))
    if not np.allclose(np.array([row, column]) @ np.transpose([row, column]), np.eye(2), atol=UNIT):
        of.refuse("ImageOrientationPatient", "which is not a pair of perpendicular unit vectors")
    row /= np.linalg.norm(row)
    column -= row * (row @ column)
    spacing = of.numbers("PixelSpacing", 2)[::-1]  # the spacing between rows comes first
    (slope,), (intercept,) = of.numbers("RescaleSlope", 1), of.numbers("RescaleIntercept", 1)
    for name, low in (("PixelSpacing", spacing.min()), ("RescaleSlope", slope)):
        if low <= 0:
            of.refuse(name, "which is not above zero")
    if str(of.get("RescaleType") or "HU").strip().upper() in OTHER_UNITS:
        of.refuse("RescaleType", "which is not in Hounsfield units")
    bits, signed = _stored(of)
    return Slice(
        path=header.path,
        frame=frame,
        number=frame + 1 if enhanced else int(of.get("InstanceNumber") or 0),
        size=(of.whole("Columns"), of.whole("Rows")),
        spacing=spacing,
        position=of.numbers("ImagePositionPatient", 3),
        along_row=row,
        along_column=column / np.linalg.norm(column),
        slope=float(slope),
        intercept=float(intercept),
        bits=bits,
        signed=signed,
        padding=_padding(of),
        about=_about(header, of),
    )


def _about(header: Header, of: Attributes) -> SliceIdentity:
    return SliceIdentity(
        study=str(of.get("StudyInstanceUID") or ""),
        series=str(of.get("SeriesInstanceUID") or ""),
        number=int(of.get("SeriesNumber") or 0),
        patient=header.patient,
        frame_of_reference=str(of.get("FrameOfReferenceUID") or ""),
        image_type=tuple(words(header.data, "ImageType")),
        body_part=" ".join(words(header.data, "BodyPartExamined")),
        kernel=_kernel(of),
        acquisition=str(of.get("AcquisitionNumber") or ""),
        phase=tuple(_text(of.get(name)) for name in PHASES),
        description=header.description,
        thickness=of.stated("SliceThickness"),
        between=of.stated("SpacingBetweenSlices"),
        diameter=of.stated("ReconstructionDiameter"),
        projection=header.projection,
    )


def _text(value: object) -> str:
    return "" if value is None else str(value).strip().upper()


def _kernel(of: Attributes) -> str:
    return next((" ".join(words(one, "ConvolutionKernel")) for one in of.sources if "ConvolutionKernel" in one), "")


def _stored(of: Attributes) -> tuple[int, bool]:
    """BitsStored, and whether stored values are signed."""
    bits, allocated = of.whole("BitsStored"), of.whole("BitsAllocated")
    if allocated not in (8, 16, 32):
        of.refuse("BitsAllocated", "which is not 8, 16 or 32")
    if not 0 < bits <= allocated:
        of.refuse("BitsStored", f"which does not fit BitsAllocated {allocated}")
    if of.whole("HighBit", bits - 1) != bits - 1:
        of.refuse("HighBit", f"which contradicts BitsStored {bits}: it must be {bits - 1}")
    signed = of.whole("PixelRepresentation", 0)
    if signed not in (0, 1):
        of.refuse("PixelRepresentation", "neither 0 nor 1")
    return bits, bool(signed)


def _padding(of: Attributes) -> tuple[int, int] | None:
    """PS3.3 C.7.5.1.1.2: one stored value, or a range up to a limit. Writers often get the sign wrong."""
    value = of.get("PixelPaddingValue")
    if not isinstance(value, int):
        return None
    limit = of.get("PixelPaddingRangeLimit")
    ends = [end - 65536 if end > 32767 else end for end in (value, limit) if isinstance(end, int)]
    return min(ends), max(ends)
