"""From an approximate position to the voxels of a nodule.

The steps follow Kuhnigk et al. (IEEE Trans Med Imaging 2006;25:417-434): an adaptive threshold
half-way between nodule and lung, and separation from vessels and walls by balls that scale with the
nodule. Everything happens on a cube about the position, whose size and step scale with it too.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.interpolate import make_interp_spline

from ..types import FloatArray, Shape3, Vec3

__all__ = ["Levels", "Mask", "Segmentation", "depth_of", "rim_distance", "segment_nodule"]

Mask = npt.NDArray[np.bool_]
Points = npt.NDArray[np.floating]  # (N, 3) millimetres

SIZES = (3.0, 45.0)  # mm, the diameters that are looked for
SEED_ERROR = 3.5  # mm, how far a position may be from the nodule
MIN_CONTRAST = 100.0  # HU between a nodule and the lung around it
HALO = (0.2, 0.7)  # how dense a ground-glass rim is between the lung, 0, and the core, 1
MIN_HALO = 80.0  # HU of such a rim above the lung
SOLID = -400.0  # HU, half-way between lung and soft tissue
MARGIN = 5.0  # mm of surroundings that are kept for measuring
BLUR_REACH = 1.5  # mm, beyond which the blur of an edge has faded


@dataclass(frozen=True, eq=False, slots=True)
class Cube:
    """The scan about a point: `hu` of shape (N, N, N), N odd, with the point in the middle voxel.

    The grid is isotropic with `step` millimetres and keeps the scan's axes; `inside` is false where
    it leaves the scan.
    """

    hu: FloatArray
    inside: Mask
    step: float

    @property
    def middle(self) -> Shape3:
        """The index of the point."""
        x, y, z = (n // 2 for n in self.hu.shape)
        return x, y, z

    def away_from(self, index: Shape3) -> FloatArray:
        """The distance in millimetres of every voxel from one of them."""
        x, y, z = (self.step * (np.arange(n, dtype=np.float32) - i) for n, i in zip(self.hu.shape, index, strict=True))
        return np.sqrt(x[:, None, None] ** 2 + y[:, None] ** 2 + z**2)


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
    """A nodule on a cube: `body`, and `other` for what else is denser than the threshold."""

    body: Mask
    other: Mask
    levels: Levels


@dataclass(frozen=True, eq=False, slots=True)
class Segmentation:
    """A nodule, as `mask` (X, Y, Z) on the scan's grid, whose first voxel has the index `origin`.

    `body` is the same nodule on a fine isotropic grid of `step` millimetres along the scan's axes, cut
    to `MARGIN` about it; `hu` is the scan on that grid and `other` what else there is denser than the
    threshold: vessels and walls.
    """

    mask: Mask
    origin: Shape3
    hu: FloatArray
    body: Mask
    other: Mask
    step: float
    levels: Levels


def segment_nodule(
    scan: npt.NDArray[np.generic], coordinates: Vec3, diameter: float, spacing: Vec3
) -> Segmentation | None:
    """The nodule at a point of an (X, Y, Z) scan in HU; None where no boundary can be found.

    `coordinates` are millimetres from the first voxel and may be 3 mm off; `diameter` in millimetres
    may be wrong by a factor of 3. None means too little contrast, a leak into the surroundings or a
    nodule that the scan's border cuts.
    """
    size, levels = float(np.clip(diameter, *SIZES)), None
    for _ in range(5):
        cube = _sample(scan, coordinates, spacing, half=2 * size + 3, step=size / 8)
        rough = _segment(cube, size, levels)
        before = size
        size = float(np.clip(_ball_diameter(rough.body, cube.step) if rough else 1.6 * size, *SIZES))
        levels = rough.levels if rough else None
        if 0.75 < size / before < 1.33:
            break
    cube = _sample(scan, coordinates, spacing, half=2 * size + 3, step=size / 14)
    found = _segment(cube, size, levels)
    if found is None or _touches_border(found.body, cube):
        return None
    mask, origin = _on_scan(found.body, cube, scan.shape, coordinates, spacing)
    box = _box(found.body, MARGIN, cube.step)
    return Segmentation(mask, origin, cube.hu[box], found.body[box], found.other[box], cube.step, found.levels)


def depth_of(mask: Mask, step: float) -> FloatArray:
    """The distance in millimetres of every voxel of a mask to the nearest voxel outside; 0 outside.

    What lies beyond the array counts as inside.
    """
    if mask.all():
        return np.full(mask.shape, np.inf, dtype=np.float32)
    depth: FloatArray = ndimage.distance_transform_edt(mask).astype(np.float32) * np.float32(step)
    return depth


def rim_distance(body: Mask, other: Mask, step: float, reach: float) -> FloatArray:
    """The distance in millimetres of every voxel to a body, where nothing else is nearer.

    Infinite inside the body, beyond `reach`, and where `other` is nearer.
    """
    box = _box(body, reach, step)
    far, other_far = depth_of(~body[box], step), depth_of(~other[box], step)
    rim = np.full(body.shape, np.inf, dtype=np.float32)
    rim[box] = np.where(~(body | other)[box] & (far < other_far) & (far <= reach), far, np.inf)
    return rim


def _ball_diameter(mask: Mask, step: float) -> float:
    return float(np.cbrt(6 / np.pi * mask.sum()) * step)


def _sample(scan: npt.NDArray[np.generic], point: Vec3, spacing: Vec3, half: float, step: float) -> Cube:
    """The scan about a point by cubic interpolation, one axis after the other; nothing else is read."""
    count = int(np.ceil(half / step))
    targets = [(p + np.arange(-count, count + 1) * step) / s for p, s in zip(point, spacing, strict=True)]
    bounds = [_bounds(target, n) for target, n in zip(targets, scan.shape, strict=True)]
    hu = np.clip(np.asarray(scan[tuple(slice(*b) for b in bounds)], dtype=np.float32), -1024, 3071)
    for axis, (target, (low, high)) in enumerate(zip(targets, bounds, strict=True)):
        weights = _spline(np.clip(target - low, 0, high - low - 1), high - low)
        hu = np.moveaxis(np.tensordot(weights, hu, axes=(1, axis)), 0, axis)
    x, y, z = ((target > -0.5) & (target < n - 0.5) for target, n in zip(targets, scan.shape, strict=True))
    return Cube(np.ascontiguousarray(hu), x[:, None, None] & y[:, None] & z, step)


def _bounds(target: npt.NDArray[np.floating], n: int, margin: int = 4) -> tuple[int, int]:
    """The first voxel and the one after the last that interpolation at `target` needs."""
    low = int(np.clip(np.floor(target[0]) - margin, 0, n - 1))
    return low, int(np.clip(np.ceil(target[-1]) + margin, low + 1, n))


def _spline(target: npt.NDArray[np.floating], n: int) -> FloatArray:
    """The (len(target), n) weights of n samples in a cubic spline at `target`."""
    if n == 1:
        return np.ones((len(target), 1), dtype=np.float32)
    weights: FloatArray = make_interp_spline(np.arange(n), np.eye(n), k=min(3, n - 1))(target).astype(np.float32)
    return weights


def _segment(cube: Cube, size: float, levels: Levels | None) -> Body | None:
    """The nodule of about `size` millimetres at the middle of a cube."""
    smooth = ndimage.gaussian_filter(cube.hu, np.clip(0.05 * size, 0.4, 1.0) / cube.step)
    away = cube.away_from(cube.middle)
    levels = levels or _first_levels(cube, smooth, away, size)
    found = None
    for _ in range(3):
        if not levels.contrast >= MIN_CONTRAST:
            return None
        dense = _fill(smooth > levels.threshold, size, cube.step)
        depth = depth_of(dense, cube.step)
        wall = _wall(dense & (smooth > SOLID), depth, size, cube.step)
        # HU break the ties between equal depths, or the order of the axes would.
        centre = _centre(dense & ~wall, depth + np.float32(1e-4) * smooth, away, size)
        if centre is None:
            return None
        body = _separate(dense & ~wall, depth, centre, cube)
        if wall.any():
            body |= _base(body, wall, dense, centre, float(depth[centre]), cube)
        found = Body(body, dense & ~body, _levels(cube, body, dense & ~body, depth))
        if abs(found.levels.threshold - levels.threshold) < 0.05 * levels.contrast:
            break
        levels = found.levels
    return found


def _first_levels(cube: Cube, smooth: FloatArray, away: FloatArray, size: float) -> Levels:
    """What the seed's neighbourhood suggests; its brightest voxel where the seed lies in lung."""
    lung = _air(cube.hu)
    nodule = float(np.percentile(smooth[away <= max(0.2 * size, 0.8)], 75))
    if nodule - lung < 1.5 * MIN_CONTRAST:
        nodule = float(smooth[away <= SEED_ERROR].max())
    return Levels(lung, nodule)


