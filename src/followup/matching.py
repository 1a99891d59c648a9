"""Matches the nodules of baseline and follow-up: the best one-to-one assignment."""

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from .registration import Points

__all__ = ["GATES", "SIZE_RATIO", "assign"]

# mm; largest distance from the expected place. A rigid registration does not correct for breathing.
GATES = {"deformable": 12.0, "rigid": 25.0}
SIZE_RATIO = 3.0  # largest ratio of two diameters of one nodule; the volumes differ by a factor of 27


def assign(
    expected: Points,
    found: Points,
    diameters: tuple[npt.ArrayLike, npt.ArrayLike],
    gate: float,
) -> list[tuple[int, int]]:
    """Pairs of indices into the `expected` (n, 3) and the `found` (m, 3) points, in mm, with their diameters.

    Distance and the ratio of diameters have equal weight. No pair exceeds `gate` or `SIZE_RATIO`.
    """
    if not len(expected) or not len(found):
        return []
    before, after = (np.asarray(values, dtype=np.float64) for values in diameters)
    far = cdist(expected, found) / gate
    unlike = np.abs(np.log(after[None, :] / before[:, None])) / np.log(SIZE_RATIO)
    likeness = np.where((far <= 1) & (unlike <= 1), 2.001 - far - unlike, 0)  # 0: no pair; 0.001: only just a pair
    rows, columns = linear_sum_assignment(likeness, maximize=True)
    return [(int(i), int(j)) for i, j in zip(rows, columns, strict=True) if likeness[i, j] > 0]
