"""From marks to findings: each body is reported once, at its centre, with the confidence of the heatmap."""

from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.config import PostProcessing
from src.data.geometry import RAS_TO_LPS, map_points
from src.detection.peak_detection import detect_peaks
from src.detection.post_processing import common_voxels, filter_detections
from src.inference.main import InferencePipeline
from src.measurement.nodule_properties import segment_and_measure
from src.results.conclusion import expected_at
from src.results.output_formatter import load_heatmap, load_report
from src.types import Detection, NoduleMask, Scan, Vec3

from .small_scans import block

RULES = PostProcessing()
SPACING = (0.7, 0.7, 1.0)
Points = npt.NDArray[np.float64]


def _found(x: float, diameter: float, confidence: float) -> Detection:
    return cast("Detection", {"coordinates": (x, 0.0, 0.0), "diameter_mm": diameter, "confidence": confidence})


@pytest.mark.parametrize(
    ("found", "nodules", "masses"),
    [
        ([(0, 42, 0.95), (10, 24, 0.6)], [], [42]),  # a mark within a mass is not another nodule
        ([(0, 25, 0.95), (8, 8, 0.6)], [25], []),
        ([(0, 8, 0.95), (8, 25, 0.6)], [8], []),
        ([(0, 10, 0.9), (11, 10, 0.8)], [10, 10], []),
        ([(0, 10, 0.9), (9, 10, 0.8)], [10, 10], []),  # the spheres touch
        ([(0, 10, 0.9), (3, 10, 0.8)], [10], []),
        ([(0, 2.5, 0.9), (1, 5, 0.8)], [5], []),  # a mark below the size limit suppresses nothing
        ([(0, 5, 0.2), (1, 6, 0.1)], [], []),
        ([(0, 5, 0.4), (30, 6, 0.5)], [6, 5], []),
        ([(0, 3, 0.9), (60, 30, 0.8)], [3, 30], []),  # both limits of the size belong to nodules
        ([(0, 2.99, 0.9), (60, 30.01, 0.8)], [], [30.01]),
        ([], [], []),
    ],
)
def test_a_body_is_reported_once(
    found: list[tuple[float, float, float]], nodules: list[float], masses: list[float]
) -> None:
    detections = [_found(*one) for one in found]
    groups = filter_detections(detections, RULES)
    assert [[one["diameter_mm"] for one in group] for group in groups] == [nodules, masses]


def test_without_suppression_every_mark_is_kept() -> None:
    rules = PostProcessing.model_validate({"nms": {"enabled": False}})
    assert len(filter_detections([_found(0, 10, 0.9), _found(0, 10, 0.8)], rules)[0]) == 2


def _cuboid(origin: tuple[int, int, int], shape: tuple[int, int, int]) -> NoduleMask:
    return NoduleMask(np.ones(shape, bool), origin)


@pytest.mark.parametrize(
    ("other", "kept"),
    [
        (_cuboid((0, 0, 0), (10, 10, 10)), 1),
        (_cuboid((10, 0, 0), (10, 10, 10)), 2),  # side by side
        (_cuboid((5, 0, 0), (10, 10, 10)), 1),  # a third of both
        (_cuboid((6, 0, 0), (10, 10, 10)), 2),  # a quarter
        (_cuboid((4, 4, 4), (3, 3, 3)), 1),  # within
        (_cuboid((8, 0, 0), (3, 10, 10)), 1),  # most of the smaller
        (_cuboid((9, 0, 0), (3, 10, 10)), 2),
        (None, 1),  # the spheres decide if a mask is missing
    ],
)
def test_masks_decide_which_marks_are_one_body(other: NoduleMask | None, kept: int) -> None:
    detections = [_found(0, 12, 0.9), _found(0, 12, 0.8)]
    for order in (1, -1):  # the order of the marks does not matter
        masks = [_cuboid((0, 0, 0), (10, 10, 10)), other][::order]
        assert len(filter_detections(detections[::order], RULES, masks)[0]) == kept


def _tissue(distance: Points) -> npt.NDArray[np.float32]:
    """Lung with soft tissue where the distance in mm is negative; the edge is 1 mm wide."""
    share = (0.5 - distance).clip(0, 1)
    return (-860 + 890 * share).astype(np.float32)


def _places(shape: tuple[int, int, int]) -> Points:
    """The positions of the voxels in mm: (X, Y, Z, 3)."""
    places: Points = np.moveaxis(np.indices(shape), 0, -1) * np.array(SPACING)
    return places


