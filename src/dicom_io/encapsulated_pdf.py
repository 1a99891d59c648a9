"""The PDF report as a DICOM object."""

from pathlib import Path

from highdicom.base import SOPClass
from pydicom.uid import EncapsulatedPDFStorage, ExplicitVRLittleEndian

from .context import Context

__all__ = ["encapsulated_pdf"]


def encapsulated_pdf(context: Context, path: Path) -> SOPClass:
    """The PDF at `path`, encapsulated unchanged."""
    made = SOPClass(
        study_instance_uid=context.original.StudyInstanceUID,
        sop_class_uid=EncapsulatedPDFStorage,
        modality="DOC",
        transfer_syntax_uid=ExplicitVRLittleEndian,
        **context.common("PDF"),
    )
    made.ConversionType = "WSD"
    made.AcquisitionDateTime = None
    made.BurnedInAnnotation = "NO"  # the report names no patient
    made.DocumentTitle = "Lung nodules on chest CT. Not for diagnosis."
    made.ConceptNameCodeSequence = []
    made.MIMETypeOfEncapsulatedDocument = "application/pdf"
    content = path.read_bytes()
    made.EncapsulatedDocumentLength = len(content)
    made.EncapsulatedDocument = content + b"\0" * (len(content) % 2)
    return context.finished(made)
