"""A measured nodule as input of the guidelines, and the rounding that they require."""

from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal

from ..data.geometry import sphere_diameter
from ..types import NoduleType, Properties

__all__ = ["NOT_MEASURED", "SizedNodule", "as_nodule", "round_half_up"]

NOT_MEASURED = "size or type not measured: no clear boundary, or cut by the border of the scan"
LARGEST = 1e9  # mm and mm3; larger values are errors


@dataclass(frozen=True, slots=True)
class SizedNodule:
    """A nodule with all values that the size rules need."""

    nodule_type: NoduleType
    long_axis_mm: float
    short_axis_mm: float
    volume_mm3: float
    solid_fraction: float  # 0 to 1
    solid_mm: float | None = None  # of the largest connected solid part; None: not measured

    @property
    def solid_diameter_mm(self) -> float:
        """The diameter of the largest connected solid part or, if not measured, of a sphere of all solid volume."""
        return sphere_diameter(self.volume_mm3 * self.solid_fraction) if self.solid_mm is None else self.solid_mm


def as_nodule(properties: Properties) -> SizedNodule | None:
    """The nodule with these properties; None if a size or the type is missing or impossible."""
    kind, solid = properties["nodule_type"], properties["solid_fraction"]
    long_axis, short_axis, volume = (properties[key] for key in ("long_axis_mm", "short_axis_mm", "volume_mm3"))
    if kind is None or solid is None or long_axis is None or short_axis is None or volume is None:
        return None
    if not all(0 < size < LARGEST for size in (long_axis, short_axis, volume)) or not 0 <= solid <= 1:
        return None
    core = properties.get("solid_mm")
    if core is not None and not 0 <= core < LARGEST:
        return None
    return SizedNodule(kind, long_axis, short_axis, volume, solid, core)


def round_half_up(value: float | Decimal, places: int) -> Decimal:
    """The value rounded to `digits` decimals, halves upwards: 5.95 becomes 6.0, while `round` may give 5.9."""
    return Decimal(str(value)).quantize(Decimal(1).scaleb(-places), ROUND_HALF_UP)
