"""From an approximate position to the voxels of a nodule.

The steps follow Kuhnigk et al. (IEEE Trans Med Imaging 2006;25:417-434): an adaptive threshold
half-way between nodule and lung, and separation from vessels and walls by balls that scale with the
nodule. Everything happens on a cube about the position whose step scales with the nodule too.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.interpolate import make_interp_spline

from ..types import FloatArray, Shape3, Vec3

__all__ = ["Cube", "Mask", "Segmentation", "distance", "segment_nodule"]

Mask = npt.NDArray[np.bool_]
Index = tuple[int, int, int]

MIN_CONTRAST = 100.0  # HU between a nodule and the lung around it
SOLID = -400.0  # HU, half-way between lung and soft tissue
SEED_ERROR = 3.5  # mm, how far a position may be from the nodule
LARGEST = 60.0  # mm


@dataclass(frozen=True, eq=False, slots=True)
class Cube:
    """The scan about a point: `hu` of shape (N, N, N), N odd, with the point in the middle voxel.

    The grid is isotropic with `step` millimetres and keeps the scan's axes; `inside` is false where
    it leaves the scan.
    """

    hu: FloatArray
    inside: Mask
    step: float

    def away_from(self, index: Index) -> FloatArray:
        """The distance in millimetres of every voxel from one of them."""
        x, y, z = (self.step * (np.arange(n, dtype=np.float32) - i) for n, i in zip(self.hu.shape, index, strict=True))
        return np.sqrt(x[:, None, None] ** 2 + y[:, None] ** 2 + z**2)


@dataclass(frozen=True, eq=False, slots=True)
class Segmentation:
    """A nodule, as `mask` (X, Y, Z) on the scan's grid, whose first voxel has the index `origin`.

    `body` is the same nodule on the fine isotropic grid of `cube`, and `other` is what else there
    is denser than the threshold: vessels and walls. `nodule_hu` is the level just inside the
    boundary, `lung_hu` that of the lung around.
    """

    mask: Mask
    origin: Shape3
    cube: Cube
    body: Mask
    other: Mask
    nodule_hu: float
    lung_hu: float


def segment_nodule(
    scan: npt.NDArray[np.generic], coordinates: Vec3, diameter: float, spacing: Vec3
) -> Segmentation | None:
    """The nodule at a point of an (X, Y, Z) scan in HU; None where no boundary can be found.

    `coordinates` are millimetres from the first voxel and may be 3 mm off; `diameter` in millimetres
    may be wrong by a factor of 3. None means too little contrast, a leak into the surroundings or a
    nodule that the scan's border cuts.
    """
    scale = float(np.clip(diameter, 3, LARGEST))
    DBG.clear()
    DEBUG["trace"]=DBG
    part = None
    for attempt in range(5):
        cube = _sample(scan, coordinates, spacing, half=2 * scale + 3, step=scale / 8)
        part = _segment_cube(cube, scale)
        size = scale * 1.6 if part is None else float(np.cbrt(6 / np.pi * part.body.sum()) * cube.step)
        size = float(np.clip(size, 3, LARGEST))
        DBG.append((round(scale,1),round(size,1)))
        close = 0.75 < size / scale < 1.33
        scale = size
        if close:
            break
    cube = _sample(scan, coordinates, spacing, half=2 * scale + 3, step=scale / 14)
    part = _segment_cube(cube, scale)
    if part is None:
        return None
    from .nodule_properties import volume
    DEBUG.update(crop=cube)
    return part.body, volume(cube, part, spacing)[0], part.nodule_hu, part.lung_hu, part.wall


@dataclass(frozen=True, eq=False, slots=True)
class _Part:
    body: Mask
    other: Mask
    wall: Mask
    nodule_hu: float
    lung_hu: float


def distance(mask: Mask, step: float) -> FloatArray:
    """The distance in millimetres of every true voxel to the nearest false one; none: infinite."""
    if mask.all():
        return np.full(mask.shape, np.inf, dtype=np.float32)
    return (step * ndimage.distance_transform_edt(mask)).astype(np.float32)


def _sample(scan: npt.NDArray[np.generic], point: Vec3, spacing: Vec3, half: float, step: float) -> Cube:
    """Cubic interpolation, one axis after the other; only the part of the scan about the point is read."""
    count = int(np.ceil(half / step))
    targets = [(p + np.arange(-count, count + 1) * step) / s for p, s in zip(point, spacing, strict=True)]
    bounds = [_range(target, n) for target, n in zip(targets, scan.shape, strict=True)]
    hu = np.clip(np.asarray(scan[tuple(slice(*b) for b in bounds)], dtype=np.float32), -1024, 3071)
    for axis, (target, (low, high)) in enumerate(zip(targets, bounds, strict=True)):
        weights = _spline(np.clip(target - low, 0, high - low - 1), high - low)
        hu = np.moveaxis(np.tensordot(weights, hu, axes=(1, axis)), 0, axis)
    x, y, z = ((target > -0.5) & (target < n - 0.5) for target, n in zip(targets, scan.shape, strict=True))
    return Cube(np.ascontiguousarray(hu), x[:, None, None] & y[:, None] & z, step)


def _range(target: npt.NDArray[np.float64], n: int) -> tuple[int, int]:
    """The first voxel and the one after the last that interpolation at `target` needs."""
    margin = 4
    low = int(np.clip(np.floor(target[0]) - margin, 0, n - 1))
    return low, int(np.clip(np.ceil(target[-1]) + margin, low + 1, n))


def _spline(target: npt.NDArray[np.float64], n: int) -> FloatArray:
    """The (len(target), n) weights of n samples in a cubic spline at `target`."""
    if n == 1:
        return np.ones((len(target), 1), dtype=np.float32)
    return make_interp_spline(np.arange(n), np.eye(n), k=min(3, n - 1))(target).astype(np.float32)


def _segment_cube(cube: Cube, scale: float) -> _Part | None:
    """The nodule of about `scale` millimetres at the middle of a cube."""
    seed = tuple(n // 2 for n in cube.hu.shape)
    away = cube.away_from(seed)
    smooth = ndimage.gaussian_filter(cube.hu, np.clip(0.05 * scale, 0.4, 1.0) / cube.step)
    lung, nodule = _first_levels(cube.hu, smooth, away, scale)
    part = None
    for _ in range(3):
        if not nodule - lung >= MIN_CONTRAST:
            return None
        threshold = (nodule + lung) / 2
        found = _fill(smooth > threshold, scale, cube.step)
        depth = distance(found, cube.step)
        wall = _wall(smooth, found, depth, scale, cube.step)
        centre = _centre(found & ~wall, depth, away, scale)
        if centre is None:
            return None
        body = _separate(cube, found, wall, depth, centre)
        if body is None:
            DBG.append("sep")
            return None
        if wall.any():
            body = _add_base(cube, found, wall, body, centre, depth[centre])
        before = nodule
        lung, nodule = _levels(cube, found, body, depth, lung)
        part = _Part(body, found & ~body, wall, nodule, lung)
        if abs(nodule - before) < 0.1 * (nodule - lung):
            break
    return part

DBG=[];DEBUG={}

def _first_levels(hu, smooth, away, scale):
    lung = float(np.median(hu[hu < -500])) if (hu < -500).any() else np.nan
    nodule = float(np.percentile(smooth[away <= max(0.2 * scale, 0.8)], 75))
    if nodule - lung < 1.5 * MIN_CONTRAST:
        nodule = float(smooth[away <= SEED_ERROR].max())
    return lung, nodule


def _levels(cube, found, body, depth, lung):
    """HU of lung and just inside"""
    inner = np.where(body, depth, 0)
    start = min(1.2, 0.5 * inner.max())
    layer = (inner >= start) & (inner <= start + max(1.5, 2 * cube.step))
    outside = distance(~body, cube.step)
    apart = outside < distance(~(found & ~body), cube.step)
    size = inner.max()
    around = ~found & (outside > 1.5) & (outside < 0.5 * size + 4)
    if around.any():
        lung = float(np.median(cube.hu[around]))
    nodule = float(np.median(cube.hu[layer]))
    halo = apart & (outside > 1.5) & (outside <= 1.5 + max(1.0, cube.step))
    if halo.any():
        level = float(np.median(cube.hu[halo]))
        if level - lung > 120 and nodule - level > 150:
            nodule = level
            DBG.append(("halo", level, lung))
    return lung, nodule


def _fill(mask: Mask, scale: float, step: float) -> Mask:
    """The mask without holes smaller than a nodule: noise, cavities, bubbles."""
    labels, _ = ndimage.label(~mask)
    sizes = np.bincount(labels.ravel())
    return mask | (sizes < np.pi / 6 * (0.7 * scale / step) ** 3)[labels]


def _wall(smooth: FloatArray, found: Mask, depth: FloatArray, scale: float, step: float) -> Mask:
    """What a ball far larger than the nodule can roll through: chest wall, mediastinum, diaphragm."""
    ball = 1.25 * scale
    thick = depth >= ball
    if not thick.any():
        return thick
    solid = found & (smooth > SOLID)
    thick = distance(solid, step) >= ball
    return solid & (distance(~thick, step) <= ball)


def _centre(free: Mask, depth: FloatArray, away: FloatArray, scale: float) -> Index | None:
    """The middle of the largest ball near the seed, near outweighing large."""
    candidates = free & (away <= max(SEED_ERROR, 0.35 * scale))
    if not candidates.any():
        return None
    score = np.where(candidates, depth - 0.5 * away, -np.inf)
    centre = np.unravel_index(np.argmax(score), score.shape)
    for _ in range(20):
        box = tuple(slice(max(0, c - 2), c + 3) for c in centre)
        local = np.where(free[box] & (away[box] <= max(SEED_ERROR, 0.5 * scale)), depth[box], -1)
        step = np.unravel_index(np.argmax(local), local.shape)
        higher = tuple(b.start + int(i) for b, i in zip(box, step, strict=True))
        if depth[higher] <= depth[centre]:
            break
        centre = higher
    return tuple(int(i) for i in centre)


def _separate(cube, found, wall, depth, centre):
    radius = depth[centre]
    away = cube.away_from(centre)
    free = found & ~wall
    for share in (0.6, 0.7, 0.8, 0.9):
        ball = share * radius
        kernel = _connected((depth >= ball) & ~wall, centre)
        if away[kernel].max() < 2.2 * radius:
            break
    else:
        DBG.append("cap")
        kernel = kernel & (away < 1.2 * radius)
    body = (distance(~kernel, cube.step) <= ball) & free
    margin = max(1, round(0.15 * radius / cube.step))
    body = ndimage.binary_dilation(body, iterations=margin, mask=free)
    return _connected(body, centre)


def _connected(mask: Mask, index: Index) -> Mask:
    """The connected part of a mask that holds a voxel."""
    labels, _ = ndimage.label(mask)
    return labels == labels[index]


def _add_base(cube, found, wall, body, centre, radius):
    """The body with its base: down to a quadratic surface through the wall beside it.

    The ball that finds the wall dips into the base of a nodule that sits on it.
    """
    away = cube.away_from(centre)
    outside = distance(~body, cube.step)
    reach = 2.5 * radius + 3
    keep = (outside > 2 * cube.step) & (away < reach)
    points = np.concatenate([_faces(wall & keep, ~(found) & keep, axis) for axis in range(3)]) - centre
    if len(points) < 30:
        return body
    points = points * cube.step
    # frame
    mean = points.mean(0)
    normal = np.linalg.svd(points - mean, full_matrices=False)[2]
    frame = normal
    local = points @ frame.T
    weights = np.exp(-0.5 * (np.linalg.norm(points, axis=1) / (1.5*radius+1)) ** 2)
    terms = _terms(local)
    for _ in range(3):
        coef = np.linalg.lstsq(terms * weights[:, None], local[:, 2] * weights, rcond=None)[0]
        res = local[:, 2] - terms @ coef
        spread = 1.4826 * np.median(np.abs(res)) + 1e-3
        weights = weights * (np.abs(res) < 3 * spread)
    if spread > max(cube.step, 0.15 * radius):
        DBG.append(("badfit", spread, radius))
        return body
    candidates = np.argwhere(wall & (outside <= 0.4 * radius + cube.step) & (away < 1.5*radius+cube.step))
    if not len(candidates):
        return body
    q = (candidates - centre) * cube.step @ frame.T
    height = q[:, 2] - _terms(q) @ coef
    body_points = (np.argwhere(body) - centre) * cube.step @ frame.T
    side = np.sign(np.median(body_points[:, 2] - _terms(body_points) @ coef))
    add = candidates[height * side > 0]
    body = body.copy()
    body[tuple(add.T)] = True
    return body


def _terms(p):
    u, v = p[:, 0], p[:, 1]
    return np.stack([np.ones_like(u), u, v, u * u, u * v, v * v], axis=1)


def _faces(one, two, axis):
    a = np.moveaxis(one, axis, 0)
    b = np.moveaxis(two, axis, 0)
    hit = (a[1:] & b[:-1]) | (a[:-1] & b[1:])
    p = np.argwhere(hit).astype(float)
    p[:, 0] += 0.5
    # undo the moveaxis
    order = [axis] + [k for k in range(3) if k != axis]
    out = np.empty_like(p)
    out[:, order] = p
    return out
