"""The guidelines at every boundary; each input gives a result or a reason."""

import itertools
import math
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.guidelines import assumptions, bts, fleischner, lung_rads
from src.guidelines.apply import SOURCES, apply_guidelines
from src.guidelines.brock import MODEL_2A, MODEL_2B, Case, brock, probability
from src.guidelines.nodule import NOT_MEASURED, SizedNodule, as_nodule, round_half_up
from src.guidelines.patient import Patient
from src.types import Guidelines, LungRads, NoduleType, Properties

from .small_scans import WHOLE, lungs_but

TYPES: tuple[NoduleType, ...] = get_args(NoduleType)
BASELINE = Patient(setting="screening", prior_ct=False)
INCIDENTAL = Patient(
    age=35, sex="female", family_history=False, emphysema=False, prior_cancer=False, immunosuppressed=False,
    setting="incidental", prior_ct=False,
)  # fmt: skip
SMOKER = INCIDENTAL.model_copy(update={"smoking": "former"})


def nodule(kind: NoduleType, long_axis: float, short_axis: float | None = None, solid_mm: float = 1) -> SizedNodule:
    """A nodule whose solid component has the volume of a sphere of diameter `solid_mm`."""
    short = long_axis if short_axis is None else short_axis
    volume = math.pi / 6 * max(long_axis, solid_mm) ** 3
    return SizedNodule(kind, long_axis, short, volume, math.pi / 6 * solid_mm**3 / volume)


def properties(**changed: Any) -> Properties:  # noqa: ANN401 - also values that are wrong
    """The measurements of a solid nodule of 7 mm."""
    measured: Any = {
        "volume_mm3": 180.0,
        "mean_intensity": 20.0,
        "std_intensity": 10.0,
        "min_intensity": 0.0,
        "max_intensity": 60.0,
        "effective_diameter_mm": 7.0,
        "long_axis_mm": 7.4,
        "short_axis_mm": 6.6,
        "sphericity": 0.9,
        "solid_fraction": 0.95,
        "nodule_type": "solid",
    }
    return measured | changed  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("value", "places", "rounded"),
    [
        (5.95, 1, "6.0"),
        (5.949, 1, "5.9"),
        (0.25, 1, "0.3"),
        (8.05, 1, "8.1"),
        (5.5, 0, "6"),
        (6.5, 0, "7"),
        (8, 0, "8"),
    ],
)
def test_halves_are_rounded_upwards(value: float, places: int, rounded: str) -> None:
    assert str(round_half_up(value, places)) == rounded


@pytest.mark.parametrize(
    ("kind", "axes", "category"),
    [
        ("solid", (0.1, 0.1), "2"),
        ("solid", (5.9, 5.9), "2"),
        ("solid", (5.94, 5.94), "2"),
        ("solid", (5.95, 5.95), "3"),
        ("solid", (6.0, 5.9), "3"),  # 5.95 becomes 6.0
        ("solid", (5.95, 5.85), "3"),  # 6.0 and 5.9
        ("solid", (5.95, 5.84), "2"),  # 6.0 and 5.8
        ("solid", (6.04, 5.85), "3"),  # 6.0 and 5.9; without rounding the axes, their mean would be 5.945
        ("solid", (6.05, 5.84), "3"),  # 6.1 and 5.8
        ("solid", (6.14, 5.74), "2"),  # 6.1 and 5.7
        ("solid", (6.0, 6.0), "3"),
        ("solid", (8.0, 7.8), "3"),
        ("solid", (7.94, 7.94), "3"),
        ("solid", (8.0, 7.9), "4A"),
        ("solid", (8.0, 8.0), "4A"),
        ("solid", (14.94, 14.94), "4A"),
        ("solid", (15.0, 14.8), "4A"),
        ("solid", (15.0, 14.9), "4B"),
        ("solid", (15.0, 15.0), "4B"),
        ("solid", (400.0, 300.0), "4B"),
        ("ground-glass", (6.0, 6.0), "2"),
        ("ground-glass", (29.94, 29.94), "2"),
        ("ground-glass", (30.0, 29.8), "2"),
        ("ground-glass", (30.0, 29.9), "3"),
        ("ground-glass", (30.0, 30.0), "3"),
        ("ground-glass", (90.0, 90.0), "3"),
        ("part-solid", (5.9, 5.9), "2"),
        ("part-solid", (6.0, 5.9), "3"),
        ("part-solid", (60.0, 60.0), "3"),
    ],
)
def test_lung_rads_categories_follow_the_size(kind: NoduleType, axes: tuple[float, float], category: str) -> None:
    found = lung_rads.lung_rads(nodule(kind, *axes), BASELINE)
    assert (found["category"], found["reason"]) == (category, None)
    assert found["management"]
    assert (found["solid_mm"] is None) == (kind == "solid")


