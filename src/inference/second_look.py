"""A second look at half the resolution: a mass is to it what a nodule is to the first."""

import numpy as np
import torch
from torch.nn import functional

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


def add_large(first: FloatArray, second: FloatArray) -> FloatArray:
    """The maps (C, X, Y, Z) of the first look, with those of the second where it is surer of a large nodule.

    `second` are the network's maps of the halved volume, (C, X/2, Y/2, Z/2) rounded up: their voxel k lies on
    voxel 2k of the first, and their diameters count half. `first` is changed.
    """
    shown = _doubled(second, first.shape[1:])
    shown[DIAMETER] *= 2
    surer = (shown[DIAMETER] >= LEAST) & (shown[HEATMAP] > first[HEATMAP])
    np.copyto(first, shown, where=surer)
    return first


def _doubled(maps: FloatArray, shape: tuple[int, ...]) -> FloatArray:
    """The maps between their voxels, linearly, and beyond the last as there."""
    between = [2 * size - 1 for size in maps.shape[1:]]
    tensor = functional.interpolate(torch.from_numpy(maps)[None], between, mode="trilinear", align_corners=True)
    x, y, z = (want - size for want, size in zip(shape, between, strict=True))
    doubled: FloatArray = functional.pad(tensor, (0, z, 0, y, 0, x), mode="replicate").numpy()[0]
    return doubled