@pytest.mark.parametrize("shape", ["ball", "oval"])
def test_two_marks_in_one_body_are_one_nodule_at_its_centre(shape: str) -> None:
    size = (100, 100, 70)
    centre = np.multiply((50, 50, 35), SPACING)
    away = _places(size) - centre
    radii = {"ball": (13, 13, 13), "oval": (15, 8, 8)}[shape]
    scan = _tissue((np.linalg.norm(away / radii, axis=-1) - 1) * min(radii))
    detections, masks = [], []
    for x, guess, confidence in ((-7.0, 16.0, 0.9), (7.0, 16.0, 0.8)):
        seed = (float(centre[0] + x), float(centre[1]), float(centre[2]))
        properties, body = segment_and_measure(scan, seed, guess, SPACING)
        assert body is not None
        np.testing.assert_allclose(body.centre, centre, atol=0.5)
        diameter = properties["effective_diameter_mm"] or guess
        detections.append(cast("Detection", {"coordinates": seed, "diameter_mm": diameter, "confidence": confidence}))
        masks.append(NoduleMask(body.mask, body.origin))
    assert filter_detections(detections, RULES, masks) == ([detections[0]], [])


@settings(max_examples=15)
@given(st.tuples(*[st.floats(-3, 3)] * 3), st.floats(4, 20))
def test_a_bodys_centre_is_found_from_a_mark_beside_it(off: Vec3, diameter: float) -> None:
    share = min(1.0, diameter / 4 / 3)
    size = (64, 64, 45)
    centre = np.multiply((31.5, 31.5, 22), SPACING)
    away = np.linalg.norm(_places(size) - centre, axis=-1)
    seed = centre + np.multiply(off, share)
    _, body = segment_and_measure(
        _tissue(away - diameter / 2), (float(seed[0]), float(seed[1]), float(seed[2])), diameter, SPACING
    )
    assert body is not None
    np.testing.assert_allclose(body.centre, centre, atol=0.3)


@pytest.mark.parametrize(("mark", "measured"), [(4.2, True), (9.5, True), (10.5, False), (14.0, False)])
def test_a_body_far_smaller_than_its_mark_is_not_its_nodule(mark: float, *, measured: bool) -> None:
    """A ball of 6 mm, such as the core of a nodule whose rim cannot be seen: from a mark of 10 mm on it is a part."""
    size = (64, 64, 45)
    centre = np.multiply((31.5, 31.5, 22), SPACING)
    scan = _tissue(np.linalg.norm(_places(size) - centre, axis=-1) - 3.0)
    properties, body = segment_and_measure(scan, (float(centre[0]), float(centre[1]), float(centre[2])), mark, SPACING)
    assert (body is not None) == measured
    assert properties["effective_diameter_mm"] == (pytest.approx(6.0, abs=0.1) if measured else None)


def _thick(scan: Scan) -> Scan:
    """The scan with slices of twice the thickness."""
    array = scan.array[:, :, : scan.array.shape[2] // 2 * 2].reshape(*scan.array.shape[:2], -1, 2).mean(axis=3)
    shift = np.diag([1.0, 1.0, 2.0, 1.0])
    shift[2, 3] = 0.5
    return Scan(np.round(array).astype(np.int16), scan.affine @ shift, "thick")


@pytest.mark.parametrize("slices", ["2.5 mm", "5 mm"])
def test_the_heatmap_matches_the_reported_confidence(slices: str, tmp_path: Path) -> None:
    """Its peaks are those of the pipeline, with the confidence of the nodule."""
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


@pytest.mark.parametrize(
    ("threshold", "used", "sensitivity"),
    [(0.5, 0.5, 0.8), (0.45, 0.5, 0.8), (0.1, 0.2, 0.9), (0.2, 0.2, 0.9), (0.5001, 0.7, 0.4), (0.7001, None, None)],
)
def test_the_expected_sensitivity_is_that_of_the_next_listed_threshold(
    threshold: float, used: float | None, sensitivity: float | None
) -> None:
    points = [
        {"threshold": t, "sensitivity": s, "sensitivity_ci95": [0.0, 1.0], "false_marks_per_scan": 1.0}
        for t, s in ((0.7, 0.4), (0.2, 0.9), (0.5, 0.8))
    ]
    expected = expected_at({"detection": {"of": "nodules", "points": points}}, threshold)
    assert (expected and expected["threshold"], expected and expected["sensitivity"]) == (used, sensitivity)
    assert expected_at({}, threshold) is None


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
