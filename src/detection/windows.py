"""The windows of a network on a volume: their places, and which ones are needed."""

import math
from collections.abc import Sequence
from itertools import product

import numpy as np
import numpy.typing as npt

from ..data.resample import Box
from ..errors import BadConfig
from ..types import FloatArray, Shape3

__all__ = [
    "CONTEXT",
    "Region",
    "as_shape",
    "coarser",
    "needed_windows",
    "plan_box",
    "plan_tiles",
    "plan_windows",
    "regular_windows",
]

Region = npt.NDArray[np.bool_]
CONTEXT = 8  # voxels of context around the region, at least; the region reaches beyond the lungs
MOST_WINDOWS = 100_000  # in a scan; the default needs some hundreds
LARGEST = 16e6  # voxels of a tile: about 0.7 GB of memory for the network
LOST_WEIGHT = 0.05  # fraction of a voxel's blending weight that omitted windows may take away


def plan_windows(shape: Sequence[int], patch: Sequence[int], stride: Sequence[int], multiple: int = 1) -> list[Box]:
    """Windows of size `patch` that cover `shape`: evenly spread, at most `stride` apart.

    They start at multiples of `multiple`. The last one ends at the volume's last voxel.

    Raises:
        BadConfig: there are more than `MOST_WINDOWS`.
    """
    spans = []
    for size, window, step in zip(shape, patch, stride, strict=True):
        # In units of `multiple`, so that rounding down never makes a gap wider than the stride.
        room, unit = (size - window) // multiple, max(1, step // multiple)
        count = math.ceil(room / unit) + 1
        starts = [room * i // max(1, count - 1) * multiple for i in range(count)]
        spans.append([slice(start, start + window) for start in starts])
    if (count := math.prod(map(len, spans))) > MOST_WINDOWS:
        msg = f"stride {list(stride)} means {count} windows on this scan, more than {MOST_WINDOWS}: make it larger"
        raise BadConfig(msg)
    return list(product(*spans))


def regular_windows(shape: Shape3, patch: Shape3, overlap: float, *, spread: bool = False) -> list[Box]:
    """Windows in MONAI's layout (`SlidingWindowInferer`): equal steps, with the last one shifted back to the end.

    `overlap` is a fraction of the patch, which is at most as large as the volume. With `spread` the layout is
    nnU-Net's: all neighbours overlap by about the same length, at least by that fraction.

    Raises:
        BadConfig: there are more than `MOST_WINDOWS`.
    """
    spans: list[list[slice]] = []
    for size, window in zip(shape, patch, strict=True):
        if spread:
            count = math.ceil((size - window) / (window * (1 - overlap))) + 1
            starts = [round((size - window) / max(1, count - 1) * number) for number in range(count)]
        else:
            step = max(1, int(window * (1 - overlap)))
            starts = [*range(0, size - window, step), size - window]
        spans.append([slice(start, start + window) for start in starts])
    if (count := math.prod(map(len, spans))) > MOST_WINDOWS:
        msg = f"the detector's windows are {count} on this scan, more than {MOST_WINDOWS}: crop it to the chest"
        raise BadConfig(msg)
    return [(x, y, z) for x, y, z in product(*spans)]


def plan_box(
    region: Region, shape: Shape3, patch: Shape3, stride: Shape3, *, scale: int, multiple: int, context: int = CONTEXT
) -> Box:
    """The part of a volume of `shape` that the network needs to predict `region`, in voxels.

    It holds `context` voxels around the region. It grows until it is filled by the fewest windows. It starts at a
    multiple of `multiple`, so that its output grid is a part of the whole volume's.
    """
    spans = []
    for (low, high), size, window, step in zip(
        _needs(region, shape, scale, multiple, context), shape, patch, stride, strict=True
    ):
        length = max(0, math.ceil((high - low - window) / step)) * step + window
        start = max(0, low - (low + length - high) // 2 // multiple * multiple)
        spans.append(slice(start, min(size, start + length)))
    return spans[0], spans[1], spans[2]


def plan_tiles(
    region: Region | None, shape: Shape3, overlap: int, *, scale: int, multiple: int, context: int = CONTEXT
) -> tuple[Shape3, Shape3]:
    """Patch and stride of the fewest tiles that cover the region, or the volume if there is none.

    A tile has at most `LARGEST` voxels. Neighbours share `overlap` voxels.
    """
    spans = [(0, size) for size in shape] if region is None else _needs(region, shape, scale, multiple, context)
    need = [high - low for low, high in spans]
    counts = [1, 1, 1]
    while True:
        tile = [
            math.ceil((length + (count - 1) * overlap) / count / multiple) * multiple
            for length, count in zip(need, counts, strict=True)
        ]
        if math.prod(tile) <= LARGEST or max(tile) <= 2 * overlap:
            stride = [size - overlap if count > 1 else size for size, count in zip(tile, counts, strict=True)]
            return as_shape(tile), as_shape(stride)
        counts[int(np.argmax(tile))] += 1


def _needs(region: Region, shape: Shape3, scale: int, multiple: int, context: int) -> list[tuple[int, int]]:
    """Along each axis, the voxels (first, last + 1) that the region needs. The first is a multiple of `multiple`."""
    spans = []
    for axis, size in enumerate(shape):
        inside = np.flatnonzero(region.any(axis=tuple({0, 1, 2} - {axis})))
        low, high = int(inside[0]) * scale - context, (int(inside[-1]) + 1) * scale + context
        spans.append((max(0, low) // multiple * multiple, min(size, high)))
    return spans


def needed_windows(windows: list[Box], weights: FloatArray, region: Region, scale: int) -> list[Box]:
    """The windows that are needed: no voxel of the region loses more than `LOST_WEIGHT` of its weight."""
    shape = [max(window[axis].stop for window in windows) // scale for axis in range(3)]
    total = np.zeros(shape, np.float32)
    for window in windows:
        total[coarser(window, scale)] += weights
    inside = np.zeros(shape, bool)
    inside[tuple(map(slice, region.shape))] = region
    lost = np.where(inside, LOST_WEIGHT * total, np.inf)  # the weight that may still be lost
    shares = [float((weights / lost[coarser(window, scale)]).max()) for window in windows]
    kept = set(range(len(windows)))
    for number in np.argsort(shares, kind="stable"):
        target = coarser(windows[number], scale)
        if (weights <= lost[target]).all():
            lost[target] -= weights
            kept.remove(int(number))
    return [windows[number] for number in sorted(kept)]


def coarser(window: Box, scale: int) -> Box:
    """The window on a grid that is `scale` times coarser."""
    x, y, z = (slice(part.start // scale, part.stop // scale) for part in window)
    return x, y, z


def as_shape(values: Sequence[float]) -> Shape3:
    """Three values as integers of Python."""
    x, y, z = (int(value) for value in values)
    return x, y, z
