"""HU of a nodule and of the lung around it, from which its boundary follows.

A solid core may lie in a rim of ground-glass, whose boundary is the nodule's. A thin rim looks like the blur of the
core's edge, all the more across thick slices. So it is looked for within the slices, where only the kernel blurs.
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from ..types import FloatArray
from .cube import Cube
from .masks import Mask, rim_distance

__all__ = ["SKIN", "Levels", "levels_of"]

RIM = (0.2, 0.7)  # how dense a rim of ground-glass is between the lung, 0, and the core, 1
MIN_RIM = 80.0  # HU of such a rim above the lung
SKIN, BLUR_REACH = 1.2, 1.5  # mm, how deep into a nodule the blur of an edge reaches, and how far beyond it
THIN, THICKER = 1.0, 0.5  # mm of a slice that blurs no farther than that; each further mm adds half a mm
WIDEST = 0.85  # of the area of a nodule's largest section, from which on a section is judged
# mm in a section that are judged, from and how far: beyond the boundary of a core, and within that of a rim.
RIM_AWAY, RIM_DEPTH = (0.9, 0.8), (0.5, 0.4)
LEAST = 12  # voxels there


@dataclass(frozen=True, eq=False, slots=True)
class Levels:
    """HU of the lung around a nodule, and of the nodule just inside its boundary."""

    lung: float
    nodule: float

    @property
    def threshold(self) -> float:
        """The HU of the boundary."""
        return (self.lung + self.nodule) / 2

    @property
    def contrast(self) -> float:
        """The nodule's HU above the lung."""
        return self.nodule - self.lung


def levels_of(cube: Cube, body: Mask, other: Mask, depth: FloatArray, ambient: float, across: int | None) -> Levels:
    """The median HU in a layer inside the boundary and in a shell of lung around it.

    A layer, not the middle: a calcified or solid middle must not decide where a softer rim ends. Where there is a rim
    of ground-glass, its level is the nodule's. `depth` in mm is that in the body, `ambient` the HU of lung in the cube.
    Thin rims are looked for within the slices, which lie across the axis `across`; with None they are not.
    """
    radius = float(depth[body].max())
    thicker = THICKER * max(0.0, cube.thickness - THIN)
    skin = min(SKIN + thicker, 0.5 * radius)
    width = max(1.5, 2 * cube.step)
    layer = body & (depth >= skin) & (depth <= skin + width)
    away = rim_distance(body, other, cube.step, 0.5 * radius + 4)
    shell = np.isfinite(away) & (away > BLUR_REACH + thicker)
    near = shell & (away <= BLUR_REACH + thicker + max(1.0, cube.step))
    nodule = float(np.median(cube.hu[layer if layer.any() else body]))
    lung = float(np.median(cube.hu[shell])) if shell.any() else ambient
    level = float(np.median(cube.hu[near])) if near.any() else lung
    if _is_rim(level, nodule, ambient):
        return Levels(ambient, level)
    rim = None if across is None else _rim_in_slices(cube, body, other, Levels(ambient, nodule), across)
    return Levels(lung, nodule) if rim is None else Levels(ambient, rim)


def _is_rim(level: float, core: float, lung: float) -> bool:
    low, high = (share * (core - lung) for share in RIM)
    return max(low, MIN_RIM) < level - lung < high


def _rim_in_slices(cube: Cube, body: Mask, other: Mask, known: Levels, across: int) -> float | None:
    """The median HU of a rim around the body, or of one that is its outer part already, in its widest sections."""
    parts = (np.moveaxis(array, across, 0) for array in (body, other, cube.hu))
    areas = np.moveaxis(body, across, 0).sum(axis=(1, 2))
    inside, beside, hu = (part[areas >= WIDEST * areas.max()] for part in parts)
    depth, away, free = (_in_sections(mask, cube.step) for mask in (inside, ~inside, ~beside))
    skin = np.minimum(RIM_DEPTH[0], depth.max(axis=(1, 2), keepdims=True) / 2)
    within = (depth >= skin) & (depth <= skin + max(RIM_DEPTH[1], cube.step))
    beyond = (away > RIM_AWAY[0]) & (away <= RIM_AWAY[0] + max(RIM_AWAY[1], cube.step))
    inner, outer = (hu[where & (free > BLUR_REACH)] for where in (within, beyond))
    level = float(np.median(inner)) if inner.size >= LEAST else known.nodule
    if outer.size >= LEAST and _is_rim(float(np.median(outer)), level, known.lung):
        return float(np.median(outer))
    return level if _is_rim(level, float(np.percentile(cube.hu[body], 90)), known.lung) else None


def _in_sections(mask: Mask, step: float) -> FloatArray:
    """How deep in mm every voxel of a mask lies below the mask's surface within the same section (first axis)."""
    if mask.all():
        return np.full(mask.shape, np.inf, dtype=np.float32)
    between = 1e3 * step * max(mask.shape)  # so that no other section is near
    to_middles = ndimage.distance_transform_edt(mask, sampling=(between, step, step))
    depth: FloatArray = (to_middles - step / 2).astype(np.float32)
    return depth
