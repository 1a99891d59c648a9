"""Lung-RADS v2022 with an earlier examination: new, growing, slowly growing and stable nodules.

Not applied, besides the omissions of `lung_rads`: category 4X for ground-glass that doubles in a year, and the return
of a 4B nodule to category 2 once it is proven benign.
"""

from collections.abc import Sequence
from decimal import Decimal
from typing import Literal, NamedTuple

from ..types import LungRads, LungRadsExam, LungsReport
from .assumptions import SCREENING
from .lung_rads import CATEGORIES, MANAGEMENT, Category, Criterion, exam, look_up, lung_rads, uncategorised
from .nodule import SizedNodule
from .patient import Patient

__all__ = ["GROWING", "GROWTH_MM", "NEW", "STEPPED_DOWN", "exam_with_prior", "lung_rads_with_prior"]

# Of a type's rules, the last one with both sizes reached applies.
NEW = (
    Criterion("solid", 0, 0, "2"),
    Criterion("solid", 4, 0, "3"),
    Criterion("solid", 6, 0, "4A"),
    Criterion("solid", 8, 0, "4B"),
    Criterion("part-solid", 0, 0, "3"),
    Criterion("part-solid", 6, 0, "4A"),
    Criterion("part-solid", 0, 4, "4B"),
    Criterion("ground-glass", 0, 0, "2"),
    Criterion("ground-glass", 30, 0, "3"),
)
GROWING = (
    Criterion("solid", 0, 0, "4A"),
    Criterion("solid", 8, 0, "4B"),
    Criterion("part-solid", 0, 0, "4A"),
    Criterion("part-solid", 0, 4, "4B"),
    Criterion("ground-glass", 0, 0, "2"),
    Criterion("ground-glass", 30, 0, "3"),
)
GROWTH_MM = 1.5  # mm in a year, of the mean diameter or of a solid component; more is growth
YEAR = 365.25  # days


class _Step(NamedTuple):
    """The new category of a nodule that was stable for a number of days."""

    category: Category
    days: int


STEPPED_DOWN: dict[Category, _Step] = {"3": _Step("2", 180), "4A": _Step("3", 90)}
SCREENED = Patient(setting="screening", prior_ct=False)  # with it, sizes alone decide
INCIDENTAL = "Lung-RADS is for screening, not for incidental nodules"
WHOLE_GREW = "the whole grew and its solid part did not: at least category 4A"
SAME_DAY = "both examinations are of the same day: what differs is the measurement, not the nodule"
Pace = Literal["growing", "slow", "stable"]


def lung_rads_with_prior(
    nodule: SizedNodule, prior: SizedNodule | None, days: int | None, patient: Patient
) -> LungRads:
    """The category of a nodule of the present examination.

    `prior` is the same nodule `days` earlier. None means that the nodule is new: the earlier examination showed its
    place without it. Sizes are compared with Lung-RADS's rounding.
    """
    if patient.setting == "incidental":
        return uncategorised(INCIDENTAL)
    now = lung_rads(nodule, SCREENED)
    assumed = [SCREENING] if patient.setting is None else []
    if prior is None:
        category = _by(NEW, nodule, now)
        return _with_category(now, category, [*assumed, "new: not seen on the earlier examination"])
    before = lung_rads(prior, SCREENED)
    pace, why = _pace(_increase(nodule, now, before), days)
    if pace == "growing":
        category = _by(GROWING, nodule, now)
        if nodule.nodule_type == "part-solid" and _solid_increase(now, before) <= GROWTH_MM:
            category, why = max("4A", _category(now), key=CATEGORIES.index), [*why, WHOLE_GREW]
        return _with_category(now, category, [*assumed, *why])
    if pace == "slow" and nodule.nodule_type != "ground-glass":
        return _with_category(now, "4B", [*assumed, *why])
    category, more = _stable(nodule, now, before, days if pace == "stable" else None)
    return _with_category(now, category, [*assumed, *why, *more])


def exam_with_prior(nodules: Sequence[LungRads], patient: Patient, lungs: LungsReport) -> LungRadsExam:
    """The highest category of all nodules of the present examination, in the form of `lung_rads.exam`."""
    if patient.setting == "incidental":
        return LungRadsExam(category=None, management=None, assumptions=[], reason=INCIDENTAL)
    return exam(nodules, SCREENED, lungs)


def _pace(increase: float, days: int | None) -> tuple[Pace, list[str]]:
    """The kind of growth for an `increase` in millimetres, and its assumptions."""
    if increase <= GROWTH_MM:
        return "stable", []
    if days == 0:
        return "stable", [SAME_DAY]
    if days is None:
        return "growing", ["the interval is unknown, and taken to be at most 12 months"]
    if days <= YEAR:
        return "growing", []
    if increase * YEAR / days > GROWTH_MM:
        return "growing", ["it grew evenly over the interval"]
    return "slow", ["slow growth between two examinations counts as growth over several"]


def _stable(nodule: SizedNodule, now: LungRads, before: LungRads, days: int | None) -> tuple[Category, list[str]]:
    """The category of a nodule that did not grow: by its size, or lower if it was stable for long enough."""
    size, earlier = _category(now), _category(before)
    if nodule.nodule_type == "ground-glass":
        return "2", []  # stable or slowly growing, at any size
    step = STEPPED_DOWN.get(earlier)
    if step is None or CATEGORIES.index(size) > CATEGORIES.index(earlier):
        return size, []
    if days is None:
        return size, [f"not lowered from category {earlier} as stable: the interval is unknown"]
    lower = step.category if days >= step.days else size
    return min(size, lower, key=CATEGORIES.index), []


def _by(rules: Sequence[Criterion], nodule: SizedNodule, sized: LungRads) -> Category:
    solid = Decimal(str(sized["solid_mm"] or 0))
    return look_up(rules, nodule.nodule_type, Decimal(str(sized["size_mm"])), solid)


def _increase(nodule: SizedNodule, now: LungRads, before: LungRads) -> float:
    """The increase in mm of the rounded mean diameter, or of the solid part of a part-solid nodule if larger."""
    whole = round((now["size_mm"] or 0.0) - (before["size_mm"] or 0.0), 1)
    return max(whole, _solid_increase(now, before)) if nodule.nodule_type == "part-solid" else whole


def _solid_increase(now: LungRads, before: LungRads) -> float:
    """The increase of the solid part. The earlier solid part of a solid nodule is the whole nodule."""
    then = before["size_mm"] if before["solid_mm"] is None else before["solid_mm"]
    return round((now["solid_mm"] or 0.0) - (then or 0.0), 1)


def _category(result: LungRads) -> Category:
    category = result["category"]
    if category is None:
        raise AssertionError  # sizes alone always give one
    return category


def _with_category(sized: LungRads, category: Category, assumptions: list[str]) -> LungRads:
    return {
        **sized,
        "category": category,
        "management": MANAGEMENT[category],
        "assumptions": [*assumptions, *sized["assumptions"]],
    }
