"""The nodules as an RT Structure Set: the contours of their masks, slice by slice."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from highdicom.base import SOPClass
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, RTStructureSetStorage
from pydicom.valuerep import DA, TM
from skimage.measure import find_contours

from ..results.found import Finding, findings_of
from .context import Context

__all__ = ["export"]

LEAST_POINTS = 3  # of a closed outline
DIGITS = 3  # of a coordinate in mm


def export(context: Context) -> SOPClass | None:
    """The structure set; None if no nodule has a mask. Overlapping nodules keep their whole contours."""
    findings = [one for one in findings_of(context.results) if one.mask is not None]
    if not findings:
        return None
    stated = {name: value for name, value in context.common("RTSTRUCT").items() if not name.startswith("content_")}
    structures = SOPClass(
        study_instance_uid=context.original.StudyInstanceUID,
        sop_class_uid=RTStructureSetStorage,
        modality="RTSTRUCT",
        transfer_syntax_uid=ExplicitVRLittleEndian,
        **stated,
    )
    structures.OperatorsName, structures.PositionReferenceIndicator = None, None
    structures.FrameOfReferenceUID = context.frame_of_reference
    structures.StructureSetLabel = "LUNG_NODULES"
    structures.StructureSetDate, structures.StructureSetTime = DA(context.when.date()), TM(context.when.time())
    structures.ReferencedFrameOfReferenceSequence = [_frame(context)]
    structures.StructureSetROISequence = [_region(context, one) for one in findings]
    structures.ROIContourSequence = [_contours(context, one) for one in findings]
    structures.RTROIObservationsSequence = [_observation(one) for one in findings]
    structures.ApprovalStatus = "UNAPPROVED"
    return context.finished(structures)


def _frame(context: Context) -> Dataset:
    """The images that the contours lie on."""
    images = [_reference(image) for image in context.images]
    series = _item(SeriesInstanceUID=context.original.SeriesInstanceUID, ContourImageSequence=images)
    study = _item(
        ReferencedSOPClassUID="1.2.840.10008.3.1.2.3.1",  # Detached Study Management, as the standard requires
        ReferencedSOPInstanceUID=context.original.StudyInstanceUID,
        RTReferencedSeriesSequence=[series],
    )
    return _item(FrameOfReferenceUID=context.frame_of_reference, RTReferencedStudySequence=[study])


def _region(context: Context, one: Finding) -> Dataset:
    return _item(
        ROINumber=one.number,
        ReferencedFrameOfReferenceUID=context.frame_of_reference,
        ROIName=one.name,
        ROIGenerationAlgorithm="AUTOMATIC",
    )


def _observation(one: Finding) -> Dataset:
    return _item(
        ObservationNumber=one.number, ReferencedROINumber=one.number, RTROIInterpretedType="", ROIInterpreter=""
    )


def _contours(context: Context, one: Finding) -> Dataset:
    contours = [
        _item(
            ContourImageSequence=[_reference(context.images[index])],
            ContourGeometricType="CLOSED_PLANAR",
            NumberOfContourPoints=len(points),
            ContourData=[f"{value:.{DIGITS}f}" for value in points.ravel()],
        )
        for index, points in _outlines(context, one)
    ]
    return _item(ROIDisplayColor=list(one.colour), ReferencedROINumber=one.number, ContourSequence=contours)


def _outlines(context: Context, one: Finding) -> Iterator[tuple[int, npt.NDArray[np.float64]]]:
    """Each slice of the mask with its closed contours, (n, 3) in LPS millimetres, along pixel edges."""
    assert one.mask is not None  # noqa: S101 - the caller has one
    voxels, (x, y, z) = one.mask
    for step in range(voxels.shape[2]):
        image = context.images[z + step]
        corner = np.array(image.ImagePositionPatient, float)
        along_row, along_column = np.reshape(np.array(image.ImageOrientationPatient, float), (2, 3))
        rows, columns = (float(value) for value in image.PixelSpacing)
        for line in find_contours(np.pad(voxels[..., step], 1).astype(float), 0.5):
            pixels = line[:-1] + np.array([x - 1, y - 1])
            if len(pixels) >= LEAST_POINTS:
                yield z + step, corner + pixels[:, :1] * columns * along_row + pixels[:, 1:] * rows * along_column


def _reference(image: Dataset) -> Dataset:
    return _item(ReferencedSOPClassUID=image.SOPClassUID, ReferencedSOPInstanceUID=image.SOPInstanceUID)


def _item(**attributes: object) -> Dataset:
    item = Dataset()
    for name, value in attributes.items():
        setattr(item, name, value)
    return item
