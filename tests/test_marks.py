"""From marks to findings: the confidence of the heatmap, the expected sensitivity, and the candidates."""

from pathlib import Path

import numpy as np
import pytest

from src.data.geometry import RAS_TO_LPS, map_points
from src.detection.peak_detection import detect_peaks
from src.detection.post_processing import common_voxels
from src.inference.main import InferencePipeline
from src.model.validation import Logistic, Point, Validation
from src.results.output_formatter import load_heatmap, load_report
from src.types import NoduleMask, Scan

from .small_scans import block


def _thick(scan: Scan) -> Scan:
    """The scan with slices of twice the thickness."""
    array = scan.array[:, :, : scan.array.shape[2] // 2 * 2].reshape(*scan.array.shape[:2], -1, 2).mean(axis=3)
    shift = np.diag([1.0, 1.0, 2.0, 1.0])
    shift[2, 3] = 0.5
    return Scan(np.round(array).astype(np.int16), scan.affine @ shift, "thick")


@pytest.mark.parametrize("slices", ["2.5 mm", "5 mm"])
def test_the_heatmap_matches_the_reported_confidence(slices: str, tmp_path: Path) -> None:
    """Peaks detected in the heatmap are the pipeline's marks, with the same confidence."""
    scan, truth = block(0)
    scan = scan if slices == "2.5 mm" else _thick(scan)
    ready = InferencePipeline()
    results = ready.predict(scan)
    (found,) = results["detections"]
    np.testing.assert_allclose(found["coordinates_lps"] or (), truth.coordinates_lps, atol=1.0)
    path = tmp_path / "heatmap.nii.gz"
    ready.save_heatmap(results["heatmap"], path)
    ras = np.multiply(found["peak_lps"] or (), (-1, -1, 1))
    for heatmap in (results["heatmap"], load_heatmap(path)):
        x, y, z = np.round(map_points(np.linalg.inv(scan.affine), ras)).astype(int)
        assert heatmap[x, y, z] == pytest.approx(found["confidence"], abs=0.005)
        (peak,) = detect_peaks(heatmap, spacing=scan.spacing)
        assert peak["coordinates_voxel"] == (x, y, z)
        assert peak["confidence"] == pytest.approx(found["confidence"], abs=0.005)


def validation(*measured: tuple[float, float]) -> Validation:
    points = (Point(threshold=t, sensitivity=s, sensitivity_ci95=(0, 1), false_marks_per_scan=1) for t, s in measured)
    return Validation(of="nodules", points=tuple(points), probability=Logistic(slope=2, offset=-1))


@pytest.mark.parametrize(
    ("threshold", "used", "sensitivity"),
    [(0.5, 0.5, 0.8), (0.45, 0.5, 0.8), (0.1, 0.2, 0.9), (0.2, 0.2, 0.9), (0.5001, 0.7, 0.4), (0.7001, None, None)],
)
def test_the_expected_sensitivity_is_that_of_the_next_listed_threshold(
    threshold: float, used: float | None, sensitivity: float | None
) -> None:
    expected = validation((0.7, 0.4), (0.2, 0.9), (0.5, 0.8)).expected_at(threshold)
    assert (expected and expected["threshold"], expected and expected["sensitivity"]) == (used, sensitivity)
    assert validation().expected_at(threshold) is None


@pytest.mark.parametrize(
    ("confidence", "probability"), [(0.5, 0.2689), (0.7311, 0.7311), (0.9, 0.9675), (0, 0.0), (1, 1.0)]
)
def test_the_probability_of_a_nodule_is_logistic_in_the_logit(confidence: float, probability: float) -> None:
    assert validation().nodule_probability(confidence) == pytest.approx(probability, abs=1e-4)
    steep = Validation(of="nodules", points=(), probability=Logistic(slope=1e300, offset=0))
    assert steep.nodule_probability(confidence) == (0.5 if confidence == 0.5 else confidence > 0.5)


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_a_validation_without_finite_numbers_is_refused(number: float) -> None:
    with pytest.raises(ValueError, match="finite number"):
        Logistic(slope=number, offset=0)


class TestCandidates:
    """Marks below the threshold are listed and not measured."""

    def test_a_mark_below_the_threshold_is_a_candidate(self, tmp_path: Path) -> None:
        scan, _ = block()
        sure = InferencePipeline().predict(scan)["detections"][0]
        higher = {"post_processing": {"peak_detection": {"threshold": sure["confidence"] + 0.001}}}
        pipeline = InferencePipeline(config=higher)
        results = pipeline.predict(scan)
        first = results["candidates"][0]
        assert first["confidence"] == sure["confidence"]
        assert first["coordinates_lps"] == sure["peak_lps"]
        validated = pipeline.checkpoint.about.validation
        assert validated is not None
        for one in (sure, first):
            assert one["nodule_probability"] == validated.nodule_probability(one["confidence"])
        assert 0.3 < first["diameter_mm"] / sure["diameter_mm"] < 3
        assert not results["detections"]
        pipeline.save_detections(results, tmp_path / "scan.json")
        written = load_report(tmp_path / "scan.json")["candidates"]
        assert [one["confidence"] for one in written] == [one["confidence"] for one in results["candidates"]]

    @pytest.mark.parametrize("threshold", [0.1, 0.3, 0.6])
    def test_each_mark_is_a_finding_or_a_candidate(self, threshold: float) -> None:
        rules = {"peak_detection": {"threshold": threshold}, "confidence_filter": {"min_confidence": 0.25}}
        results = InferencePipeline(config={"post_processing": rules}).predict(block()[0])
        limit = max(threshold, 0.25)
        found = [*results["detections"], *results["masses"]]
        assert all(0.1 <= one["confidence"] < limit for one in results["candidates"])
        assert all(one["confidence"] >= limit for one in found)
        confidences = [one["confidence"] for one in results["candidates"]]
        assert confidences == sorted(confidences, reverse=True)
        voxel_of = np.linalg.inv(block()[0].affine)
        for one in results["candidates"]:
            index = np.rint(map_points(voxel_of, map_points(RAS_TO_LPS, one["coordinates_lps"] or ()))).astype(int)
            here = NoduleMask(np.ones((1, 1, 1), bool), tuple(index))
            assert not any(mask is not None and common_voxels(mask, here) for mask in results["masks"])
