"""Windows, blending, views, peaks and suppression."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from src.inference.blending import blend_weights
from src.inference.peak_detection import detect_peaks
from src.inference.post_processing import non_maximum_suppression
from src.inference.sliding_window import plan_windows, sliding_window_inference
from src.inference.tta import views

sizes = st.tuples(*[st.integers(1, 24)] * 3)
patches = st.tuples(*[st.integers(1, 10)] * 3)


class Constant(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.full_like(x, 0.7)


@settings(max_examples=30, deadline=None)
@given(sizes, patches, st.data())
@pytest.mark.parametrize("method", ["gaussian", "linear", "average"])
def test_identity_gives_the_volume_back_and_constants_stay_constant(method, shape, patch, data):
    stride = tuple(data.draw(st.integers(1, size)) for size in patch)
    volume = np.random.default_rng(0).random(shape, dtype=np.float32)
    same = sliding_window_inference(torch.nn.Identity(), volume, patch, stride, 4, "cpu", method)
    np.testing.assert_allclose(same[0], volume, atol=1e-5)
    flat = sliding_window_inference(Constant(), volume, patch, stride, 4, "cpu", method)
    np.testing.assert_allclose(flat, 0.7, atol=1e-5)


@given(sizes, patches, st.data())
def test_windows_cover_every_voxel(shape, patch, data):
    patch = tuple(min(a, b) for a, b in zip(shape, patch, strict=True))
    stride = tuple(data.draw(st.integers(1, size)) for size in patch)
    seen = np.zeros(shape, bool)
    for window in plan_windows(shape, patch, stride):
        seen[window] = True
    assert seen.all()


@pytest.mark.parametrize("method", ["gaussian", "linear", "average"])
def test_weights_are_symmetric_and_never_zero(method):
    weights = blend_weights((8, 9, 10), method)
    assert weights.min() > 0
    np.testing.assert_allclose(weights, weights[::-1, ::-1, ::-1], rtol=1e-6)


def test_each_view_inverts_and_all_48_differ():
    cube = torch.rand(2, 1, 4, 5, 6)
    every = views(48)
    assert len(every) == 48
    for view in every:
        torch.testing.assert_close(view.inverse(view.forward(cube)), cube)
    assert [view.name for view in views(8)][:2] == ["identity", "flip_x"]


def _bump(centre, spacing):
    grid = np.indices((30, 30, 20)) * np.reshape(spacing, (3, 1, 1, 1))
    return np.exp(-((grid - np.reshape(centre, (3, 1, 1, 1))) ** 2).sum(0) / 32)


@given(st.tuples(st.floats(6, 15), st.floats(6, 15), st.floats(8, 24)))
@settings(deadline=None)
def test_a_peak_is_found_below_the_voxel_on_an_anisotropic_grid(centre):
    spacing = (0.8, 0.8, 2.0)
    (peak,) = detect_peaks(_bump(centre, spacing), 0.5, 10, spacing)
    np.testing.assert_allclose(peak["coordinates"], centre, atol=0.02)


@pytest.mark.parametrize("method", ["local_maxima", "nms"])
def test_peaks_keep_their_distance_and_order(method):
    heat = np.zeros((20, 20, 20))
    heat[3, 3, 3], heat[3, 3, 9], heat[15, 15, 15] = 0.9, 0.8, 0.7
    assert [p["confidence"] for p in detect_peaks(heat, 0.5, 7, method=method)] == pytest.approx([0.9, 0.7])
    assert len(detect_peaks(heat, 0.5, 6, method=method)) == 3


@pytest.mark.parametrize(("distance", "kept"), [(0, 1), (4, 1), (6, 2), (20, 2)])
def test_overlapping_spheres_are_suppressed(distance, kept):
    pair = [
        {"coordinates": (0, 0, 0), "diameter_mm": 10.0, "confidence": 0.6},
        {"coordinates": (distance, 0, 0), "diameter_mm": 10.0, "confidence": 0.9},
    ]
    result = non_maximum_suppression(pair, 0.2)
    assert len(result) == kept
    assert result[0]["confidence"] == 0.9
