"""The results of the guidelines, for a nodule and for an examination."""

from typing import Literal, TypedDict

__all__ = ["Brock", "BrockByLobe", "Bts", "Fleischner", "Guidelines", "LungRads", "LungRadsExam"]


class _Explained(TypedDict):
    """The explanation of a guideline's result."""

    assumptions: list[str]  # made for the result
    reason: str | None  # if a result is null


class LungRadsExam(_Explained):
    """The Lung-RADS category of an examination."""

    category: Literal["0", "1", "2", "3", "4A", "4B"] | None  # category 0 has a reason too
    management: str | None


class LungRads(_Explained):
    """The Lung-RADS category of a nodule."""

    category: Literal["1", "2", "3", "4A", "4B"] | None
    management: str | None
    size_mm: float | None  # the rounded mean diameter that was compared
    solid_mm: float | None  # the same of a part-solid nodule's solid component


class Fleischner(_Explained):
    """Fleischner's recommendation at low and at high risk; null for the risk that does not apply to the patient."""

    low_risk: str | None
    high_risk: str | None
    size_mm: int | None  # the rounded mean diameter that was compared


class BrockByLobe(TypedDict):
    """The probability of cancer, 0 to 1, for a nodule in the upper lobe or in another lobe."""

    upper_lobe: float
    other_lobe: float


Brock = TypedDict(
    "Brock",
    {"2a": BrockByLobe | None, "2b": float | None, "assumptions": list[str], "reason": str | None},
)
"""The probability of cancer by the Brock models without (2a) and with spiculation (2b)."""


class Bts(_Explained):
    """The British Thoracic Society's recommendation."""

    management: str | None


class Guidelines(TypedDict):
    """All guidelines' results for a nodule."""

    lung_rads: LungRads
    fleischner: Fleischner
    brock: Brock
    bts: Bts
