"""Lung-RADS v2022 for baseline screening: the size rules, and the highest category of an examination.

Category 0 is given if a part of the lungs cannot be judged. Not applied, because PIVOT does not measure them:
categories 4X and S, benign calcification and fat (category 1), juxtapleural and airway nodules, cysts. `prior` compares
with an earlier examination.
"""

from collections.abc import Sequence
from decimal import Decimal
from typing import Literal, NamedTuple, TypeAlias, get_args

from ..types import LungRads, LungRadsExam, LungsReport, NoduleType
from .assumptions import BASELINE
from .nodule import SizedNodule, round_half_up
from .patient import Patient

__all__ = [
    "CATEGORIES",
    "INCOMPLETE",
    "MANAGEMENT",
    "RULES",
    "SOURCE",
    "Category",
    "Criterion",
    "exam",
    "look_up",
    "lung_rads",
    "uncategorised",
]

SOURCE = "ACR Lung-RADS v2022"
Category: TypeAlias = Literal["1", "2", "3", "4A", "4B"]
CATEGORIES: tuple[Category, ...] = get_args(Category)  # from the least to the most suspicious


class Criterion(NamedTuple):
    """The category from these mean diameters on, in millimetres."""

    nodule_type: NoduleType
    least_mm: int
    least_solid_mm: int  # of the solid component; 0 if irrelevant
    category: Category


# Of a type's rules, the last one with both sizes reached applies.
RULES = (
    Criterion("solid", 0, 0, "2"),
    Criterion("solid", 6, 0, "3"),
    Criterion("solid", 8, 0, "4A"),
    Criterion("solid", 15, 0, "4B"),
    Criterion("part-solid", 0, 0, "2"),
    Criterion("part-solid", 6, 0, "3"),
    Criterion("part-solid", 6, 6, "4A"),
    Criterion("part-solid", 6, 8, "4B"),
    Criterion("ground-glass", 0, 0, "2"),
    Criterion("ground-glass", 30, 0, "3"),
)
MANAGEMENT: dict[Category, str] = {
    "1": "low-dose CT in 12 months",
    "2": "low-dose CT in 12 months",
    "3": "low-dose CT in 6 months",
    "4A": "low-dose CT in 3 months; PET/CT may be considered for a solid nodule or component of 8 mm or more",
    "4B": "diagnostic work-up",
}
INCOMPLETE = "additional CT of the part of the lungs that cannot be judged"  # category 0
NOT_LOOKED_FOR = "benign calcification, fat and additional suspicious features (4X) are not measured"
SPHERE = "the solid component is a sphere of the volume of its largest connected part"
NONE_MISSED = "no nodule was missed"


def lung_rads(nodule: SizedNodule, patient: Patient) -> LungRads:
    """The category of a nodule. Axes and their mean are rounded to 0.1 mm before they are compared."""
    reason = _outside(patient)
    if reason:
        return uncategorised(reason)
    size = _mean(nodule)
    solid = None if nodule.nodule_type == "solid" else round_half_up(nodule.solid_diameter_mm, 1)
    category = look_up(RULES, nodule.nodule_type, size, solid or Decimal(0))
    return LungRads(
        category=category,
        management=MANAGEMENT[category],
        size_mm=float(size),
        solid_mm=None if solid is None else float(solid),
        assumptions=[*_assumed(patient), NOT_LOOKED_FOR, *([SPHERE] if solid is not None else [])],
        reason=None,
    )


def uncategorised(reason: str) -> LungRads:
    """A null category with its reason."""
    return LungRads(category=None, management=None, size_mm=None, solid_mm=None, assumptions=[], reason=reason)


def exam(nodules: Sequence[LungRads], patient: Patient, lungs: LungsReport) -> LungRadsExam:
    """The highest category of all nodules and masses of an examination.

    Nothing exceeds 4B. A lower category becomes null if no lungs are recognised, or if a nodule without a category
    could be higher. It becomes 0 if a part of the lungs cannot be judged.
    """
    reason = _outside(patient)
    if reason:
        return _no_category(reason)
    known = [nodule["category"] for nodule in nodules if nodule["category"] is not None]
    category = max(known, key=CATEGORIES.index, default=CATEGORIES[0])
    seen = f"the highest of what was found is {category}" if known else "nothing with a category was found"
    if category != CATEGORIES[-1]:
        if not lungs["recognised"]:
            return _no_category(f"{lungs['reason']}; {seen}")
        unknown = len(nodules) - len(known)
        if unknown:
            return _no_category(f"{unknown} of {len(nodules)} nodules without a category; {seen}")
        if not lungs["evaluable"]:
            return LungRadsExam(
                category="0", management=INCOMPLETE, assumptions=_assumed(patient), reason=f"{lungs['reason']}; {seen}"
            )
    assumed = dict.fromkeys(assumption for nodule in nodules for assumption in nodule["assumptions"])
    return LungRadsExam(
        category=category,
        management=MANAGEMENT[category],
        assumptions=list(assumed) if nodules else [*_assumed(patient), NONE_MISSED],
        reason=None,
    )


def _no_category(reason: str) -> LungRadsExam:
    return LungRadsExam(category=None, management=None, assumptions=[], reason=reason)


def _outside(patient: Patient) -> str | None:
    """Why Lung-RADS does not apply to this examination."""
    if patient.setting == "incidental":
        return "Lung-RADS is for screening, not for incidental nodules"
    if patient.prior_ct:
        return "Lung-RADS compares with the prior examination: give both to `pivot compare`"
    return None


def _assumed(patient: Patient) -> list[str]:
    return [BASELINE] if patient.missing("setting", "prior_ct") else []


def _mean(nodule: SizedNodule) -> Decimal:
    axes = [round_half_up(axis, 1) for axis in (nodule.long_axis_mm, nodule.short_axis_mm)]
    return round_half_up(sum(axes) / 2, 1)


def look_up(rules: Sequence[Criterion], nodule_type: NoduleType, size: Decimal, solid: Decimal) -> Category:
    """The category by the last of the type's rules with both sizes, in rounded millimetres, reached."""
    reached = [rule for rule in rules if rule.least_mm <= size and rule.least_solid_mm <= solid]
    return [rule for rule in reached if rule.nodule_type == nodule_type][-1].category