@pytest.mark.parametrize(
    ("total", "solid", "category"),
    [
        (5.9, 5.9, "2"),  # the whole diameter is compared first
        (6.0, 0.0, "3"),
        (20.0, 5.94, "3"),
        (20.0, 5.951, "4A"),
        (20.0, 6.0, "4A"),
        (20.0, 7.94, "4A"),
        (20.0, 7.951, "4B"),
        (20.0, 8.0, "4B"),
        (20.0, 20.0, "4B"),
    ],
)
def test_lung_rads_of_a_part_solid_nodule_depends_on_its_solid_component(
    total: float, solid: float, category: str
) -> None:
    found = lung_rads.lung_rads(nodule("part-solid", total, solid_mm=solid), BASELINE)
    assert found["category"] == category
    assert found["solid_mm"] == float(round_half_up(round(solid, 6), 1))
    assert lung_rads.SPHERE in found["assumptions"]


def test_the_limits_in_millimetres_match_the_published_volumes() -> None:
    """Lung-RADS also gives its limits in mm3."""
    limits = {rule.least_mm for rule in lung_rads.RULES} | {rule.least_solid_mm for rule in lung_rads.RULES}
    assert {round(math.pi / 6 * limit**3) for limit in limits} == {0, 113, 268, 1767, 14137}


@pytest.mark.parametrize(
    ("patient", "reason"),
    [
        (Patient(setting="incidental"), "is for screening"),
        (Patient(prior_ct=True), "compares with the prior examination"),
    ],
)
def test_lung_rads_states_why_it_does_not_apply(patient: Patient, reason: str) -> None:
    for found in (lung_rads.lung_rads(nodule("solid", 9), patient), lung_rads.exam([], patient, WHOLE)):
        assert found["category"] is found["management"] is None
        assert reason in str(found["reason"])


def test_lung_rads_states_its_assumptions_about_the_examination() -> None:
    for patient in (Patient(), Patient(setting="screening"), Patient(prior_ct=False)):
        assert (
            "screening assumption: baseline, no prior"
            in lung_rads.lung_rads(nodule("solid", 9), patient)["assumptions"]
        )
    assert assumptions.BASELINE not in lung_rads.lung_rads(nodule("solid", 9), BASELINE)["assumptions"]


def rated(*categories: Any) -> list[LungRads]:  # noqa: ANN401 - literals
    return [{**lung_rads.uncategorised("unknown"), "category": category} for category in categories]


@pytest.mark.parametrize(
    ("categories", "highest", "reason"),
    [
        ((), "1", None),
        (("2",), "2", None),
        (("4A", "2", "4B", "3"), "4B", None),
        (("2", "4A", "3"), "4A", None),
        ((None,), None, "1 of 1 nodules without a category; nothing with a category was found"),
        (("3", None), None, "1 of 2 nodules without a category; the highest of what was found is 3"),
        ((None, "4B"), "4B", None),  # no category is higher
    ],
)
def test_the_exam_takes_the_highest_category(categories: tuple[Any, ...], highest: str, reason: str) -> None:
    found = lung_rads.exam(rated(*categories), Patient(), WHOLE)
    assert (found["category"], found["reason"]) == (highest, reason)
    assert (found["management"] is None) == (highest is None)
    assert (lung_rads.NONE_MISSED in found["assumptions"]) == (categories == ())


