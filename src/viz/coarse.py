"""Smaller copies of volumes."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from ..types import Affine, FloatArray, Vec3

__all__ = ["shrink"]


def shrink(
    array: npt.NDArray[Any], spacing: Vec3, step: float, reduce: Callable[..., npt.NDArray[Any]] = np.mean
) -> tuple[FloatArray, Affine]:
    """The (X, Y, Z) array in blocks of about `step` mm, and the matrix from an index of them to one of `array`.

    `reduce` makes one value of a block. What is left over at the far ends is cut off.
    """
    blocks = [min(n, max(1, round(step / size))) for n, size in zip(array.shape, spacing, strict=True)]
    whole = array[tuple(slice(n // block * block) for n, block in zip(array.shape, blocks, strict=True))]
    shape = [part for n, block in zip(whole.shape, blocks, strict=True) for part in (n // block, block)]
    to_index = np.diag([*blocks, 1.0])
    to_index[:3, 3] = np.subtract(blocks, 1) / 2
    return reduce(whole.reshape(shape), axis=(1, 3, 5)).astype(np.float32), to_index
