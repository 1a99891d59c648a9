"""Key images as DICOM Secondary Capture."""

import numpy as np
import numpy.typing as npt
from highdicom import UID
from highdicom.sc import SCImage
from pydicom.uid import ExplicitVRLittleEndian

from .context import Context

__all__ = ["secondary_capture"]

NOT_FOR_DIAGNOSIS = "NOT FOR DIAGNOSIS"


def secondary_capture(context: Context, picture: npt.NDArray[np.uint8], number: int) -> SCImage:
    """An RGB picture (rows, columns, 3) without patient data as a key image; `number` counts from 1."""
    made = SCImage.from_ref_dataset(
        ref_dataset=context.images[0],
        pixel_array=np.ascontiguousarray(picture),
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        patient_orientation=("L", "P"),
        transfer_syntax_uid=UID(ExplicitVRLittleEndian),
        **context.common("SC", number),
    )
    made.DateOfSecondaryCapture, made.TimeOfSecondaryCapture = made.ContentDate, made.ContentTime
    made.BurnedInAnnotation = "NO"  # concerns only text that identifies the patient
    made.ImageComments = NOT_FOR_DIAGNOSIS
    return context.finished(made)
