"""Resampling keeps positions and adds no aliasing."""

import numpy as np
import pytest

from src.data.resample import check_size, new_grid, resample
from src.errors import BadScan
from src.types import FloatArray, Vec3

FWHM = 2 * np.sqrt(2 * np.log(2))  # full width at half maximum of a Gaussian, in standard deviations


def _blob(sigma: float) -> FloatArray:
    """A Gaussian of `sigma` voxels in the middle of 61 x 61 x 61 voxels, in HU above air."""
    squares = sum(axis**2 for axis in np.ogrid[-30:31, -30:31, -30:31])
    return np.asarray(1000 * np.exp(-squares / (2 * sigma**2)) - 1000, np.float32)


@pytest.mark.parametrize("spacing", [(2.0, 1.0, 1.0), (1.0, 2.0, 1.0), (1.0, 1.0, 3.0), (2.0, 2.0, 2.0)])
def test_coarser_voxels_blur_by_the_difference_of_the_two_sizes(spacing: Vec3) -> None:
    new, _ = resample(_blob(4.0), np.eye(4), spacing)
    for axis, size in enumerate(spacing):
        profile = (new + 1000).sum(axis=tuple({0, 1, 2} - {axis}), dtype=np.float64)
        places = np.arange(len(profile)) * size - 30.0
        variance = float(profile @ places**2 / profile.sum())
        assert profile @ places / profile.sum() == pytest.approx(0, abs=1e-3)
        assert variance == pytest.approx(4.0**2 + (size**2 - 1) / FWHM**2, rel=1e-3)


def test_stripes_too_fine_for_the_new_grid_vanish() -> None:
    stripes = np.where(np.arange(60) % 2, 400.0, -400.0)[:, None, None] * np.ones((1, 4, 4))
    new, _ = resample(stripes.astype(np.float32), np.eye(4), (3.0, 1.0, 1.0))
    assert np.abs(new[2:-2]).max() < 25


@pytest.mark.parametrize("level", [-1000, 40, 300])
def test_points_beyond_the_last_voxel_get_the_lowest_value_of_the_scan(level: int) -> None:
    new, _ = resample(np.full((4, 4, 4), level, np.int16), np.eye(4), (2.5, 2.5, 2.5))
    assert new.shape == (3, 3, 3)  # at 0, 2.5 and 5 mm; 5 mm lies beyond the last voxel at 3.5 mm
    np.testing.assert_allclose(new, level)


def test_the_scan_ends_half_a_voxel_beyond_its_last_centre() -> None:
    ramp = np.arange(4, dtype=np.float32)[:, None, None] * np.ones((1, 2, 2), np.float32)
    finer, _ = resample(ramp, np.eye(4), (0.4, 1.0, 1.0))
    np.testing.assert_allclose(finer[:, 0, 0], np.minimum(np.arange(9) * 0.4, 3.0), atol=1e-6)


@pytest.mark.parametrize("spacing", [0.4, 1.0, 2.5])
def test_an_axis_of_one_voxel_stays_one_voxel(spacing: float) -> None:
    slice_ = np.arange(9, dtype=np.float32).reshape(3, 3, 1)
    new, _ = resample(slice_, np.eye(4), (1.0, 1.0, spacing))
    np.testing.assert_allclose(new, slice_, atol=1e-6)


@pytest.mark.parametrize(("sides", "allowed"), [((512, 1024, 1024), True), ((512, 1024, 1025), False)])
def test_a_grid_has_at_most_two_to_the_29_voxels(sides: tuple[int, int, int], *, allowed: bool) -> None:
    if allowed:
        check_size(sides, (1.0, 1.0, 1.0))
    else:
        with pytest.raises(BadScan, match="voxels"):
            check_size(sides, (1.0, 1.0, 1.0))


@pytest.mark.parametrize(("step", "count"), [(0.7, 7), (1.6, 4), (2.5, 3), (1.0005, 5)])
def test_the_plain_grid_ends_at_the_voxel_nearest_to_the_last_and_repeats_it(step: float, count: int) -> None:
    """Five voxels of 1 mm, as MONAI's `Spacing` resamples them; a spacing that is almost right changes nothing."""
    ramp = np.arange(5, dtype=np.float32)[:, None, None] * np.ones((1, 2, 2), np.float32)
    new, grid = resample(ramp, np.eye(4), (step, 1.0, 1.0), plain=True)
    steps = 1.0 if step == 1.0005 else step
    assert new.shape == (count, 2, 2)
    assert grid[0, 0] == pytest.approx(steps)
    np.testing.assert_allclose(new[:, 0, 0], np.minimum(np.arange(count) * steps, 4.0), atol=1e-5)


def test_a_new_grid_reaches_the_last_voxel() -> None:
    shape, grid = new_grid((5, 7, 4), np.diag([1.0, 1.0, 2.0, 1.0]), (1.6, 1.0, 1.0))
    assert shape == (4, 7, 7)  # 0 to 4.8 mm, 0 to 6 mm and 0 to 6 mm
    assert np.diag(grid).tolist() == [1.6, 1.0, 1.0, 1.0]
