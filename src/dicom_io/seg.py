"""The nodules as a DICOM Segmentation."""

import numpy as np
import numpy.typing as npt
from highdicom import AlgorithmIdentificationSequence
from highdicom.color import CIELabColor
from highdicom.seg import SegmentAlgorithmTypeValues, Segmentation, SegmentationTypeValues, SegmentDescription

from ..results.found import COLOURS
from ..types import Detection, NoduleMask
from .codes import ABNORMAL, DEEP_LEARNING, LUNG, NODULE
from .context import MANUFACTURER, Context, nodule_name, shape_of

__all__ = ["segmentation", "segmented"]


def segmented(context: Context) -> list[tuple[Detection, NoduleMask]]:
    """The nodules and masses that have a mask; the first is segment 1."""
    found = [*context.results["detections"], *context.results["masses"]]
    nodules = zip(found, context.results["masks"], strict=True)
    return [(nodule, mask) for nodule, mask in nodules if mask is not None]


def segmentation(context: Context) -> Segmentation | None:
    """One binary segment for each nodule with a mask, so that nodules may overlap; None if none has a mask."""
    nodules = segmented(context)
    if not nodules:
        return None
    slices, frames = _frames(context, [mask for _, mask in nodules])
    return context.finished(
        Segmentation(
            source_images=[context.images[index] for index in slices],
            pixel_array=frames,
            segmentation_type=SegmentationTypeValues.BINARY,
            segment_descriptions=[_segment(context, number, nodule) for number, (nodule, _) in enumerate(nodules, 1)],
            content_label="LUNG_NODULES",
            **context.common("SEG"),
        )
    )


def _frames(context: Context, masks: list[NoduleMask]) -> tuple[list[int], npt.NDArray[np.bool_]]:
    """The slices that any mask touches, and their (slices, rows, columns, segments) pixels."""
    slices = sorted({mask.origin[2] + z for mask in masks for z in range(mask.voxels.shape[2])})
    columns, rows, _ = shape_of(context.results)
    frames = np.zeros((len(slices), rows, columns, len(masks)), dtype=bool)
    for segment, (voxels, (x, y, z)) in enumerate(masks):
        first = slices.index(z)
        box = np.s_[first : first + voxels.shape[2], y : y + voxels.shape[1], x : x + voxels.shape[0], segment]
        frames[box] = voxels.T
    return slices, frames


def _segment(context: Context, number: int, nodule: Detection) -> SegmentDescription:
    identifier, uid = context.tracking(nodule)
    pivot, model = context.versions
    return SegmentDescription(
        segment_number=number,
        segment_label=nodule_name(nodule),
        segmented_property_category=ABNORMAL,
        segmented_property_type=NODULE,
        algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=AlgorithmIdentificationSequence(
            name=f"{MANUFACTURER} {model}", family=DEEP_LEARNING, version=pivot, source=MANUFACTURER
        ),
        tracking_id=identifier,
        tracking_uid=uid,
        anatomic_regions=[LUNG],
        display_color=CIELabColor.from_rgb(*COLOURS[nodule["id"] % len(COLOURS)]),  # older OHIF hangs without a colour
    )