@pytest.mark.parametrize(
    ("categories", "recognised", "expected"),
    [
        ((), True, "0"),
        (("2",), True, "0"),
        (("4A",), True, "0"),
        (("4B", "2"), True, "4B"),  # no unseen nodule can raise it
        ((None,), True, None),
        ((), False, None),
        (("3",), False, None),
        (("4B",), False, "4B"),
    ],
)
def test_an_exam_with_lungs_that_cannot_be_judged_is_never_negative(
    categories: tuple[Any, ...], recognised: bool, expected: str | None
) -> None:
    lungs = lungs_but("the left lung is not aerated", recognised=recognised)
    found = lung_rads.exam(rated(*categories), Patient(), lungs)
    assert found["category"] == expected
    management = {None: None, "0": lung_rads.INCOMPLETE, "4B": lung_rads.MANAGEMENT["4B"]}
    assert found["management"] == management[expected]
    if expected != "4B":
        assert ("the left lung is not aerated" in str(found["reason"])) == (categories != (None,))
        highest = [category for category in categories if category]
        assert all(f"the highest of what was found is {category}" in str(found["reason"]) for category in highest)


def test_the_exam_lists_each_assumption_of_its_nodules_once() -> None:
    nodules = [lung_rads.lung_rads(nodule(kind, 9), Patient()) for kind in ("solid", "part-solid", "part-solid")]
    expected = [assumptions.BASELINE, lung_rads.NOT_LOOKED_FOR, lung_rads.SPHERE]
    assert lung_rads.exam(nodules, Patient(), WHOLE)["assumptions"] == expected


FLEISCHNER = {
    ("solid", "single", 5): ("no routine", "optional CT at 12 months"),
    ("solid", "single", 6): ("6-12 months, then consider CT at 18-24", "6-12 and at 18-24"),
    ("solid", "single", 8): ("6-12 months, then consider CT at 18-24", "6-12 and at 18-24"),
    ("solid", "single", 9): ("CT at 3 months, PET/CT or tissue", "CT at 3 months, PET/CT or tissue"),
    ("solid", "multiple", 5): ("no routine", "optional CT at 12 months"),
    ("solid", "multiple", 6): ("3-6 months, then consider CT at 18-24", "3-6 and at 18-24"),
    ("solid", "multiple", 9): ("3-6 months, then consider CT at 18-24", "3-6 and at 18-24"),
    ("ground-glass", "single", 5): ("no routine", "no routine"),
    ("ground-glass", "single", 6): (
        "6-12 months, then every 2 years until 5",
        "6-12 months, then every 2 years until 5",
    ),
    ("part-solid", "single", 5): ("no routine", "no routine"),
    ("part-solid", "single", 6): ("3-6 months; if unchanged", "annually for 5 years"),
    ("ground-glass", "multiple", 5): ("3-6 months; if stable, consider CT at 2 and 4", "3-6 months; if stable"),
    ("ground-glass", "multiple", 6): ("by the most suspicious", "by the most suspicious"),
    ("part-solid", "multiple", 5): ("3-6 months; if stable, consider CT at 2 and 4", "3-6 months; if stable"),
    ("part-solid", "multiple", 6): ("by the most suspicious", "by the most suspicious"),
}


@pytest.mark.parametrize("row", FLEISCHNER, ids=str)
@pytest.mark.parametrize("offset", [-0.5, 0.0, 0.499])
def test_fleischner_uses_whole_millimetres(row: tuple[NoduleType, fleischner.Number, int], offset: float) -> None:
    kind, number, size = row
    found = fleischner.fleischner(nodule(kind, size + offset + 1, size + offset - 1), INCIDENTAL, number)
    low, high = FLEISCHNER[row]
    assert found["size_mm"] == size
    assert low in str(found["low_risk"])
    assert high in str(found["high_risk"])


