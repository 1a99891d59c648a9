"""Segments a nodule from an approximate position.

The steps follow Kuhnigk et al. (IEEE Trans Med Imaging 2006;25:417-434): an adaptive threshold half-way between nodule
and lung, and separation from vessels and walls by balls that scale with the nodule. All steps work on a cube around the
position. Its size and its voxels scale with the nodule, too.
"""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from ..data.geometry import turn_box
from ..types import Affine, FloatArray, NoduleMask, Shape3, Vec3
from .cube import Cube, on_scan, sample_cube, touches_border
from .edges import slice_blur
from .masks import Mask, around, box_around, connected, depth_of, rim_distance, within
from .walls import BALL, base_on_wall, find_wall

__all__ = ["SKIN", "Levels", "Segmentation", "segment_nodule"]

SIZES = (3.0, 45.0)  # mm, range of diameters
SETTLED = (0.75, 1.33)  # two sizes with a ratio within this range are the same
SEED_ERROR = 3.5  # mm, largest error of a position
MIN_CONTRAST = 100.0  # HU between a nodule and the lung around it
HALO = (0.2, 0.7)  # density of a ground-glass rim, where lung is 0 and the core is 1
MIN_HALO = 80.0  # HU of such a rim above the lung
AERATED = -500  # HU; lung is below
SOLID = -400.0  # HU, half-way between lung and soft tissue
MARGIN = 5.0  # mm of surroundings kept for the measurement
SKIN, BLUR_REACH = 1.2, 1.5  # mm, how far the blur of an edge reaches into a nodule, and beyond it
THICKER_BY = 1.2  # ratio of thicknesses from which a segmentation with the smaller one is repeated
EDGE_SMOOTHING = 0.4  # mm, SD, against noise
EDGE = 4.0  # mm, and at least three voxels, around a nodule: the region that measures its blur
THIN, THICKER = 1.0, 0.5  # mm of a slice without additional blur; half a mm for each further mm


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


@dataclass(frozen=True, eq=False, slots=True)
class Body:
    """A nodule on a cube: `body`, and `other` for all else above the threshold."""

    body: Mask
    other: Mask
    levels: Levels


@dataclass(frozen=True, eq=False, slots=True)
class Segmentation:
    """A nodule, as `mask` (X, Y, Z) on the scan's grid with its first voxel at index `origin`.

    `centre` is its centre of gravity in millimetres from the scan's first voxel. `body` is the same nodule on a fine
    isotropic grid of `step` millimetres along the scan's axes, cropped to `MARGIN` around it. On that grid `hu` is the
    scan, and `other` all else above the threshold: vessels and walls.
    """

    mask: Mask
    origin: Shape3
    hu: FloatArray
    body: Mask
    other: Mask
    step: float
    levels: Levels
    centre: Vec3
    thickness: float  # mm of slices with the same blur, at least the largest voxel side

    def on_grid(self, turn: Affine) -> NoduleMask:
        """The mask on another grid of the same voxels. `turn` maps an index of this grid to that grid."""
        voxels, origin = turn_box(self.mask, self.origin, turn)
        return NoduleMask(voxels.astype(bool), origin)


def segment_nodule(
    scan: npt.NDArray[np.generic],
    coordinates: Vec3,
    diameter: float,
    spacing: Vec3,
    axial_axis: int = 2,
    reach: float | None = None,
) -> Segmentation | None:
    """Segment the nodule at a point of an (X, Y, Z) scan in HU. None if no boundary can be found.

    `coordinates` are millimetres from the first voxel and may be 3 mm off. `diameter` in millimetres may be wrong by a
    factor of 3. None means that the contrast is too low, that the body leaks into its surroundings, or that the scan's
    border cuts the nodule. With `reach`, soft tissue and bone that extend further than `reach` millimetres from the
    point are excluded.
    """
    size, levels, thickness = float(np.clip(diameter, *SIZES)), None, max(spacing)
    for _ in range(5):
        cube = sample_cube(scan, coordinates, spacing, half=2 * size + 3, step=size / 8)
        rough = _segment(replace(cube, thickness=thickness), size, levels, reach)
        before = size
        size = float(np.clip(_ball_diameter(rough.body, cube.step) if rough else 1.6 * size, *SIZES))
        known, thickness = thickness, _thickness(cube, rough, axial_axis) if rough else thickness
        settled = thickness < THICKER_BY * known
        levels = rough.levels if rough and settled else None
        if settled and SETTLED[0] < size / before < SETTLED[1]:
            break
    cube = sample_cube(scan, coordinates, spacing, half=2 * size + 3, step=size / 14)
    cube = replace(cube, thickness=thickness)
    found = _segment(cube, size, levels, reach)
    if found is None or touches_border(found.body, cube):
        return None
    mask, origin = on_scan(found.body, cube, scan.shape, coordinates, spacing)
    box = box_around(found.body, MARGIN, cube.step)
    x, y, z = (np.argwhere(found.body).mean(axis=0) - cube.middle) * cube.step + coordinates
    centre = float(x), float(y), float(z)
    parts = cube.hu[box], found.body[box], found.other[box]
    return Segmentation(mask, origin, *parts, cube.step, found.levels, centre, thickness)


