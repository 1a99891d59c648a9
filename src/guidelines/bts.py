"""The British Thoracic Society's thresholds of 2015 for nodules on a first CT.

Volume decides for solid nodules, the longest diameter for subsolid ones. Not applied, because PIVOT does not measure
them: benign calcification, fat, perifissural nodules, growth.
"""

from typing import Literal, NamedTuple

from ..types import Bts
from .nodule import SizedNodule
from .patient import Patient

__all__ = ["LEAST_AGE", "RULES", "SOURCE", "Step", "bts", "unmanaged"]

SOURCE = "British Thoracic Society 2015 (doi:10.1136/thoraxjnl-2015-207168)"
LEAST_AGE = 18  # years


class Step(NamedTuple):
    """The recommendation from this size on: mm3 for a solid nodule, millimetres for a subsolid one."""

    kind: Literal["solid", "subsolid"]
    least: int
    management: str


# Of the rules for a type, the last one with a size that is reached applies.
RULES = (
    Step("solid", 0, "no follow-up"),
    Step("solid", 80, "CT at 3 months, then by the volume doubling time"),
    Step("solid", 300, "assess the risk (Brock): below 10 % CT surveillance, else PET/CT"),
    Step("subsolid", 0, "no follow-up"),
    Step("subsolid", 5, "CT at 3 months; if it persists, assess the risk (Brock): below 10 % CT at 1, 2 and 4 years"),
)


def bts(nodule: SizedNodule, patient: Patient) -> Bts:
    """The BTS recommendation for a nodule. Sizes are compared as measured, without rounding."""
    if patient.prior_ct:
        return unmanaged("a prior examination decides by growth, which PIVOT does not compare")
    if patient.age is not None and patient.age < LEAST_AGE:
        return unmanaged(f"the BTS guideline is for patients of {LEAST_AGE} years or more")
    solid = nodule.nodule_type == "solid"
    kind, size = ("solid", nodule.volume_mm3) if solid else ("subsolid", nodule.long_axis_mm)
    rule = [rule for rule in RULES if rule.kind == kind and rule.least <= size][-1]
    assumed = {"age": f"{LEAST_AGE} years or more", "prior_ct": "no prior examination"}
    return Bts(
        management=rule.management,
        assumptions=[assumed[field] for field in patient.missing(*assumed)],
        reason=None,
    )


def unmanaged(reason: str) -> Bts:
    """A null recommendation with its reason."""
    return Bts(management=None, assumptions=[], reason=reason)
