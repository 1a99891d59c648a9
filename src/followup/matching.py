"""Which nodule of the baseline is which of the follow-up: the best one-to-one assignment."""

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from .registration import Points

__all__ = ["GATES", "SIZE_RATIO", "assign"]

# mm that a nodule may lie from where registration expects it; a rigid one leaves the breath.
GATES = {"deformable": 12.0, "rigid": 25.0}
SIZE_RATIO = 3.0  # of two diameters of one nodule; a volume grows 27 times


def assign(
    expected: Points,
    found: Points,
    diameters: tuple[npt.ArrayLike, npt.ArrayLike],
    gate: float,
) -> list[tuple[int, int]]:
    """Pairs of indices into the `expected` (n, 3) and the `found` (m, 3) points, in mm, with their diameters.

    Distance and the ratio of diameters count alike; no pair lies beyond `gate` or `SIZE_RATIO`.
    """
    if not len(expected) or not len(found):
        return []
    before, after = (np.asarray(values, dtype=np.float64) for values in diameters)
    far = cdist(expected, found) / gate
    unlike = np.abs(np.log(after[None, :] / before[:, None])) / np.log(SIZE_RATIO)
    likeness = np.where((far <= 1) & (unlike <= 1), 2.001 - far - unlike, 0)  # 0 is no pair, 0.001 just one
    rows, columns = linear_sum_assignment(likeness, maximize=True)
    return [(int(i), int(j)) for i, j in zip(rows, columns, strict=True) if likeness[i, j] > 0]
