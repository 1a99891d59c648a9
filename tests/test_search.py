"""The searched region: around the lungs, with full blending weight, and the whole scan if the lungs are uncertain."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from src.config import load_config
from src.data.geometry import canonical, map_points
from src.data.lung_finder import find_lungs
from src.data.lungs import Lung, Lungs, search_region
from src.data.preprocessing import preprocess
from src.data.resample import new_grid, resample
from src.inference.main import InferencePipeline
from src.types import Affine, Scan, Shape3

from .small_scans import block, chest, tiny_checkpoint

CPU = torch.device("cpu")


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


@pytest.mark.parametrize(
    ("given", "speed"),
    [
        ({}, "fast"),
        ({"speed": "auto", "batch_size": 2, "tta": {"enabled": True}, "engine": "torch"}, "fast"),
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
    assert load_config(None).inference.speed == "fast"


@pytest.mark.parametrize("speed", ["accurate", "balanced", "fast"])
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
