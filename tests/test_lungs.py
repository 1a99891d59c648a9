"""The lungs: their position, the state of each side, and the search and the report if they are uncertain."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage
from skimage.morphology import convex_hull_image

from src.data.coarse import coarse_means, distance_to, inside_body
from src.data.geometry import RAS_TO_LPS, canonical, map_points, spacing_of
from src.data.loader import read_scan
from src.data.lung_finder import find_lungs
from src.data.lungs import Lung, Lungs, Mask, search_region
from src.detection.sliding_window import Predictions
from src.inference.main import InferencePipeline
from src.types import Affine, FloatArray, Preprocessed, Scan, Vec3

from .small_scans import TURNS, block, chest, turned

if TYPE_CHECKING:
    from pathlib import Path

WATER = 10  # HU
REAL = (
    "covid-ct-md-normal001",
    "covid-ct-md-normal002",
    "covid-ct-md-p001",
    "lidc-idri-0646",
    "lidc-idri-0745",
    "nlst-101287",
    "tcga-thca-a4ma",
)


def _in_front_of_the_chest() -> npt.NDArray[np.float64]:
    """A world point (RAS+) in the air in front of the chest."""
    array, affine = canonical(chest()[0].array, chest()[0].affine)
    x, _, z = array.shape
    return map_points(affine, (x / 2, 3, z / 2))


@pytest.fixture(scope="module")
def lungs() -> Lungs:
    return find_lungs(*canonical(chest()[0].array, chest()[0].affine))


class _Chest:
    """A chest in coarse voxels with its lungs, which the tests fill with fluid or cut."""

    def __init__(self, scan: Scan) -> None:
        self.hu, self.affine = coarse_means(*canonical(scan.array, scan.affine))
        self.hu = self.hu.astype(np.float32)
        self.lungs = find_lungs(self.hu, self.affine)
        assert self.lungs.midline
        self.middle = float(np.mean(self.lungs.midline))
        self.x, self.y, self.z = np.ogrid[tuple(map(slice, self.hu.shape))]
        self.box = ndimage.find_objects(self.lungs.lung.astype(np.int8))[0]
        self.air = ndimage.binary_dilation(self.lungs.lung, iterations=2) & (self.hu < -200)

    def level(self, share: float) -> float:
        """The level at a fraction of the height of the lungs, from their base."""
        z = self.box[2]
        return float(z.start + share * (z.stop - z.start))

    def filled(self, where: npt.NDArray[np.bool_], hu: float = WATER) -> Lungs:
        array = self.hu.copy()
        inside = self.air & where
        array[inside] = hu + np.random.default_rng(0).normal(0, 8, inside.sum())
        return find_lungs(array, self.affine)

    def cut(self, *box: slice) -> Lungs:
        shift = np.eye(4)
        shift[:3, 3] = [side.start or 0 for side in box]
        return find_lungs(self.hu[box], self.affine @ shift)


def _synthetic() -> _Chest:
    return _Chest(chest()[0])


@pytest.fixture(scope="module")
def synthetic() -> _Chest:
    return _synthetic()


@pytest.fixture(scope="module", params=["synthetic", "lidc-idri-0001", *REAL])
def any_chest(request: pytest.FixtureRequest) -> _Chest:
    if request.param == "synthetic":
        return _synthetic()
    shared: Path = request.getfixturevalue("shared_data")
    folder = shared / request.param
    return _Chest(read_scan(folder if folder.is_dir() else shared / "backgrounds" / f"{request.param}.nii.gz"))


def test_complete_lungs_are_whole_and_certain(any_chest: _Chest) -> None:
    found = any_chest.lungs
    assert found.right
    assert found.left
    assert (found.right.state, found.left.state) == ("whole", "whole")
    assert found.reason is None
    assert found.certain
    assert 1 < found.litres < 8
    assert found.right.litres > found.left.litres - 0.1  # the left lung is smaller because of the heart


FILLED: dict[str, tuple[Callable[[_Chest], Mask], set[str]]] = {
    "the left lung": (lambda c: c.x > c.middle, {"left"}),
    "the right lung": (lambda c: c.x <= c.middle, {"right"}),
    "the left base": (lambda c: (c.x > c.middle) & (c.z < c.level(1 / 3)), {"left"}),
    "the upper right lung": (lambda c: (c.x <= c.middle) & (c.z > c.level(1 / 2)), {"right"}),
    "both bases": (lambda c: c.z < c.level(1 / 3), {"left", "right"}),
    "both posterior lungs": (lambda c: c.y > np.argwhere(c.lungs.lung)[:, 1].mean(), {"left", "right"}),
    "the posterior left lung": (lambda c: (c.x > c.middle) & (c.y > np.argwhere(c.lungs.lung)[:, 1].mean()), {"left"}),
}


@pytest.mark.parametrize("hu", [WATER, 60.0, -1000.0])
@pytest.mark.parametrize("what", FILLED)
def test_a_lung_without_air_is_reported_and_makes_the_lungs_uncertain(any_chest: _Chest, what: str, hu: float) -> None:
    where, sides = FILLED[what]
    found = any_chest.filled(np.broadcast_to(where(any_chest), any_chest.hu.shape), hu)
    assert found.recognised
    assert not found.certain
    assert search_region(found, (9, 9, 9), any_chest.affine, 15) is None
    for side, lung in (("right", found.right), ("left", found.left)):
        assert lung
        if side in sides:
            assert lung.state != "whole"
            assert f"the {side} lung" in str(found.reason)
    if what in {"the left lung", "the right lung"}:
        filled, other = (found.left, found.right) if sides == {"left"} else (found.right, found.left)
        assert (filled and filled.state, other and other.state) == ("not aerated", "whole")


def test_no_lungs_are_recognised_without_aerated_lung(any_chest: _Chest) -> None:
    found = any_chest.filled(np.ones_like(any_chest.air))
    assert not found.recognised
    assert "no lungs are recognised" in str(found.reason)


@pytest.mark.parametrize("side", ["right", "left"])
def test_points_keep_their_side_if_the_other_lung_has_no_air(any_chest: _Chest, side: str) -> None:
    """The bones give the middle of the body. Near the middle, no side is stated."""
    right = any_chest.x <= any_chest.middle
    found = any_chest.filled(np.broadcast_to(right if side == "left" else ~right, any_chest.hu.shape))
    own = right if side == "right" else ~right
    places = np.argwhere(any_chest.lungs.lung & own)[::97]
    stated = [found.locate(map_points(any_chest.affine, place))["side"] for place in places]
    assert set(stated) <= {side, "midline"}
    assert sum(one == side for one in stated) > 0.8 * len(stated)


@pytest.mark.parametrize("side", ["right", "left"])
def test_half_a_chest_is_reported_as_cut_and_gives_no_wrong_side(any_chest: _Chest, side: str) -> None:
    width, margin = len(any_chest.hu), 10 / abs(any_chest.affine[0, 0])
    part = (
        slice(0, round(any_chest.middle + margin))
        if side == "right"
        else slice(round(any_chest.middle - margin), width)
    )
    found = any_chest.cut(part, slice(None), slice(None))
    assert found.reason
    assert not found.certain
    inside = np.zeros_like(any_chest.air)
    inside[part] = True
    own = (
        any_chest.x < any_chest.middle - 2 * margin if side == "right" else any_chest.x > any_chest.middle + 2 * margin
    )
    places = np.argwhere(any_chest.lungs.lung & inside & own)[::97]
    assert {found.locate(map_points(any_chest.affine, place))["side"] for place in places} <= {side, "midline", None}


@pytest.mark.parametrize("end", ["top", "base", "side"])
def test_lungs_cut_by_the_field_of_view_are_reported(any_chest: _Chest, end: str) -> None:
    x, _, z = any_chest.box
    height = z.stop - z.start
    parts = {
        "top": (slice(None), slice(None), slice(0, z.stop - height // 3)),
        "base": (slice(None), slice(None), slice(z.start + height // 3, None)),
        "side": (slice(0, x.stop - 8), slice(None), slice(None)),
    }
    found = any_chest.cut(*parts[end])
    assert "the field of view cuts the left lung" in str(found.reason)
    assert (found.height is None) == (end != "side") or any_chest.lungs.height is None


def test_thirds_divide_the_height_of_the_lungs(synthetic: _Chest) -> None:
    low, high = synthetic.lungs.height or (0, 0)
    assert high > low
    for share, third in ((-0.1, "lower"), (0.32, "lower"), (0.35, "middle"), (0.65, "middle"), (0.68, "upper")):
        level = low + share * (high - low)
        assert synthetic.lungs.locate(map_points(synthetic.affine, (9, 30, level)))["third"] == third


@settings(max_examples=12)
@given(st.sampled_from(TURNS))
def test_the_location_of_a_nodule_does_not_depend_on_the_axes(lungs: Lungs, turn: tuple[Any, Any]) -> None:
    other, _ = turned(chest()[0], *turn)
    again = find_lungs(*canonical(other.array, other.affine))
    assert again.litres == lungs.litres
    places = [map_points(RAS_TO_LPS, one.coordinates_lps) for one in chest()[1]]
    assert [again.locate(place) for place in places] == [lungs.locate(place) for place in places]
    assert [lungs.locate(place)["side"] for place in places] == [
        "left" if one.coordinates[0] > chest()[0].shape[0] * chest()[0].spacing[0] / 2 else "right"
        for one in chest()[1]
    ]


def test_nodules_are_near_the_lungs_and_air_outside_the_body_is_not(lungs: Lungs) -> None:
    for nodule in chest()[1]:
        world = map_points(RAS_TO_LPS, nodule.coordinates_lps)
        assert lungs.distance_to(world) < nodule.diameter_mm / 2 + 12
    assert lungs.distance_to(_in_front_of_the_chest()) > 30


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
def test_a_coarse_voxel_lies_at_the_centre_of_its_voxels(spacing: Vec3, origin: Vec3, axis: int) -> None:
    """If the HU of a scan equal a world coordinate, so do those of its coarse voxels."""
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
    whole = Lung(1.0, "whole")
    region = Lungs(lung, distance_to(lung, spacing), affine, (2, 2), (0, 5), whole, whole, doubtful=False)
    exact = ndimage.distance_transform_edt(~lung, sampling=spacing)
    np.testing.assert_allclose(region.around, exact, rtol=1e-5)
    corner = map_points(affine, np.array([3.0, 0.0, 5.0]))
    assert region.distance_to(corner) == pytest.approx(exact[3, 0, 5])


@pytest.mark.parametrize("fill", [-1000, 40])
def test_no_lungs_are_recognised_in_a_block_without_them(fill: int) -> None:
    scan, _ = block()
    empty: FloatArray = np.full((40, 40, 40), fill, dtype=np.float32)
    for array, affine in ((scan.array, scan.affine), (empty, np.diag([3.0, 3.0, 3.0, 1.0]))):
        found = find_lungs(array, affine)
        assert not found.recognised
        assert not found.certain
        assert found.reason


class TestThePipeline:
    """The searched region, the marks that count, and the category of an examination."""

    @staticmethod
    def marked(monkeypatch: pytest.MonkeyPatch, places: list[Any], **inference: Any) -> InferencePipeline:  # noqa: ANN401
        """A pipeline whose network marks these world points (RAS+) as nodules of 20 mm."""
        ready = InferencePipeline(config={"inference": inference}, device="cpu")

        def marks(volume: Preprocessed, *_: Any) -> Predictions:  # noqa: ANN401 - a callback
            maps = np.zeros((3, *(-(-size // 2) for size in volume.array.shape)), dtype=np.float32)
            maps[1] = 20  # mm
            for world in places:
                index = np.rint(map_points(np.linalg.inv(volume.affine), world) / 2).astype(int)
                assert ((index >= 0) & (index < maps.shape[1:])).all(), "the network does not see the place"
                maps[(0, *index)] = 0.9
            return Predictions(maps, 1, 0)

        monkeypatch.setattr(ready.network, "maps", marks)
        return ready

    def test_marks_outside_the_lungs_are_counted_but_not_reported(self, monkeypatch: pytest.MonkeyPatch) -> None:
        scan, truth = chest()
        inside = map_points(RAS_TO_LPS, truth[0].coordinates_lps)
        ready = self.marked(monkeypatch, [inside, _in_front_of_the_chest()], region="everything")
        results = ready.predict(scan)
        assert results["metadata"]["left_out"] == {"away_from_lungs": 1, "too_small": 0}
        (found,) = results["detections"]
        assert np.linalg.norm(np.subtract(found["coordinates"], truth[0].coordinates)) < 3
        assert found["location"]["side"] == "right"

    @pytest.mark.parametrize("region", ["lungs", "everything"])
    def test_a_mark_in_a_filled_lung_is_reported(self, region: str, monkeypatch: pytest.MonkeyPatch) -> None:
        scan, truth = chest()
        world = map_points(RAS_TO_LPS, truth[0].coordinates_lps)
        results = self.marked(monkeypatch, [world], region=region).predict(self.effusion(scan, truth[0].coordinates))
        assert results["metadata"]["searched"] == "everything"
        assert results["metadata"]["left_out"]["away_from_lungs"] == 0
        (found,) = [*results["detections"], *results["masses"]]
        assert found["location"]["side"] == "right"
        assert results["summary"]["lung_rads"]["category"] not in {"1", "2"}
        assert results["summary"]["warnings"] == ["the right lung is not aerated"]
        assert "Not all of the lungs could be judged: the right lung is not aerated" in results["summary"]["conclusion"]

    @staticmethod
    def effusion(scan: Scan, nodule: Any) -> Scan:  # noqa: ANN401 - a position
        """Fill the right lung with water except around the nodule."""
        lungs = find_lungs(*canonical(scan.array, scan.affine))
        grid = np.stack(np.meshgrid(*map(np.arange, scan.shape), indexing="ij"), axis=-1)
        index = np.rint(map_points(np.linalg.inv(lungs.affine) @ scan.affine, grid)).astype(int)
        index = np.clip(index, 0, np.array(lungs.lung.shape) - 1)
        near = ndimage.binary_dilation(lungs.lung, iterations=2)
        right = index[..., 0] <= np.mean(lungs.midline or (0, 0))
        away = np.linalg.norm(grid * scan.spacing - nodule, axis=-1) > 12
        array = scan.array.copy()
        array[near[tuple(np.moveaxis(index, -1, 0))] & right & away & (array < -200)] = WATER
        return Scan(array, scan.affine, "effusion")

    @pytest.mark.parametrize(
        ("what", "category", "words"),
        [
            ("water", None, "No lungs could be searched: no lungs are recognised: 0.0 litres"),
            ("block", None, "No lungs could be searched: no lungs are recognised"),
            ("base", None, "No lungs could be searched"),
            ("half", "0", "Not all of the lungs could be judged: the field of view cuts the right lung"),
            ("whole", "1", "No nodule above the thresholds"),
        ],
    )
    def test_an_incomplete_search_is_never_negative(
        self,
        what: str,
        category: str | None,
        words: str,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        results = self.marked(monkeypatch, []).predict(self.scans()[what])
        summary = results["summary"]
        assert summary["lung_rads"]["category"] == category
        assert (summary["lung_rads"]["reason"] is None) == (what == "whole")
        assert words in summary["conclusion"]
        assert ("No nodule above the thresholds" in summary["conclusion"]) == (category is not None)
        stated = f"this model found {results['metadata']['expected']['sensitivity']:.0%} at a threshold of 0.5"
        assert (stated in summary["conclusion"]) == (category is not None)
        assert (what in caplog.text) == (what != "whole") == bool(summary["warnings"])
        report = results["metadata"]["lungs"]
        assert report["evaluable"] == (what == "whole")
        assert report["recognised"] == (category is not None)

    @staticmethod
    def scans() -> dict[str, Scan]:
        scan = chest()[0]
        water = np.full((100, 80, 40), -1000, np.float32)
        water[15:85, 10:70] = np.random.default_rng(0).normal(40, 20, (70, 60, 40))
        affine: Affine = np.diag([-3.0, -3.0, 5.0, 1.0])
        return {
            "water": Scan(water.astype(np.int16), affine, "water"),
            "block": Scan(block()[0].array, block()[0].affine, "block"),
            "base": Scan(scan.array[:, :, :16], scan.affine, "base"),
            "half": Scan(scan.array[:, :, : scan.shape[2] // 2], scan.affine, "half"),
            "whole": Scan(scan.array, scan.affine, "whole"),
        }


def test_the_heatmap_lies_at_the_marks_of_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    scan, truth = block(2)
    ready = InferencePipeline(device="cpu")
    world = map_points(scan.affine, np.divide(truth.coordinates, scan.spacing))

    def bump(volume: Preprocessed, *_: Any) -> Predictions:  # noqa: ANN401 - a callback
        maps = np.zeros((3, *(-(-size // 2) for size in volume.array.shape)), dtype=np.float32)
        maps[1] = 12  # mm
        places = map_points(volume.affine, 2 * np.moveaxis(np.indices(maps.shape[1:]), 0, -1))
        maps[0] = 0.9 * np.exp(-((places - world) ** 2).sum(axis=-1) / (2 * 4.0**2))
        return Predictions(maps, 1, 0)

    monkeypatch.setattr(ready.network, "maps", bump)
    results = ready.predict(scan)
    heat = np.asarray(results["heatmap"], dtype=np.float64)
    heat[heat < 0.1] = 0
    middle = [float(np.average(axis, weights=heat)) for axis in np.indices(heat.shape)]
    np.testing.assert_allclose(map_points(scan.affine, middle), world, atol=0.15)
    assert results["detections"][0]["coordinates"] == pytest.approx(truth.coordinates, abs=0.1)
