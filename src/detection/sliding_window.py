"""Sliding-window inference: a network applied window by window to a volume larger than one patch."""

import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Barrier
from typing import Any, TypeAlias, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from ..data.resample import Box
from ..errors import BadCheckpoint, BadConfig, BadScan
from ..given import array_of, is_path, number_of, numbers_of, words_for
from ..model.checkpoint import Checkpoint, open_checkpoint
from ..model.device import pick_device, precision
from ..model.unet import strides_of
from ..types import FloatArray, Scan, Shape3
from .blending import BlendMethod, blend_weights
from .tta import IDENTITY, View, ViewedNetwork
from .windows import Region, as_shape, coarser, needed_windows, plan_windows

__all__ = [
    "Predictions",
    "Progress",
    "blend_windows",
    "count_windows",
    "predict_windows",
    "sliding_window_inference",
]

Progress = Callable[[int, int], None]
GivenModel: TypeAlias = torch.nn.Module | Checkpoint | str | os.PathLike[str]
NORMALISED = 20.0  # no preprocessed scan exceeds it: min-max gives 0 to 1, z-scores of a CT stay below 10
NOT_PREPARED = (
    f"the scan is not prepared: a network takes values within {NORMALISED:g} of 0 on its own grid, not HU. "
    "Give preprocess(read_scan(path), ...).array with the model's own preprocessing (load_model(path).about), "
    "or run InferencePipeline(checkpoint).predict(scan), which prepares it"
)


@dataclass(frozen=True)
class Predictions:
    """`maps` of shape (C, X/s, Y/s, Z/s) float32, with statistics of the run."""

    maps: FloatArray
    windows: int
    retried: int  # batches repeated in float32 because half precision overflowed


def sliding_window_inference(
    model: GivenModel,
    scan: npt.ArrayLike,
    patch_size: Sequence[int] = (128, 128, 128),
    stride: Sequence[int] = (64, 64, 64),
    batch_size: int = 4,
    device: str | torch.device = "auto",
    blending: BlendMethod = "gaussian",
    sigma: float = 0.125,
) -> FloatArray:
    """The model's maps of a whole scan: (C, X/s, Y/s, Z/s) float32, where s is the model's output stride.

    Args:
        model: maps (N, 1, X, Y, Z) float32 to (N, C, X/s, Y/s, Z/s). Its attribute `output_stride` is s. X, Y and Z
            must be divisible by `multiple`. Output voxel j lies on input voxel s * j + `output_offset`. Missing
            attributes are 1, 1 and 0. A checkpoint, loaded or its path, is taken, too.
        scan: (X, Y, Z), preprocessed as the model expects. A scan in HU is refused.
        patch_size: voxels along x, y, z. A smaller volume gets smaller patches.
        stride: voxels between neighbouring patches, at most the patch size.
        batch_size: patches for each pass of the network.
        device: `auto`, `cuda`, `cuda:1`, `mps` or `cpu`.
        blending: weights of overlapping patches, see `blend_weights`.
        sigma: for gaussian blending, as a share of the patch size.

    Raises:
        BadCheckpoint: no model, or one that gives NaN or infinity even in float32.
        BadConfig: a number is out of range, or the patch size or stride does not suit the model.
        BadScan: no array (X, Y, Z), or one in HU.
    """
    where, volume = pick_device(device), _prepared(scan)
    if blending not in get_args(BlendMethod):
        msg = f"blending must be gaussian, linear or average, not {words_for(blending)}"
        raise BadConfig(msg)
    return predict_windows(
        _network(model).to(where).eval(),
        volume,
        as_shape(numbers_of(patch_size, "patch_size", least=1)),
        as_shape(numbers_of(stride, "stride")),
        batch_size=int(number_of(batch_size, "batch_size", 1)),
        device=where,
        blending=blending,
        sigma=number_of(sigma, "sigma", 1e-6),
    ).maps


def _network(model: GivenModel) -> torch.nn.Module:
    if isinstance(model, Checkpoint) or is_path(model):
        return open_checkpoint(model).model  # type: ignore[arg-type]
    if isinstance(model, torch.nn.Module):
        return model
    msg = f"model must be a network, what load_model gives, or the path of a checkpoint, not {words_for(model)}"
    raise BadCheckpoint(msg)


def _prepared(scan: npt.ArrayLike) -> FloatArray:
    """The scan as the network takes it."""
    if is_path(scan) or isinstance(scan, Scan):
        raise BadScan(NOT_PREPARED)
    volume = array_of(scan, "scan")
    if volume.ndim != 3 or volume.dtype.kind == "c":
        msg = f"scan must be a preprocessed array of shape (X, Y, Z), not {words_for(scan)}"
        raise BadScan(msg)
    if volume.size and np.abs(volume).max() > NORMALISED:
        raise BadScan(NOT_PREPARED)
    return np.asarray(volume, dtype=np.float32)


