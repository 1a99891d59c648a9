"""FROC, CPM and confidence intervals: cases worked by hand, and random cases against a reference implementation."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.errors import BadConfig
from src.eval.evaluation import evaluate
from src.eval.froc import RATES, Sweep, band, by_nodules, by_scans
from src.eval.matching import match
from src.eval.tables import FindingTable, MarkTable

from .froc_reference import Point, Scans, Valued, sensitivities

Places = npt.NDArray[np.intp]
Floats = npt.NDArray[np.float64]

HERE: Point = (0.0, 0.0, 0.0)
FAR: Point = (90.0, 0.0, 0.0)
FALSE: Valued = [(FAR, 0.9)]
NODULE: Valued = [(HERE, 6.0)]
EMPTY: tuple[Valued, Valued, Valued] = ([], [], [])


def mark(x: float, probability: float) -> tuple[Point, float]:
    return (x, 0.0, 0.0), probability


def crowd(count: int, probability: float) -> Valued:
    """False marks far away, with probabilities that rise slightly from `probability`."""
    return [mark(200.0 + 20 * i, probability + i / 10_000) for i in range(count)]


def arrays(scans: Scans) -> tuple[MarkTable, FindingTable, FindingTable]:
    """The scans as arrays: marks, nodules and excluded findings."""
    marks, nodules, excluded = (_columns(scans, kind) for kind in range(3))
    return MarkTable(*marks), FindingTable(*nodules), FindingTable(*excluded)


def _columns(scans: Scans, kind: int) -> tuple[Places, Floats, Floats]:
    rows = [(scan, *row) for scan, item in enumerate(scans) for row in item[kind]]
    points = np.array([point for _, point, _ in rows], dtype=np.float64).reshape(-1, 3)
    return np.array([scan for scan, *_ in rows], dtype=np.intp), points, np.array([value for *_, value in rows])


# name: scans, sensitivities at 1/8, 1/4, 1/2, 1, 2, 4, 8 false marks a scan
WORKED: dict[str, tuple[Scans, list[float]]] = {
    "a hit and nothing else": ([([mark(0, 0.9)], NODULE, [])], [1] * 7),
    "no marks at all": ([([], NODULE, [])], [0] * 7),
    "half of the nodules, after one false mark": (
        [([mark(0, 0.8), *FALSE], [*NODULE, ((50.0, 0, 0), 6.0)], [])],
        [0, 0, 0, 0.5, 0.5, 0.5, 0.5],
    ),
    "a false mark as strong as the hit is a slope": (
        [([mark(0, 0.9), *FALSE], NODULE, [])],
        [0.125, 0.25, 0.5, 1, 1, 1, 1],
    ),
    "scans without marks or nodules thin out the false marks": (
        [([mark(0, 0.8), *FALSE], NODULE, []), *[EMPTY] * 7],
        [1] * 7,
    ),
    "of two marks on a nodule the stronger counts, the other is not false": (
        [([mark(0, 0.2), mark(1, 0.95), *FALSE], NODULE, [])],
        [1] * 7,
    ),
    "a mark on the surface is outside": ([([mark(3, 0.9)], NODULE, [])], [0] * 7),
    "a mark just below the surface is inside": ([([mark(2.999, 0.9)], NODULE, [])], [1] * 7),
    "a mark inside two nodules finds both": (
        [([mark(2, 0.8), *FALSE], [*NODULE, ((4.0, 0, 0), 6.0)], [])],
        [0, 0, 0, 1, 1, 1, 1],
    ),
    "a mark on an excluded finding counts neither way": (
        [([mark(0, 0.8), *FALSE], NODULE, [(FAR, 4.0)])],
        [1] * 7,
    ),
    "a mark on a nodule counts though an excluded finding is there too": (
        [([mark(0, 0.8)], NODULE, [(HERE, 20.0)])],
        [1] * 7,
    ),
    "a negative diameter is 10 mm, excluded: 4.9 mm away": (
        [([mark(0, 0.8), mark(94.9, 0.9)], NODULE, [(FAR, -1.0)])],
        [1] * 7,
    ),
    "a negative diameter is 10 mm, excluded: 5 mm away": (
        [([mark(0, 0.8), mark(95, 0.9)], NODULE, [(FAR, -1.0)])],
        [0, 0, 0, 1, 1, 1, 1],
    ),
    "a negative diameter is 10 mm, nodule": ([([mark(4.9, 0.8)], [(HERE, -1.0)], [])], [1] * 7),
    "the 100th mark counts, after 99 false marks in 99 scans": (
        [([mark(0, 0.1), *crowd(99, 0.2)], NODULE, []), *[EMPTY] * 98],
        [0, 0, 0, 1, 1, 1, 1],
    ),
    "the 101st mark does not": ([([mark(0, 0.1), *crowd(100, 0.2)], NODULE, []), *[EMPTY] * 98], [0] * 7),
    "the 100th mark falls with the 101st when they tie": (
        [([mark(0, 0.1), mark(700, 0.1), *crowd(99, 0.2)], NODULE, []), *[EMPTY] * 98],
        [0] * 7,
    ),
    "100 marks that tie with each other stay": (
        [([mark(0, 0.5), *((mark(200 + i, 0.5)) for i in range(99))], NODULE, []), *[EMPTY] * 98],
        [0.125, 0.25, 0.5, 1, 1, 1, 1],
    ),
    "the mark of one scan hits no nodule of another": (
        [([mark(0, 0.9)], [], []), ([], NODULE, [])],
        [0] * 7,
    ),
    "the order of the sum decides: two nodules between false marks": (
        # false .9, hit .8, false .7, hit .6 in four scans: (1/4, 0), (1/4, 1/2), (1/2, 1/2), (1/2, 1)
        [([mark(0, 0.8), *FALSE], NODULE, []), ([mark(0, 0.6), mark(90, 0.7)], NODULE, []), EMPTY, EMPTY],
        [0, 0.5, 1, 1, 1, 1, 1],
    ),
}


@pytest.mark.parametrize("name", WORKED)
def test_cases_worked_by_hand_have_their_sensitivities(name: str) -> None:
    scans, expected = WORKED[name]
    marks, nodules, excluded = arrays(scans)
    figures = evaluate(marks, nodules, len(scans), excluded, bootstraps=0).figures
    assert list(figures["sensitivity"].values()) == pytest.approx(expected, abs=1e-9)
    assert figures["cpm"] == pytest.approx(sum(expected) / 7, abs=1e-9)
    assert sensitivities(scans) == pytest.approx(expected, abs=1e-9)


def test_every_mark_is_counted_in_one_group() -> None:
    scans = [
        (
            [mark(0, 0.9), mark(1, 0.8), mark(90, 0.7), mark(50, 0.6), *crowd(98, 0.1)],
            [*NODULE, ((50.0, 40, 0), 6.0)],
            [(FAR, 4.0)],
        ),
        EMPTY,
    ]
    marks, nodules, excluded = arrays(scans)
    figures = evaluate(marks, nodules, 2, excluded, bootstraps=0).figures
    counts = {"given": 102, "beyond_100_of_a_scan": 2, "in_nodules": 2, "in_excluded_findings": 1, "false": 97}
    assert figures["marks"] == counts
    assert (figures["detected"], figures["nodules"], figures["scans"], figures["scans_without_marks"]) == (1, 2, 2, 1)
    assert figures["curve_ends_at"] == 97 / 2


# A coarse lattice and few values make ties, points on surfaces and overlaps common.
lattice = st.tuples(*[st.integers(0, 6).map(float)] * 3)
probability = st.sampled_from([0.1, 0.25, 0.5, 0.75, 0.9])
finding = st.tuples(lattice, st.sampled_from([-1.0, 2.0, 4.0, 6.0]))
few_marks = st.lists(st.tuples(lattice, probability), max_size=12)
scan_contents = st.tuples(
    few_marks | few_marks.map(lambda marks: (marks * 30)[:130]),
    st.lists(finding, max_size=3),
    st.lists(finding, max_size=2),
)
scan_lists = st.lists(scan_contents, min_size=1, max_size=8).filter(lambda scans: any(item[1] for item in scans))


@given(scan_lists)
def test_random_cases_agree_with_the_reference(scans: Scans) -> None:
    marks, nodules, excluded = arrays(scans)
    figures = evaluate(marks, nodules, len(scans), excluded, bootstraps=0).figures
    assert list(figures["sensitivity"].values()) == pytest.approx(sensitivities(scans), abs=1e-9)


@given(scan_lists, st.data())
def test_a_scan_drawn_twice_counts_as_two_scans(scans: Scans, data: st.DataObject) -> None:
    drawn = data.draw(st.lists(st.integers(0, len(scans) - 1), min_size=len(scans), max_size=len(scans)))
    copies = [scans[i] for i in drawn]
    if not any(item[1] for item in copies):
        return
    marks, nodules, excluded = arrays(scans)
    sweep = Sweep(match(marks, nodules, excluded), len(scans))
    weight = np.bincount(drawn, minlength=len(scans)).astype(float)
    curve = sweep.curve(weight[nodules.scan], weight)
    assert curve.at(RATES).tolist() == pytest.approx(sensitivities(copies), abs=1e-9)


def half_found(count: int) -> Sweep:
    """`count` scans with a nodule each; every other nodule is found, without false marks."""
    marks, nodules, _ = arrays([([mark(0, 0.9)] if i % 2 else [], NODULE, []) for i in range(count)])
    return Sweep(match(marks, nodules), count)


@pytest.mark.parametrize("draw", [by_scans, by_nodules])
def test_intervals_of_a_proportion_agree_with_the_normal_approximation(
    draw: Callable[[Sweep, Floats, int, int], Floats],
) -> None:
    samples = draw(half_found(100), RATES, 2000, 1)[:, 0]
    low, high = band(samples)
    assert low == pytest.approx(0.5 - 1.96 * 0.05, abs=0.015)
    assert high == pytest.approx(0.5 + 1.96 * 0.05, abs=0.015)
    assert samples.mean() == pytest.approx(0.5, abs=0.005)
    np.testing.assert_array_equal(samples, draw(half_found(100), RATES, 2000, 1)[:, 0])
    assert (samples != draw(half_found(100), RATES, 2000, 2)[:, 0]).any()


def test_the_bootstrap_draws_nodules_of_one_patient_together() -> None:
    sweep = half_found(40)
    alone = by_nodules(sweep, RATES, 500, 0)[:, 0].std()
    pairs = by_nodules(sweep, RATES, 500, 0, [i // 2 for i in range(40)])[:, 0]  # one found, one missed
    alike = by_nodules(sweep, RATES, 500, 0, [i % 4 for i in range(40)])[:, 0].std()
    assert pairs.tolist() == pytest.approx([0.5] * 500)
    assert alike > 2 * alone


def test_draws_without_nodules_are_left_out_and_counted() -> None:
    scans = [([mark(0, 0.9)], NODULE, []), EMPTY]
    marks, nodules, _ = arrays(scans)
    figures = evaluate(marks, nodules, 2, bootstraps=400).figures
    assert figures["cpm_ci95"] == [1, 1]
    assert 60 < figures["bootstrap"]["scan_draws_without_nodules"] < 140  # a quarter


def test_without_a_usable_draw_there_are_no_intervals() -> None:
    marks, nodules, _ = arrays([([mark(0, 0.9)], NODULE, []), *[EMPTY] * 99])
    result = evaluate(marks, nodules, 100, bootstraps=1, seed=1)  # draws the other scans only
    assert result.band is None
    assert "cpm_ci95" not in result.figures


def test_size_and_type_groups_share_the_false_marks() -> None:
    sizes = [2.0, 3.0, 5.9, 6.0, 10.0, 19.9, 20.0, -1.0]
    nodules = FindingTable(
        np.zeros(8, dtype=np.intp),
        np.array([(100.0 * i, 0, 0) for i in range(8)]),
        np.array(sizes),
        kind=("solid", "solid", "part-solid", "solid", "solid", "solid", "solid", "solid"),
    )
    points = np.array([(200.0, 0, 0), (300, 0, 0), (50, 0, 0)])
    marks = MarkTable(np.zeros(3, dtype=np.intp), points, np.array([0.9, 0.3, 0.5]))
    figures = evaluate(marks, nodules, 1, bootstraps=0).figures
    found = {name: (group["nodules"], group["detected"]) for name, group in figures["by_size"].items()}
    assert found == {"<3": (1, 0), "3-6": (2, 1), "6-10": (1, 1), "10-20": (3, 0), ">=20": (1, 0)}
    assert list(figures["by_size"]["3-6"]["sensitivity"].values()) == [0.5] * 7
    assert list(figures["by_size"]["6-10"]["sensitivity"].values()) == [0, 0, 0, 1, 1, 1, 1]
    assert figures["by_type"]["part-solid"]["cpm"] == 1
    assert figures["by_type"]["solid"]["detected"] == 1


def test_without_nodules_there_is_no_sensitivity() -> None:
    marks, nodules, _ = arrays([(FALSE, [], [])])
    with pytest.raises(BadConfig, match="no nodule"):
        evaluate(marks, nodules, 1)


def test_the_threshold_of_each_false_positive_rate_is_reported() -> None:
    marks, nodules, _ = arrays([([mark(0, 0.8), *FALSE, mark(95, 0.7)], NODULE, [])])
    curve = evaluate(marks, nodules, 1, bootstraps=0).curve
    assert [curve.threshold_at(rate) for rate in (0.5, 1, 2)] == [np.inf, 0.8, 0.7]
