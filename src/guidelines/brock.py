"""The Brock (PanCan) models of the probability that a nodule is cancer: McWilliams et al. NEJM 2013;369:910-919."""

from typing import NamedTuple

from scipy.special import expit

from ..types import Brock, BrockByLobe, NoduleType
from .nodule import SizedNodule
from .patient import Patient

__all__ = ["MODEL_2A", "MODEL_2B", "SOURCE", "VALID_MM", "Case", "Model", "brock", "not_estimated", "probability"]

SOURCE = "Brock (PanCan), McWilliams 2013 (doi:10.1056/NEJMoa1214726)"
VALID_MM = (3.0, 30.0)  # longest diameters
NEEDED = ("age", "sex", "family_history", "emphysema")
ONLY_2A = "2b needs spiculation, which is not measured"


class Model(NamedTuple):
    """Log-odds: the intercept and the coefficients."""

    intercept: float
    age: float  # for each year above 62
    female: float
    family_history: float
    emphysema: float
    size: float  # times (mm / 10)^-0.5 - 1.58113883
    types: dict[NoduleType, float]
    upper_lobe: float
    nodules: float  # for each nodule above 4
    spiculated: float


class Case(NamedTuple):
    """The inputs of the models."""

    age: float  # years
    female: bool
    family_history: bool  # of lung cancer
    emphysema: bool
    diameter_mm: float  # the longest
    nodule_type: NoduleType
    upper_lobe: bool
    nodules: int  # in the scan
    spiculated: bool = False


MODEL_2A = Model(
    intercept=-6.8071,
    age=0.0321,
    female=0.5635,
    family_history=0.3013,
    emphysema=0.3462,
    size=-5.6693,
    # A second source gives -0.3055 for ground-glass, which changes the log-odds by 0.005.
    types={"ground-glass": -0.3005, "part-solid": 0.3395, "solid": 0.0},
    upper_lobe=0.7116,
    nodules=-0.0803,
    spiculated=0.0,
)
MODEL_2B = Model(
    intercept=-6.7892,
    age=0.0287,
    female=0.6011,
    family_history=0.2961,
    emphysema=0.2953,
    size=-5.3854,
    types={"ground-glass": -0.1276, "part-solid": 0.3770, "solid": 0.0},
    upper_lobe=0.6581,
    nodules=-0.0824,
    spiculated=0.7729,
)


def probability(model: Model, case: Case) -> float:
    """The probability of cancer, 0 to 1."""
    return float(
        expit(
            model.intercept
            + model.age * (case.age - 62)
            + model.female * case.female
            + model.family_history * case.family_history
            + model.emphysema * case.emphysema
            + model.size * ((case.diameter_mm / 10) ** -0.5 - 1.58113883)
            + model.types[case.nodule_type]
            + model.upper_lobe * case.upper_lobe
            + model.nodules * (case.nodules - 4)
            + model.spiculated * case.spiculated
        )
    )


def brock(nodule: SizedNodule, patient: Patient, count: int) -> Brock:
    """Model 2a for an upper lobe and for another lobe, because the lobe is not measured. No input has a default.

    `count` is the number of nodules in the scan. Model 2b needs spiculation, and is always null.
    """
    missing = patient.missing(*NEEDED)
    if missing:
        return not_estimated(f"needs the patient's {', '.join(missing)}")
    size = nodule.long_axis_mm
    if not VALID_MM[0] <= size <= VALID_MM[1]:
        return not_estimated(f"the long axis is outside {VALID_MM[0]:g} to {VALID_MM[1]:g} mm")
    about = (patient.age or 0, patient.sex == "female", bool(patient.family_history), bool(patient.emphysema))
    upper, other = (
        round(probability(MODEL_2A, Case(*about, size, nodule.nodule_type, upper_lobe=lobe, nodules=count)), 4)
        for lobe in (True, False)
    )
    return {
        "2a": BrockByLobe(upper_lobe=upper, other_lobe=other),
        "2b": None,
        "assumptions": [f"nodules in the scan: {count}, as found", "the lobe is not measured: a value for each case"],
        "reason": ONLY_2A,
    }


def not_estimated(reason: str) -> Brock:
    """A null probability with its reason."""
    return {"2a": None, "2b": None, "assumptions": [], "reason": reason}
