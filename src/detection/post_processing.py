"""Size and confidence filters, and suppression of overlapping marks."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ..config import PostProcessing
from ..given import number_of
from ..results.output_formatter import GivenDetections, marks_of
from ..types import Detection, NoduleMask

__all__ = ["common_voxels", "filter_detections", "non_maximum_suppression", "sphere_iou"]

SAME_PEAK = 5.0  # mm; the guide thins peaks to no less
SAME_BODY = 0.5  # two bodies are one if the larger contains more than this fraction of the smaller


def non_maximum_suppression(
    detections: GivenDetections, iou_threshold: float = 0.3, min_distance: float = SAME_PEAK
) -> list[Detection]:
    """The detections, strongest first, without any that overlaps a stronger one by more than `iou_threshold`.

    Overlap is the intersection over union (0..1) of the spheres with `coordinates` and `diameter_mm`. Detections of
    equal confidence keep their order. A peak has no diameter: it is dropped if it is nearer than `min_distance` to a
    stronger mark.

    Args:
        detections: a list of detections or of peaks, a report, or the path of its JSON.
        iou_threshold: 0 to 1.
        min_distance: mm, between two marks of which one has no diameter.

    Raises:
        BadConfig: a number is out of range.
        BadOutput: the detections are not PIVOT's.
    """
    iou_threshold = number_of(iou_threshold, "iou_threshold", 0, 1)
    min_distance = number_of(min_distance, "min_distance", 0)
    ordered = sorted(marks_of(detections), key=lambda detection: -detection["confidence"])
    centres = np.array([detection["coordinates"] for detection in ordered], np.float64).reshape(-1, 3)
    radii = np.array([detection.get("diameter_mm") or np.nan for detection in ordered], np.float64) / 2
    kept: list[int] = []
    for i in range(len(ordered)):
        overlapping = sphere_iou(centres[i], radii[i], centres[kept], radii[kept]) > iou_threshold
        near = np.linalg.norm(centres[kept] - centres[i], axis=1) < min_distance
        if not np.where(np.isnan(radii[i] + radii[kept]), near, overlapping).any():
            kept.append(i)
    return [ordered[i] for i in kept]


def sphere_iou(
    centre: npt.NDArray[np.float64],
    radius: float,
    centres: npt.NDArray[np.float64],
    radii: npt.NDArray[np.float64],
) -> npt.NDArray[np.float64]:
    """Intersection over union (0..1) of a sphere with n others; centres (n, 3) and radii (n,) in mm.

    The common volume is a lens: Weisstein, "Sphere-Sphere Intersection", MathWorld, equation 16.
    """
    distance = np.linalg.norm(centres - centre, axis=1)
    small = np.minimum(radius, radii)
    apart, inside = distance >= radius + radii, distance <= np.abs(radius - radii)
    d = np.where(apart | inside, 1.0, distance)
    lens = np.pi * (radius + radii - d) ** 2 / (12 * d)
    lens *= d**2 + 2 * d * (radius + radii) - 3 * (radius - radii) ** 2
    common = np.where(apart, 0.0, np.where(inside, 4 / 3 * np.pi * small**3, lens))
    union = 4 / 3 * np.pi * (radius**3 + radii**3) - common
    return np.divide(common, union, out=np.zeros_like(common), where=union > 0)


def filter_detections(
    detections: Sequence[Detection], rules: PostProcessing, masks: Sequence[NoduleMask | None] | None = None
) -> tuple[list[Detection], list[Detection]]:
    """The nodules and the masses with enough diameter and confidence, strongest first.

    Masses exceed the largest configured diameter. With NMS enabled each body is reported once, by its strongest mark;
    a mass removes its weaker marks too. `masks` holds one mask for each detection.
    """
    largest = rules.size_filter.max_diameter
    bodies = _bodies(detections, rules, masks)
    nodules = [one for one in bodies if one["diameter_mm"] <= largest]
    return nodules, [one for one in bodies if one["diameter_mm"] > largest]


def _bodies(
    detections: Sequence[Detection], rules: PostProcessing, masks: Sequence[NoduleMask | None] | None
) -> list[Detection]:
    """The detections with enough confidence and diameter; with NMS enabled, the strongest of each body."""
    pairs = zip(detections, masks or [None] * len(detections), strict=True)
    fit = [
        (one, mask)
        for one, mask in pairs
        if one["diameter_mm"] >= rules.size_filter.min_diameter
        and one["confidence"] >= rules.confidence_filter.min_confidence
    ]
    if not rules.nms.enabled:
        return [one for one, _ in fit]
    kept: list[tuple[Detection, NoduleMask | None]] = []
    for weaker in sorted(fit, key=lambda pair: -pair[0]["confidence"]):
        if not any(_is_same_body(stronger, weaker, rules.nms.iou_threshold) for stronger in kept):
            kept.append(weaker)
    return [one for one, _ in kept]


def _is_same_body(
    one: tuple[Detection, NoduleMask | None], other: tuple[Detection, NoduleMask | None], iou_threshold: float
) -> bool:
    """Whether two detections overlap by more than the threshold, or most of the smaller lies in the larger.

    Their masks decide. If either mask is missing, spheres of their diameters do.
    """
    (first, mask), (second, other_mask) = one, other
    if mask is not None and other_mask is not None:
        sizes = [float(np.count_nonzero(each.voxels)) for each in (mask, other_mask)]
        common = float(common_voxels(mask, other_mask))
    else:
        sizes = [each["diameter_mm"] ** 3 for each in (first, second)]  # in units of pi / 6
        centre, point = np.array(first["coordinates"]), np.array([second["coordinates"]])
        (iou,) = sphere_iou(centre, first["diameter_mm"] / 2, point, np.array([second["diameter_mm"] / 2]))
        common = float(iou * sum(sizes) / (1 + iou))
    return common > iou_threshold * (sum(sizes) - common) or common > SAME_BODY * min(sizes)


def common_voxels(one: NoduleMask, other: NoduleMask) -> int:
    """The number of voxels that two masks share. Both lie on one grid."""
    low = np.maximum(one.origin, other.origin)
    high = np.minimum(np.add(one.origin, one.voxels.shape), np.add(other.origin, other.voxels.shape))
    high = np.maximum(high, low)  # an empty box, if they lie apart
    parts = (
        each.voxels[tuple(slice(a, b) for a, b in zip(low - each.origin, high - each.origin, strict=True))]
        for each in (one, other)
    )
    return int(np.count_nonzero(np.logical_and(*parts)))
