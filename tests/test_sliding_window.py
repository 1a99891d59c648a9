"""Windows, blending and views: every voxel is covered, at the right place and with the right weight."""

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from inspect import signature
from itertools import product
from pathlib import Path
from threading import Barrier
from typing import Any, Literal, get_args

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional

from src.config import AUGMENTATIONS, Augmentation
from src.data.preprocessing import preprocess
from src.detection import sliding_window
from src.detection.blending import BlendMethod, blend_weights
from src.detection.peak_detection import detect_peaks
from src.detection.sliding_window import blend_windows, count_windows, predict_windows, sliding_window_inference
from src.detection.tta import IDENTITY, View, ViewedNetwork, views
from src.detection.windows import plan_windows, regular_windows
from src.errors import BadCheckpoint, BadConfig, BadScan
from src.model.checkpoint import load_model
from src.model.unet import output_grid
from src.types import FloatArray, Scan, Shape3

from .small_scans import block, tiny_checkpoint

CPU = torch.device("cpu")
METHODS: tuple[BlendMethod, ...] = get_args(BlendMethod)
methods = st.sampled_from(METHODS)


class Constant(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.full_like(x, 0.7)


class Doubled(nn.Module):
    """Returns the patch, and twice the patch as a second channel."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, 2 * x], dim=1)


class Halving(nn.Module):
    """A network without weights that returns every second voxel."""

    output_stride = multiple = 2

    def forward(self, x: Tensor) -> Tensor:
        return x[..., ::2, ::2, ::2]


class Sampling(nn.Module):
    """Returns voxel `stride * j + offset`, interpolated between two voxels for half offsets."""

    multiple = 4

    def __init__(self, stride: int, offset: float) -> None:
        super().__init__()
        self.output_stride, self.output_offset = stride, offset

    def forward(self, x: Tensor) -> Tensor:
        low, high = math.floor(self.output_offset), math.ceil(self.output_offset)
        for axis in (-3, -2, -1):
            size = x.shape[axis]
            one, other = (torch.arange(first, size, self.output_stride) for first in (low, high))
            x = (x.index_select(axis, one) + x.index_select(axis, other)) / 2
        return x


class Pooling(nn.Module):
    """Returns the maximum of each 4 x 4 x 4 voxels, so its output at a voxel depends on where the window starts."""

    multiple = 4

    def forward(self, x: Tensor) -> Tensor:
        return functional.interpolate(functional.max_pool3d(x, 4), scale_factor=4.0, mode="nearest")


class Lowest(nn.Module):
    """Returns the lowest value of a window everywhere in it."""

    multiple = 4

    def forward(self, x: Tensor) -> Tensor:
        return x.amin(dim=(2, 3, 4), keepdim=True).expand_as(x)


class Overflowing(nn.Module):
    """Returns NaN in half precision for a patch with a voxel above 1, and in any precision above 2."""

    def forward(self, x: Tensor) -> Tensor:
        limit = 1 if torch.is_autocast_enabled("cpu") else 2
        return torch.where((x > limit).any(), torch.nan, x)


@st.composite
def tilings(draw: st.DrawFn, multiple: int = 1) -> tuple[Shape3, Shape3, Shape3]:
    """A volume, a patch that may be larger than it, and a stride, in voxels."""
    shape, patch, stride = [], [], []
    for _ in range(3):
        shape.append(draw(st.integers(1, 24)))
        patch.append(multiple * draw(st.integers(1, 10)))
        stride.append(draw(st.integers(1, patch[-1])))
    return (shape[0], shape[1], shape[2]), (patch[0], patch[1], patch[2]), (stride[0], stride[1], stride[2])


def _volume(shape: Shape3) -> FloatArray:
    return np.random.default_rng(0).random(shape, dtype=np.float32)


@given(tilings(), methods)
@example(((3, 4, 5), (16, 16, 16), (8, 8, 8)), "gaussian")
@example(((24, 1, 7), (8, 8, 8), (8, 8, 8)), "linear")
def test_the_identity_network_returns_the_volume(tiling: tuple[Shape3, Shape3, Shape3], method: BlendMethod) -> None:
    shape, patch, stride = tiling
    volume = _volume(shape)
    maps = sliding_window_inference(nn.Identity(), volume, patch, stride, 4, "cpu", method)
    assert maps.shape == (1, *shape)
    np.testing.assert_allclose(maps[0], volume, atol=1e-5)


@given(tilings(multiple=2), methods)
@example(((5, 3, 1), (16, 16, 16), (8, 8, 8)), "gaussian")
def test_a_coarser_output_keeps_its_place(tiling: tuple[Shape3, Shape3, Shape3], method: BlendMethod) -> None:
    shape, patch, stride = tiling
    volume = _volume(shape)
    maps = sliding_window_inference(Halving(), volume, patch, stride, 4, "cpu", method)
    np.testing.assert_allclose(maps[0], volume[::2, ::2, ::2], atol=1e-5)


@given(tilings(multiple=4), methods)
def test_windows_start_on_the_lattice_of_the_network(
    tiling: tuple[Shape3, Shape3, Shape3], method: BlendMethod
) -> None:
    shape, patch, stride = tiling
    volume = _volume(shape)
    maps = sliding_window_inference(Pooling(), volume, patch, [-(-step // 4) * 4 for step in stride], 4, "cpu", method)
    pooled = volume.copy()
    for corner in product(*(range(0, size, 4) for size in shape)):
        block = pooled[tuple(slice(first, first + 4) for first in corner)]
        block[...] = block.max()
    np.testing.assert_allclose(maps[0], pooled, atol=1e-5)


@given(tilings(), methods, st.floats(0.02, 10))
def test_a_constant_output_stays_constant(
    tiling: tuple[Shape3, Shape3, Shape3], method: BlendMethod, sigma: float
) -> None:
    shape, patch, stride = tiling
    maps = sliding_window_inference(Constant(), np.zeros(shape), patch, stride, 4, "cpu", method, sigma)
    np.testing.assert_allclose(maps, 0.7, atol=1e-5)


@given(tilings(multiple=4), st.floats(-5, 5))
def test_padding_beyond_the_volume_has_its_lowest_value(tiling: tuple[Shape3, Shape3, Shape3], level: float) -> None:
    shape, patch, stride = tiling
    maps = sliding_window_inference(Lowest(), _volume(shape) + np.float32(level), patch, stride, 4, "cpu")
    assert maps.min() >= np.float32(level) - 1e-5


@given(tilings())
def test_windows_cover_every_voxel_within_the_volume(tiling: tuple[Shape3, Shape3, Shape3]) -> None:
    shape, wanted, stride = tiling
    patch = tuple(min(a, b) for a, b in zip(shape, wanted, strict=True))
    seen = np.zeros(shape, int)
    for window in plan_windows(shape, patch, stride):
        part = seen[window]
        assert part.shape == patch
        part += 1
    assert seen.min() >= 1


@given(tilings())
def test_windows_are_no_further_apart_than_the_stride(tiling: tuple[Shape3, Shape3, Shape3]) -> None:
    shape, wanted, stride = tiling
    patch = tuple(min(a, b) for a, b in zip(shape, wanted, strict=True))
    windows = plan_windows(shape, patch, stride)
    for axis, step in enumerate(stride):
        starts = sorted({window[axis].start for window in windows})
        assert max(np.diff(starts), default=0) <= step


@given(st.tuples(*[st.integers(1, 20)] * 3), methods, st.floats(0.01, 10))
def test_weights_are_symmetric_and_never_zero(shape: Shape3, method: BlendMethod, sigma: float) -> None:
    weights = blend_weights(shape, method, sigma)
    assert weights.shape == shape
    assert weights.min() > 0
    assert weights.max() == 1
    np.testing.assert_allclose(weights, weights[::-1, ::-1, ::-1], rtol=1e-5)


@given(
    st.integers(1, 48),
    st.lists(st.sampled_from(AUGMENTATIONS), min_size=1, max_size=6, unique=True),
    st.tuples(*[st.integers(1, 6)] * 3),
)
def test_every_view_is_invertible_and_all_differ(count: int, augmentations: list[Augmentation], shape: Shape3) -> None:
    cube, probe = torch.rand(2, 1, *shape), torch.arange(27).reshape(3, 3, 3)
    some = views(count, augmentations)
    assert some[0].name == "identity"
    assert len({tuple(view.forward(probe).flatten().tolist()) for view in some}) == len(some) <= count
    for view in some:
        torch.testing.assert_close(view.inverse(view.forward(cube)), cube)


@pytest.mark.parametrize(("augmentations", "number"), [(AUGMENTATIONS, 48), (("flip_x",), 2), (("rotate_90_xy",), 4)])
def test_augmentations_give_every_view_they_generate(augmentations: tuple[Augmentation, ...], number: int) -> None:
    assert len(views(48, augmentations)) == number


@pytest.mark.parametrize("number", [1, 8, 48])
def test_the_mean_over_views_is_aligned_with_the_scan(number: int) -> None:
    volume = _volume((9, 7, 8))
    maps = _predict(nn.Identity(), volume, some=views(number)).maps
    np.testing.assert_allclose(maps[0], volume, atol=1e-5)


@pytest.mark.parametrize(
    ("stride", "offset"), [(1, 0.0), (2, 0.0), (2, 0.5), (2, 1.0), (4, 0.0), (4, 1.5), (4, 3.0), (4, 0.5)]
)
@pytest.mark.parametrize("view", views(48), ids=lambda view: view.name)
def test_every_view_of_any_network_gives_output_on_the_same_voxels(view: View, stride: int, offset: float) -> None:
    """This holds for any stride and offset of the network: a mirrored patch is shifted to match."""
    volume, model = _volume((16, 12, 20)), Sampling(stride, offset)
    plain, seen = (
        predict_windows(model, volume, (8, 8, 8), (4, 4, 4), batch_size=3, device=CPU, views=[one]).maps[0]
        for one in (IDENTITY, view)
    )
    inside = (slice(1, -1), slice(1, -1), slice(1, -1))  # at the ends of the volume, views see padding
    np.testing.assert_allclose(seen[inside], plain[inside], atol=1e-5)
    grid = output_grid(model)
    places = [grid.matrix[axis, axis] * np.arange(1, plain.shape[axis] - 1) + grid.matrix[axis, 3] for axis in range(3)]
    expected = ndimage.map_coordinates(volume, np.meshgrid(*places, indexing="ij"), order=1)
    np.testing.assert_allclose(plain[inside], expected, atol=1e-5)


@pytest.mark.parametrize("name", ["flip_x", "flip_y", "flip_z", "rotate_90_xy", "rotate_90_xz", "rotate_90_yz"])
def test_each_augmentation_matches_its_name(name: Augmentation) -> None:
    x = torch.rand(2, 3, 4, 5)
    axes = ["xyz".index(letter) - 3 for letter in name.rsplit("_", 1)[1]]
    expected = x.flip(axes) if len(axes) == 1 else torch.rot90(x, 1, axes)
    torch.testing.assert_close(views(2, [name])[1].forward(x), expected)


def test_all_views_of_the_shipped_network_find_a_nodule_at_one_place() -> None:
    scan, truth = block(2)
    volume = preprocess(scan, (1.0, 1.0, 1.0), (-1000, 400), "minmax").array
    model = load_model().model
    side = (64, 64, 64)
    for view in views(7):
        heat = predict_windows(model, volume, side, side, batch_size=1, device=CPU, views=[view]).maps[0]
        peak = detect_peaks(heat, 0.3, 10, (2, 2, 2))[0]
        np.testing.assert_allclose(peak["coordinates"], truth.coordinates, atol=0.7)


def _predict(
    model: nn.Module,
    volume: FloatArray,
    *,
    some: list[View] | None = None,
    clear_cache: bool = False,
    precision: Literal["half", "full"] = "full",
) -> sliding_window.Predictions:
    return predict_windows(
        model,
        volume,
        (6, 6, 6),
        (6, 6, 6),
        batch_size=1,
        device=CPU,
        views=some or [IDENTITY],
        mixed_precision=precision == "half",
        clear_cache=clear_cache,
    )


@pytest.fixture
def half_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU that uses bfloat16 for mixed precision."""
    kinds = {True: torch.bfloat16, False: torch.float32}
    monkeypatch.setattr(sliding_window, "precision", lambda _, mixed: kinds[mixed])


@pytest.mark.usefixtures("half_precision")
def test_overflows_in_half_precision_are_repeated_and_counted() -> None:
    volume = _volume((12, 6, 6)).clip(0, 0.9)
    volume[8, 3, 3] = 1.5
    found = _predict(Overflowing(), volume, precision="half")
    assert (found.windows, found.retried) == (2, 1)
    np.testing.assert_allclose(found.maps[0], volume, atol=1e-5)
    assert _predict(Overflowing(), volume).retried == 0


@pytest.mark.usefixtures("half_precision")
@pytest.mark.parametrize("precision", ["half", "full"])
def test_a_network_that_returns_nan_is_refused(precision: Literal["half", "full"]) -> None:
    with pytest.raises(BadCheckpoint, match="NaN"):
        _predict(Overflowing(), np.full((6, 6, 6), 3, np.float32), precision=precision)


@pytest.mark.parametrize("value", [20.5, -1000.0])
def test_raw_values_are_refused(value: float) -> None:
    with pytest.raises(BadScan, match="the scan is not prepared"):
        sliding_window_inference(nn.Identity(), np.full((6, 6, 6), value), (6, 6, 6), (6, 6, 6), device="cpu")


@pytest.mark.parametrize("value", [20.0, -20.0])
def test_prepared_values_lie_within_20(value: float) -> None:
    maps = sliding_window_inference(nn.Identity(), np.full((6, 6, 6), value), (6, 6, 6), (6, 6, 6), device="cpu")
    np.testing.assert_allclose(maps, value, rtol=1e-6)


@pytest.mark.parametrize("given", ["scan.nii.gz", Path("scan.nii.gz"), Scan(np.zeros((6, 6, 6)), np.eye(4), "scan")])
def test_a_scan_that_is_not_prepared_is_refused(given: Any) -> None:  # noqa: ANN401
    with pytest.raises(BadScan, match="the scan is not prepared"):
        sliding_window_inference(nn.Identity(), given, device="cpu")


@pytest.mark.parametrize("given", [np.zeros((6, 6)), np.zeros((1, 6, 6, 6)), np.zeros((6, 6, 6), complex)])
def test_only_an_array_with_three_axes_is_accepted(given: Any) -> None:  # noqa: ANN401
    with pytest.raises(BadScan, match=r"must be a preprocessed array of shape \(X, Y, Z\)"):
        sliding_window_inference(nn.Identity(), given, device="cpu")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patch_size": (6, 0, 6)}, "patch_size must be 3 numbers of at least 1"),
        ({"batch_size": 0}, "batch_size must be a number of at least 1"),
        ({"sigma": 0.0}, "sigma must be a number of at least 1e-06"),
        ({"blending": "cubic"}, "blending must be gaussian, linear or average, not 'cubic'"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(BadConfig, match=message):
        sliding_window_inference(nn.Identity(), _volume((6, 6, 6)), device="cpu", **options)


def test_the_smallest_options_are_accepted() -> None:
    volume = _volume((3, 2, 2))
    maps = sliding_window_inference(nn.Identity(), volume, (1, 1, 1), (1, 1, 1), 1, "cpu", sigma=1e-6)
    np.testing.assert_allclose(maps[0], volume, atol=1e-6)


def test_the_defaults_are_those_of_the_guide() -> None:
    defaults = {name: one.default for name, one in signature(sliding_window_inference).parameters.items()}
    assert {name: defaults[name] for name in list(defaults)[2:]} == {
        "patch_size": (128, 128, 128),
        "stride": (64, 64, 64),
        "batch_size": 4,
        "device": "auto",
        "blending": "gaussian",
        "sigma": 0.125,
    }


def test_a_network_may_be_a_checkpoint_or_its_path(tmp_path: Path) -> None:
    path = tiny_checkpoint(tmp_path / "tiny.pth")
    volume = _volume((16, 16, 16))
    found = [
        sliding_window_inference(model, volume, (16, 16, 16), (16, 16, 16), device="cpu")
        for model in (path, str(path), load_model(path), load_model(path).model)
    ]
    for maps in found:
        np.testing.assert_array_equal(maps, found[0])
    with pytest.raises(BadCheckpoint, match="model must be a network"):
        sliding_window_inference(3, volume)  # type: ignore[arg-type]


def test_too_many_windows_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadConfig, match=rf"stride \[1, 1, 1\] means {481**3} windows on this scan, more than 100000"):
        plan_windows((512, 512, 512), (32, 32, 32), (1, 1, 1))
    monkeypatch.setattr("src.detection.windows.MOST_WINDOWS", 3**3)
    assert len(plan_windows((34, 34, 34), (32, 32, 32), (1, 1, 1))) == 3**3
    with pytest.raises(BadConfig, match="means 36 windows on this scan, more than 27: make it larger"):
        plan_windows((34, 34, 35), (32, 32, 32), (1, 1, 1))


def test_clearing_the_cache_does_not_change_the_output(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: pytest.fail("a CPU has no cache to clear"))
    volume = _volume((9, 9, 9))
    cleared, kept = (_predict(nn.Identity(), volume, clear_cache=clear) for clear in (True, False))
    np.testing.assert_array_equal(cleared.maps, kept.maps)


@pytest.mark.usefixtures("half_precision")
def test_full_precision_is_the_default() -> None:
    volume = np.full((6, 6, 6), 1.5, np.float32)
    found = predict_windows(Overflowing(), volume, (6, 6, 6), (6, 6, 6), batch_size=1, device=CPU)
    assert found.retried == 0
    np.testing.assert_allclose(found.maps[0], volume, rtol=1e-6)


def test_only_the_first_channel_is_zero_outside_the_region() -> None:
    volume, region = 1 + _volume((6, 6, 6)), np.zeros((6, 6, 6), bool)
    region[1:3, 2:5, 3:4] = True
    found = predict_windows(Doubled(), volume, (6, 6, 6), (6, 6, 6), batch_size=1, device=CPU, region=region)
    np.testing.assert_allclose(found.maps, [volume * region, 2 * volume], rtol=1e-6)


@given(tilings(multiple=4))
def test_the_number_of_windows_is_known_in_advance(tiling: tuple[Shape3, Shape3, Shape3]) -> None:
    shape, patch, stride = tiling
    found = predict_windows(Pooling(), _volume(shape), patch, stride, batch_size=8, device=CPU)
    assert count_windows(Pooling(), shape, patch, stride) == found.windows


class Meeting(nn.Module):
    """Takes the mean of a patch, and waits until another patch is computed at the same time, for `patient` seconds."""

    def __init__(self, patient: float) -> None:
        super().__init__()
        self.barrier, self.threads = Barrier(2, timeout=patient), set[int]()

    def forward(self, x: Tensor) -> Tensor:
        self.threads.add(torch.get_num_threads())
        self.barrier.wait()
        return x.mean(dim=(2, 3, 4), keepdim=True).expand_as(x)


def _blended(network: nn.Module, volume: FloatArray, lanes: int) -> Tensor:
    windows = regular_windows((12, 6, 9), (6, 6, 6), 0.5)  # six
    viewed = ViewedNetwork(network, CPU, torch.float32, (IDENTITY,))
    weights = blend_weights((6, 6, 6), "gaussian")
    return blend_windows(viewed, torch.from_numpy(volume), windows, weights, batch_size=1, lanes=lanes)


@pytest.fixture
def four_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("four_threads")
def test_lanes_compute_at_the_same_time_and_share_the_threads() -> None:
    meeting, volume = Meeting(60), _volume((12, 6, 9))
    together = _blended(meeting, volume, lanes=2)
    assert meeting.threads == {2}
    with ThreadPoolExecutor(1) as later:
        assert (torch.get_num_threads(), later.submit(torch.get_num_threads).result()) == (4, 4)
    meeting.barrier = Barrier(1)
    torch.testing.assert_close(together, _blended(meeting, volume, lanes=1), rtol=0, atol=0)
    assert meeting.threads == {2, 4}


@pytest.mark.usefixtures("four_threads")
def test_an_error_in_a_lane_is_raised() -> None:
    with pytest.raises(BadCheckpoint, match="NaN"):
        _blended(Overflowing(), _volume((12, 6, 9)) + 2, lanes=2)
    assert torch.get_num_threads() == 4


def test_progress_counts_every_window() -> None:
    reports: list[tuple[int, int]] = []
    predict_windows(
        nn.Identity(),
        _volume((10, 6, 6)),
        (6, 6, 6),
        (2, 6, 6),
        batch_size=2,
        device=CPU,
        progress=lambda done, of: reports.append((done, of)),
    )
    assert reports == [(2, 3), (3, 3)]


@pytest.mark.parametrize(
    ("patch", "stride", "message"),
    [
        ((5, 6, 6), (2, 2, 2), "multiples of 2"),
        ((6, 6, 6), (7, 6, 6), "must lie between 1 and the patch_size"),
        ((6, 6, 6), (0, 6, 6), "must lie between 1 and the patch_size"),
    ],
)
def test_impossible_windows_are_refused(patch: Shape3, stride: Shape3, message: str) -> None:
    with pytest.raises(BadConfig, match=message):
        sliding_window_inference(Halving(), _volume((8, 8, 8)), patch, stride)
