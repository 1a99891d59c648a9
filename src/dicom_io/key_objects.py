"""A Key Object Selection of the slices that show nodules."""

from highdicom.base import SOPClass
from highdicom.ko import KeyObjectSelection, KeyObjectSelectionDocument
from pydicom.sr.codedict import codes

from ..results.found import findings_of
from .context import Context

__all__ = ["export"]


def export(context: Context) -> SOPClass | None:
    """The slice through the centre of each nodule and mass; None if there is none."""
    slices = sorted({one.found["coordinates_voxel"][2] for one in findings_of(context.results)})
    if not slices:
        return None
    chosen = [context.images[index] for index in slices]
    words = "Slices through the lung nodules that PIVOT marked. Not for diagnosis."
    content = KeyObjectSelection(codes.DCM.OfInterest, chosen, description=words)
    arguments = context.common("KO")
    document = KeyObjectSelectionDocument(evidence=chosen, content=content, **arguments)
    return context.finished(document)
