"""Peaks of a heatmap, and the suppression of detections that overlap."""

from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.config import PostProcessing
from src.detection.peak_detection import detect_peaks
from src.detection.post_processing import (
    common_voxels,
    filter_detections,
    non_maximum_suppression,
    sphere_iou,
)
from src.errors import BadConfig
from src.types import Detection, NoduleMask, Shape3, Vec3, Volume

Method = Literal["local_maxima", "nms"]
RULES = PostProcessing()


def _bump(centre: Vec3, spacing: Vec3) -> npt.NDArray[np.float64]:
    """A Gaussian of height 1 with a standard deviation of 4 mm."""
    x, y, z = np.ix_(*((np.arange(n) * s - c) ** 2 for n, s, c in zip((30, 30, 20), spacing, centre, strict=True)))
    return np.asarray(np.exp(-(x + y + z) / 32))


@given(st.tuples(st.floats(6, 15), st.floats(6, 15), st.floats(8, 24)))
def test_a_peak_is_located_to_sub_voxel_accuracy_on_an_anisotropic_grid(centre: Vec3) -> None:
    spacing = (0.8, 0.8, 2.0)
    (peak,) = detect_peaks(_bump(centre, spacing), 0.5, 10, spacing)
    np.testing.assert_allclose(peak["coordinates"], centre, atol=0.02)
    assert np.abs(np.divide(centre, spacing) - peak["coordinates_voxel"]).max() < 0.5 + 1e-6


@pytest.mark.parametrize("own", [None, (0.5, 1.0, 2.0)])
def test_the_default_spacing_is_that_of_the_affine_or_1_mm(own: Vec3 | None) -> None:
    spacing = own or (1.0, 1.0, 1.0)
    centre = (9 * spacing[0], 11 * spacing[1], 8 * spacing[2])
    heat = _bump(centre, spacing)
    (peak,) = detect_peaks(heat if own is None else Volume(heat, np.diag([*own, 1.0])), 0.5)
    np.testing.assert_allclose(peak["coordinates"], centre, atol=0.02)


def _spots(*spots: tuple[Shape3, float]) -> npt.NDArray[np.float64]:
    """A heatmap that is zero except in single voxels."""
    heat = np.zeros((20, 12, 9))
    for voxel, value in spots:
        heat[voxel] = value
    return heat


@pytest.mark.parametrize(
    ("value", "threshold", "count"),
    [(0.5, None, 1), (0.49, None, 0), (0.5, 0.5, 1), (0.5, 0.51, 0), (0.25, 0.0, 1), (1.0, 1.0, 1), (0.99, 1.0, 0)],
)
def test_a_peak_reaches_the_threshold_whose_default_is_0_5(value: float, threshold: float | None, count: int) -> None:
    heat = _spots(((5, 5, 5), value))
    assert len(detect_peaks(heat) if threshold is None else detect_peaks(heat, threshold)) == count


@pytest.mark.parametrize(("voxel", "count"), [((15, 5, 5), 2), ((14, 8, 5), 1), ((5, 5, 0), 1)])
def test_peaks_are_10_mm_apart_by_default(voxel: Shape3, count: int) -> None:
    """10 mm, 9.5 mm and 5 mm."""
    assert len(detect_peaks(_spots(((5, 5, 5), 0.9), (voxel, 0.8)))) == count


