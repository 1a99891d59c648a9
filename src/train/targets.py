"""The network's targets for a patch with known nodules."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..types import FloatArray

__all__ = ["Mask", "Points", "Sample", "Spread", "Truth", "heat_target", "within"]

Mask = npt.NDArray[np.bool_]
Points = npt.NDArray[np.float64]


class Truth(NamedTuple):
    """A nodule: its centre in voxels of 1 mm and its diameter in mm."""

    centre: Points  # (3,)
    diameter: float


class Spread(NamedTuple):
    """The standard deviation of a nodule's Gaussian: a share of its diameter, within limits in mm."""

    share: float = 1 / 6
    least: float = 2.2
    most: float = 5.0


@dataclass(frozen=True, eq=False)
class Sample:
    """A patch of (X, Y, Z) float32 HU, its nodules, and its unknown voxels."""

    hu: FloatArray
    truths: list[Truth]
    ignore: Mask | None = None


def heat_target(shape: Sequence[int], truths: Sequence[Truth], spread: Spread) -> tuple[FloatArray, FloatArray]:
    """The target heatmap (0..1) and log diameter of a patch of `shape` voxels, on the halved grid.

    Each nodule is a Gaussian. Voxel j of the halved grid lies on input voxel 2j.
    """
    small = tuple((size + 1) // 2 for size in shape)
    heat, log_diameter = np.zeros(small, np.float32), np.zeros(small, np.float32)
    grid = np.indices(small, dtype=np.float32) * 2
    for centre, diameter in truths:
        sigma = float(np.clip(spread.share * diameter, spread.least, spread.most))
        squared = ((grid - centre[:, None, None, None].astype(np.float32)) ** 2).sum(0)
        bump = np.exp(-squared / (2 * sigma**2))
        log_diameter[bump > heat] = np.log(diameter)
        np.maximum(heat, bump, out=heat)
    return heat, log_diameter


def within(points: npt.ArrayLike, findings: Sequence[Truth], margin: float = 0.0) -> Mask:
    """Which of the (n, 3) points lie within the radius plus `margin` mm of a finding's centre."""
    points = np.asarray(points, dtype=np.float64).reshape(-1, 3)
    inside = np.zeros(len(points), dtype=bool)
    for centre, diameter in findings:
        inside |= ((points - centre) ** 2).sum(1) < (diameter / 2 + margin) ** 2
    return inside
