"""Calibrated scores: monotonicity, nulls, damaged files, and fitted maps."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.errors import BadConfig, BadOutput
from src.train.triage.calibration import METHODS, cross_calibrated, fit_mapping
from src.train.triage.statistics import calibration_error, log_loss
from src.triage.calibration import Isotonic, Mapping, Platt, Temperature, calibrate_scores, load_calibration
from src.triage.model import default_model, score

SCORES = st.floats(0, 1)


@st.composite
def _isotonic(draw: st.DrawFn) -> Isotonic:
    scores = draw(st.lists(SCORES, min_size=1, max_size=8, unique=True))
    values = draw(st.lists(SCORES, min_size=len(scores), max_size=len(scores)))
    return Isotonic(scores=tuple(sorted(scores)), values=tuple(sorted(values)))


MAPPINGS: st.SearchStrategy[Mapping] = st.one_of(
    st.builds(Temperature, temperature=st.floats(0.05, 20)),
    st.builds(Platt, slope=st.floats(0.05, 20), intercept=st.floats(-5, 5)),
    _isotonic(),
)


@given(mapping=MAPPINGS, scores=st.lists(SCORES, min_size=2, max_size=20))
def test_every_map_keeps_the_order_and_the_range(mapping: Mapping, scores: list[float]) -> None:
    mapped = mapping.apply(sorted(scores))
    assert np.all((mapped >= 0) & (mapped <= 1))
    assert np.all(np.diff(mapped) >= -1e-12)


def _detection(value: float | None, reason: str | None = None) -> Any:  # noqa: ANN401
    return {
        "id": 7,
        "diameter_mm": 8.0,
        "triage": {"malignancy_score": value, "risk_category": "low" if value is not None else None, "reason": reason},
    }


def _file(folder: Path, **changes: object) -> Path:
    content = {
        "format": "pivot-triage-calibration-1", "model": "m", "label": "biopsy", "data": {"n": 3},
        "mapping": {"method": "platt", "slope": 2.0, "intercept": 0.5}, "cutoffs": {"low": 0.3, "high": 0.7},
        **changes,
    }  # fmt: skip
    path = folder / "calibration.json"
    path.write_text(json.dumps(content))
    return path


def test_scores_and_categories_follow_the_file(tmp_path: Path) -> None:
    detections = [_detection(0.2), _detection(0.4), _detection(0.9), _detection(None, "too small")]
    before = copy.deepcopy(detections)
    found = calibrate_scores(detections=detections, calibration_file=_file(tmp_path))
    expected = [1 / (1 + np.exp(-(2 * np.log(s / (1 - s)) + 0.5))) for s in (0.2, 0.4, 0.9)]
    assert [d["triage"]["malignancy_score"] for d in found[:3]] == pytest.approx(expected, abs=1e-4)
    assert [d["triage"]["risk_category"] for d in found] == ["low", "intermediate", "high", None]
    assert found[3]["triage"] == {"malignancy_score": None, "risk_category": None, "reason": "too small"}
    assert found[0]["diameter_mm"] == 8.0
    assert detections == before
    found[3]["triage"]["reason"] = "changed"
    assert detections == before


@given(st.lists(st.none() | SCORES, max_size=8))
def test_the_shipped_file_keeps_nulls_and_categories(values: list[float | None]) -> None:
    path = Path(__file__).resolve().parents[1] / "calibration" / "triage_calibration.json"
    cutoffs = default_model().cutoffs
    found = calibrate_scores([_detection(value, None if value is not None else "why") for value in values], path)
    for value, detection in zip(values, found, strict=True):
        triage = detection["triage"]
        assert (triage["malignancy_score"] is None) == (value is None)
        assert triage["reason"] == ("why" if value is None else None)
        if value is not None and min(abs(value - cutoffs.low), abs(value - cutoffs.high)) > 1e-3:
            assert triage["risk_category"] == cutoffs.category(value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mapping": {"method": "platt", "slope": -1.0, "intercept": 0.0}}, "slope"),
        ({"mapping": {"method": "temperature", "temperature": 0}}, "temperature"),
        ({"mapping": {"method": "beta"}}, "mapping"),
        ({"mapping": {"method": "isotonic", "scores": [0.1, 0.5], "values": [0.6, 0.2]}}, "must not fall"),
        ({"mapping": {"method": "isotonic", "scores": [0.5, 0.5], "values": [0.1, 0.2]}}, "must rise"),
        ({"mapping": {"method": "isotonic", "scores": [0.5], "values": [0.1, 0.2]}}, "one value a score"),
        ({"mapping": {"method": "isotonic", "scores": [0.5], "values": [1.2]}}, "values"),
        ({"mapping": {"method": "isotonic", "scores": [], "values": []}}, "scores"),
        ({"cutoffs": {"low": 0.8, "high": 0.2}}, "must not exceed"),
        ({"format": "other"}, "format"),
        ({"label": None}, "label"),
        ({"colour": 1}, "unknown key"),
    ],
)
def test_a_broken_file_is_refused(tmp_path: Path, changes: dict[str, object], words: str) -> None:
    with pytest.raises(BadConfig, match=words):
        calibrate_scores([], _file(tmp_path, **changes))


@pytest.mark.parametrize("text", ["", "[1]", '{"slope": ', "\x00"])
def test_a_file_that_is_not_a_calibration_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(BadConfig, match=r"c\.json"):
        load_calibration(tmp_path / "c.json")


def test_a_binary_file_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "c.json").write_bytes(b"\xff\xfe\x00")
    for path, words in ((tmp_path / "c.json", "not JSON"), (tmp_path / "none.json", "fit")):
        with pytest.raises(BadConfig, match=words):
            load_calibration(path)


def test_a_peak_is_scored_by_its_properties_before_the_calibration(tmp_path: Path) -> None:
    file = _file(tmp_path, mapping={"method": "platt", "slope": 1.0, "intercept": 0.0})
    measured: Any = {
        "effective_diameter_mm": 7.8, "long_axis_mm": 9.0, "short_axis_mm": 7.0, "mean_intensity": -100.0,
    }  # fmt: skip

    def calibrated(properties: object) -> float | None:
        peak: Any = {"coordinates": [1.0, 2.0, 3.0], "properties": properties}
        value: float | None = calibrate_scores([peak], file)[0]["triage"]["malignancy_score"]
        return value

    assert calibrated(measured) == pytest.approx(score(measured, 7.8)["malignancy_score"], abs=1e-4)
    assert calibrated(None) is None
    with pytest.raises(BadOutput, match="extract_properties"):
        calibrated([7.8])


@pytest.mark.parametrize(
    "change",
    [
        lambda found: found.pop("triage"),
        lambda found: found["triage"].pop("malignancy_score"),
        lambda found: found["triage"].update(malignancy_score=1.5),
        lambda found: found["triage"].update(malignancy_score=-0.5),
        lambda found: found["triage"].update(malignancy_score=float("nan")),
        lambda found: found["triage"].update(malignancy_score="0.5"),
    ],
)
def test_detections_without_a_score_are_refused(tmp_path: Path, change: Callable[[Any], object]) -> None:
    found = _detection(0.5)
    change(found)
    with pytest.raises(BadOutput, match="detection 7"):
        calibrate_scores([found], _file(tmp_path))


@pytest.mark.parametrize("method", METHODS)
def test_a_fitted_map_corrects_overconfident_scores(method: str) -> None:
    rng = np.random.default_rng(5)
    odds = rng.normal(scale=1.5, size=4000)
    labels = rng.random(4000) < 1 / (1 + np.exp(-odds))
    scores = 1 / (1 + np.exp(-3 * odds))
    after = cross_calibrated(method, scores, labels, np.arange(4000) % 5)
    assert calibration_error(labels, scores) > 0.1
    assert calibration_error(labels, after) < 0.03
    assert log_loss(labels, after) < log_loss(labels, scores)


def test_temperature_is_recovered() -> None:
    rng = np.random.default_rng(6)
    odds = rng.normal(scale=2, size=20000)
    labels = rng.random(20000) < 1 / (1 + np.exp(-odds))
    mapping = fit_mapping("temperature", 1 / (1 + np.exp(-2 * odds)), labels)
    assert isinstance(mapping, Temperature)
    assert mapping.temperature == pytest.approx(2, rel=0.08)


@given(st.lists(st.tuples(SCORES, st.booleans()), min_size=1, max_size=30))
def test_isotonic_regression_fits_any_data(cases: list[tuple[float, bool]]) -> None:
    scores, labels = (np.array(column) for column in zip(*cases, strict=True))
    mapping = fit_mapping("isotonic", scores, labels)
    assert mapping.apply(scores).mean() == pytest.approx(labels.mean())  # pooling keeps the sum
