"""Random draws."""

import numpy as np
import numpy.typing as npt
from numpy.random import Generator

__all__ = ["chance", "log_uniform", "orientation", "rotation"]


def chance(rng: Generator, share: float) -> bool:
    """True in a `share` (0..1) of all calls."""
    return bool(rng.random() < share)


def log_uniform(rng: Generator, low: float, high: float) -> float:
    """A number between `low` and `high`, uniform in its logarithm."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def rotation(rng: Generator) -> npt.NDArray[np.float64]:
    """A random orthogonal 3x3 matrix, reflections included, uniform (QR of a Gaussian; Stewart 1980)."""
    q, r = np.linalg.qr(rng.normal(size=(3, 3)))
    return np.asarray(q * np.sign(np.diag(r)))


def orientation(rng: Generator) -> npt.NDArray[np.float64]:
    """A random one of the 48 matrices that permute and flip axes. Unlike a free rotation, it does not blur."""
    return np.asarray(np.eye(3)[rng.permutation(3)] * rng.choice([-1, 1], 3))
