"""The windows of a network: their positions, their weights, and those that a region needs."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from src.data.resample import Box
from src.detection.blending import BlendMethod, blend_weights, nnunet_weights
from src.detection.sliding_window import predict_windows
from src.detection.windows import (
    LARGEST,
    LOST_WEIGHT,
    coarser,
    needed_windows,
    plan_box,
    plan_tiles,
    plan_windows,
    regular_windows,
)
from src.errors import BadConfig
from src.types import Shape3

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("size", "patch", "stride", "multiple", "starts"),
    [
        (4, 4, 1, 1, [0]),
        (5, 4, 1, 1, [0, 1]),
        (10, 4, 3, 1, [0, 3, 6]),
        (11, 4, 3, 1, [0, 2, 4, 7]),  # evenly spread, rounded down
        (20, 8, 2, 4, [0, 4, 8, 12]),  # a step has at least `multiple` voxels
        (24, 8, 6, 4, [0, 4, 8, 12, 16]),
        (24, 8, 8, 4, [0, 8, 16]),
        (28, 8, 8, 4, [0, 4, 12, 20]),
    ],
)
def test_windows_are_evenly_spread_on_the_lattice(
    size: int, patch: int, stride: int, multiple: int, starts: list[int]
) -> None:
    for axis in range(3):
        sides = [(1, 1, 1), (1, 1, 1), (1, 1, 1)]
        sides[axis] = (size, patch, stride)
        shape, window_size, step = ([side[part] for side in sides] for part in range(3))
        windows = plan_windows(shape, window_size, step, multiple)
        assert [window[axis] for window in windows] == [slice(start, start + patch) for start in starts]


@pytest.mark.parametrize(
    ("size", "patch", "overlap", "monai", "nnunet"),
    [
        (4, 4, 0.5, [0], [0]),
        (6, 4, 0.5, [0, 2], [0, 2]),
        (3, 1, 0.5, [0, 1, 2], [0, 0, 1, 2, 2]),  # a step has at least one voxel
        (10, 4, 0.5, [0, 2, 4, 6], [0, 2, 4, 6]),
        (11, 4, 0.5, [0, 2, 4, 6, 7], [0, 2, 4, 5, 7]),
        (9, 4, 0.25, [0, 3, 5], [0, 2, 5]),
        (10, 5, 0.5, [0, 2, 4, 5], [0, 2, 5]),
    ],
)
def test_windows_of_other_detectors_start_as_in_their_own_programs(
    size: int, patch: int, overlap: float, monai: list[int], nnunet: list[int]
) -> None:
    for axis in range(3):
        shape, window = [2, 2, 2], [2, 2, 2]
        shape[axis], window[axis] = size, patch
        sides: tuple[Shape3, Shape3] = (shape[0], shape[1], shape[2]), (window[0], window[1], window[2])
        for windows, starts in (
            (regular_windows(*sides, overlap), monai),
            (regular_windows(*sides, overlap, spread=True), nnunet),
        ):
            assert [one[axis] for one in windows] == [slice(start, start + patch) for start in starts]


def test_too_many_windows_of_another_detector_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("src.detection.windows.MOST_WINDOWS", 12)
    assert len(regular_windows((4, 3, 6), (2, 2, 4), 0.5)) == 12
    with pytest.raises(BadConfig, match="windows are 18 on this scan, more than 12: crop it to the chest"):
        regular_windows((4, 4, 6), (2, 2, 4), 0.5)


# The region spans 20 to 29, 0 to 9 and 55 to 59 of 60 voxels along the axes. The network's grid is twice as fine.
REGION = np.zeros((60, 60, 60), bool)
REGION[20:30, :10, 55:] = True


@pytest.mark.parametrize(
    ("patch", "stride", "multiple", "box"),
    [
        # With its context of 8 voxels the region needs 32 to 68, 0 to 28 and 102 to 120.
        ((36, 28, 18), (4, 4, 4), 1, [(32, 68), (0, 28), (102, 120)]),
        ((36, 28, 20), (4, 4, 4), 4, [(32, 68), (0, 28), (100, 120)]),  # each part starts at a multiple of 4
        ((20, 20, 20), (16, 16, 16), 4, [(32, 68), (0, 36), (100, 120)]),
        ((20, 20, 16), (12, 12, 12), 4, [(28, 72), (0, 32), (96, 120)]),  # it grows on both sides
        ((48, 48, 48), (16, 16, 16), 4, [(28, 76), (0, 48), (88, 120)]),  # it ends with the volume
        ((64, 64, 64), (16, 16, 16), 4, [(20, 84), (0, 64), (80, 120)]),
    ],
)
def test_the_planned_box_covers_the_region_with_its_context(
    patch: Shape3, stride: Shape3, multiple: int, box: list[tuple[int, int]]
) -> None:
    found = plan_box(REGION, (120, 120, 120), patch, stride, scale=2, multiple=multiple)
    assert [(side.start, side.stop) for side in found] == box


@pytest.mark.parametrize(
    ("shape", "overlap", "most", "tile", "stride"),
    [
        ((100, 64, 33), 16, None, (112, 64, 48), (112, 64, 48)),  # one tile, rounded up to multiples of 16
        ((512, 100, 400), 48, None, (288, 112, 400), (240, 112, 400)),  # the longest axis is divided first
        ((64, 64, 64), 16, 64**3, (64, 64, 64), (64, 64, 64)),
        ((64, 64, 64), 16, 64**3 - 1, (48, 64, 64), (32, 64, 64)),
        ((64, 64, 64), 32, 1, (64, 64, 64), (64, 64, 64)),  # a tile of twice the overlap is not divided
        ((80, 80, 80), 32, 1, (64, 64, 64), (32, 32, 32)),
    ],
)
def test_a_volume_is_divided_into_the_fewest_tiles_that_fit_into_memory(
    shape: Shape3, overlap: int, most: int | None, tile: Shape3, stride: Shape3, monkeypatch: pytest.MonkeyPatch
) -> None:
    if most:
        monkeypatch.setattr("src.detection.windows.LARGEST", most)
    assert plan_tiles(None, shape, overlap, scale=2, multiple=16) == (tile, stride)


def test_tiles_of_a_region_cover_it_and_its_context() -> None:
    tile, _ = plan_tiles(REGION, (120, 120, 120), 0, scale=2, multiple=1)
    assert tile == (36, 28, 18)
    assert plan_tiles(REGION, (120, 120, 120), 0, scale=2, multiple=1, context=0)[0] == (20, 20, 10)


def _line(*starts: int, size: int) -> list[Box]:
    return [(slice(start, start + size), slice(0, 2), slice(0, 2)) for start in starts]


def _needed(weights: Sequence[float], inside: Sequence[int], *starts: int) -> list[int]:
    """The starts of the needed windows along a line, where the region's grid is half as fine."""
    blend = np.array(weights, np.float32)[:, None, None]
    region = np.array(inside, bool)[:, None, None]
    windows = needed_windows(_line(*starts, size=2 * len(weights)), blend, region, 2)
    return [window[0].start for window in windows]