@pytest.mark.parametrize(
    ("changed", "given", "because"),
    [
        ({}, (True, True), "the risk is not known"),
        ({"smoking": "never"}, (True, True), "the risk is not known"),
        ({"smoking": "former"}, (False, True), "because of a risk factor"),
        ({"smoking": "current"}, (False, True), "because of a risk factor"),
        ({"family_history": True}, (False, True), "because of a risk factor"),
        ({"emphysema": True}, (False, True), "because of a risk factor"),
        ({"risk": "high"}, (False, True), "as the patient file says"),
        ({"risk": "low", "smoking": "former"}, (True, False), "as the patient file says"),
    ],
)
def test_fleischner_gives_both_recommendations_if_the_risk_is_unknown(
    changed: dict[str, Any], given: tuple[bool, bool], because: str
) -> None:
    patient = INCIDENTAL.model_copy(update=changed)
    found = fleischner.fleischner(nodule("solid", 7), patient, "single")
    assert (found["low_risk"] is not None, found["high_risk"] is not None) == given
    assert because in found["assumptions"][-1]


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"age": 34}, "patients of 35 years or more"),
        ({"prior_cancer": True}, "without cancer"),
        ({"immunosuppressed": True}, "immunosuppression"),
        ({"age": None, "immunosuppressed": None}, "needs the patient's age, immunosuppressed"),
        ({"prior_cancer": None}, "needs the patient's prior_cancer"),
        ({"setting": "screening"}, "not for screening"),
        ({"prior_ct": True}, "growth"),
    ],
)
def test_fleischner_states_why_it_does_not_apply(changed: dict[str, Any], reason: str) -> None:
    found = fleischner.fleischner(nodule("solid", 7), INCIDENTAL.model_copy(update=changed), "single")
    assert reason in str(found["reason"])
    assert (found["low_risk"], found["high_risk"], found["size_mm"]) == (None, None, None)


@pytest.mark.parametrize(
    ("kind", "volume", "longest", "management"),
    [
        ("solid", 79.9, 9.0, "no follow-up"),
        ("solid", 80.0, 4.0, "CT at 3 months, then by the volume doubling time"),
        ("solid", 299.9, 9.0, "CT at 3 months, then by the volume doubling time"),
        ("solid", 300.0, 7.0, "assess the risk"),
        ("part-solid", 300.0, 4.99, "no follow-up"),
        ("ground-glass", 300.0, 4.99, "no follow-up"),
        ("part-solid", 50.0, 5.0, "CT at 3 months; if it persists"),
        ("ground-glass", 50.0, 5.0, "CT at 3 months; if it persists"),
    ],
)
def test_bts_uses_the_volume_or_the_longest_diameter(
    kind: NoduleType, volume: float, longest: float, management: str
) -> None:
    found = bts.bts(SizedNodule(kind, longest, 3.0, volume, 0.5), Patient(age=18, prior_ct=False))
    assert str(found["management"]).startswith(management)
    assert found["assumptions"] == []


def test_bts_states_its_assumptions_and_why_it_does_not_apply() -> None:
    assert bts.bts(nodule("solid", 7), Patient())["assumptions"] == ["18 years or more", "no prior examination"]
    for patient in (Patient(age=17), Patient(prior_ct=True)):
        found = bts.bts(nodule("solid", 7), patient)
        assert found["management"] is None
        assert found["reason"]


def case(
    age: int, female: int, family: int, emphysema: int, size: float, kind: NoduleType, upper: int, count: int
) -> Case:
    return Case(age, bool(female), bool(family), bool(emphysema), size, kind, bool(upper), count)


# Computed independently from the published coefficients: 2a, 2b without and with spiculation.
BROCK = [
    (case(62, 0, 0, 0, 4, "solid", 0, 4), (0.0011, 0.0011, 0.0024)),
    (case(62, 1, 0, 0, 8, "solid", 1, 1), (0.0650, 0.0579, 0.1175)),
    (case(65, 0, 1, 1, 15, "solid", 1, 1), (0.3152, 0.2519, 0.4217)),
    (case(70, 1, 0, 0, 6, "ground-glass", 0, 2), (0.0112, 0.0126, 0.0270)),
    (case(58, 0, 0, 1, 12, "part-solid", 1, 3), (0.1585, 0.1310, 0.2461)),
    (case(65, 1, 1, 1, 20, "solid", 1, 1), (0.6006, 0.5254, 0.7057)),
    (case(55, 0, 0, 0, 8.5, "solid", 0, 1), (0.0184, 0.0168, 0.0357)),
]


@pytest.mark.parametrize(("plain", "expected"), BROCK)
def test_brock_gives_the_reference_probabilities(plain: Case, expected: tuple[float, float, float]) -> None:
    spiculated = plain._replace(spiculated=True)
    values = (probability(MODEL_2A, plain), probability(MODEL_2B, plain), probability(MODEL_2B, spiculated))
    assert values == pytest.approx(expected, abs=5.1e-5)
    assert probability(MODEL_2A, spiculated) == values[0]  # model 2a has no spiculation term


