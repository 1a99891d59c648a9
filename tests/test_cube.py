"""The neighbourhood of a point on a fine grid, the way back to the scan's grid, and the walls in it."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from src.measurement.cube import Cube, on_scan, sample_cube, touches_border
from src.measurement.edges import slice_blur
from src.measurement.masks import Mask, connected
from src.measurement.walls import _between, _faces, _Surface, base_on_wall, find_wall
from src.types import FloatArray, Shape3, Vec3

SPACING = (0.5, 1.0, 2.0)
Points = npt.NDArray[np.floating]


def _cubic(x: Points, y: Points, z: Points) -> Points:
    """HU at a position in mm: a cubic polynomial along each axis."""
    return 2 * (x - 3) ** 3 + 3 * (y - 4) ** 2 * (x - 2) - 5 * (z - 6) ** 3 / 10 + 7 * y * z


def _scan(shape: Shape3) -> Points:
    x, y, z = (np.arange(n) * s for n, s in zip(shape, SPACING, strict=True))
    return _cubic(x[:, None, None], y[:, None], z)


def _empty(shape: Shape3, step: float = 1.0) -> Cube:
    return Cube(np.zeros(shape, np.float32), np.ones(shape, bool), step, step)


def test_splines_return_the_values_of_a_cubic_polynomial() -> None:
    cube = sample_cube(_scan((16, 12, 9)), (3.3, 4.1, 7.7), SPACING, half=1.0, step=0.3)
    assert cube.hu.shape == (9, 9, 9)  # four steps reach at least 1 mm
    assert (cube.step, cube.thickness, cube.middle) == (0.3, 2.0, (4, 4, 4))
    x, y, z = (p + 0.3 * np.arange(-4, 5) for p in (3.3, 4.1, 7.7))
    np.testing.assert_allclose(cube.hu, _cubic(x[:, None, None], y[:, None], z), rtol=1e-4, atol=0.01)
    assert cube.inside.all()


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_scan_extends_half_a_voxel_beyond_its_last_centre(axis: int) -> None:
    """Four voxels of 1 mm from 0 to 3 mm; beyond an end the last value is repeated."""
    scan = np.moveaxis(np.arange(4.0)[:, None, None] ** 2 * np.ones((1, 7, 7)), 0, axis)
    for at, inside in ((0.0, [0, 0, 0, 1, 1, 1, 1]), (3.0, [1, 1, 1, 1, 0, 0, 0])):
        point = [3.0, 3.0, 3.0]
        point[axis] = at
        cube = sample_cube(scan, (point[0], point[1], point[2]), (1.0, 1.0, 1.0), half=1.5, step=0.5)
        line = np.moveaxis(cube.hu, axis, 0)[:, 3, 3]
        np.testing.assert_allclose(line, (at + 0.5 * np.arange(-3, 4)).clip(0, 3) ** 2, atol=1e-4)
        expected = np.array(inside, bool)
        expected[2 if at == 0 else 4] = False  # a place half a voxel beyond lies outside
        np.testing.assert_array_equal(np.moveaxis(cube.inside, axis, 0)[:, 3, 3], expected)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_scan_of_few_slices_is_interpolated_with_a_lower_order(count: int) -> None:
    """One slice gives a constant, two give a line, three give a parabola."""
    at = np.arange(count, dtype=np.float64)
    scan = np.ones((9, 9, 1)) * (100 + 50 * at + 10 * at**2)
    cube = sample_cube(scan, (4.0, 4.0, 1.0), (1.0, 1.0, 1.0), half=1.0, step=0.5)
    z = np.arange(0, 2.1, 0.5).clip(0, count - 1)
    expected = 100 + (60 * z if count == 2 else 50 * z + 10 * z**2)
    np.testing.assert_allclose(cube.hu, np.broadcast_to(expected, (5, 5, 5)), rtol=1e-5)


def test_hu_are_limited_to_the_range_of_ct() -> None:
    for hu, limited in ((-3000, -1024), (5000, 3071), (-1024, -1024), (3071, 3071)):
        cube = sample_cube(np.full((9, 9, 9), hu, np.int16), (4.0, 4.0, 4.0), (1.0, 1.0, 1.0), half=1.0, step=1.0)
        np.testing.assert_allclose(cube.hu, limited, rtol=1e-5)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_four_voxels_on_each_side_are_read_and_no_more(axis: int) -> None:
    """The places lie between 8.5 and 10.5 voxels, so voxels 4 to 15 are read."""
    for voxel, read in ((3, False), (4, True), (14, True), (15, False)):
        scan = np.zeros((20, 20, 20), np.float32)
        np.moveaxis(scan, axis, 0)[voxel] = np.nan
        cube = sample_cube(scan, (9.5, 9.5, 9.5), (1.0, 1.0, 1.0), half=1.0, step=0.5)
        assert np.isnan(cube.hu).any() == read


def test_distances_from_a_voxel_are_in_millimetres() -> None:
    x, y, z = np.indices((3, 4, 5)) - np.array([1, 3, 0])[:, None, None, None]
    np.testing.assert_allclose(
        _empty((3, 4, 5), 0.7).away_from((1, 3, 0)), 0.7 * np.sqrt(x**2 + y**2 + z**2), rtol=1e-6
    )


def test_a_body_at_a_face_of_the_cube_or_outside_the_scan_touches_the_border() -> None:
    body, inside = np.zeros((5, 5, 5), bool), np.ones((5, 5, 5), bool)
    body[1:4, 1:4, 1:4] = True
    inside[4] = False
    cube = Cube(np.zeros((5, 5, 5), np.float32), inside, 1.0, 1.0)
    assert not touches_border(body, cube)
    for voxel in ((0, 2, 2), (4, 2, 2), (2, 0, 2), (2, 4, 2), (2, 2, 0), (2, 2, 4)):
        larger = body.copy()
        larger[voxel] = True
        assert touches_border(larger, _empty((5, 5, 5)))
    inside[3, 2, 2] = False
    assert touches_border(body, cube)


@pytest.mark.parametrize("point", [(10.1, 10.2, 10.5), (1.1, 0.8, 0.9), (18.9, 18.7, 18.8)])
def test_a_body_covers_the_voxels_of_the_scan_whose_centres_lie_in_it(point: Vec3) -> None:
    """A box that reaches 2.2 mm from the point, 2.7 mm beyond it along x. Outside the scan there are no voxels."""
    cube = _empty((41, 41, 41), 0.2)
    body = np.zeros((41, 41, 41), bool)
    body[9:34, 9:32, 9:32] = True  # steps -11 to 13, and -11 to 11; the faces lie half a step further out
    shape = (39, 20, 10)
    mask, origin = on_scan(body, cube, shape, point, SPACING)
    x, y, z = (np.arange(n) * s - p for n, s, p in zip(shape, SPACING, point, strict=True))
    inside = ((x > -2.3) & (x < 2.7))[:, None, None] & (abs(y) < 2.3)[:, None] & (abs(z) < 2.3)
    found = np.zeros(shape, bool)
    found[tuple(slice(a, a + n) for a, n in zip(origin, mask.shape, strict=True))] = mask
    np.testing.assert_array_equal(found, inside)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_body_between_the_voxels_of_the_scan_gets_the_nearest_one(axis: int) -> None:
    body = np.zeros((5, 5, 5), bool)
    body[2, 2, 2] = True
    point = [4.0, 4.0, 4.0]
    point[axis] = 4.15  # 0.6 steps from a voxel, so that it holds 0.4 of the body
    mask, origin = on_scan(body, _empty((5, 5, 5), 0.25), (9, 9, 9), (point[0], point[1], point[2]), (1.0, 1.0, 1.0))
    assert origin == (4, 4, 4)
    assert mask.shape == (1, 1, 1)
    assert mask.all()


def test_a_component_contains_the_voxels_connected_by_faces() -> None:
    mask = np.array([[[1, 1, 0, 1]], [[0, 0, 1, 0]]], bool)
    np.testing.assert_array_equal(np.argwhere(connected(mask, (0, 0, 1))), [(0, 0, 0), (0, 0, 1)])
    np.testing.assert_array_equal(np.argwhere(connected(mask, (0, 0, 3))), [(0, 0, 3)])


class TestWalls:
    """The chest wall, and the part of it that belongs to a nodule."""

    def test_values_between_known_voxels_are_means_of_their_neighbours(self) -> None:
        known = np.random.default_rng(0).random((3, 4, 2), np.float32)
        fine = _between(known)
        assert fine.shape == (5, 7, 3)
        np.testing.assert_allclose(fine[::2, ::2, ::2], known)
        np.testing.assert_allclose(fine[1, 2, 0], known[:2, 1, 0].mean())
        np.testing.assert_allclose(fine[4, 5, 2], known[2, 2:4, 1].mean())
        np.testing.assert_allclose(fine[3, 1, 1], known[1:, :2, :].mean())

    @pytest.mark.parametrize("step", [0.5, 1.0])
    @pytest.mark.parametrize(("thickness", "found"), [(5, False), (14, True)])
    def test_a_ball_of_4_voxels_rolls_through_a_plate_that_is_thicker_than_itself(
        self, step: float, thickness: int, *, found: bool
    ) -> None:
        solid = np.zeros((25, 25, 25), bool)
        solid[:, :, 5 : 5 + thickness] = True
        plate = solid.copy()
        solid[12, 12, :] = True  # a rod through it
        depth = _depth(solid, step)
        wall = find_wall(solid, depth, 4 * step, step)
        np.testing.assert_array_equal(wall[2:-2, 2:-2] & plate[2:-2, 2:-2], plate[2:-2, 2:-2] & found)
        assert not wall[:, :, 5 + thickness + 2 :].any()
        assert not find_wall(solid, depth, 100.0, step).any()

    def test_faces_lie_between_two_voxels(self) -> None:
        one, two = np.zeros((2, 5, 5, 5), bool)
        one[2, 2, 2] = True
        for voxel, face in (
            ((1, 2, 2), (1.5, 2, 2)),
            ((3, 2, 2), (2.5, 2, 2)),
            ((2, 1, 2), (2, 1.5, 2)),
            ((2, 3, 2), (2, 2.5, 2)),
            ((2, 2, 1), (2, 2, 1.5)),
            ((2, 2, 3), (2, 2, 2.5)),
        ):
            two[:] = False
            two[voxel] = True
            np.testing.assert_array_equal(_faces(one, two), [face])
        two[:] = True
        assert len(_faces(one, two)) == 6

    @pytest.mark.parametrize("shape", [lambda x, _: 0 * x, lambda x, y: 0.02 * x**2 - 0.01 * x * y + 0.03 * y**2])
    def test_a_quadratic_surface_is_found_in_spite_of_outliers(self, shape: Callable[[Points, Points], Points]) -> None:
        x, y = (line.ravel() for line in np.meshgrid(np.arange(-6.0, 7), np.arange(-6.0, 7)))
        points = np.stack([x, y, shape(x, y)], axis=1)
        wrong = points.copy()
        wrong[::20, 2] += 4
        fit = _Surface(wrong, near=5.0)
        assert fit.spread < 0.05
        upwards = float(np.sign(fit.frame[2, 2]))
        for height in (-1.5, 0.0, 2.0):
            found = fit.height(np.add(points, (0, 0, height))) * upwards
            np.testing.assert_allclose(found, height, atol=0.1 + 0.05 * abs(height))

    def test_the_nearest_points_have_the_largest_weight(self) -> None:
        """A plane whose surroundings deviate by the cube of the distance from the middle."""
        x, y = (line.ravel() for line in np.meshgrid(np.arange(-9.0, 10), np.arange(-9.0, 10)))
        points = np.stack([x, y, 0.01 * x**3], axis=1)
        near, far = (np.abs(_Surface(points, width).height(points[abs(x) < 2])).max() for width in (2.0, 50.0))
        assert near < 0.2 < far

    def test_the_base_of_a_nodule_is_the_part_of_the_wall_above_the_surface_beside_it(self) -> None:
        """A wall below z = 12 with a bump of three voxels under a ball of radius 4 at z = 18."""
        cube = _empty((41, 41, 41))
        x, y, z = np.indices((41, 41, 41)) - 20
        wall, ball = np.broadcast_to(z < -8, z.shape).copy(), x**2 + y**2 + (z + 2) ** 2 <= 16
        bump = (x**2 + y**2 <= 6) & (z >= -8) & (z < -5)
        body = ball & (z >= -5)
        base = base_on_wall(body, wall | bump, wall | bump | ball, (20, 20, 18), 4.0, cube)
        near = bump & (x**2 + y**2 + (z + 2) ** 2 < 49)
        assert base.any()
        assert not (base & ~bump).any()
        np.testing.assert_array_equal(base[bump & (z == -6)], near[bump & (z == -6)])
        assert not base_on_wall(body, np.zeros_like(wall), ball, (20, 20, 18), 4.0, cube).any()


def _depth(mask: Mask, step: float) -> FloatArray:
    return np.asarray(ndimage.distance_transform_edt(np.pad(mask, 9, mode="edge")) * step, np.float32)[9:-9, 9:-9, 9:-9]


class TestSliceBlur:
    """The thickness of slices, from the edge of a ball."""

    @pytest.mark.parametrize("axis", [0, 1, 2])
    @pytest.mark.parametrize("thickness", [0.0, 2.5])
    def test_the_extra_blur_along_one_axis_gives_the_thickness(self, axis: int, thickness: float) -> None:
        smooth, body = _blurred(axis, thickness)
        none = np.zeros_like(body)
        assert slice_blur(smooth, body, none, -850.0, 0.5, axis) == pytest.approx(thickness, abs=0.5)
        if thickness:
            assert slice_blur(smooth, body, none, -850.0, 0.5, (axis + 1) % 3) == 0.0

    def test_a_thickness_is_at_most_8_mm(self) -> None:
        smooth, body = _blurred(2, 14.0)
        assert slice_blur(smooth, body, np.zeros_like(body), -850.0, 0.5, 2) == 8.0

    def test_an_edge_beside_other_tissue_is_not_used(self) -> None:
        smooth, body = _blurred(2, 2.5)
        assert slice_blur(smooth, body, ~body, -850.0, 0.5, 2) == 0.0


def _blurred(axis: int, thickness: float) -> tuple[FloatArray, Mask]:
    """A ball of 14 mm on a grid of 0.5 mm with an edge of 0.5 mm SD, averaged over slices along an axis; its mask."""
    x, y, z = (np.indices((45, 45, 45)) - 22) * 0.5
    away = np.sqrt(x**2 + y**2 + z**2)
    hu = -850 + 900 * (0.5 + (7 - away) / 0.5).clip(0, 1)
    sds = [1.0, 1.0, 1.0]
    sds[axis] = float(np.hypot(1.0, thickness / np.sqrt(12) / 0.5))
    return np.asarray(ndimage.gaussian_filter(hu, sds, mode="nearest"), np.float32), away < 7


@settings(max_examples=20)
@given(st.tuples(*[st.floats(4, 8)] * 3), st.floats(0.2, 0.6))
def test_the_point_is_the_middle_voxel(point: Vec3, step: float) -> None:
    x, y, z = np.meshgrid(*[np.arange(13.0)] * 3, indexing="ij")
    cube = sample_cube(x + 20 * y - 30 * z, point, (1.0, 1.0, 1.0), half=1.0, step=step)
    assert cube.hu[cube.middle] == pytest.approx(point[0] + 20 * point[1] - 30 * point[2], abs=0.01)