def _air(hu: FloatArray) -> float:
    """The median HU of what is lighter than tissue; infinite where nothing is."""
    air = hu[hu < -500]
    return float(np.median(air)) if air.size else np.inf


def _levels(cube: Cube, body: Mask, other: Mask, depth: FloatArray) -> Levels:
    """The median HU in a layer inside the boundary and in a shell of lung around it.

    A layer, not the middle: a calcified or solid middle must not decide where a softer rim ends.
    Where the shell next to the boundary is ground-glass itself, its level is the nodule's.
    """
    radius = float(depth[body].max())
    skin = min(1.2, 0.5 * radius)
    width = max(1.5, 2 * cube.step)
    layer = body & (depth >= skin) & (depth <= skin + width)
    rim = rim_distance(body, other, cube.step, 0.5 * radius + 4)
    shell = np.isfinite(rim) & (rim > BLUR_REACH)
    halo = shell & (rim <= BLUR_REACH + max(1.0, cube.step))
    nodule = float(np.median(cube.hu[layer]))
    ambient = _air(cube.hu)
    lung = float(np.median(cube.hu[shell])) if shell.any() else ambient
    level = float(np.median(cube.hu[halo])) if halo.any() else lung
    low, high = (share * (nodule - ambient) for share in HALO)
    if max(low, MIN_HALO) < level - ambient < high:
        return Levels(ambient, level)
    return Levels(lung, nodule)