def _thickness(cube: Cube, found: Body, axial_axis: int) -> float:
    """The thickness in mm of slices that explain the blur of the nodule's edge, at least the largest voxel side."""
    box = box_around(found.body, EDGE + 3 * cube.step, cube.step)
    smooth = ndimage.gaussian_filter(cube.hu[box], EDGE_SMOOTHING / cube.step)
    blur = slice_blur(smooth, found.body[box], found.other[box], found.levels.lung, cube.step, axial_axis)
    return max(cube.thickness, blur)


def _ball_diameter(mask: Mask, step: float) -> float:
    return float(np.cbrt(6 / np.pi * mask.sum()) * step)


def _segment(cube: Cube, size: float, levels: Levels | None, reach: float | None) -> Body | None:
    """The nodule of about `size` millimetres at the centre of a cube."""
    smooth = ndimage.gaussian_filter(cube.hu, np.clip(0.05 * size, 0.4, 1.0) / cube.step)
    away = cube.away_from(cube.middle)
    beyond = np.zeros(cube.hu.shape, dtype=np.bool_) if reach is None else _beyond(smooth, away, reach, cube.step)
    air = _air(cube.hu)
    levels = levels or _first_levels(air, np.where(beyond, np.float32(-1024), smooth), away, size)
    found = None
    for _ in range(3):
        if not levels.contrast >= MIN_CONTRAST:
            return None
        dense = _fill(smooth > levels.threshold, size, cube.step)
        depth = depth_of(dense, cube.step, BALL * size)
        wall = find_wall(dense & (smooth > SOLID), depth, BALL * size, cube.step)
        free = dense & ~wall & ~beyond
        if depth[free].max(initial=0) > BALL * size:
            depth = depth_of(dense, cube.step)
        # HU break ties between equal depths; otherwise the order of the axes would.
        centre = _centre(free, depth + np.float32(1e-4) * smooth, away, size)
        if centre is None:
            return None
        body = _separate(free, depth, centre, cube)
        if wall.any() and reach is None:
            body |= base_on_wall(body, wall, dense, centre, float(depth[centre]), cube)
        found = Body(body, dense & ~body, _levels(cube, body, dense & ~body, depth, air))
        if abs(found.levels.threshold - levels.threshold) < 0.05 * levels.contrast:
            break
        levels = found.levels
    return found


def _beyond(smooth: FloatArray, away: FloatArray, reach: float, step: float) -> Mask:
    """Soft tissue and bone that extend further than `reach` mm from the centre, and their blur."""
    labels, count = ndimage.label(smooth > SOLID)
    far = np.zeros(count + 1, dtype=np.bool_)
    far[np.unique(labels[away > reach])] = True
    far[0] = False
    if not far.any():
        return np.zeros(smooth.shape, dtype=np.bool_)
    return within(far[labels], SKIN, step)


def _first_levels(lung: float, smooth: FloatArray, away: FloatArray, size: float) -> Levels:
    """Initial levels from the seed's neighbourhood; if the seed is in lung, from its brightest voxel."""
    nodule = float(np.percentile(smooth[away <= max(0.2 * size, 0.8)], 75))
    if nodule - lung < 1.5 * MIN_CONTRAST:
        nodule = float(smooth[away <= SEED_ERROR].max())
    return Levels(lung, nodule)