@pytest.mark.parametrize(
    ("weights", "inside", "starts", "needed"),
    [
        ([1, 1], [1, 1, 1, 1], [0, 2, 4], [0, 2, 4]),
        ([1, 1], [1, 0, 0, 0], [0, 2, 4], [0]),
        ([1, 1], [1], [0, 2, 4], [0]),  # the region may be smaller than the windows' extent
        ([1, 1], [0, 0, 0, 1], [0, 2, 4], [4]),
        ([1.0, 0.04], [0, 1, 0], [0, 2], [2]),  # a loss of 4 % is accepted
        ([1.0, 0.06], [0, 1, 0], [0, 2], [0, 2]),
        ([1.0, 0.04], [0, 1, 0], [0, 0, 2], [0, 2]),  # a loss of twice 4 % is not
        ([1.0, 0.04, 0.03], [0, 0, 1], [2, 0, 4], [2, 4]),  # the window with the least weight is omitted first
        ([1.0], [1], [0] * 19, [0] * 19),
        ([1.0], [1], [0] * 20, [0] * 19),  # a twentieth is the limit
    ],
)
def test_windows_are_omitted_while_each_voxel_keeps_95_percent_of_its_weight(
    weights: list[float], inside: list[int], starts: list[int], needed: list[int]
) -> None:
    assert _needed(weights, inside, *starts) == needed


def test_a_window_is_mapped_to_a_coarser_grid() -> None:
    assert coarser((slice(0, 8), slice(4, 12), slice(12, 16)), 4) == (slice(0, 2), slice(1, 3), slice(3, 4))


@pytest.mark.parametrize(
    ("method", "profile"),
    [
        ("gaussian", np.exp(-0.5 * np.array([3.0, 1.0, 1.0, 3.0]) ** 2) / np.exp(-0.5)),
        ("linear", [1 / 3, 1.0, 1.0, 1 / 3]),
        ("average", [1.0, 1.0, 1.0, 1.0]),
    ],
)
def test_weights_fall_from_the_middle_to_the_faces(method: BlendMethod, profile: Sequence[float]) -> None:
    """The centres of four voxels lie at 1/8 and 3/8 of the patch; one standard deviation is 1/8."""
    for axis in range(3):
        shape = [1, 1, 1]
        shape[axis] = 4
        weights = blend_weights((shape[0], shape[1], shape[2]), method)
        assert weights.dtype == np.float32
        np.testing.assert_allclose(weights.ravel(), profile, rtol=1e-6)


def test_the_plain_weights_are_not_scaled_to_a_maximum_of_1() -> None:
    assert blend_weights((4, 1, 1), plain=True).max() == pytest.approx(np.exp(-0.5))
    assert blend_weights((4, 2, 1), sigma=0.25, plain=True).max() == pytest.approx(np.exp(-0.125 - 0.5))


def test_weights_are_at_least_a_thousandth() -> None:
    assert blend_weights((9, 1, 1), sigma=0.02).min() == np.float32(1e-3)
    assert nnunet_weights((9, 1, 1), 0.02).min() == np.float32(2**-24 / 10)


def test_the_weights_of_nnunet_have_their_maximum_at_half_the_patch_size() -> None:
    """One standard deviation is an eighth of the patch: one voxel of eight, half a voxel of four."""
    x, y = np.exp(-0.5 * np.arange(-4.0, 4) ** 2), np.exp(-0.5 * (2 * np.arange(-2.0, 2)) ** 2)
    z = np.exp(-0.5 * (8 / 5 * np.arange(-2.0, 3)) ** 2)
    weights = nnunet_weights((8, 4, 5))
    assert weights[4, 2, 2] == 1
    np.testing.assert_allclose(weights, np.maximum(x[:, None, None] * y[:, None] * z, 2**-24 / 10), rtol=1e-5)


class Twice(nn.Module):
    """Returns every second voxel, doubled in windows that start at 0, so that a missing window shows."""

    output_stride = multiple = 2

    def forward(self, x: Tensor) -> Tensor:
        return x[..., ::2, ::2, ::2] * (1 + (x[:, :, :1, :1, :1] == 0))


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