@pytest.mark.parametrize(("distance", "count"), [(0.0, 2), (0.25, 2), (0.5, 2), (0.51, 1)])
def test_a_voxel_at_exactly_the_minimum_distance_is_another_peak(distance: float, count: int) -> None:
    heat = _spots(((5, 5, 5), 0.9), ((6, 5, 5), 0.8))
    assert len(detect_peaks(heat, 0.5, distance, (0.5, 0.5, 0.5), "nms")) == count


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": -0.1}, "threshold must be a number from 0 to 1"),
        ({"threshold": 1.1}, "threshold must be a number from 0 to 1"),
        ({"min_distance": -0.1}, "min_distance must be a number of at least 0"),
        ({"spacing": (1.0, 0.0, 1.0)}, "spacing must be 3 numbers of at least 1e-06"),
        ({"method": "maxima"}, "method must be local_maxima or nms, not 'maxima'"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(BadConfig, match=message):
        detect_peaks(np.zeros((3, 3, 3)), **options)


def test_a_confidence_is_at_most_1() -> None:
    (peak,) = detect_peaks(_spots(((5, 5, 5), 1.2)))
    assert peak["confidence"] == 1.0
    assert peak["diameter_mm"] is None


@pytest.mark.parametrize(("step", "warned"), [(1.0005, False), (1.002, True)])
def test_a_spacing_that_contradicts_the_heatmaps_own_is_used_with_a_warning(
    step: float, caplog: pytest.LogCaptureFixture, *, warned: bool
) -> None:
    heat = Volume(_spots(((5, 6, 7), 0.9)), np.eye(4))
    (peak,) = detect_peaks(heat, spacing=(step, 1.0, 1.0))
    assert peak["coordinates"] == pytest.approx((5 * step, 6, 7))
    assert ("coordinates follow the given" in caplog.text) == warned


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize(
    ("line", "place"),
    [
        ([0, 0, 0.4, 0.8, 0, 0], 3 - 0.451479),  # log(1e-6) stands for the logarithm of 0
        ([0, 0, 0, 0.8, 0.4, 0], 3 + 0.451479),
        ([0, 0.8, 0.4, 0, 0, 0], 1 + 0.451479),
        ([0, 0, 0, 0.4, 0.8, 0], 4 - 0.451479),
        ([0.8, 0.4, 0, 0, 0, 0.7], 0),  # on the border of the heatmap a peak stays on its voxel
        ([0.7, 0, 0, 0, 0.4, 0.8], 5),
        ([0, 0.8, 0.8, 0.8, 0, 0], 2),
        ([0, 0, 0.8, 0, 0, 0], 2),
    ],
)
def test_a_peak_lies_at_the_top_of_a_parabola_through_the_logarithm(line: list[float], place: float, axis: int) -> None:
    heat = np.zeros((3, 3, 6))
    heat[1, 1] = line
    peak = detect_peaks(np.moveaxis(heat, 2, axis), 0.5, 0, (2.0, 2.0, 2.0))[0]
    expected = [2.0, 2.0, 2.0]
    expected[axis] = 2 * place
    assert peak["coordinates"] == pytest.approx(expected, abs=1e-4)


def test_a_ridge_is_one_local_maximum_but_several_nms_peaks() -> None:
    heat = np.zeros((12, 9, 9))
    heat[2:8, 4, 4] = 0.9, 0.85, 0.8, 0.75, 0.7, 0.65
    assert [one["coordinates_voxel"] for one in detect_peaks(heat, 0.5, 3)] == [(2, 4, 4)]
    several = detect_peaks(heat, 0.5, 3, method="nms")
    assert [one["coordinates_voxel"] for one in several] == [(2, 4, 4), (5, 4, 4)]
    assert several[1]["coordinates"] == (4.5, 4.0, 4.0)  # at most half a voxel uphill


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_a_local_maximum_is_not_exceeded_by_its_26_neighbours(seed: int, threshold: float) -> None:
    heat = np.random.default_rng(seed).random((6, 5, 4))
    around = np.lib.stride_tricks.sliding_window_view(np.pad(heat, 1), (3, 3, 3)).max(axis=(3, 4, 5))
    expected = np.argwhere((heat == around) & (heat.astype(np.float32) >= threshold))
    found = detect_peaks(heat, threshold, 0)
    assert sorted(one["coordinates_voxel"] for one in found) == [tuple(voxel) for voxel in expected.tolist()]


@pytest.mark.parametrize("method", ["local_maxima", "nms"])
def test_peaks_keep_their_distance_and_order(method: Method) -> None:
    heat = np.zeros((20, 20, 20))
    heat[3, 3, 3], heat[3, 3, 9], heat[15, 15, 15] = 0.9, 0.8, 0.7
    assert [p["confidence"] for p in detect_peaks(heat, 0.5, 7, method=method)] == pytest.approx([0.9, 0.7])
    assert len(detect_peaks(heat, 0.5, 6, method=method)) == 3


@given(st.integers(0, 2**32 - 1), st.floats(0, 8), st.sampled_from(["local_maxima", "nms"]))
def test_no_two_peaks_are_closer_than_the_minimum_distance(seed: int, distance: float, method: Method) -> None:
    heat = np.random.default_rng(seed).random((9, 8, 7)) ** 3
    spacing = (0.7, 0.9, 2.0)
    places = np.array([p["coordinates_voxel"] for p in detect_peaks(heat, 0.3, distance, spacing, method)]) * spacing
    gaps = np.linalg.norm(places[:, None] - places, axis=-1)[~np.eye(len(places), dtype=bool)]
    assert gaps.min(initial=np.inf) >= distance - 1e-9


def test_a_plateau_is_one_peak() -> None:
    heat = np.zeros((9, 9, 9))
    heat[2:7, 4, 4] = 0.8
    (peak,) = detect_peaks(heat, 0.5, 0)
    assert peak["coordinates_voxel"] == (4, 4, 4)
    assert peak["coordinates"] == (4.0, 4.0, 4.0)


@pytest.mark.parametrize("method", ["local_maxima", "nms"])
@pytest.mark.parametrize("threshold", [0.0, 0.5])
def test_an_empty_heatmap_has_no_peaks(threshold: float, method: Method) -> None:
    assert detect_peaks(np.zeros((5, 5, 5)), threshold, 5, method=method) == []


def _sphere(x: float, diameter: float | None, confidence: float) -> Detection:
    return cast("Detection", {"coordinates": (x, 0.0, 0.0), "diameter_mm": diameter, "confidence": confidence})


@pytest.mark.parametrize(("distance", "kept"), [(0, 1), (4, 1), (6, 2), (20, 2)])
def test_overlapping_spheres_are_suppressed(distance: float, kept: int) -> None:
    result = non_maximum_suppression([_sphere(0, 10, 0.6), _sphere(distance, 10, 0.9)], 0.2)
    assert len(result) == kept
    assert result[0]["confidence"] == 0.9


@pytest.mark.parametrize(
    ("distance", "threshold", "kept"),
    [
        (4, None, 2),  # an overlap of 0.28
        (3.5, None, 1),  # of 0.33; the default is 0.3
        (0, 1.0, 2),  # no overlap is larger than 1
        (0, 0.99, 1),
        (10, 0.0, 2),  # the spheres touch
        (9.9, 0.0, 1),
    ],
)
def test_the_overlap_must_exceed_the_threshold(distance: float, threshold: float | None, kept: int) -> None:
    marks = [_sphere(0, 10, 0.9), _sphere(distance, 10, 0.8)]
    found = non_maximum_suppression(marks) if threshold is None else non_maximum_suppression(marks, threshold)
    assert len(found) == kept


@pytest.mark.parametrize(("first", "second"), [(None, None), (None, 20.0), (20.0, None)])
@pytest.mark.parametrize(
    ("distance", "least", "kept"), [(5, None, 2), (4.99, None, 1), (0.5, 0.5, 2), (0.4, 0.5, 1), (0, 0, 2)]
)
def test_a_mark_without_a_diameter_keeps_its_distance(
    first: float | None, second: float | None, distance: float, least: float | None, kept: int
) -> None:
    marks = [_sphere(0, first, 0.9), _sphere(distance, second, 0.8)]
    found = non_maximum_suppression(marks) if least is None else non_maximum_suppression(marks, min_distance=least)
    assert len(found) == kept


def test_marks_of_equal_confidence_keep_their_order() -> None:
    marks = [_sphere(x, 4, confidence) for x, confidence in ((0, 0.7), (50, 0.8), (100, 0.7), (150, 0.8))]
    assert [one["coordinates"][0] for one in non_maximum_suppression(marks)] == [50, 150, 0, 100]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"iou_threshold": -0.1}, "iou_threshold must be a number from 0 to 1"),
        ({"iou_threshold": 1.1}, "iou_threshold must be a number from 0 to 1"),
        ({"min_distance": -0.1}, "min_distance must be a number of at least 0"),
    ],
)
def test_thresholds_out_of_range_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(BadConfig, match=message):
        non_maximum_suppression([], **options)


