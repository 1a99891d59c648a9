"""How much a nodule grew between two measurements, and how sure that is."""

import math
from typing import Literal, TypedDict

from ..data.geometry import sphere_diameter
from ..types import Properties, Vec3

__all__ = ["REPEATABILITY", "SOURCE", "Growth", "grown", "mean_diameter"]

REPEATABILITY = 0.27  # change of a volume that 95 % of repeated measurements stay within
SOURCE = (
    "27 % of the volume between two scans of an unchanged solid nodule by one software (Marchiano et al. Radiology "
    "2009;251:919-925; -25 to 29 % in Hein et al., PMC3043750), more for small nodules in large voxels"
)
# On top of it, for small nodules on thick slices: the SD of a diameter, as a share of the largest voxel side.
PARTIAL_VOLUME = 0.05
LEAST_VOLUME = 50.0  # mm3; our choice: NELSON calls smaller ones negative, and vessels taken for nodules mostly are
TWO_SIDED_95 = 1.96


class Growth(TypedDict):
    """The change from baseline to follow-up; null where one of both could not be measured."""

    trend: Literal["growing", "stable", "shrinking"] | None  # stable: within the uncertainty; null: too small to say
    volume_change_percent: float | None
    volume_change_percent_95: tuple[float, float] | None  # the interval that the uncertainty leaves
    diameter_change_mm: float | None  # of the sphere of the same volume
    mean_diameter_change_mm: float | None  # of (long + short axis) / 2
    doubling_time_days: float | None  # of the volume
    doubling_time_days_95: tuple[float, float | None] | None  # an upper limit of null: it may not grow at all
    reason: str | None  # why something is null


def grown(before: Properties, after: Properties, days: int | None, spacings: tuple[Vec3, Vec3]) -> Growth:
    """The growth from one measurement to another, `days` later, on scans with these voxel sides in mm."""
    first, second = before["volume_mm3"], after["volume_mm3"]
    if not first or not second:
        return _unknown("no clear boundary in one of the examinations: volumes cannot be compared")
    change = math.log(second / first)
    margin = TWO_SIDED_95 * _spread((first, second), spacings)
    axes = mean_diameter(before), mean_diameter(after)
    time, limits, reason = _doubling(change, margin, days)
    if max(first, second) < LEAST_VOLUME:
        reason = f"no trend below {LEAST_VOLUME:g} mm3" + (f"; {reason}" if reason else "")
    return Growth(
        trend=_trend(change, margin) if max(first, second) >= LEAST_VOLUME else None,
        volume_change_percent=_percent(change),
        volume_change_percent_95=(_percent(change - margin), _percent(change + margin)),
        diameter_change_mm=round(sphere_diameter(second) - sphere_diameter(first), 2),
        mean_diameter_change_mm=None if axes[0] is None or axes[1] is None else round(axes[1] - axes[0], 2),
        doubling_time_days=time,
        doubling_time_days_95=limits,
        reason=reason,
    )


def _trend(change: float, margin: float) -> Literal["growing", "stable", "shrinking"]:
    return "growing" if change > margin else "shrinking" if change < -margin else "stable"


def mean_diameter(properties: Properties) -> float | None:
    """(long + short axis) / 2 in mm."""
    long_axis, short_axis = properties["long_axis_mm"], properties["short_axis_mm"]
    return None if long_axis is None or short_axis is None else (long_axis + short_axis) / 2


def _spread(volumes: tuple[float, float], spacings: tuple[Vec3, Vec3]) -> float:
    """The standard deviation of the logarithm of the volumes' ratio."""
    total = (math.log1p(REPEATABILITY) / TWO_SIDED_95) ** 2
    for volume, spacing in zip(volumes, spacings, strict=True):
        total += (3 * PARTIAL_VOLUME * max(spacing) / sphere_diameter(volume)) ** 2
    return math.sqrt(total)


def _doubling(
    change: float, margin: float, days: int | None
) -> tuple[float | None, tuple[float, float | None] | None, str | None]:
    """The doubling time for a change of the logarithm of the volume, its limits, and why it is null."""
    if not days:
        return None, None, "the interval is not known" if days is None else "both scans are of the same day"
    if change <= 0:
        return None, None, "the volume did not increase"
    slowest = _time(change - margin, days) if change > margin else None
    return _time(change, days), (_time(change + margin, days), slowest), None


def _time(change: float, days: int) -> float:
    return round(math.log(2) * days / change, 1)


def _percent(change: float) -> float:
    return round(100 * math.expm1(change), 1)


def _unknown(reason: str) -> Growth:
    return Growth(
        trend=None,
        volume_change_percent=None,
        volume_change_percent_95=None,
        diameter_change_mm=None,
        mean_diameter_change_mm=None,
        doubling_time_days=None,
        doubling_time_days_95=None,
        reason=reason,
    )
