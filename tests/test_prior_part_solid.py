"""Part-solid nodules in Lung-RADS with an earlier examination."""

import math

import pytest

from src.guidelines.nodule import SizedNodule
from src.guidelines.patient import Patient
from src.guidelines.prior import lung_rads_with_prior
from src.types import NoduleType

SCREENED = Patient(setting="screening")
Sizes = tuple[float, float]  # mm: whole, solid part


def _nodule(sizes: Sizes, kind: NoduleType = "part-solid") -> SizedNodule:
    whole, solid = sizes
    return SizedNodule(kind, whole, whole, math.pi / 6 * whole**3, (solid / whole) ** 3, solid)


@pytest.mark.parametrize(
    ("before", "after", "days", "category"),
    [
        ((8, 3), (8, 3), 180, "2"),  # stable for 6 months
        ((8, 3), (9.5, 3), 180, "2"),  # 1.5 mm is not growth
        ((8, 3), (9.6, 3), 180, "4A"),  # the whole grew
        ((8, 3), (20, 3), 180, "4A"),
        ((10, 6.5), (20, 6.5), 90, "4A"),
        ((10, 8.5), (20, 8.5), 90, "4B"),
        ((8, 3), (8, 4.6), 180, "4B"),  # the solid part grew, to 4 mm and more
        ((8, 2), (8, 3.9), 180, "4A"),
        ((8, 3), (8, 4.6), 0, "3"),  # the same day: no growth
    ],
)
def test_part_solid_growth(before: Sizes, after: Sizes, days: int, category: str) -> None:
    assert lung_rads_with_prior(_nodule(after), _nodule(before), days, SCREENED)["category"] == category


@pytest.mark.parametrize(
    ("then", "now", "category"), [(0.0, 3.9, "4A"), (0.0, 4.0, "4B"), (3.5, 4.1, "2"), (2.4, 4.0, "4B")]
)
def test_a_solid_part_that_is_new_in_ground_glass(then: float, now: float, category: str) -> None:
    ruled = lung_rads_with_prior(_nodule((12, now)), _nodule((12, then), "ground-glass"), 180, SCREENED)
    assert ruled["category"] == category if category != "2" else ruled["category"] in ("2", "3")


def test_a_larger_solid_nodule_on_the_same_day_is_rated_by_its_size() -> None:
    solid = [SizedNodule("solid", d, d, math.pi / 6 * d**3, 1.0) for d in (7.0, 9.0)]
    ruled = lung_rads_with_prior(solid[1], solid[0], 0, SCREENED)
    assert ruled["category"] == "4A"
    assert any("same day" in words for words in ruled["assumptions"])
