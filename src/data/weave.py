"""Whether slices in one row are of one reconstruction, by their pixels: where two are woven, they alternate."""

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["woven"]

COUNTS = (2, 3)  # of reconstructions or phases that may be woven
SLICES, LEAST = 96, 10  # that are looked at, from the middle; fewer than the latter tell nothing
STEP = 4  # every fourth pixel along x and y is looked at
NEARER = 1.05  # times as near, in HU, each slice is to the next of its own reconstruction as to the next of all
NOISIER = 1.5  # times as much noise as in the neighbour; slices that were interpolated in between reach up to 1.41
ALIKE = 3  # times nearer in noise, by its logarithm, to the next but one than to the neighbour
MOST = 0.9  # of the slices, that must show it

Values = npt.NDArray[np.float32]


def woven(array: npt.NDArray[Any]) -> int:
    """How many reconstructions or phases alternate along z in (X, Y, Z) HU; 1 where it is one.

    Reconstructions of the same data with the same kernel are one, wherever their slices lie.
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
    """The mean difference in HU of each slice to the one `lag` slices on."""
    return np.asarray(np.abs(pixels[..., lag:] - pixels[..., :-lag]).mean(axis=(0, 1)))


def _noise(part: npt.NDArray[Any]) -> Values:
    """The mean difference in HU of neighbouring pixels along x, for each slice."""
    right, left = part[1::STEP, ::STEP].astype(np.float32), part[: part.shape[0] - 1 : STEP, ::STEP].astype(np.float32)
    return np.asarray(np.abs(right - left).mean(axis=(0, 1)))


def _alternates(noise: Values) -> bool:
    level = np.log(np.maximum(noise, 1e-3))
    next_one, next_but_one = np.abs(level[1:-1] - level[:-2]), np.abs(level[2:] - level[:-2])
    return bool(np.mean((next_one > np.log(NOISIER)) & (ALIKE * next_but_one < next_one)) >= MOST)
