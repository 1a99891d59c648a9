"""Axes in a standard order: every voxel stays where it is in the world, whichever way the array's axes run."""

from itertools import permutations, product

import numpy as np
import pytest

from src.data.geometry import canonical, map_points, sphere_diameter, to_lps, turn_box
from src.types import Affine, FloatArray

SHAPE = (3, 4, 5)
ORIENTATIONS = [
    pytest.param(order, signs, id=f"{order}{signs}")
    for order in permutations(range(3))
    for signs in product((1, -1), repeat=3)
]


def _affine(order: tuple[int, ...], signs: tuple[int, ...]) -> Affine:
    """Array axes of 0.5, 1 and 2 mm along the world axes in an order, each forwards or backwards."""
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis, (world, sign, size) in enumerate(zip(order, signs, (0.5, 1.0, 2.0), strict=True)):
        affine[world, axis] = sign * size
    affine[:3, 3] = 10.0, -20.0, 30.0
    return affine


def _places(array: FloatArray, affine: Affine) -> dict[float, list[float]]:
    """The world point of each value."""
    points = map_points(affine, np.argwhere(np.isfinite(array)))
    return {float(value): point.tolist() for value, point in zip(array.ravel(), points, strict=True)}


@pytest.mark.parametrize(("order", "signs"), ORIENTATIONS)
@pytest.mark.parametrize("axes", ["LPS", "RAS"])
def test_axes_turn_towards_their_ends_and_no_voxel_moves(
    order: tuple[int, ...], signs: tuple[int, ...], axes: str
) -> None:
    """All 48 orientations."""
    array = np.arange(60, dtype=np.float32).reshape(SHAPE)
    affine = _affine(order, signs)
    turned, there = canonical(array, affine, axes)
    assert _places(np.asarray(turned), there) == _places(array, affine)
    ends = np.diag(there[:3, :3])
    assert np.count_nonzero(there[:3, :3]) == 3
    assert np.sign(ends).tolist() == [1.0 if end in "RAS" else -1.0 for end in axes]


@pytest.mark.parametrize(("order", "signs"), ORIENTATIONS)
def test_a_box_holds_the_same_voxels_on_the_turned_grid(order: tuple[int, ...], signs: tuple[int, ...]) -> None:
    array = np.arange(60, dtype=np.float32).reshape(SHAPE)
    affine = _affine(order, signs)
    turned, there = canonical(array, affine)
    box, origin = turn_box(turned[1:, :2, 1:3], (1, 0, 1), np.linalg.inv(affine) @ there)
    here = array[tuple(slice(first, first + size) for first, size in zip(origin, box.shape, strict=True))]
    np.testing.assert_array_equal(box, here)


def test_lps_is_ras_with_two_signs_changed() -> None:
    assert to_lps(_affine((0, 1, 2), (1, 1, 1)), (2, 3, 4)).tolist() == [-11.0, 17.0, 38.0]


def test_the_diameter_of_a_sphere() -> None:
    assert sphere_diameter(4 / 3 * np.pi * 5**3) == pytest.approx(10)
