"""Which detections stay."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ..config import PostProcessing
from ..types import Detection

__all__ = ["filter_detections", "non_maximum_suppression", "sphere_iou"]


def non_maximum_suppression(detections: Sequence[Detection], iou_threshold: float = 0.3) -> list[Detection]:
    """The detections, strongest first, without those that overlap a stronger one by more than `iou_threshold`.

    Overlap is the intersection over union (0..1) of the spheres given by `coordinates` and
    `diameter_mm`; equal confidences keep their order.
    """
    ordered = sorted(detections, key=lambda detection: -detection["confidence"])
    centres = np.array([detection["coordinates"] for detection in ordered]).reshape(-1, 3)
    radii = np.array([detection["diameter_mm"] for detection in ordered]) / 2
    kept: list[int] = []
    for i in range(len(ordered)):
        if not (sphere_iou(centres[i], radii[i], centres[kept], radii[kept]) > iou_threshold).any():
            kept.append(i)
    return [ordered[i] for i in kept]


def sphere_iou(
    centre: npt.NDArray[np.float64],
    radius: float,
    centres: npt.NDArray[np.float64],
    radii: npt.NDArray[np.float64],
) -> npt.NDArray[np.float64]:
    """Intersection over union (0..1) of a sphere with n others; centres (n, 3) and radii (n,) in mm.

    The volume of the common lens: Weisstein, "Sphere-Sphere Intersection", MathWorld, equation 16.
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


def filter_detections(detections: Sequence[Detection], rules: PostProcessing) -> list[Detection]:
    """Those within the configured diameters and confidence, after suppression where it is enabled."""
    size, least = rules.size_filter, rules.confidence_filter.min_confidence
    kept = [
        detection
        for detection in detections
        if size.min_diameter <= detection["diameter_mm"] <= size.max_diameter and detection["confidence"] >= least
    ]
    return non_maximum_suppression(kept, rules.nms.iou_threshold) if rules.nms.enabled else kept
