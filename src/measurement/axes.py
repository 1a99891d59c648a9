"""The long and the short axis of a nodule's section, as readers measure them."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.spatial import ConvexHull, QhullError
from scipy.spatial.distance import cdist

__all__ = ["Axes", "axes_of"]

Points = npt.NDArray[np.float64]


class Axes(NamedTuple):
    """Two diameters in the unit of the outline, and the ends (2, 2) of the long one and of the short one."""

    long: float
    short: float
    ends: Points
    across: Points


def axes_of(outline: Points) -> Axes:
    """The longest diameter of a closed `outline` (N, 2), and the longest diameter perpendicular to it.

    A diameter runs from one side of the outline to the other, inside it. The extent of a bent section may be larger
    than any diameter.
    """
    corners = outline
    if len(outline) > 2:
        try:
            corners = outline[ConvexHull(outline).vertices]
        except QhullError:  # all points on one line
            corners = outline
    lengths = cdist(corners, corners)
    one, two = np.unravel_index(np.argmax(lengths), lengths.shape)
    longest, ends = float(lengths[one, two]), corners[[one, two]]
    if longest == 0:
        return Axes(0.0, 0.0, ends, ends)
    dx, dy = (ends[1] - ends[0]) / longest
    turn = np.array([[dx, -dy], [dy, dx]])
    across = _widest(outline @ turn)
    return Axes(longest, float(across[1, 1] - across[0, 1]), ends, across @ turn.T)


def _widest(line: Points) -> Points:
    """The ends (2, 2) of the longest chord along the second coordinate, at a corner's value of the first."""
    start, end = line, np.roll(line, -1, axis=0)
    at = np.unique(line[:, 0])[:, None]
    low, high = np.minimum(start[:, 0], end[:, 0]), np.maximum(start[:, 0], end[:, 0])
    run = end[:, 0] - start[:, 0]
    share = np.divide(at - start[:, 0], run, out=np.zeros((len(at), len(line))), where=run != 0)
    crossing = start[:, 1] + share * (end[:, 1] - start[:, 1])
    met = (low <= at) & (at <= high)
    top, bottom = np.where(met, crossing, -np.inf).max(axis=1), np.where(met, crossing, np.inf).min(axis=1)
    widest = int(np.argmax(top - bottom))
    return np.array([[at[widest, 0], bottom[widest]], [at[widest, 0], top[widest]]])
