"""Converts Hounsfield units to a network's input range."""

from typing import Literal

import numpy as np

from ..types import FloatArray

__all__ = ["normalize_intensity"]


def normalize_intensity(
    array: FloatArray, clip_range: tuple[float, float], method: Literal["minmax", "zscore"] | None = "minmax"
) -> FloatArray:
    """Clip HU to `clip_range`. `minmax` then scales to 0..1; `zscore` to mean 0 and standard deviation 1.

    Without a method the clipped HU are returned. Works in place.
    """
    low, high = clip_range
    np.clip(array, low, high, out=array)
    if method == "minmax":
        array -= low
        array /= high - low
    elif method == "zscore":
        array -= array.mean(dtype=np.float64)
        array /= max(float(array.std(dtype=np.float64)), 1e-6)  # a constant volume stays zero
    return array