def _fill(mask: Mask, size: float, step: float) -> Mask:
    """The mask without holes smaller than a nodule: noise, cavities, bubbles."""
    labels, _ = ndimage.label(~mask)
    volumes = np.bincount(labels.ravel())
    return np.asarray(mask | (volumes < np.pi / 6 * (0.7 * size / step) ** 3)[labels])


def _wall(solid: Mask, depth: FloatArray, size: float, step: float) -> Mask:
    """What a ball far larger than the nodule can roll through: chest wall, mediastinum, diaphragm.

    Found on every other voxel, since the distance to a large ball's centres is smooth.
    """
    ball = 1.25 * size
    if depth.max() < ball:
        return np.zeros_like(solid)
    thick = depth_of(solid[::2, ::2, ::2], 2 * step) >= ball
    reach = ndimage.zoom(depth_of(~thick, 2 * step), np.divide(solid.shape, thick.shape), order=1)
    return np.asarray(solid & (reach <= ball))


def _centre(free: Mask, depth: FloatArray, away: FloatArray, size: float) -> Shape3 | None:
    """The middle of the largest ball near the seed, where near outweighs large, then uphill in depth."""
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

    The balls grow until they no longer escape along a vessel; if they always do, they must stay near.
    """
    away = cube.away_from(centre)
    radius = float(depth[centre])
    for share in (0.6, 0.7, 0.8, 0.9):
        kernel = _connected((depth >= share * radius) & free, centre)
        if away[kernel].max() < 2.2 * radius:
            break
    else:
        kernel &= away < 1.2 * radius
    body = _reach(kernel, share * radius, cube.step) & free
    detail = max(1, round(0.15 * radius / cube.step))
    return _connected(ndimage.binary_dilation(body, iterations=detail, mask=free), centre)


def _reach(mask: Mask, reach: float, step: float) -> Mask:
    """The voxels within `reach` millimetres of a mask."""
    box = _box(mask, reach, step)
    near = np.zeros_like(mask)
    near[box] = depth_of(~mask[box], step) <= reach
    return near


def _connected(mask: Mask, index: Shape3) -> Mask:
    """The connected part of a mask that holds a voxel."""
    labels, _ = ndimage.label(mask)
    return np.asarray(labels == labels[index])


def _box(mask: Mask, margin: float, step: float) -> tuple[slice, ...]:
    """The bounding box of a mask and `margin` millimetres around it."""
    extra = int(np.ceil(margin / step))
    (box,) = ndimage.find_objects(mask.astype(np.uint8))
    return tuple(slice(max(0, b.start - extra), b.stop + extra) for b in box)


def _base(body: Mask, wall: Mask, dense: Mask, centre: Shape3, radius: float, cube: Cube) -> Mask:
    """The part of a wall that belongs to the nodule on it: above a smooth surface through its surroundings.

    The ball that finds the wall dips into the base of a nodule.
    """
    beside = ~_reach(body, 2 * cube.step, cube.step) & (cube.away_from(centre) < 2.5 * radius + 3)
    surface = _faces(wall & beside, ~dense & beside) - centre
    near = _reach(body, 0.4 * radius + cube.step, cube.step) & (cube.away_from(centre) < 1.5 * radius + cube.step)
    base = np.zeros_like(body)
    candidates = np.argwhere(wall & near)
    if len(surface) < 30 or len(candidates) == 0:
        return base
    fit = _Surface(surface * cube.step, 1.5 * radius + 1)
    if fit.spread > max(cube.step, 0.15 * radius):
        return base
    side = np.median(fit.height((np.argwhere(body) - centre) * cube.step))
    above = fit.height((candidates - centre) * cube.step) * side > 0
    base[tuple(candidates[above].T)] = True
    return base


def _faces(one: Mask, two: Mask) -> Points:
    """The middles of the voxel faces between two masks, (N, 3) in voxels."""
    faces = []
    for axis in range(3):
        for side in (-1, 1):
            beside = np.argwhere(one & np.roll(two, side, axis)).astype(np.float64)
            beside[:, axis] -= side / 2
            faces.append(beside)
    return np.concatenate(faces)


class _Surface:
    """A quadratic surface fitted to (N, 3) points in millimetres, robustly, the nearest counting most."""

    def __init__(self, points: Points, near: float) -> None:
        self.frame = np.linalg.svd(points - points.mean(axis=0), full_matrices=False)[2].T
        self.terms = np.zeros(6)
        weights = np.exp(-0.5 * (points**2).sum(axis=1) / near**2)
        design, target = self._design(points)
        for _ in range(3):
            self.terms = np.linalg.lstsq(design * weights[:, None], target * weights, rcond=None)[0]
            error = np.abs(self.height(points))
            self.spread = 1.4826 * float(np.median(error))
            weights = weights * (error <= 3 * self.spread)

    def height(self, points: Points) -> npt.NDArray[np.floating]:
        """The distance in millimetres of (N, 3) points from the surface; its sign tells the side."""
        design, target = self._design(points)
        return target - design @ self.terms

    def _design(self, points: Points) -> tuple[Points, npt.NDArray[np.floating]]:
        u, v, w = (points @ self.frame).T
        return np.stack([np.ones_like(u), u, v, u * u, u * v, v * v], axis=1), w


def _touches_border(body: Mask, cube: Cube) -> bool:
    """Whether a nodule leaves the scan, or the cube, which means that it leaks."""
    faces = (body[[0, -1]], body[:, [0, -1]], body[:, :, [0, -1]])
    return bool((body & ~cube.inside).any() or any(face.any() for face in faces))


def _on_scan(body: Mask, cube: Cube, shape: tuple[int, ...], point: Vec3, spacing: Vec3) -> tuple[Mask, Shape3]:
    """A body on the scan's own grid: its bounding box there, and the index of the box's first voxel."""
    axes, origin = [], []
    for box, n, p, s in zip(_box(body, 0, cube.step), shape, point, spacing, strict=True):
        low, high = ((p + (i - body.shape[0] // 2) * cube.step) / s for i in (box.start, box.stop - 1))
        first = int(np.clip(np.round(low), 0, n - 1))
        voxels = np.arange(first, int(np.clip(np.round(high), first, n - 1)) + 1)
        axes.append((voxels * s - p) / cube.step + body.shape[0] // 2)
        origin.append(first)
    grid = np.stack(np.meshgrid(*axes, indexing="ij"))
    share = ndimage.map_coordinates(body.astype(np.float32), grid, order=1, mode="nearest")
    x, y, z = origin
    return share >= min(0.5, share.max()), (x, y, z)
