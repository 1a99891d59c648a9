"""Lung-RADS v2022 at every boundary: baseline, new, growing, slowly growing and stable nodules, and masses."""

import math
import re
from itertools import pairwise
from pathlib import Path

import pytest

from src.guidelines.assumptions import in_words
from src.guidelines.lung_rads import CATEGORIES, MANAGEMENT, RULES, exam, lung_rads
from src.guidelines.nodule import SizedNodule
from src.guidelines.patient import Patient
from src.guidelines.prior import GROWING, NEW, exam_with_prior, lung_rads_with_prior
from src.types import LungsReport, NoduleType

SCREENED = Patient(setting="screening", prior_ct=False)
WHOLE = LungsReport(recognised=True, evaluable=True, reason=None, right=None, left=None)
Size = tuple[str, float, float]  # type, mean diameter, diameter of the solid part; mm
KINDS: dict[str, NoduleType] = {"solid": "solid", "part": "part-solid", "glass": "ground-glass"}


def _nodule(size: Size) -> SizedNodule:
    kind, whole, core = size
    solid = whole if kind == "solid" else core
    share = (solid / whole) ** 3
    return SizedNodule(KINDS[kind], whole, whole, math.pi / 6 * whole**3, share, None if kind == "solid" else core)


# On either side of every limit of the table: the category at baseline, and that of a new nodule.
SIZES: list[tuple[Size, str, str]] = [
    (("solid", 3.94, 0), "2", "2"),
    (("solid", 3.95, 0), "2", "3"),  # 4.0
    (("solid", 5.94, 0), "2", "3"),
    (("solid", 5.95, 0), "3", "4A"),  # 6.0
    (("solid", 7.94, 0), "3", "4A"),
    (("solid", 7.95, 0), "4A", "4B"),  # 8.0
    (("solid", 14.94, 0), "4A", "4B"),
    (("solid", 14.95, 0), "4B", "4B"),  # 15.0
    (("solid", 30.1, 0), "4B", "4B"),  # a mass
    (("solid", 120.0, 0), "4B", "4B"),
    (("part", 5.94, 0), "2", "3"),
    (("part", 5.94, 3.94), "2", "3"),
    (("part", 5.94, 3.95), "2", "4B"),
    (("part", 5.95, 3.94), "3", "4A"),
    (("part", 5.95, 3.95), "3", "4B"),
    (("part", 20.0, 5.94), "3", "4B"),
    (("part", 20.0, 5.95), "4A", "4B"),
    (("part", 20.0, 7.94), "4A", "4B"),
    (("part", 20.0, 7.95), "4B", "4B"),
    (("part", 45.0, 0), "3", "4A"),  # a ground-glass mass with a solid part below the limit
    (("part", 45.0, 20.0), "4B", "4B"),
    (("glass", 5.0, 0), "2", "2"),
    (("glass", 29.94, 0), "2", "2"),
    (("glass", 29.95, 0), "3", "3"),
    (("glass", 45.0, 0), "3", "3"),  # a mass
]


@pytest.mark.parametrize(("size", "first", "new"), SIZES)
def test_baseline_and_new_nodules_are_categorised_by_size(size: Size, first: str, new: str) -> None:
    assert lung_rads(_nodule(size), SCREENED)["category"] == first
    for days in (30, 365, None):
        assert lung_rads_with_prior(_nodule(size), None, days, SCREENED)["category"] == new


