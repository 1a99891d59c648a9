"""The searched region: around the lungs, with full blending weight, and the whole scan if the lungs are uncertain."""

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt
import pytest
import SimpleITK as sitk
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from src.config import load_config
from src.data.geometry import RAS_TO_LPS, canonical, map_points
from src.data.lung_finder import find_lungs
from src.data.lungs import Lung, Lungs, search_region
from src.data.preprocessing import preprocess
from src.data.resample import new_grid, resample, to_grid
from src.detection.sliding_window import predict_windows
from src.detection.windows import LARGEST, LOST_WEIGHT, plan_box, plan_tiles
from src.followup.registration import as_image
from src.inference.main import InferencePipeline
from src.types import Affine, Scan, Shape3, Vec3

from .small_scans import block, chest, tiny_checkpoint

CPU = torch.device("cpu")


class Twice(nn.Module):
    """Returns every second voxel, doubled in windows that start at 0, so that a missing window shows."""

    output_stride = multiple = 2

    def forward(self, x: Tensor) -> Tensor:
        return x[..., ::2, ::2, ::2] * (1 + (x[:, :, :1, :1, :1] == 0))


@pytest.fixture(scope="module")
def grid() -> tuple[Lungs, Shape3, Affine]:
    array, affine = canonical(chest()[0].array, chest()[0].affine)
    return find_lungs(array, affine), *new_grid(chest()[0].shape, affine, (2.0, 2.0, 2.0))


