"""The weights of a patch's voxels where patches overlap."""

from typing import Literal

import numpy as np
import numpy.typing as npt

from ..types import FloatArray, Shape3

__all__ = ["BlendMethod", "blend_weights", "nnunet_weights"]

BlendMethod = Literal["gaussian", "linear", "average"]
# Relative to the largest weight: float16's smallest positive number, because nnU-Net keeps ten times the weight.
FAINT = 2**-24 / 10
FLOOR = 1e-3  # of the largest weight; zero weights would give 0/0 at the volume's corners


def blend_weights(
    shape: Shape3, method: BlendMethod = "gaussian", sigma: float = 0.125, *, plain: bool = False
) -> FloatArray:
    """Weights of shape (X, Y, Z) in 0.001..1, symmetric, largest in the middle.

    Args:
        shape: the patch in voxels.
        method: `gaussian` is a normal density, `linear` a tent, `average` constant.
        sigma: standard deviation of the Gaussian as a share of the patch size.
        plain: as in MONAI's `compute_importance_map`, where the largest weight may lie just below 1.
    """
    x, y, z = (_profile(size, method, sigma) for size in shape)
    weights = x[:, None, None] * y[:, None] * z
    floored: FloatArray = np.maximum(weights / (1 if plain else weights.max()), FLOOR).astype(np.float32)
    return floored


def nnunet_weights(shape: Shape3, sigma: float = 0.125) -> FloatArray:
    """nnU-Net's weights (X, Y, Z): a Gaussian with its maximum, 1, at half the patch size."""
    x, y, z = (np.exp(-0.5 * ((np.arange(size) - size // 2) / (size * sigma)) ** 2) for size in shape)
    weights: FloatArray = np.maximum(x[:, None, None] * y[:, None] * z, FAINT).astype(np.float32)
    return weights


def _profile(size: int, method: BlendMethod, sigma: float) -> npt.NDArray[np.float64]:
    offset = np.abs(np.arange(size) - (size - 1) / 2) / size  # 0 in the middle, almost 0.5 at the faces
    profiles: dict[BlendMethod, npt.NDArray[np.float64]] = {
        "gaussian": np.exp(-0.5 * (offset / sigma) ** 2),
        "linear": 1 - 2 * offset,
        "average": np.ones(size),
    }
    return profiles[method]
