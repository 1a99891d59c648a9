"""The second look, at half the resolution. There a mass has the size of a nodule, as in training."""

import numpy as np

from ..model.unet import DIAMETER, HEATMAP
from ..types import FloatArray

__all__ = ["LEAST", "add_large", "halve"]

LEAST = 16.0  # mm; smaller nodules are left to the first look, whose positions are better


def halve(volume: FloatArray) -> FloatArray:
    """Every other voxel of a (X, Y, Z) volume, smoothed along each axis with the weights 1/4, 1/2, 1/4."""
    for axis, size in enumerate(volume.shape):
        even = np.arange(0, size, 2)
        beside = volume.take(np.maximum(even - 1, 0), axis) + volume.take(np.minimum(even + 1, size - 1), axis)
        volume = volume.take(even, axis) / 2 + beside / 4
    return volume


def add_large(first: FloatArray, second: FloatArray, offset: float = 0.0) -> FloatArray:
    """The maps of the first look, with the second look's values wherever it is more confident of a large nodule.

    Args:
        first: (C, X, Y, Z). This array is changed and returned.
        second: the maps of the halved volume, (C, X/2, Y/2, Z/2) rounded up. Voxel k lies on voxel 2k + `offset` of
            the first. Its diameters are half the true ones.
        offset: the network's (`OutputGrid`), in voxels of the output.
    """
    shown = _doubled(second, first.shape[1:], offset)
    shown[DIAMETER] *= 2
    surer = (shown[DIAMETER] >= LEAST) & (shown[HEATMAP] > first[HEATMAP])
    np.copyto(first, shown, where=surer)
    return first


def _doubled(maps: FloatArray, shape: tuple[int, ...], offset: float) -> FloatArray:
    """The maps at twice the resolution: linear between voxels, constant beyond the ends."""
    for axis, size in enumerate(shape, start=1):
        last = maps.shape[axis] - 1
        places = ((np.arange(size) - offset) / 2).clip(0, last)
        below = places.astype(int)
        along = [size if number == axis else 1 for number in range(maps.ndim)]
        share = (places - below).astype(np.float32).reshape(along)
        maps = maps.take(below, axis) * (1 - share) + maps.take(np.minimum(below + 1, last), axis) * share
    return maps