# Before, now, days between, category.
FOLLOWED: list[tuple[Size, Size, int | None, str]] = [
    # Growth is an increase of more than 1.5 mm within 12 months.
    (("solid", 5.0, 0), ("solid", 6.5, 0), 365, "3"),
    (("solid", 6.0, 0), ("solid", 7.5, 0), 180, "2"),
    (("solid", 5.0, 0), ("solid", 6.6, 0), 365, "4A"),
    (("solid", 6.0, 0), ("solid", 7.6, 0), None, "4A"),
    (("solid", 5.0, 0), ("solid", 6.54, 0), 365, "3"),  # rounded before they are compared
    (("solid", 5.0, 0), ("solid", 6.55, 0), 365, "4A"),
    (("solid", 2.0, 0), ("solid", 3.6, 0), 365, "4A"),  # growing, at any size
    (("solid", 6.3, 0), ("solid", 7.9, 0), 365, "4A"),
    (("solid", 6.4, 0), ("solid", 8.0, 0), 365, "4B"),
    (("solid", 5.0, 0), ("solid", 8.0, 0), None, "4B"),
    (("solid", 5.0, 0), ("solid", 8.0, 0), 730, "4B"),  # 1.501 mm a year
    (("solid", 4.0, 0), ("solid", 7.0, 0), 730, "4A"),
    (("solid", 4.0, 0), ("solid", 7.0, 0), 366, "4A"),
    (("solid", 4.0, 0), ("solid", 7.0, 0), 731, "4B"),  # slow growth
    (("solid", 6.0, 0), ("solid", 7.6, 0), 700, "4B"),
    (("part", 20.0, 7.0), ("part", 22.0, 7.0), 1000, "4B"),
    (("glass", 20.0, 0), ("glass", 22.0, 0), 1000, "2"),  # slow growth of ground-glass keeps category 2
    (("glass", 30.0, 0), ("glass", 32.0, 0), 1000, "2"),
    (("glass", 28.3, 0), ("glass", 29.9, 0), 365, "2"),
    (("glass", 28.4, 0), ("glass", 30.0, 0), 365, "3"),
    (("glass", 30.0, 0), ("glass", 30.0, 0), 365, "2"),
    (("glass", 31.0, 0), ("glass", 31.0, 0), None, "2"),
    # A part-solid nodule grows as a whole or in its solid part.
    (("part", 10.0, 2.3), ("part", 10.0, 3.8), 365, "2"),
    (("part", 10.0, 2.3), ("part", 10.0, 3.9), 365, "4A"),
    (("part", 10.0, 2.3), ("part", 10.0, 4.0), 365, "4B"),
    (("part", 10.0, 2.3), ("part", 11.6, 2.3), 365, "4A"),
    (("part", 10.0, 7.9), ("part", 11.6, 7.9), 365, "4A"),
    (("part", 10.0, 5.0), ("part", 14.0, 5.0), 400, "4A"),
    (("part", 8.0, 3.0), ("part", 9.5, 3.0), 180, "2"),
    (("part", 10.0, 6.5), ("part", 20.0, 6.5), 90, "4A"),
    (("part", 10.0, 8.5), ("part", 20.0, 8.5), 90, "4B"),
    (("part", 8.0, 2.0), ("part", 8.0, 3.9), 180, "4A"),
    (("part", 8.0, 3.0), ("part", 8.0, 4.6), 180, "4B"),
    (("part", 10.0, 8.0), ("part", 11.6, 8.0), 365, "4B"),
    (("glass", 10.0, 0), ("part", 10.0, 3.9), 365, "4A"),  # the solid part is new
    (("glass", 10.0, 0), ("part", 10.0, 4.0), 365, "4B"),
    (("glass", 12.0, 2.4), ("part", 12.0, 4.0), 180, "4B"),
    (("glass", 12.0, 3.5), ("part", 12.0, 4.1), 180, "3"),  # it was there before
    (("solid", 10.0, 0), ("part", 10.0, 4.0), 90, "3"),  # less solid than before
    # Stable for long enough: 3 becomes 2 at six months, 4A becomes 3 at three.
    (("solid", 6.0, 0), ("solid", 6.0, 0), 179, "3"),
    (("solid", 6.0, 0), ("solid", 6.0, 0), 180, "2"),
    (("solid", 6.0, 0), ("solid", 6.0, 0), None, "3"),
    (("solid", 8.0, 0), ("solid", 8.0, 0), 89, "4A"),
    (("solid", 8.0, 0), ("solid", 8.0, 0), 90, "3"),
    (("solid", 9.0, 0), ("solid", 5.0, 0), 30, "2"),
    (("solid", 8.0, 0), ("solid", 7.9, 0), 89, "3"),  # it shrank: the size decides
    (("solid", 15.0, 0), ("solid", 15.0, 0), 400, "4B"),
    (("part", 20.0, 5.9), ("part", 20.0, 5.9), 180, "2"),
    (("part", 20.0, 6.0), ("part", 20.0, 6.0), 90, "3"),
    (("part", 20.0, 8.0), ("part", 20.0, 8.0), 400, "4B"),
    # A limit is crossed without growth.
    (("solid", 5.9, 0), ("solid", 6.0, 0), 180, "3"),
    (("solid", 7.9, 0), ("solid", 8.0, 0), 180, "4A"),
    (("solid", 14.9, 0), ("solid", 15.0, 0), 180, "4B"),
    (("part", 20.0, 7.9), ("part", 20.0, 8.0), 180, "4B"),
    # On the same day there is no growth: the size decides.
    (("solid", 5.0, 0), ("solid", 8.0, 0), 0, "4A"),
    (("part", 8.0, 3.0), ("part", 8.0, 4.6), 0, "3"),
    (("solid", 40.0, 0), ("solid", 40.0, 0), 400, "4B"),  # a mass
    (("glass", 29.0, 0), ("solid", 31.0, 0), 365, "4B"),
]


