"""Peaks of a heatmap, and the suppression of detections that overlap."""

from typing import Literal, cast

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.detection.peak_detection import detect_peaks
from src.detection.post_processing import non_maximum_suppression, sphere_iou
from src.types import Detection, Vec3, Volume

Method = Literal["local_maxima", "nms"]


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
def test_without_a_spacing_it_is_that_of_the_affine_or_a_millimetre(own: Vec3 | None) -> None:
    spacing = own or (1.0, 1.0, 1.0)
    centre = (9 * spacing[0], 11 * spacing[1], 8 * spacing[2])
    heat = _bump(centre, spacing)
    (peak,) = detect_peaks(heat if own is None else Volume(heat, np.diag([*own, 1.0])), 0.5)
    np.testing.assert_allclose(peak["coordinates"], centre, atol=0.02)


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


@pytest.mark.parametrize("method", ["local_maxima", "nms"])
@pytest.mark.parametrize("threshold", [0.0, 0.5])
def test_an_empty_heatmap_has_no_peaks(threshold: float, method: Method) -> None:
    assert detect_peaks(np.zeros((5, 5, 5)), threshold, 5, method=method) == []


def _sphere(x: float, diameter: float, confidence: float) -> Detection:
    return cast("Detection", {"coordinates": (x, 0.0, 0.0), "diameter_mm": diameter, "confidence": confidence})


@pytest.mark.parametrize(("distance", "kept"), [(0, 1), (4, 1), (6, 2), (20, 2)])
def test_overlapping_spheres_are_suppressed(distance: float, kept: int) -> None:
    result = non_maximum_suppression([_sphere(0, 10, 0.6), _sphere(distance, 10, 0.9)], 0.2)
    assert len(result) == kept
    assert result[0]["confidence"] == 0.9


@given(st.floats(0, 12), st.floats(1, 5), st.floats(1, 5))
def test_the_overlap_of_two_spheres_is_the_integral_over_their_sections(
    distance: float, one: float, two: float
) -> None:
    x = np.linspace(-5, 17, 20_001)
    first, second = ((r**2 - (x - c) ** 2).clip(0) for c, r in ((0, one), (distance, two)))
    (found,) = sphere_iou(np.zeros(3), one, np.array([[distance, 0, 0]]), np.array([two]))
    assert found == pytest.approx(np.minimum(first, second).sum() / np.maximum(first, second).sum(), abs=1e-4)
