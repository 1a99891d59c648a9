"""The Fleischner Society's recommendations of 2017 for incidental nodules.

Not applied, because PIVOT does not measure them: perifissural nodules, and risk by lobe and spiculation.
"""

from typing import Literal, NamedTuple, TypeAlias

from ..types import Fleischner, NoduleType
from .nodule import SizedNodule, round_half_up
from .patient import Patient

__all__ = ["LEAST_AGE", "RULES", "SOURCE", "Advice", "Number", "fleischner", "unrecommended"]

SOURCE = "Fleischner Society 2017 (doi:10.1148/radiol.2017161659)"
LEAST_AGE = 35  # years
Number: TypeAlias = Literal["single", "multiple"]
NEEDED = ("age", "prior_cancer", "immunosuppressed")


class Advice(NamedTuple):
    """The recommendation from this mean diameter on, in whole millimetres."""

    nodule_type: NoduleType
    number: Number
    least_mm: int
    low_risk: str
    high_risk: str


NOTHING = "no routine follow-up"
OPTIONAL = "optional CT at 12 months"
LARGE = "consider CT at 3 months, PET/CT or tissue sampling"
GROUND_GLASS = "CT at 6-12 months, then every 2 years until 5 years"
PART_SOLID = (
    "CT at 3-6 months; if unchanged with a solid component below 6 mm, annually for 5 years; "
    "a solid component of 6 mm or more is highly suspicious"
)
SEVERAL_SMALL = "CT at 3-6 months; if stable, consider CT at 2 and 4 years"
SEVERAL_LARGE = "CT at 3-6 months; then by the most suspicious nodule"
# Of the rules for a type, the last one with a size that is reached applies. Sizes are whole millimetres: above 8 means
# 9 or more.
RULES = (
    Advice("solid", "single", 0, NOTHING, OPTIONAL),
    Advice(
        "solid", "single", 6, "CT at 6-12 months, then consider CT at 18-24 months", "CT at 6-12 and at 18-24 months"
    ),
    Advice("solid", "single", 9, LARGE, LARGE),
    Advice("solid", "multiple", 0, NOTHING, OPTIONAL),
    Advice(
        "solid", "multiple", 6, "CT at 3-6 months, then consider CT at 18-24 months", "CT at 3-6 and at 18-24 months"
    ),
    Advice("ground-glass", "single", 0, NOTHING, NOTHING),
    Advice("ground-glass", "single", 6, GROUND_GLASS, GROUND_GLASS),
    Advice("ground-glass", "multiple", 0, SEVERAL_SMALL, SEVERAL_SMALL),
    Advice("ground-glass", "multiple", 6, SEVERAL_LARGE, SEVERAL_LARGE),
    Advice("part-solid", "single", 0, NOTHING, NOTHING),
    Advice("part-solid", "single", 6, PART_SOLID, PART_SOLID),
    Advice("part-solid", "multiple", 0, SEVERAL_SMALL, SEVERAL_SMALL),
    Advice("part-solid", "multiple", 6, SEVERAL_LARGE, SEVERAL_LARGE),
)


def fleischner(nodule: SizedNodule, patient: Patient, number: Number) -> Fleischner:
    """The recommendations at low and at high risk; null for a risk that the patient does not have.

    The mean of the axes is rounded to whole millimetres before it is compared. `number` counts the scan's nodules of
    the same group, solid or subsolid.
    """
    reason = _outside(patient)
    if reason:
        return unrecommended(reason)
    size = int(round_half_up((nodule.long_axis_mm + nodule.short_axis_mm) / 2, 0))
    rules = [rule for rule in RULES if (rule.nodule_type, rule.number) == (nodule.nodule_type, number)]
    rule = [rule for rule in rules if rule.least_mm <= size][-1]
    risk, because = _risk(patient)
    assumed = {"setting": "incidental nodule", "prior_ct": "no prior examination"}
    return Fleischner(
        low_risk=None if risk == "high" else rule.low_risk,
        high_risk=None if risk == "low" else rule.high_risk,
        size_mm=size,
        assumptions=[
            *(assumed[field] for field in patient.missing(*assumed)),
            f"{number} {'solid' if nodule.nodule_type == 'solid' else 'subsolid'}, of the nodules found",
            because,
        ],
        reason=None,
    )


def unrecommended(reason: str) -> Fleischner:
    """A null recommendation with its reason."""
    return Fleischner(low_risk=None, high_risk=None, size_mm=None, assumptions=[], reason=reason)


def _outside(patient: Patient) -> str | None:
    """Why Fleischner's recommendations do not apply. The text reveals nothing about the patient."""
    if patient.setting == "screening":
        return "Fleischner is for incidental nodules, not for screening"
    if patient.prior_ct:
        return "a prior examination decides by growth, which PIVOT does not compare"
    missing = patient.missing(*NEEDED)
    if missing:
        return f"needs the patient's {', '.join(missing)}"
    if (patient.age or 0) < LEAST_AGE or patient.prior_cancer or patient.immunosuppressed:
        return f"Fleischner is for patients of {LEAST_AGE} years or more, without cancer and immunosuppression"
    return None


def _risk(patient: Patient) -> tuple[str | None, str]:
    """`low` or `high`, or None if it is unknown, and the basis of that."""
    if patient.risk:
        return patient.risk, f"{patient.risk} risk, as the patient file says"
    if patient.smoking in ("former", "current") or patient.family_history or patient.emphysema:
        return "high", "high risk, because of a risk factor in the patient file"
    return None, "the risk is not known: lobe and spiculation are not measured"