@pytest.mark.parametrize(("before", "now", "days", "category"), FOLLOWED)
def test_followed_nodules_are_categorised_by_size_and_growth(
    before: Size, now: Size, days: int | None, category: str
) -> None:
    found = lung_rads_with_prior(_nodule(now), _nodule(before), days, SCREENED)
    assert found["category"] == category
    assert found["management"] == MANAGEMENT[found["category"]]


@pytest.mark.parametrize(("days", "words"), [(None, "the interval is unknown"), (0, "of the same day")])
def test_assumptions_about_the_earlier_examination_are_stated(days: int | None, words: str) -> None:
    found = lung_rads_with_prior(_nodule(("solid", 7.6, 0)), _nodule(("solid", 6.0, 0)), days, Patient())
    assert "screening assumption" in found["assumptions"]
    assert any(words in assumption for assumption in found["assumptions"])
    assert in_words(found["assumptions"]).startswith("screening CT; ")


@pytest.mark.parametrize(("days", "assumed"), [(364, False), (365, False), (366, True), (500, True)])
def test_growth_over_more_than_a_year_is_assumed_to_be_even(days: int, assumed: bool) -> None:
    found = lung_rads_with_prior(_nodule(("solid", 9.0, 0)), _nodule(("solid", 6.0, 0)), days, SCREENED)
    assert ("it grew evenly over the interval" in found["assumptions"]) == assumed


def test_incidental_nodules_have_no_category() -> None:
    patient = Patient(setting="incidental")
    assert lung_rads_with_prior(_nodule(("solid", 7.6, 0)), _nodule(("solid", 6.0, 0)), 90, patient)["category"] is None
    assert exam_with_prior([], patient, WHOLE)["reason"]


@pytest.mark.parametrize(("small", "large"), list(pairwise(CATEGORIES[1:])))
def test_the_examination_takes_the_highest_category_of_nodules_and_masses(small: str, large: str) -> None:
    ruled = {category: lung_rads(_nodule(size), SCREENED) for size, category, _ in SIZES}
    found = [ruled[small], ruled[large]]
    assert exam(found, SCREENED, WHOLE)["category"] == large
    for patient in (SCREENED, Patient(prior_ct=True)):
        assert exam_with_prior(found, patient, WHOLE)["category"] == large


def _cells(root: Path) -> dict[str, list[str]]:
    """The table in conventions.md: the cells of each category for solid, part-solid and non-solid nodules."""
    path = root.parent / "shared" / "conventions.md"
    if not path.is_file():
        pytest.skip("needs ../shared/conventions.md")
    section = path.read_text(encoding="utf-8").split("## 5 Lung-RADS")[1].split("## 6")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if "|" in line]
    return {row[0]: row[1:4] for row in rows}


def test_the_limits_match_the_conventions(root: Path) -> None:
    """The lower limit of each category at baseline and for new nodules matches the table in conventions.md."""
    cells = _cells(root)
    for category in ("3", "4A", "4B"):
        solid, part, glass = cells[category]
        first, *later = solid.split(";")
        (lowest,) = [rule.least_mm for rule in RULES if (rule.nodule_type, rule.category) == ("solid", category)]
        assert re.search(rf">={lowest}\D", first), (category, first)
        new = min(rule.least_mm for rule in NEW if (rule.nodule_type, rule.category) == ("solid", category))
        assert any(re.search(rf"new.*\D{new}( to|\D)", part) for part in later), (category, later)
        core = [rule.least_solid_mm for rule in RULES if (rule.nodule_type, rule.category) == ("part-solid", category)]
        assert f"solid {'<6' if category == '3' else f'>={core[0]}'}" in part
        assert (glass != "-") == any((r.nodule_type, r.category) == ("ground-glass", category) for r in RULES)
    assert "solid <4 (<34)" in cells["4A"][1]
    assert "new or growing solid >=4 (>=34)" in cells["4B"][1]
    for rules in (NEW, GROWING):
        (least,) = [r.least_solid_mm for r in rules if (r.nodule_type, r.category) == ("part-solid", "4B")]
        assert least == 4
