"""The growth of a nodule between two measurements, and its uncertainty."""

import math
from typing import Literal, NamedTuple, TypeAlias, TypedDict

from ..data.geometry import sphere_diameter
from ..types import Acquisition, Properties, Vec3

__all__ = ["REPEATABILITY", "SOURCE", "Growth", "grown", "mean_diameter"]

REPEATABILITY = 0.27  # 95 % limit of the volume change between repeated measurements
SOURCE = (
    "27 % of the volume between two scans of an unchanged solid nodule by one software (Marchiano et al. Radiology "
    "2009;251:919-925; -25 to 29 % in Hein et al., PMC3043750), more for small nodules in large voxels"
)
# Additional uncertainty for small nodules on thick slices: the SD of a diameter, as a fraction of the thickness.
PARTIAL_VOLUME = 0.05
# For different slices: the SD of a diameter, as a fraction of the difference of the thicknesses.
DIFFERING = 0.15
# For different kernels: the SD of a diameter in mm.
OTHER_KERNEL = 0.1
AS_THICK = 0.8  # of the smaller diameter; with thicker slices there is no trend
THICKEST = 10.0  # mm; a larger SliceThickness is a mistake
LEAST_VOLUME = 50.0  # mm3; our choice: NELSON calls smaller ones negative; most vessels among marks are smaller
TWO_SIDED_95 = 1.96
Trend: TypeAlias = Literal["growing", "stable", "shrinking"]


class Growth(TypedDict):
    """The change from baseline to follow-up; null if either could not be measured."""

    trend: Trend | None  # stable: within repeatability; null: unknown
    volume_change_percent: float | None
    volume_change_percent_95: tuple[float, float] | None  # the interval of the uncertainty
    diameter_change_mm: float | None  # of the sphere of the same volume
    mean_diameter_change_mm: float | None  # of (long + short axis) / 2
    doubling_time_days: float | None  # of the volume
    doubling_time_days_95: tuple[float, float | None] | None  # upper limit null: possibly no growth
    reason: str | None  # why a value is null


class _Slices(NamedTuple):
    """How comparable two scans are: the blur of their slices in mm, and whether they state different kernels."""

    thick: tuple[float, float]
    other_kernel: bool

    @classmethod
    def of(cls, spacings: tuple[Vec3, Vec3], acquisitions: tuple[Acquisition, Acquisition]) -> "_Slices":
        stated = [made.thickness_mm or 0.0 for made in acquisitions]
        one, two = (
            max(*spacing, thickness if thickness <= THICKEST else 0.0)
            for spacing, thickness in zip(spacings, stated, strict=True)
        )
        kernels = {made.kernel for made in acquisitions} - {""}
        return cls((one, two), len(kernels) > 1)


def grown(
    before: Properties,
    after: Properties,
    days: int | None,
    spacings: tuple[Vec3, Vec3],
    acquisitions: tuple[Acquisition, Acquisition] = (Acquisition(), Acquisition()),
) -> Growth:
    """The growth between two measurements, `days` apart, on scans with these voxel sides in mm.

    `acquisitions` are the slice thickness and the kernel that the scans state.
    """
    slices = _Slices.of(spacings, acquisitions)
    first, second = before["volume_mm3"], after["volume_mm3"]
    if not first or not second:
        return _unknown("no clear boundary in one of the examinations: volumes cannot be compared")
    change = math.log(second / first)
    alike, spread = _spread((first, second), slices)
    margin = TWO_SIDED_95 * spread
    axes = mean_diameter(before), mean_diameter(after)
    time, limits, reason = _doubling(change, margin, days)
    trend: Trend | None = _trend(change, margin)
    untold = _untold(before, after, slices)
    if untold is None and abs(change) > TWO_SIDED_95 * alike:
        if days == 0:
            untold = "no trend: both scans are of the same day, so that the change is one of the measurement"
        elif trend == "stable":
            untold = "no trend: the change is within the uncertainty of slices or kernels that differ"
    if untold:
        trend, reason = None, untold + (f"; {reason}" if reason else "")
    return Growth(
        trend=trend,
        volume_change_percent=_percent(change),
        volume_change_percent_95=(_percent(change - margin), _percent(change + margin)),
        diameter_change_mm=round(sphere_diameter(second) - sphere_diameter(first), 2),
        mean_diameter_change_mm=None if axes[0] is None or axes[1] is None else round(axes[1] - axes[0], 2),
        doubling_time_days=time,
        doubling_time_days_95=limits,
        reason=reason,
    )


def _untold(before: Properties, after: Properties, slices: _Slices) -> str | None:
    """Why two measurements give no trend, whatever the change."""
    volumes = before["volume_mm3"] or 0.0, after["volume_mm3"] or 0.0
    if max(volumes) < LEAST_VOLUME:
        return f"no trend below {LEAST_VOLUME:g} mm3"
    if max(slices.thick) >= AS_THICK * sphere_diameter(min(volumes)):
        return "no trend: the slices are as thick as the nodule"
    kinds = before["nodule_type"], after["nodule_type"]
    if None not in kinds and kinds[0] != kinds[1]:
        return f"no trend: {kinds[0]} at baseline and {kinds[1]} at follow-up, whose borders are not the same"
    return None


def _trend(change: float, margin: float) -> Trend:
    return "growing" if change > margin else "shrinking" if change < -margin else "stable"


def mean_diameter(properties: Properties) -> float | None:
    """(long + short axis) / 2 in mm."""
    long_axis, short_axis = properties["long_axis_mm"], properties["short_axis_mm"]
    return None if long_axis is None or short_axis is None else (long_axis + short_axis) / 2


def _spread(volumes: tuple[float, float], slices: _Slices) -> tuple[float, float]:
    """The SD of the log volume ratio: for equal slices, and for the actual ones."""
    diameters = [sphere_diameter(volume) for volume in volumes]
    alike = (math.log1p(REPEATABILITY) / TWO_SIDED_95) ** 2
    alike += sum((3 * PARTIAL_VOLUME * side / d) ** 2 for side, d in zip(slices.thick, diameters, strict=True))
    apart = math.hypot(DIFFERING * (slices.thick[0] - slices.thick[1]), OTHER_KERNEL * slices.other_kernel)
    return math.sqrt(alike), math.hypot(math.sqrt(alike), 3 * apart / min(diameters))


def _doubling(
    change: float, margin: float, days: int | None
) -> tuple[float | None, tuple[float, float | None] | None, str | None]:
    """The doubling time for a change of the log volume, its limits, and the reason if it is null."""
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
