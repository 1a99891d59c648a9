"""Distances in masks, which are computed up to a limit, compared with SciPy."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from src.measurement.masks import around, box_around, depth_of, rim_distance, within

Mask = npt.NDArray[np.bool_]


@st.composite
def masks(draw: st.DrawFn) -> Mask:
    """Blobs, sheets, single voxels and their inverses, in arrays of different sides."""
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    noise = ndimage.gaussian_filter(
        rng.normal(size=tuple(rng.integers(1, 14, 3))), draw(st.sampled_from([0.0, 1.0, 3.0]))
    )
    mask: Mask = noise > np.quantile(noise, draw(st.floats(0.02, 0.98)))
    return mask


@given(masks(), st.sampled_from([0.31, 1.0, 2.5]))
def test_depth_is_the_distance_to_the_nearest_voxel_outside(mask: Mask, step: float) -> None:
    if mask.all():
        assert np.isinf(depth_of(mask, step)).all()
        return
    expected = ndimage.distance_transform_edt(mask).astype(np.float32) * np.float32(step)
    np.testing.assert_array_equal(depth_of(mask, step), expected)


@given(masks(), st.floats(0.0, 9.0))
def test_a_limit_changes_no_distance_below_it(mask: Mask, reach: float) -> None:
    exact, near = depth_of(mask, 0.7), depth_of(mask, 0.7, reach)
    np.testing.assert_array_equal(near[exact <= reach], exact[exact <= reach])
    assert (near[exact > reach] > reach).all()


@given(masks(), st.floats(0.0, 9.0))
def test_the_surroundings_are_the_voxels_within_a_distance(mask: Mask, reach: float) -> None:
    if mask.any():
        np.testing.assert_array_equal(within(mask, reach, 0.7), depth_of(~mask, 0.7) <= reach)


def test_distances_are_exact_in_arrays_of_any_size() -> None:
    line = np.ones((2, 3, 400), dtype=bool)
    line[0, 0, 0] = False
    assert depth_of(line, 1.0)[1, 2, 399] == pytest.approx(np.sqrt(1 + 4 + 399**2))


def test_a_rim_excludes_voxels_nearer_to_another_body() -> None:
    body, other = np.zeros((2, 21, 21, 21), dtype=bool)
    body[10, 10, 4] = other[10, 10, 10] = True
    rim = rim_distance(body, other, 0.5, 3.0)
    assert rim[10, 10, 6] == 1.0  # two voxels from the body, four from the other
    assert np.isinf(rim[10, 10, [4, 7, 8, 10]]).all()  # the body, as near to both, nearer to the other, the other
    assert rim[10, 16, 4] == 3.0
    assert np.isinf(rim[10, 17, 4])  # beyond the reach


def test_boxes_are_clipped_to_the_array() -> None:
    mask = np.zeros((9, 9, 9), dtype=bool)
    mask[1:3, 4, 8] = True
    assert box_around(mask, 1.0, 0.5) == (slice(0, 5), slice(2, 7), slice(6, 11))
    box, middle = around((1, 4, 8), 1.0, 0.5)
    assert middle == (1, 3, 3)
    assert np.argwhere(np.where(mask, np.arange(9), 0)[box])[0].tolist() == [1, 3, 3]
