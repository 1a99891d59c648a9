"""Resampling keeps positions and adds no aliasing."""

import nibabel
import numpy as np
import numpy.typing as npt
import pytest
import SimpleITK as sitk
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from src.data.geometry import RAS_TO_LPS, map_points
from src.data.resample import check_size, new_grid, resample, through, to_grid
from src.errors import BadScan
from src.followup.registration import as_image
from src.types import Affine, FloatArray, Shape3, Vec3

FWHM = 2 * np.sqrt(2 * np.log(2))  # full width at half maximum of a Gaussian, in standard deviations


def _affine(spacing: Vec3) -> Affine:
    """A grid of this spacing, whose first voxel does not lie at the origin of the world."""
    affine = RAS_TO_LPS @ np.diag([*spacing, 1.0])
    affine[:3, 3] = (5.0, -7.0, 11.0)
    return affine


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


@pytest.mark.parametrize(("step", "last"), [(0.4, 13.0), (0.875, 13.0), (0.9, 10.0)])
def test_the_scan_ends_half_a_voxel_beyond_its_last_centre(step: float, last: float) -> None:
    """Voxels of 10 to 13 HU, 1 mm apart. The last new voxel lies at 3.2, 3.5 or 3.6 mm; beyond 3.5 mm is air."""
    ramp = np.arange(10, 14, dtype=np.float32)[:, None, None] * np.ones((1, 2, 2), np.float32)
    finer, _ = resample(ramp, np.eye(4), (step, 1.0, 1.0))
    expected = np.minimum(10 + np.arange(len(finer)) * step, 13.0)
    expected[-1] = last
    np.testing.assert_allclose(finer[:, 0, 0], expected, atol=1e-5)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize(("old", "new", "count"), [(1.0, 3.0, 7), (0.5, 1.5, 7), (2.0, 0.7, 53), (1.25, 0.9, 26)])
def test_each_axis_is_smoothed_if_its_voxels_grow_and_then_interpolated(
    axis: int, old: float, new: float, count: int
) -> None:
    """A reference in NumPy. The Gaussian ends at four SD; the last voxel is repeated beyond the scan."""
    values = np.random.default_rng(0).normal(-500, 200, 19)
    kernel = np.ones(1)
    if new > old:  # a standard deviation of 1.2 voxels, so the kernel ends at 5 voxels
        kernel = np.exp(-0.5 * (np.arange(-5, 6) / (np.sqrt(new**2 - old**2) / FWHM / old)) ** 2)
    smooth = np.convolve(np.pad(values, len(kernel) // 2, mode="edge"), kernel / kernel.sum(), mode="valid")
    expected = np.interp(np.arange(count) * new / old, np.arange(19), smooth)
    sides, spacing = [1.0, 1.0, 1.0], [1.0, 1.0, 1.0]
    sides[axis], spacing[axis] = old, new
    affine = _affine((sides[0], sides[1], sides[2]))
    others = 10.0 * np.arange(2)[:, None] + 100.0 * np.arange(3)
    volume, wanted = (np.moveaxis(line[:, None, None] + others, 0, axis) for line in (values, expected))
    found, grid = resample(volume, affine, (spacing[0], spacing[1], spacing[2]))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted, atol=0.01)
    np.testing.assert_allclose(grid, _affine((spacing[0], spacing[1], spacing[2])))


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (1.3, 0.8, 2.0), (1.0009, 0.9991, 1.0)])
def test_resampling_a_box_equals_cropping_the_resampled_scan(spacing: Vec3, *, plain: bool) -> None:
    scan, box = np.random.default_rng(0).normal(0, 100, (9, 8, 10)), (slice(2, 5), slice(1, 6), slice(3, 4))
    whole, grid = resample(scan, _affine((1.0, 1.0, 1.0)), spacing, plain=plain)
    part, moved = resample(scan, _affine((1.0, 1.0, 1.0)), spacing, box, plain=plain)
    np.testing.assert_array_equal(part, whole[box])
    expected = grid.copy()
    expected[:3, 3] = map_points(grid, (2, 1, 3))
    np.testing.assert_allclose(moved, expected)


def test_spacings_that_differ_by_less_than_a_micrometre_are_equal() -> None:
    scan, affine = np.arange(24, dtype=np.int16).reshape(2, 3, 4), _affine((1.0, 0.7, 2.5))
    shape, grid = new_grid((2, 3, 4), affine, (1.0009, 0.6991, 2.5))
    assert shape == (2, 3, 4)
    assert grid is affine
    found, _ = resample(scan, affine, (1.0009, 0.6991, 2.5))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, scan)
    assert new_grid((2, 3, 4), affine, (1.0011, 0.7, 2.5))[1] is not affine


def _matrices() -> list[npt.NDArray[np.float64]]:
    rng = np.random.default_rng(0)
    return [rng.random(shape) for shape in ((10, 3), (6, 4), (7, 11))]


def test_a_volume_is_multiplied_by_a_matrix_along_each_axis() -> None:
    volume = np.random.default_rng(1).random((3, 4, 11), np.float32)
    matrices = _matrices()
    x, y, z = (sparse.csr_array(matrix, dtype=np.float32) for matrix in matrices)
    expected = np.einsum("ai,bj,ck,ijk->abc", *matrices, 2 * volume)
    np.testing.assert_allclose(through(volume, x, y, z, lambda plane: 2 * plane), expected, rtol=1e-5)
    np.testing.assert_allclose(through(volume, x, y, z, lambda plane: 2 * plane, base=3.0), expected + 3, rtol=1e-5)