def test_every_nodule_and_the_middle_between_the_lungs_are_searched(grid: tuple[Lungs, Shape3, Affine]) -> None:
    region = search_region(*grid, reach=15)
    assert region is not None
    assert 0.1 < region.mean() < 0.8
    for nodule in chest()[1]:
        world = np.array([-1, -1, 1]) * nodule.coordinates_lps
        assert region[tuple(np.rint(map_points(np.linalg.inv(grid[2]), world)).astype(int))]
    x, y, z = region.shape
    assert region[x // 2, y // 2, z // 2]
    assert not region[:, 0].any()


def _lungs(litres: float, *, doubtful: bool = False) -> Lungs:
    lung = np.zeros((10, 10, 10), bool)
    lung[:, :, : round(litres / 0.3)] = True  # 100 voxels of 3 ml per level
    around = (~lung).astype(np.float32)
    side = Lung(litres / 2, "whole")
    return Lungs(lung, around, np.diag([10.0, 10.0, 30.0, 1.0]), (4, 5), (0, 9), side, side, doubtful)


@pytest.mark.parametrize(
    ("lungs", "certain"),
    [(_lungs(1.2), True), (_lungs(0.9), False), (_lungs(1.2, doubtful=True), False), (_lungs(0), False)],
)
def test_the_whole_scan_is_searched_if_the_lungs_are_uncertain(lungs: Lungs, certain: bool) -> None:
    region = search_region(lungs, (20, 20, 20), np.diag([5.0, 5.0, 15.0, 1.0]), 15)
    assert (region is not None) == certain


@st.composite
def regions(draw: st.DrawFn) -> npt.NDArray[np.bool_]:
    shape = draw(st.tuples(*[st.integers(4, 24)] * 3))
    region = np.zeros(shape, bool)
    low = [draw(st.integers(0, size - 1)) for size in shape]
    region[tuple(slice(a, draw(st.integers(a + 1, size))) for a, size in zip(low, shape, strict=True))] = True
    return region


@given(regions(), st.sampled_from([(16, 8), (32, 16), (64, 48)]))
def test_the_box_holds_the_region_and_its_surroundings(region: npt.NDArray[np.bool_], sizes: tuple[int, int]) -> None:
    x, y, z = (2 * size for size in region.shape)
    patch, step = sizes
    box = plan_box(region, (x, y, z), (patch,) * 3, (step,) * 3, scale=2, multiple=4, context=4)
    for axis, side in enumerate(box):
        inside = 2 * np.flatnonzero(region.any(axis=tuple({0, 1, 2} - {axis})))
        assert side.start % 4 == 0
        assert side.start <= max(0, inside[0] - 4)
        assert min(2 * region.shape[axis], inside[-1] + 2 + 4) <= side.stop <= 2 * region.shape[axis]


def test_the_network_sees_8_voxels_around_the_region_by_default() -> None:
    region = np.zeros((60, 60, 60), bool)
    region[20:30, 20:30, 20:30] = True
    tile, _ = plan_tiles(region, (120, 120, 120), 0, scale=2, multiple=2)
    assert tile == (36, 36, 36)
    box = plan_box(region, (120, 120, 120), (4, 4, 4), (4, 4, 4), scale=2, multiple=2)
    assert [(side.start, side.stop) for side in box] == [(32, 68)] * 3


@given(regions(), st.sampled_from(["gaussian", "linear", "average"]))
def test_omitted_windows_have_little_weight(region: npt.NDArray[np.bool_], blending: Any) -> None:  # noqa: ANN401
    volume = np.random.default_rng(0).random([2 * size for size in region.shape], dtype=np.float32)
    options: dict[str, Any] = {"batch_size": 4, "device": CPU, "blending": blending}
    whole = predict_windows(Twice(), volume, (16, 16, 16), (8, 8, 8), **options)
    part = predict_windows(Twice(), volume, (16, 16, 16), (8, 8, 8), region=region, **options)
    assert part.windows <= whole.windows
    np.testing.assert_allclose(part.maps[0][region], whole.maps[0][region], rtol=2 * LOST_WEIGHT)
    assert not part.maps[0][~region].any()


@given(st.tuples(*[st.integers(40, 500)] * 3), st.sampled_from([48, 96]))
def test_tiles_cover_the_region_and_stay_small(shape: Shape3, overlap: int) -> None:
    region = np.ones([-(-size // 2) for size in shape], bool)
    tile, stride = plan_tiles(region, shape, overlap, scale=2, multiple=16)
    assert np.prod(tile) <= LARGEST
    for size, length, step in zip(shape, tile, stride, strict=True):
        assert length % 16 == 0
        assert length - step in {0, overlap}
        assert step < length or length >= size


millimetres = st.tuples(*[st.floats(0.4, 6).map(lambda size: round(size, 3))] * 3)


@given(st.tuples(*[st.integers(1, 40)] * 3), millimetres, millimetres)
def test_a_new_grid_spans_from_the_first_voxel_to_the_last(shape: Shape3, old: Vec3, spacing: Vec3) -> None:
    affine = RAS_TO_LPS @ np.diag([*old, 1.0])
    affine[:3, 3] = (-120, 40, 7)
    new, grid = new_grid(shape, affine, spacing)
    np.testing.assert_allclose(grid[:3, 3], affine[:3, 3])
    last = map_points(np.linalg.inv(grid), map_points(affine, np.array(shape) - 1.0))
    assert ((np.array(new) - 1 - last > -0.01) & (np.array(new) - 1 - last < 1)).all()


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7, 2.0, 1.0), (0.5, 0.6, 0.7)])
def test_resampling_agrees_with_simpleitk(spacing: tuple[float, float, float]) -> None:
    scan, _ = block()
    array, affine = canonical(scan.array[:40, :50, :30], scan.affine)
    new, grid = resample(array, affine, spacing)
    image = sitk.GetImageFromArray(array.transpose(2, 1, 0).astype(np.float32))
    old = np.linalg.norm(affine[:3, :3], axis=0)
    image.SetSpacing(old.tolist())
    for axis, (a, b) in enumerate(zip(old, spacing, strict=True)):
        if b > a + 1e-3:
            image = sitk.RecursiveGaussian(image, float(np.sqrt(b**2 - a**2)) / 2.3548, direction=axis)
    origin = (map_points(np.linalg.inv(affine), grid[:3, 3]) * old).tolist()
    expected = sitk.GetArrayFromImage(
        sitk.Resample(
            image, new.shape, sitk.Transform(), sitk.sitkLinear, origin, spacing, np.eye(3).ravel().tolist(),
            float(array.min()), sitk.sitkFloat32,
        )
    ).transpose(2, 1, 0)  # fmt: skip
    difference = np.abs(new - expected)
    assert difference.max() < 25  # HU; the recursive filter is itself an approximation
    assert difference.mean() < 1


@pytest.mark.parametrize("method", ["minmax", "zscore", None])
def test_a_resampled_box_equals_that_part_of_the_resampled_scan(method: Any) -> None:  # noqa: ANN401
    scan, _ = block()
    box = (slice(4, 40), slice(8, 30), slice(0, 21))
    whole, affine = preprocess(scan, (1.0, 1.0, 1.0), (-1000, 400), method)
    part, moved = preprocess(scan, (1.0, 1.0, 1.0), (-1000, 400), method, box)
    np.testing.assert_allclose(part, whole[box], atol=1e-3)
    np.testing.assert_allclose(map_points(moved, (0, 0, 0)), map_points(affine, (4, 8, 0)))


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


@pytest.mark.parametrize(
    ("given", "speed"),
    [
        ({}, "balanced"),
        ({"speed": "auto", "batch_size": 2, "tta": {"enabled": True}, "engine": "torch"}, "balanced"),
        ({"patch_size": [96, 96, 96]}, "accurate"),
        ({"stride": [64, 64, 64]}, "accurate"),
        ({"overlap": 0.5}, "accurate"),
        ({"blending": {"method": "average"}}, "accurate"),
        ({"mode": "whole_volume"}, "accurate"),
        ({"engine": "openvino"}, "accurate"),
        ({"speed": "fast", "stride": [64, 64, 64]}, "fast"),
        ({"speed": "accurate"}, "accurate"),
    ],
)
def test_auto_takes_tiles_unless_windows_are_described(given: dict[str, Any], speed: str) -> None:
    config = load_config({"inference": given})
    assert config.inference.speed == speed
    assert load_config(config.model_dump()) == config
    assert load_config(None).inference.speed == "balanced"


@pytest.mark.parametrize("speed", ["accurate", "balanced"])
def test_searching_only_the_lungs_gives_the_same_heatmap_there(speed: str, tmp_path: Path) -> None:
    """Near the lungs, the heatmap of windows or tiles equals that of all windows."""
    scan = chest()[0]
    checkpoint = tiny_checkpoint(tmp_path / "tiny.pth")
    common = {"mixed_precision": False}
    shape = {"patch_size": [64, 64, 64], "stride": [32, 32, 32]}
    everything = InferencePipeline(checkpoint, {"model": common, "inference": {"region": "everything", **shape}})
    lungs = InferencePipeline(checkpoint, {"model": common, "inference": {"speed": speed, **shape}})
    small = Scan(scan.array[::2, ::2, ::2], scan.affine @ np.diag([2.0, 2.0, 2.0, 1.0]), "small")
    whole, part = everything.predict(small), lungs.predict(small)
    assert whole["metadata"]["searched"] == "everything"
    assert part["metadata"]["searched"] == "lungs"
    assert part["metadata"]["windows"] < whole["metadata"]["windows"]
    seen = np.asarray(part["heatmap"]) > 0
    assert 0.1 < seen.mean() < 0.9
    array, affine = canonical(small.array, small.affine)
    region = search_region(
        find_lungs(array, affine), small.shape, affine, reach=12
    )  # mm around the lungs, where marks are reported
    assert region is not None
    turned = (canonical(np.asarray(one["heatmap"]), small.affine)[0] for one in (part, whole))
    kept, full = (one.astype(np.float64)[region] for one in turned)
    assert (kept > 0).all()
    assert np.abs(kept - full).max() < 0.02
    centre = tuple(size // 2 for size in small.shape)
    assert part["heatmap"][centre] == pytest.approx(float(whole["heatmap"][centre]), abs=0.02)