def predict_windows(  # noqa: PLR0913 - by name
    model: torch.nn.Module,
    volume: FloatArray,
    patch_size: Shape3,
    stride: Shape3,
    *,
    batch_size: int,
    device: torch.device,
    blending: BlendMethod = "gaussian",
    sigma: float = 0.125,
    views: Sequence[View] = (IDENTITY,),
    mixed_precision: bool = False,
    clear_cache: bool = False,
    progress: Progress | None = None,
    region: Region | None = None,
) -> Predictions:
    """`sliding_window_inference` with all options, and with statistics. `model` is on `device`, in eval mode.

    `region` is a mask on the output grid. Windows that it does not need are not run. The first channel is zero outside.
    """
    scale, multiple = strides_of(model)
    patch = _fit_patch(volume.shape, patch_size, multiple)
    _check(patch_size, stride, multiple)
    blend = blend_weights(_divide(patch, scale), blending, sigma)
    # Windows start at multiples of `multiple` if the strides allow it. A voxel then has the same place in the network's
    # strides in every window, and gets almost the same output.
    lattice = math.lcm(scale, math.gcd(multiple, *stride))
    # The volume goes to the device once, and the maps come back once. Windows are cut and blended there.
    padded = _pad(volume, patch, lattice)
    windows = plan_windows(padded.shape, patch, stride, lattice)
    if region is not None:
        windows = needed_windows(windows, blend, region, scale)
    network = ViewedNetwork(model, device, precision(device, mixed=mixed_precision), views)
    blended = blend_windows(
        network, padded, windows, blend, scale=scale, batch_size=batch_size, clear_cache=clear_cache, progress=progress
    )
    x, y, z = (math.ceil(size / scale) for size in volume.shape)
    maps = blended.cpu().numpy()[:, :x, :y, :z]
    if region is not None:
        maps[0] *= region
    return Predictions(maps, len(windows), network.retried)


def blend_windows(  # noqa: PLR0913 - by name
    network: ViewedNetwork,
    volume: Tensor,
    windows: Sequence[Box],
    blend: FloatArray,
    *,
    batch_size: int,
    lanes: int = 1,
    scale: int = 1,
    clear_cache: bool = False,
    progress: Progress | None = None,
) -> Tensor:
    """The network's maps of a volume (X, Y, Z), (C, X/scale, Y/scale, Z/scale), on its device.

    They are the averages over all windows, weighted by `blend`, and 0 where no window lies. On a CPU so many `lanes`
    compute at the same time, each with its share of the threads.
    """
    device, weights = network.device, torch.from_numpy(blend).to(network.device)
    total: Tensor | None = None
    norm = torch.zeros(_divide(volume.shape, scale), device=device)
    padded = network.widened(volume).to(device)
    batches = [windows[first : first + batch_size] for first in range(0, len(windows), batch_size)]
    shown = (torch.stack([padded[network.wider(window)][None] for window in batch]) for batch in batches)
    done = 0
    for batch, outputs in zip(batches, _in_lanes(network, shown, lanes), strict=True):
        done += len(batch)
        if total is None:
            total = torch.zeros((outputs.shape[1], *norm.shape), device=device)
        for window, output in zip(batch, outputs, strict=True):
            target = coarser(window, scale)
            total[(slice(None), *target)] += output * weights
            norm[target] += weights
        if clear_cache and device.type == "cuda":
            torch.cuda.empty_cache()
        if progress is not None:
            progress(done, len(windows))
    assert total is not None  # noqa: S101 - a volume has at least one window
    return total.div_(norm.clamp_(min=torch.finfo(norm.dtype).tiny))


def _in_lanes(network: ViewedNetwork, inputs: Iterable[Tensor], lanes: int) -> Iterator[Tensor]:
    """The network's outputs, in order."""
    threads = torch.get_num_threads()
    if (lanes := min(lanes, threads)) == 1:
        yield from map(network, inputs)
        return
    begun = Barrier(lanes)

    def begin(_: int) -> None:
        torch.get_num_threads()  # takes over the number of other threads; later this would undo the next line
        torch.set_num_threads(threads // lanes)
        begun.wait()

    with ThreadPoolExecutor(lanes) as pool:
        list(pool.map(begin, range(lanes)))
        torch.set_num_threads(threads)  # `begin` also sets it for threads that start later
        ahead: deque[Any] = deque()
        for one in inputs:
            ahead.append(pool.submit(network, one))
            if len(ahead) > lanes:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def count_windows(model: torch.nn.Module, shape: Shape3, patch_size: Shape3, stride: Shape3) -> int:
    """The number of windows that `predict_windows` runs over a volume of `shape` without a region."""
    scale, multiple = strides_of(model)
    patch = _fit_patch(shape, patch_size, multiple)
    lattice = math.lcm(scale, math.gcd(multiple, *stride))
    return len(plan_windows(_padded(shape, patch, lattice), patch, stride, lattice))


def _check(patch_size: Shape3, stride: Shape3, multiple: int) -> None:
    if any(size % multiple for size in patch_size):
        msg = f"patch_size {list(patch_size)} does not suit this model: use multiples of {multiple}"
        raise BadConfig(msg)
    if any(step < 1 or step > size for step, size in zip(stride, patch_size, strict=True)):
        msg = f"stride {list(stride)} must lie between 1 and the patch_size {list(patch_size)}"
        raise BadConfig(msg)


def _fit_patch(shape: Sequence[int], patch: Shape3, multiple: int) -> Shape3:
    """The patch, at most as large as the volume, which is rounded up to multiples of `multiple`."""
    x, y, z = (min(want, math.ceil(size / multiple) * multiple) for size, want in zip(shape, patch, strict=True))
    return x, y, z


def _pad(volume: FloatArray, patch: Shape3, lattice: int) -> Tensor:
    """The volume, extended at its far ends by its minimum (air) until whole windows on the lattice fit."""
    padded = _padded(volume.shape, patch, lattice)
    extra = [size - own for size, own in zip(padded, volume.shape, strict=True)]
    tensor = torch.from_numpy(np.ascontiguousarray(volume))
    if not any(extra):
        return tensor
    x, y, z = extra
    return functional.pad(tensor, (0, z, 0, y, 0, x), value=float(volume.min()))


def _padded(shape: Sequence[int], patch: Shape3, lattice: int) -> Shape3:
    """The shape of a volume that holds whole windows on the lattice."""
    x, y, z = (max(window, math.ceil(size / lattice) * lattice) for size, window in zip(shape, patch, strict=True))
    return x, y, z


def _divide(shape: Sequence[int], scale: int) -> Shape3:
    x, y, z = (size // scale for size in shape)
    return x, y, z
