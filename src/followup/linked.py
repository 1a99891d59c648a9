"""Maps points of one examination to the other, as a lattice for interpolation in a viewer."""

from collections.abc import Callable
from itertools import product
from typing import TypedDict

import numpy as np

from ..data.geometry import to_lps
from ..types import Scan, Vec3
from .registration import Points, Registration

__all__ = ["Lattice", "PointMaps", "point_maps"]

STEP = 20.0  # mm between nodes; the registration varies over longer distances


class Lattice(TypedDict):
    """The positions of the nodes in the other examination, LPS mm, as one list of coordinates, x fastest."""

    origin: Vec3  # of the first node, LPS mm
    step: Vec3  # mm
    shape: tuple[int, int, int]  # nodes along x, y, z
    places: list[float]


class PointMaps(TypedDict):
    """The maps of points in both directions."""

    to_baseline: Lattice
    to_followup: Lattice


def point_maps(fit: Registration, baseline: Scan, followup: Scan) -> PointMaps:
    """The lattices over the boxes of both scans."""
    return PointMaps(to_baseline=_lattice(followup, fit.to_baseline), to_followup=_lattice(baseline, fit.to_followup))


def _lattice(scan: Scan, to_other: Callable[[Points], Points]) -> Lattice:
    corners = to_lps(scan.affine, np.array(list(product(*((0, size - 1) for size in scan.shape)))))
    low, high = corners.min(axis=0), corners.max(axis=0)
    counts = np.maximum(2, np.ceil((high - low) / STEP).astype(int) + 1)
    axes = [np.linspace(a, b, n) for a, b, n in zip(low, high, counts, strict=True)]
    z, y, x = np.meshgrid(*axes[::-1], indexing="ij")
    places = to_other(np.stack([x, y, z], axis=-1).reshape(-1, 3))
    step = (high - low) / (counts - 1)
    return Lattice(
        origin=(float(low[0]), float(low[1]), float(low[2])),
        step=(float(step[0]), float(step[1]), float(step[2])),
        shape=(int(counts[0]), int(counts[1]), int(counts[2])),
        places=np.round(places, 1).ravel().tolist(),
    )
