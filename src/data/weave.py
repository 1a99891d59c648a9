"""Tells by their pixels whether the slices of one row belong to several reconstructions that alternate."""

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["woven"]

COUNTS = (2, 3)  # reconstructions or phases that may alternate
SLICES, LEAST = 96, 10  # slices from the middle that are compared; with fewer than the latter there is no verdict
STEP = 4  # pixels; compares each fourth one along x and y
NEARER = 1.05  # ratio of distances in HU: to the next slice, over the next of the same reconstruction
NOISIER = 1.5  # ratio of noise to the neighbour; slices interpolated in between reach 1.41
ALIKE = 3  # ratio of log-noise distances: to the neighbour, over the next but one
MOST = 0.9  # fraction of slices that must show it

Values = npt.NDArray[np.float32]


def woven(array: npt.NDArray[Any]) -> int:
    """The number of reconstructions or phases that alternate along z in (X, Y, Z) HU; 1 if there is only one.

    Reconstructions of the same data with the same kernel count as one, wherever their slices lie.
    """
    first = max(0, (array.shape[2] - SLICES) // 2)
    part = array[..., first : first + SLICES]
    if part.shape[2] < LEAST:
        return 1
    pixels = part[::STEP, ::STEP].astype(np.float32)
    if _alternates(_noise(part)):
        return 2
    for count in COUNTS:
        apart = [_apart(pixels, lag)[: pixels.shape[2] - count] for lag in range(1, count + 1)]
        if np.mean(np.max(apart[:-1], axis=0) > NEARER * apart[-1]) >= MOST:
            return count
    return 1


def _apart(pixels: Values, lag: int) -> Values:
    """The mean difference in HU between each slice and the slice `lag` further on."""
    return np.asarray(np.abs(pixels[..., lag:] - pixels[..., :-lag]).mean(axis=(0, 1)))


def _noise(part: npt.NDArray[Any]) -> Values:
    """The mean difference in HU of neighbouring pixels along x, for each slice."""
    right, left = part[1::STEP, ::STEP].astype(np.float32), part[: part.shape[0] - 1 : STEP, ::STEP].astype(np.float32)
    return np.asarray(np.abs(right - left).mean(axis=(0, 1)))


def _alternates(noise: Values) -> bool:
    level = np.log(np.maximum(noise, 1e-3))
    next_one, next_but_one = np.abs(level[1:-1] - level[:-2]), np.abs(level[2:] - level[:-2])
    return bool(np.mean((next_one > np.log(NOISIER)) & (ALIKE * next_but_one < next_one)) >= MOST)
