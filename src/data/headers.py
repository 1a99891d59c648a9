"""Reads the headers of DICOM files: whether a file is DICOM, whether it holds a CT image, and a few attributes."""

import hashlib
import re
from pathlib import Path
from typing import Any, NamedTuple

from pydicom.dataset import Dataset
from pydicom.uid import (
    CTImageStorage,
    EnhancedCTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    LegacyConvertedEnhancedCTImageStorage,
)

from ..errors import BadScan
from ..quiet import quiet_libraries
from .attributes import words
from .part10 import read_dicom

__all__ = ["Header", "is_ct_image", "is_dicom", "open_dicom", "read_header"]

CT_CLASSES = (CTImageStorage, EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage)
STORAGE = "1.2.840.10008.5.1.4."  # common prefix of the UIDs of all standard storage SOP classes
# Only these attributes are read. Those that may identify the patient are digested at once (see `Header`).
TAGS = [
    "SOPClassUID",
    "Modality",
    "ImageType",
    "BodyPartExamined",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "SeriesNumber",
    "SeriesDescription",
    "PatientID",
    "AcquisitionNumber",
    "VolumeBasedCalculationTechnique",
    "KVP",
    "ContrastBolusAgent",
    "TemporalPositionIdentifier",
    "NominalPercentageOfCardiacPhase",
    "NominalPercentageOfRespiratoryPhase",
    "InstanceNumber",
    "FrameOfReferenceUID",
    "ConvolutionKernel",
    "Rows",
    "Columns",
    "SamplesPerPixel",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "NumberOfFrames",
    "PixelSpacing",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "SliceThickness",
    "SpacingBetweenSlices",
    "ReconstructionDiameter",
    "RescaleSlope",
    "RescaleIntercept",
    "RescaleType",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
]
# Values of ImageType, and words in a series description, that name projections through many slices.
PROJECTION_TYPE = re.compile(
    r"\b(M(IN|AX)? ?IP|MAXIMUM|MINIMUM|PROJECTION|VRT?|VOLUME ?RENDER\w*|SSD)\b", re.IGNORECASE
)
PROJECTION_NAME = re.compile(
    r"((?<![A-Z])|(?<=THICK)|(?<=THIN))M(IN|AX)?[ -]?IPS?(?![A-Z])|INTENSITY PROJECTION|VOLUME ?REND"
    r"|(?<![A-Z])VRT?(?![A-Z])"
)
PROJECTIONS = ("MAX_IP", "MIN_IP", "VOLUME_RENDER", "SURFACE_RENDER")  # values of VolumeBasedCalculationTechnique


class Header(NamedTuple):
    """The attributes of a file, without any that identify the patient."""

    path: Path
    data: Dataset
    patient: str  # a digest of PatientID: tells patients apart, and nothing else
    description: str  # a digest of SeriesDescription
    projection: bool  # a projection through many slices, such as a MIP
    bare: bool  # without the preamble of a DICOM file


@quiet_libraries()
def is_dicom(path: Path) -> bool:
    """Whether the content is DICOM: with preamble and mark, or without both."""
    if not path.exists():  # a broken link
        return False
    with path.open("rb") as file:
        start = file.read(132)
    return start[128:] == b"DICM" or (_may_be_bare(start) and _sop_class(path).startswith(STORAGE))


def open_dicom(path: Path, **options: Any) -> Dataset:  # noqa: ANN401 - those of `read_dicom`
    """The data set of a DICOM file, with or without a preamble; its transfer syntax is in `file_meta`."""
    dataset = read_dicom(path, force=True, **options)
    if "TransferSyntaxUID" not in dataset.file_meta:
        implicit, little = dataset.original_encoding
        explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit
    return dataset


@quiet_libraries()
def read_header(path: Path) -> Header | None:
    """The few attributes that PIVOT uses; None for a file that is not DICOM.

    Raises:
        BadScan: the file is DICOM, but damaged.
    """
    if not is_dicom(path):
        return None
    try:
        data = open_dicom(path, stop_before_pixels=True, specific_tags=TAGS)
        data.SOPClassUID = data.get("SOPClassUID") or data.file_meta.MediaStorageSOPClassUID
        patient = _digest(str(data.get("PatientID") or ""))
        description = str(data.get("SeriesDescription") or "")
    except Exception as error:
        why = f" ({error})" if isinstance(error, BadScan) else ""
        msg = f"{path.name} is a damaged DICOM file{why}: copy it again or take it out of the folder"
        raise BadScan(msg) from error
    for name in ("PatientID", "SeriesDescription"):
        data.pop(name, None)
    projection = _is_projection(data, description)
    bare = not getattr(data, "preamble", None)
    return Header(path, data, patient, _digest(description), projection=projection, bare=bare)


def _digest(text: str) -> str:
    return hashlib.sha256(text.strip().encode()).hexdigest()


def _is_projection(data: Dataset, description: str) -> bool:
    return (
        any(PROJECTION_TYPE.search(text.replace("_", " ")) for text in words(data, "ImageType"))
        or any(text in PROJECTIONS for text in words(data, "VolumeBasedCalculationTechnique"))
        or bool(PROJECTION_NAME.search(description.upper().replace("_", " ")))
    )


def is_ct_image(header: Dataset) -> bool:
    """Whether the file holds CT images, and not a report, a screenshot or another modality."""
    return header.SOPClassUID in CT_CLASSES and (header.get("Modality") or "CT") == "CT"


def _may_be_bare(start: bytes) -> bool:
    """Whether a file could begin with a data element of group 2 or 8, in any of the three encodings."""
    return start[:2] in (b"\2\0", b"\x08\0", b"\0\x08") and len(start) >= 16


def _sop_class(path: Path) -> str:
    try:
        header = read_dicom(path, force=True, stop_before_pixels=True, specific_tags=["SOPClassUID"])
        return str(header.get("SOPClassUID") or "")
    except Exception:  # noqa: BLE001 - pydicom raises many types on files that are no DICOM
        return ""