def test_brock_agrees_with_other_publications() -> None:
    spiculated = case(70, 1, 1, 1, 10, "part-solid", 1, 3)._replace(spiculated=True)
    assert probability(MODEL_2B, spiculated) == pytest.approx(0.4141, abs=5e-5)
    uncentred = MODEL_2B.intercept - 62 * MODEL_2B.age - 1.58113883 * MODEL_2B.size - 4 * MODEL_2B.nodules
    assert uncentred == pytest.approx(0.2761, abs=5e-5)


def test_brock_is_given_for_the_upper_lobe_and_for_other_lobes() -> None:
    found = brock(nodule("solid", 8), INCIDENTAL.model_copy(update={"age": 62}), 1)
    assert found["2a"] is not None
    assert found["2a"] == {"upper_lobe": 0.0650, "other_lobe": pytest.approx(0.0330, abs=5e-5)}
    assert found["2b"] is None
    assert "spiculation" in str(found["reason"])
    assert "nodules in the scan: 1, as found" in found["assumptions"]


def test_brock_uses_the_longest_diameter() -> None:
    patient = INCIDENTAL.model_copy(update={"age": 62})
    found = [brock(SizedNodule("solid", 8.0, short, 200.0, 1.0), patient, 1)["2a"] for short in (4.0, 6.0, 8.0)]
    assert found[0] == found[1] == found[2] == brock(nodule("solid", 8), patient, 1)["2a"]
    assert brock(SizedNodule("solid", 9.0, 8.0, 200.0, 1.0), patient, 1)["2a"] != found[0]


@pytest.mark.parametrize("field", ["age", "sex", "family_history", "emphysema"])
def test_brock_assumes_no_missing_input(field: str) -> None:
    found = brock(nodule("solid", 8), INCIDENTAL.model_copy(update={field: None}), 1)
    assert (found["2a"], found["2b"]) == (None, None)
    assert found["reason"] == f"needs the patient's {field}"


@pytest.mark.parametrize(("size", "valid"), [(2.99, False), (3.0, True), (30.0, True), (30.01, False)])
def test_brock_is_valid_only_for_the_sizes_of_its_cohort(size: float, *, valid: bool) -> None:
    found = brock(nodule("solid", size), INCIDENTAL, 1)
    assert (found["2a"] is not None) == valid
    assert valid or "outside 3 to 30 mm" in str(found["reason"])


def test_fleischner_counts_nodules_of_one_kind_and_brock_counts_all() -> None:
    kinds = ("solid", "part-solid", "ground-glass", None)
    solid, part_solid, ground_glass, unknown = apply_guidelines(
        [properties(nodule_type=kind) for kind in kinds], INCIDENTAL
    )
    assert "single solid, of the nodules found" in solid["fleischner"]["assumptions"]
    for subsolid in (part_solid, ground_glass):
        assert "multiple subsolid, of the nodules found" in subsolid["fleischner"]["assumptions"]
    assert "nodules in the scan: 4, as found" in solid["brock"]["assumptions"]
    assert set(reasons(unknown)) == {NOT_MEASURED}
    assert unknown["lung_rads"]["category"] is unknown["bts"]["management"] is None


def reasons(found: Guidelines) -> list[str | None]:
    return [
        found["lung_rads"]["reason"],
        found["fleischner"]["reason"],
        found["brock"]["reason"],
        found["bts"]["reason"],
    ]


@pytest.mark.parametrize(
    "broken",
    [
        {"long_axis_mm": None},
        {"short_axis_mm": 0.0},
        {"volume_mm3": math.nan},
        {"volume_mm3": math.inf},
        {"solid_fraction": None},
        {"solid_fraction": 1.1},
        {"long_axis_mm": -1.0},
    ],
)
def test_a_missing_measurement_gives_a_reason(broken: dict[str, Any]) -> None:
    assert as_nodule(properties(**broken)) is None
    [found] = apply_guidelines([properties(**broken)], SMOKER)
    assert set(reasons(found)) == {NOT_MEASURED}