def _air(hu: FloatArray) -> float:
    """The median HU of voxels less dense than tissue; infinite if there are none."""
    air = hu[hu < AERATED]
    return float(np.median(air)) if air.size else np.inf


def _levels(cube: Cube, body: Mask, other: Mask, depth: FloatArray, ambient: float) -> Levels:
    """The median HU in a layer inside the boundary and in a shell of lung around it.

    It uses a layer, not the centre: a calcified or solid centre must not decide where a softer rim ends. If the shell
    next to the boundary is ground-glass, its level is the nodule's.
    """
    radius = float(depth[body].max())
    thicker = THICKER * max(0.0, cube.thickness - THIN)
    skin = min(SKIN + thicker, 0.5 * radius)
    width = max(1.5, 2 * cube.step)
    layer = body & (depth >= skin) & (depth <= skin + width)
    rim = rim_distance(body, other, cube.step, 0.5 * radius + 4)
    shell = np.isfinite(rim) & (rim > BLUR_REACH + thicker)
    halo = shell & (rim <= BLUR_REACH + thicker + max(1.0, cube.step))
    nodule = float(np.median(cube.hu[layer if layer.any() else body]))
    lung = float(np.median(cube.hu[shell])) if shell.any() else ambient
    level = float(np.median(cube.hu[halo])) if halo.any() else lung
    low, high = (share * (nodule - ambient) for share in HALO)
    if max(low, MIN_HALO) < level - ambient < high:
        return Levels(ambient, level)
    return Levels(lung, nodule)


def _fill(mask: Mask, size: float, step: float) -> Mask:
    """Fill the holes of a mask that are smaller than a nodule: noise, cavities, bubbles."""
    labels, _ = ndimage.label(~mask)
    volumes = np.bincount(labels.ravel())
    return np.asarray(mask | (volumes < np.pi / 6 * (0.7 * size / step) ** 3)[labels])


def _centre(free: Mask, depth: FloatArray, away: FloatArray, size: float) -> Shape3 | None:
    """The centre of the largest ball near the seed; distance outweighs size. Then uphill in depth."""
    candidates = free & (away <= max(SEED_ERROR, 0.35 * size))
    if not candidates.any():
        return None
    centre = _argmax(np.where(candidates, depth - 0.5 * away, -np.inf))
    allowed = np.where(free & (away <= max(SEED_ERROR, 0.5 * size)), depth, -1)
    while True:
        box = tuple(slice(max(0, i - 2), i + 3) for i in centre)
        x, y, z = (int(i + b.start) for i, b in zip(_argmax(allowed[box]), box, strict=True))
        if allowed[x, y, z] <= allowed[centre]:
            return centre
        centre = x, y, z


def _argmax(values: FloatArray) -> Shape3:
    x, y, z = (int(i) for i in np.unravel_index(np.argmax(values), values.shape))
    return x, y, z


def _separate(free: Mask, depth: FloatArray, centre: Shape3, cube: Cube) -> Mask:
    """The part of a mask that balls nearly as large as the one at the centre can reach from there.

    The balls grow until they no longer escape along a vessel. If they always do, they must stay near the centre.
    """
    radius = float(depth[centre])
    box, middle = around(centre, 2.2 * radius, cube.step)
    away = cube.away_from(centre)
    for share in (0.6, 0.7, 0.8, 0.9):
        kernel = np.zeros_like(free)
        kernel[box] = connected((depth[box] >= share * radius) & free[box], middle)
        if away[kernel].max() < 2.2 * radius:
            break
    else:
        kernel = connected((depth >= share * radius) & free, centre) & (away < 1.2 * radius)
    detail = max(1, round(0.15 * radius / cube.step))
    box = box_around(kernel, share * radius + (detail + 1) * cube.step, cube.step)
    near = within(kernel[box], share * radius, cube.step) & free[box]
    grown = ndimage.binary_dilation(near, iterations=detail, mask=free[box])
    x, y, z = (i - side.start for i, side in zip(centre, box, strict=True))
    body = np.zeros_like(free)
    body[box] = connected(grown, (x, y, z))
    return body