def test_each_plane_is_clipped_to_its_own_range_of_values() -> None:
    volume = np.random.default_rng(1).normal(size=(3, 4, 11)).astype(np.float32)
    matrices = _matrices()
    x, y, z = (sparse.csr_array(matrix, dtype=np.float32) for matrix in matrices)
    planes = np.einsum("ai,bj,ijk->abk", *matrices[:2], volume).clip(volume.min((0, 1)), volume.max((0, 1)))
    found = through(volume, x, y, z, lambda plane: plane, each=True)
    np.testing.assert_allclose(found, np.einsum("ck,abk->abc", matrices[2], planes), rtol=1e-4, atol=1e-4)


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
        with pytest.raises(BadScan, match="takes 512 x 1024 x 1025 voxels of 1 x 1 x 1 mm, more than 536870912"):
            check_size(sides, (1.0, 1.0, 1.0))


@pytest.mark.parametrize(
    ("spacing", "voxels"),
    [
        ((0.5, 1.0, 1.0), 7 * 4 * 4),
        ((1.0, 0.5, 1.0), 4 * 7 * 4),
        ((1.0, 1.0, 0.5), 4 * 4 * 7),
        ((1.0, 1.0, 2.0), 4 * 4 * 4),  # every old slice is resampled in its plane first
    ],
)
def test_a_scan_is_resampled_if_it_fits_into_memory(
    spacing: Vec3, voxels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = np.zeros((4, 4, 4), np.int16)
    monkeypatch.setattr("src.data.resample.LARGEST", voxels)
    resample(scan, np.eye(4), spacing)
    monkeypatch.setattr("src.data.resample.LARGEST", voxels - 1)
    with pytest.raises(BadScan, match="crop it to the chest"):
        resample(scan, np.eye(4), spacing)


@pytest.mark.parametrize(("step", "count"), [(1.4, 7), (3.2, 4), (5.0, 3), (2.0009, 5), (2.0011, 5)])
def test_the_plain_grid_ends_at_the_voxel_nearest_to_the_last_and_repeats_it(step: float, count: int) -> None:
    """Five voxels of 2 mm, as MONAI's `Spacing` resamples them; a spacing that is almost right changes nothing."""
    ramp = np.arange(5, dtype=np.float32)[:, None, None] * np.ones((1, 2, 2), np.float32)
    new, grid = resample(ramp, _affine((2.0, 1.0, 1.0)), (step, 1.0, 1.0), plain=True)
    steps = 2.0 if step == 2.0009 else step
    assert new.shape == (count, 2, 2)
    np.testing.assert_allclose(grid, _affine((steps, 1.0, 1.0)), rtol=1e-9)
    np.testing.assert_allclose(new[:, 0, 0], np.minimum(np.arange(count) * steps / 2, 4.0), atol=1e-5)


def test_a_new_grid_reaches_the_last_voxel() -> None:
    shape, grid = new_grid((5, 7, 4), _affine((1.0, 1.0, 2.0)), (1.7, 1.0, 1.0))
    assert shape == (4, 7, 7)  # 0 to 5.1 mm, 0 to 6 mm and 0 to 6 mm
    np.testing.assert_allclose(grid, _affine((1.7, 1.0, 1.0)))


millimetres = st.tuples(*[st.floats(0.4, 6).map(lambda size: round(size, 3))] * 3)


@given(st.tuples(*[st.integers(1, 40)] * 3), millimetres, millimetres)
def test_a_new_grid_spans_from_the_first_voxel_to_the_last(shape: Shape3, old: Vec3, spacing: Vec3) -> None:
    affine = RAS_TO_LPS @ np.diag([*old, 1.0])
    affine[:3, 3] = (-120, 40, 7)
    new, grid = new_grid(shape, affine, spacing)
    np.testing.assert_allclose(grid[:3, 3], affine[:3, 3])
    last = map_points(np.linalg.inv(grid), map_points(affine, np.array(shape) - 1.0))
    assert ((np.array(new) - 1 - last > -0.01) & (np.array(new) - 1 - last < 1)).all()


def test_a_map_keeps_its_place_on_another_grid() -> None:
    heat = np.zeros((8, 9, 10), np.float32)
    heat[4, 5, 6] = 1
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = (10, -4, 6)
    finer = to_grid(heat, affine, (60, 40, 50), np.diag([1.0, 1.0, 1.0, 1.0]))
    assert [int(i) for i in np.unravel_index(finer.argmax(), finer.shape)] == [18, 6, 18]
    assert finer.max() == 1
    assert finer.sum() == pytest.approx(8, abs=1e-3)
    assert not to_grid(heat, affine, (5, 5, 5), np.diag([1.0, 1.0, 1.0, 1.0])).any()


@pytest.mark.parametrize("orientation", ["LPS", "RAS", "PSL", "IRA"])
def test_a_map_on_a_grid_with_other_axes_agrees_with_simpleitk(orientation: str) -> None:
    heat = np.random.default_rng(0).random((12, 9, 14), np.float32)
    affine = RAS_TO_LPS @ np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = (10, -4, 6)
    fine = nibabel.Nifti1Image(np.zeros((30, 25, 20), np.int8), RAS_TO_LPS @ np.diag([0.9, 0.7, 1.25, 1.0]))
    codes = nibabel.orientations.axcodes2ornt(orientation)
    target = fine.as_reoriented(nibabel.orientations.ornt_transform(nibabel.io_orientation(fine.affine), codes))
    image = as_image(np.zeros(target.shape, np.uint8), target.affine)
    expected = sitk.Resample(as_image(heat, affine), image, sitk.Transform(), sitk.sitkLinear, 0.0, sitk.sitkFloat32)
    found = to_grid(heat, affine, target.shape, target.affine)
    np.testing.assert_allclose(found, sitk.GetArrayFromImage(expected).transpose(2, 1, 0), atol=1e-5)