patients = st.builds(
    Patient,
    age=st.none() | st.integers(0, 120),
    sex=st.sampled_from([None, "female", "male"]),
    smoking=st.sampled_from([None, "never", "former", "current"]),
    setting=st.sampled_from([None, "screening", "incidental"]),
    risk=st.sampled_from([None, "low", "high"]),
    **{
        field: st.sampled_from([None, False, True])
        for field in ("family_history", "emphysema", "prior_cancer", "immunosuppressed", "prior_ct")
    },
)
anything = st.none() | st.floats()
measured = st.builds(
    properties,
    long_axis_mm=anything,
    short_axis_mm=anything,
    volume_mm3=anything,
    solid_fraction=anything | st.floats(0, 1),
    nodule_type=st.sampled_from([None, *TYPES]),
)


@given(st.lists(measured | st.builds(properties, nodule_type=st.sampled_from(TYPES)), max_size=4), patients)
def test_each_guideline_gives_a_result_or_a_reason(found: list[Properties], patient: Patient) -> None:
    ruled = apply_guidelines(found, patient)
    assert len(ruled) == len(found)
    for each in ruled:
        assert each.keys() == SOURCES.keys()
        assert (each["lung_rads"]["category"] is None) == (each["lung_rads"]["reason"] is not None)
        assert (each["bts"]["management"] is None) == (each["bts"]["reason"] is not None)
        low_or_high = each["fleischner"]["low_risk"] or each["fleischner"]["high_risk"]
        assert (low_or_high is None) == (each["fleischner"]["reason"] is not None)
        assert each["brock"]["reason"]
    whole = lung_rads.exam([each["lung_rads"] for each in ruled], patient, WHOLE)
    assert (whole["category"] is None) == (whole["reason"] is not None)


sizes = st.floats(0.1, 60)


@given(st.sampled_from(TYPES), sizes, sizes, st.floats(0, 1), st.floats(1, 3))
def test_no_category_is_lower_for_a_larger_nodule(
    kind: NoduleType, long_axis: float, short_axis: float, solid: float, factor: float
) -> None:
    volume = math.pi / 6 * long_axis * short_axis**2
    small = SizedNodule(kind, long_axis, short_axis, volume, solid)
    large = SizedNodule(kind, factor * long_axis, factor * short_axis, factor**3 * volume, solid)
    for rank in (_lung_rads_rank, _fleischner_rank, _bts_rank):
        assert rank(small) <= rank(large)


def _lung_rads_rank(found: SizedNodule) -> int:
    category: Any = lung_rads.lung_rads(found, BASELINE)["category"]
    return lung_rads.CATEGORIES.index(category)


def _fleischner_rank(found: SizedNodule) -> int:
    text = fleischner.fleischner(found, SMOKER, "single")["high_risk"]
    return [rule.high_risk for rule in fleischner.RULES if rule.nodule_type == found.nodule_type].index(str(text))


def _bts_rank(found: SizedNodule) -> int:
    kind = "solid" if found.nodule_type == "solid" else "subsolid"
    text = bts.bts(found, Patient())["management"]
    return [rule.management for rule in bts.RULES if rule.kind == kind].index(str(text))


@given(st.lists(st.sampled_from(lung_rads.CATEGORIES), min_size=1))
def test_the_category_of_the_exam_is_never_below_that_of_a_nodule(categories: list[str]) -> None:
    found = lung_rads.exam(rated(*categories), Patient(), WHOLE)
    assert found["category"] == max(categories)  # text order is the order of categories: "2" < "3" < "4A" < "4B"


def test_the_tables_are_complete_and_in_order() -> None:
    """The limits of every kind start at 0 and increase."""
    for kind in TYPES:
        limits = [(rule.least_mm, rule.least_solid_mm) for rule in lung_rads.RULES if rule.nodule_type == kind]
        assert limits[0] == (0, 0)
        assert limits == sorted(set(limits))
    for kind, number in itertools.product(TYPES, get_args(fleischner.Number)):
        least = [rule.least_mm for rule in fleischner.RULES if (rule.nodule_type, rule.number) == (kind, number)]
        assert least[:2] == [0, 6]
        assert least == sorted(set(least))