@pytest.mark.parametrize(("radius", "overlap"), [(0.2, 1.0), (0.0, 0.0)])
def test_the_overlap_of_equal_spheres_of_any_size(radius: float, overlap: float) -> None:
    (found,) = sphere_iou(np.zeros(3), radius, np.zeros((1, 3)), np.array([radius]))
    assert found == pytest.approx(overlap)


@given(st.floats(0, 12), st.floats(1, 5), st.floats(1, 5))
def test_the_overlap_of_two_spheres_is_the_integral_over_their_sections(
    distance: float, one: float, two: float
) -> None:
    x = np.linspace(-5, 17, 20_001)
    first, second = ((r**2 - (x - c) ** 2).clip(0) for c, r in ((0, one), (distance, two)))
    (found,) = sphere_iou(np.zeros(3), one, np.array([[distance, 0, 0]]), np.array([two]))
    assert found == pytest.approx(np.minimum(first, second).sum() / np.maximum(first, second).sum(), abs=1e-4)


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
        ([(0, 5, 0.3), (30, 6, 0.2999)], [5], []),  # the confidence is at least 0.3
        ([(0, 10, 0.9), (4, 10, 0.8)], [10, 10], []),  # an overlap of 0.28, below 0.3
        ([(0, 10, 0.9), (3.5, 10, 0.8)], [10], []),  # of 0.33
        ([(0, 20, 0.9), (9.7, 6, 0.8)], [20], []),  # 52 % of the smaller sphere lie in the larger
        ([(0, 20, 0.9), (10, 6, 0.8)], [20, 6], []),  # 44 %
        ([], [], []),
    ],
)
def test_a_body_is_reported_once(
    found: list[tuple[float, float, float]], nodules: list[float], masses: list[float]
) -> None:
    detections = [_sphere(*one) for one in found]
    groups = filter_detections(detections, RULES)
    assert [[one["diameter_mm"] for one in group] for group in groups] == [nodules, masses]


