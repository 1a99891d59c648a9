"""Where lung is, and what is reported away from it."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage
from skimage.morphology import convex_hull_image

from src.data.aeration import coarse_means, distance_to, find_lungs, inside_body
from src.data.geometry import RAS_TO_LPS, canonical, map_points, spacing_of
from src.data.lungs import LungRegion
from src.inference.main import InferencePipeline
from src.inference.sliding_window import Predictions
from src.types import Preprocessed, Vec3

from .small_scans import block, chest


def _before_the_skin() -> npt.NDArray[np.float64]:
    """A world point (RAS+) in the air before the chest."""
    array, affine = canonical(chest()[0].array, chest()[0].affine)
    x, _, z = array.shape
    return map_points(affine, (x / 2, 3, z / 2))


@pytest.fixture(scope="module")
def lungs() -> LungRegion:
    scan, _ = chest()
    region = find_lungs(*canonical(scan.array, scan.affine))
    assert region is not None
    return region


def test_every_nodule_of_the_chest_is_beside_lung_and_the_table_is_not(lungs: LungRegion) -> None:
    assert 1 < lungs.litres < 8
    for nodule in chest()[1]:
        world = map_points(RAS_TO_LPS, nodule.coordinates_lps)
        assert lungs.distance_to(world) < nodule.diameter_mm / 2 + 12
    assert lungs.distance_to(_before_the_skin()) > 30


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_axes_in_any_order_give_the_same_lungs(order: tuple[int, int, int], lungs: LungRegion) -> None:
    scan, _ = chest()
    turned = np.eye(4)[:, [*order, 3]]
    again = find_lungs(*canonical(scan.array.transpose(order), scan.affine @ turned))
    assert again is not None
    assert again.litres == lungs.litres


def test_a_field_of_view_through_the_lungs_keeps_them(lungs: LungRegion) -> None:
    scan, _ = chest()
    array, affine = canonical(scan.array, scan.affine)
    cut = find_lungs(array[array.shape[0] // 4 : -array.shape[0] // 4], affine)
    assert cut is not None
    assert 0.3 * lungs.litres < cut.litres < lungs.litres


@given(arrays(np.bool_, (9, 7, 2)))
def test_the_body_is_filled_to_its_convex_hull_slice_by_slice(tissue: npt.NDArray[np.bool_]) -> None:
    labels, count = ndimage.label(tissue)
    largest = labels == 1 + np.argmax(np.bincount(labels.ravel())[1:]) if count else tissue
    hulls = [
        convex_hull_image(one, offset_coordinates=False) if np.ptp(np.argwhere(one), axis=0).all() else one
        for one in np.moveaxis(largest, 2, 0)
        if one.any()
    ]
    found = [one for one in np.moveaxis(inside_body(tissue), 2, 0) if one.any()]
    np.testing.assert_array_equal(found, hulls)


@given(st.tuples(*[st.floats(0.5, 7)] * 3), st.tuples(*[st.floats(-300, 300)] * 3), st.integers(0, 2))
def test_coarse_voxels_lie_where_their_mean_is(spacing: Vec3, origin: Vec3, axis: int) -> None:
    """Of a scan whose HU are a world coordinate, so are those of the coarse voxels."""
    affine = RAS_TO_LPS @ np.diag([*spacing, 1.0])
    affine[:3, 3] = origin
    places = map_points(affine, np.moveaxis(np.indices((13, 14, 15)), 0, -1))
    means, wide = coarse_means(places[..., axis].astype(np.float32), affine)
    expected = map_points(wide, np.moveaxis(np.indices(means.shape), 0, -1))[..., axis]
    np.testing.assert_allclose(means, expected, atol=2e-3)
    steps = np.round(spacing_of(wide) / np.array(spacing))
    assert ((steps == 1) | (np.abs(np.array(spacing_of(wide)) - 3) <= np.array(spacing) / 2 + 1e-9)).all()


@given(arrays(np.bool_, (4, 5, 6)).filter(np.any), st.tuples(*[st.floats(0.5, 3)] * 3))
def test_distances_to_the_lungs_are_those_to_the_nearest_voxel(
    lung: npt.NDArray[np.bool_], spacing: tuple[float, float, float]
) -> None:
    affine = np.diag([*spacing, 1.0])
    region = LungRegion(lung, distance_to(lung, spacing), affine, 1.0)
    exact = ndimage.distance_transform_edt(~lung, sampling=spacing)
    np.testing.assert_allclose(region.around, exact, rtol=1e-5)
    corner = map_points(affine, np.array([3.0, 0.0, 5.0]))
    assert region.distance_to(corner) == pytest.approx(exact[3, 0, 5])


@pytest.mark.parametrize("fill", [-1000, 40])
def test_without_lungs_there_is_no_region(fill: int) -> None:
    scan, _ = block()
    assert find_lungs(scan.array, scan.affine) is None
    assert find_lungs(np.full((40, 40, 40), fill, dtype=np.int16), np.diag([3.0, 3.0, 3.0, 1.0])) is None


def test_marks_away_from_the_lungs_are_counted_but_not_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    scan, truth = chest()
    ready = InferencePipeline(config={"inference": {"region": "everything"}}, device="cpu")
    inside = map_points(RAS_TO_LPS, truth[0].coordinates_lps)

    def marks(volume: Preprocessed, *_: Any) -> Predictions:  # noqa: ANN401 - a callback
        maps = np.zeros((3, *(-(-size // 2) for size in volume.array.shape)), dtype=np.float32)
        maps[1] = 20  # mm
        for world in (inside, _before_the_skin()):
            index = map_points(np.linalg.inv(volume.affine), world) / 2
            maps[(0, *np.rint(index).astype(int))] = 0.9
        return Predictions(maps, 1, 0)

    monkeypatch.setattr(ready, "_infer", marks)
    results = ready.predict(scan)
    assert results["metadata"]["left_out"] == {"away_from_lungs": 1, "too_small": 0, "too_large": 0}
    (found,) = results["detections"]
    assert np.linalg.norm(np.subtract(found["coordinates"], truth[0].coordinates)) < 3


def test_the_heatmap_lies_where_the_network_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    scan, truth = block(2)
    ready = InferencePipeline(device="cpu")
    world = map_points(scan.affine, np.divide(truth.coordinates, scan.spacing))

    def bump(volume: Preprocessed, *_: Any) -> Predictions:  # noqa: ANN401 - a callback
        maps = np.zeros((3, *(-(-size // 2) for size in volume.array.shape)), dtype=np.float32)
        maps[1] = 12  # mm
        places = map_points(volume.affine, 2 * np.moveaxis(np.indices(maps.shape[1:]), 0, -1))
        maps[0] = 0.9 * np.exp(-((places - world) ** 2).sum(axis=-1) / (2 * 4.0**2))
        return Predictions(maps, 1, 0)

    monkeypatch.setattr(ready, "_infer", bump)
    results = ready.predict(scan)
    heat = np.asarray(results["heatmap"], dtype=np.float64)
    heat[heat < 0.1] = 0
    middle = [float(np.average(axis, weights=heat)) for axis in np.indices(heat.shape)]
    np.testing.assert_allclose(map_points(scan.affine, middle), world, atol=0.15)
    assert results["detections"][0]["coordinates"] == pytest.approx(truth.coordinates, abs=0.1)
