"""The second look, at half the resolution: a mass has there the size of a nodule, which the network knows."""

import numpy as np

from ..model.unet import DIAMETER, HEATMAP
from ..types import FloatArray

__all__ = ["LEAST", "add_large", "halve"]

LEAST = 16.0  # mm; what the second look takes for smaller is left to the first, which places it better


def halve(volume: FloatArray) -> FloatArray:
    """A (X, Y, Z) volume at every other voxel, each smoothed with its neighbours along every axis (1/4, 1/2, 1/4)."""
    for axis, size in enumerate(volume.shape):
        even = np.arange(0, size, 2)
        beside = volume.take(np.maximum(even - 1, 0), axis) + volume.take(np.minimum(even + 1, size - 1), axis)
        volume = volume.take(even, axis) / 2 + beside / 4
    return volume


def add_large(first: FloatArray, second: FloatArray, offset: float = 0.0) -> FloatArray:
    """The maps (C, X, Y, Z) of the first look, with those of the second where it is surer of a large nodule.

    `second` are the network's maps of the halved volume, (C, X/2, Y/2, Z/2) rounded up: their voxel k lies on
    voxel 2k + `offset` of the first, and their diameters count half. `offset` is the network's (`AnswerGrid`), in
    voxels of the answer. `first` is changed.
    """
    shown = _doubled(second, first.shape[1:], offset)
    shown[DIAMETER] *= 2
    surer = (shown[DIAMETER] >= LEAST) & (shown[HEATMAP] > first[HEATMAP])
    np.copyto(first, shown, where=surer)
    return first


def _doubled(maps: FloatArray, shape: tuple[int, ...], offset: float) -> FloatArray:
    """The maps between their voxels, linearly, and beyond the first and last as there."""
    for axis, size in enumerate(shape, start=1):
        last = maps.shape[axis] - 1
        places = ((np.arange(size) - offset) / 2).clip(0, last)
        below = places.astype(int)
        along = [size if number == axis else 1 for number in range(maps.ndim)]
        share = (places - below).astype(np.float32).reshape(along)
        maps = maps.take(below, axis) * (1 - share) + maps.take(np.minimum(below + 1, last), axis) * share
    return maps