def test_without_suppression_every_mark_is_kept() -> None:
    rules = PostProcessing.model_validate({"nms": {"enabled": False}})
    assert len(filter_detections([_sphere(0, 10, 0.9), _sphere(0, 10, 0.8)], rules)[0]) == 2


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
        (_cuboid((8, 0, 0), (4, 10, 10)), 2),  # exactly half
        (_cuboid((9, 0, 0), (3, 10, 10)), 2),
        (None, 1),  # the spheres decide if a mask is missing
    ],
)
def test_masks_decide_which_marks_are_one_body(other: NoduleMask | None, kept: int) -> None:
    detections = [_sphere(0, 12, 0.9), _sphere(0, 12, 0.8)]
    for order in (1, -1):  # the order of the marks does not matter
        masks = [_cuboid((0, 0, 0), (10, 10, 10)), other][::order]
        assert len(filter_detections(detections[::order], RULES, masks)[0]) == kept


@pytest.mark.parametrize(("threshold", "kept"), [(0.25, 2), (0.24, 1)])
def test_two_masks_are_one_body_if_their_overlap_exceeds_the_threshold(threshold: float, kept: int) -> None:
    """They share 400 of 1,600 voxels."""
    rules = PostProcessing.model_validate({"nms": {"iou_threshold": threshold}})
    masks = [_cuboid((0, 0, 0), (10, 10, 10)), _cuboid((6, 0, 0), (10, 10, 10))]
    assert len(filter_detections([_sphere(0, 12, 0.9), _sphere(6, 12, 0.8)], rules, masks)[0]) == kept


sides, origins = st.tuples(*[st.integers(1, 4)] * 3), st.tuples(*[st.integers(0, 5)] * 3)


@given(st.integers(0, 2**32 - 1), sides, origins, sides, origins)
def test_two_masks_share_the_voxels_that_are_set_in_both(
    seed: int, first: Shape3, one: Shape3, second: Shape3, other: Shape3
) -> None:
    rng = np.random.default_rng(seed)
    masks = [NoduleMask(rng.random(shape) < 0.7, origin) for shape, origin in ((first, one), (second, other))]
    whole = np.zeros((2, 9, 9, 9), bool)
    for grid, mask in zip(whole, masks, strict=True):
        grid[tuple(slice(a, a + n) for a, n in zip(mask.origin, mask.voxels.shape, strict=True))] = mask.voxels
    assert common_voxels(*masks) == whole.all(axis=0).sum()
