"""Peaks of a heatmap: its candidates."""

import logging
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.spatial import KDTree

from ..errors import BadConfig
from ..given import number_of, numbers_of, words_for
from ..results.output_formatter import GivenHeatmap, heatmap_of
from ..types import Affine, FloatArray, Peak, spacing_of

__all__ = ["detect_peaks"]

log = logging.getLogger("pivot")
PeakMethod: TypeAlias = Literal["local_maxima", "nms"]
LEAST_SPACING = 1e-6  # mm
NEIGHBOURS = np.ones((3, 3, 3), dtype=bool)


def detect_peaks(
    heatmap: GivenHeatmap,
    threshold: float = 0.5,
    min_distance: float = 10.0,
    spacing: Sequence[float] | None = None,
    method: PeakMethod = "local_maxima",
) -> list[Peak]:
    """Peaks of a (X, Y, Z) heatmap in 0..1 that reach `threshold`, strongest first.

    Two peaks are at least `min_distance` millimetres apart. `local_maxima` takes the voxels that no neighbour exceeds;
    a plateau counts once. `nms` takes every voxel, strongest first: a long ridge gives several peaks. Each position is
    refined between voxels by a parabola through the logarithm along each axis. This is exact for a Gaussian. A peak has
    no diameter: `extract_properties` measures one.

    Args:
        heatmap: an array, the results of `predict`, or the path of a saved heatmap.
        threshold: 0 to 1.
        min_distance: mm.
        spacing: mm between the heatmap's voxels. By default that of its affine, or 1 mm if it has none.
        method: `local_maxima` or `nms`.

    Raises:
        BadConfig: a number is out of range, or the method is unknown.
        BadOutput: the input is no heatmap.
    """
    given = heatmap_of(heatmap)
    heat = np.asarray(given, dtype=np.float32)
    spacing = _spacing(given, spacing)
    threshold = number_of(threshold, "threshold", 0, 1)
    min_distance = number_of(min_distance, "min_distance", 0)
    if method not in get_args(PeakMethod):
        msg = f"method must be local_maxima or nms, not {words_for(method)}"
        raise BadConfig(msg)
    voxels = np.argwhere(heat >= max(threshold, float(np.finfo(np.float32).tiny)))
    if method == "local_maxima":
        voxels = _maxima(heat, voxels)
    voxels = voxels[np.argsort(-heat[tuple(voxels.T)], kind="stable")]
    kept = _thin(np.multiply(voxels, spacing, dtype=np.float64), min_distance)
    return [_peak(heat, voxel, spacing) for voxel in voxels[kept]]


def _spacing(heatmap: npt.NDArray[Any], spacing: Sequence[float] | None) -> Sequence[float]:
    own: Affine | None = getattr(heatmap, "affine", None)
    if spacing is None:
        return (1.0, 1.0, 1.0) if own is None else spacing_of(own)
    steps = numbers_of(spacing, "spacing", least=LEAST_SPACING)
    if own is not None and not np.allclose(spacing_of(own), steps, rtol=1e-3):
        log.warning("the heatmap's own spacing is %s mm; coordinates follow the given %s", spacing_of(own), steps)
    return steps


def _maxima(heat: FloatArray, voxels: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
    """The `voxels` that no neighbour exceeds. A plateau gives one: the voxel nearest its centre."""
    if not len(voxels):
        return voxels
    low, high = voxels.min(0), voxels.max(0) + 1  # any voxel beyond is lower
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    chosen = np.zeros(heat[box].shape, dtype=bool)
    chosen[tuple((voxels - low).T)] = True
    chosen &= heat[box] == ndimage.maximum_filter(heat[box], footprint=NEIGHBOURS, mode="nearest")
    labels, _ = ndimage.label(chosen, structure=NEIGHBOURS)
    middles = []
    for index, part in enumerate(ndimage.find_objects(labels), start=1):
        members = np.argwhere(labels[part] == index) + [side.start for side in part]
        middles.append(members[np.argmin(((members - members.mean(0)) ** 2).sum(1))])
    return np.asarray(middles + low)


def _thin(points: npt.NDArray[np.float64], distance: float) -> list[int]:
    """Indices of the points to keep, in order: each lies at least `distance` from all those kept before it."""
    tree, alive, kept = KDTree(points), np.ones(len(points), dtype=bool), []
    reach = np.nextafter(distance, 0)  # a point at exactly this distance is kept
    for i, point in enumerate(points):
        if alive[i]:
            kept.append(i)
            alive[tree.query_ball_point(point, reach)] = False
    return kept


def _peak(heat: FloatArray, voxel: npt.NDArray[np.intp], spacing: Sequence[float]) -> Peak:
    x, y, z = ((int(i) + _offset(heat, voxel, axis)) * float(spacing[axis]) for axis, i in enumerate(voxel))
    i, j, k = (int(v) for v in voxel)
    return Peak(
        coordinates=(x, y, z),
        coordinates_voxel=(i, j, k),
        diameter_mm=None,
        confidence=min(1.0, float(heat[i, j, k])),
    )


def _offset(heat: FloatArray, voxel: npt.NDArray[np.intp], axis: int) -> float:
    """The maximum's offset from the voxel's centre along an axis, -0.5 to 0.5 voxels."""
    if not 0 < voxel[axis] < heat.shape[axis] - 1:
        return 0.0
    step = np.zeros(3, dtype=int)
    step[axis] = 1
    before, here, after = (float(np.log(max(heat[tuple(voxel + d)], 1e-6))) for d in (-step, 0 * step, step))
    curvature = before - 2 * here + after
    return 0.0 if curvature >= 0 else float(np.clip(0.5 * (before - after) / curvature, -0.5, 0.5))
