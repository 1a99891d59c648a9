"""A synthetic chest CT with nodules of known place and size, for a first run and for tests.

Positions inside this module are millimetres from the middle of the chest, as in `anatomy`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.spatial import cKDTree

from ..types import FloatArray, NoduleType, Scan, Shape3, Vec3
from . import anatomy
from .anatomy import EXTENT, HILA, SIDES, Points, Tube, inside
from .geometry import RAS_TO_LPS, to_lps

__all__ = ["LESIONS", "Lesion", "PhantomNodule", "chest_phantom"]

Attachment: TypeAlias = Literal["free", "pleura", "vessel"]


class Lesion(NamedTuple):
    """A nodule to draw; `diameter_mm` is that of the sphere of the same volume."""

    diameter_mm: float
    nodule_type: NoduleType = "solid"
    place: Attachment = "free"


@dataclass(frozen=True)
class PhantomNodule:
    """The truth about one drawn nodule; positions as in `Detection`."""

    coordinates: Vec3
    coordinates_voxel: Shape3
    coordinates_lps: Vec3
    diameter_mm: float
    nodule_type: NoduleType
    place: Attachment


LESIONS: tuple[Lesion, ...] = (
    Lesion(20),
    Lesion(14, "ground-glass"),
    Lesion(12),
    Lesion(10, place="pleura"),
    Lesion(8, place="vessel"),
    Lesion(6),
)
NODULE: dict[NoduleType, float] = {"solid": 35, "part-solid": -600, "ground-glass": -600}  # HU
CORE = 0.6  # solid part of a part-solid nodule, as a fraction of its diameter
LEAF_RADIUS, LEAVES = 0.56, 600  # mm; spacing of the ends of one vessel tree
PSF_FWHM, NOISE = 1.2, 22.0  # mm, HU


def chest_phantom(
    seed: int = 0, spacing: Vec3 = (1.0, 1.0, 1.25), lesions: Sequence[Lesion] = LESIONS
) -> tuple[Scan, list[PhantomNodule]]:
    """A chest of 320 x 240 x 280 mm as int16 HU in the orientation of a DICOM series, and its nodules.

    The same arguments give the same bytes. A coarser `spacing` gives a smaller array faster.
    """
    rng = np.random.default_rng(seed)
    canvas = _Canvas(spacing)
    for low in range(0, canvas.shape[0], 16):  # in slabs that fit the processor's cache
        canvas.hu[low : low + 16] = anatomy.tissue(canvas.x[low : low + 16], canvas.y, canvas.z, canvas.voxel)
    canvas.hu += _texture(canvas, rng)
    depth = _Depth()
    vessels = list(_lung_vessels(depth, rng))
    for tube in chain(anatomy.skeleton(), anatomy.great_vessels(), vessels, anatomy.airways()):
        canvas.draw(tube)
    centres = _place(lesions, depth, vessels, rng)
    for lesion, centre in zip(lesions, centres, strict=True):
        _draw_lesion(canvas, lesion, centre, rng)
    scan = Scan(_acquire(canvas, rng), canvas.affine, f"phantom_{seed}")
    return scan, [_truth(canvas, *found) for found in zip(lesions, centres, strict=True)]


class _Canvas:
    """The float32 HU image under construction, with the position of each voxel in mm."""

    def __init__(self, spacing: Vec3) -> None:
        self.spacing = np.asarray(spacing, dtype=np.float64)
        nx, ny, nz = np.round(EXTENT / self.spacing).astype(int).tolist()
        self.shape: Shape3 = (nx, ny, nz)
        self.first = -self.spacing * (np.array(self.shape) - 1) / 2
        self.x, self.y, self.z = np.ix_(*map(self._positions, range(3)))
        self.hu: FloatArray = np.empty(self.shape, np.float32)
        self.voxel = float(self.spacing.prod() ** (1 / 3))
        lps = np.diag([*self.spacing, 1.0])
        lps[:3, 3] = np.add(self.first, (7.5, -152.0, -230.0))  # an arbitrary table position, as on a scanner
        self.affine = RAS_TO_LPS @ lps

    def box(self, low: Points, high: Points) -> tuple[tuple[slice, ...], list[FloatArray]]:
        """The slices and open-grid positions of the voxels between two corners, with a margin."""
        start = np.clip(np.floor((low - self.first) / self.spacing - 2), 0, self.shape).astype(int)
        stop = np.clip(np.ceil((high - self.first) / self.spacing + 3), 0, self.shape).astype(int)
        i, j, k = (slice(a, b) for a, b in zip(start.tolist(), stop.tolist(), strict=True))
        return (i, j, k), [self.x[i], self.y[:, j], self.z[:, :, k]]

    def _positions(self, axis: int) -> FloatArray:
        index = np.arange(self.shape[axis], dtype=np.float32)
        return np.float32(self.first[axis]) + np.float32(self.spacing[axis]) * index

    def draw(self, tube: Tube) -> None:
        """Draw one tube. A tube thinner than a voxel is drawn fainter."""
        a, b = tube.start, tube.end
        reach = max(tube.start_radius, tube.end_radius)
        where, grid = self.box(np.minimum(a, b) - reach, np.maximum(a, b) + reach)
        x, y, z = (axis - np.float32(p) for axis, p in zip(grid, a, strict=True))
        dx, dy, dz = (b - a).tolist()
        t = np.clip((x * dx + y * dy + z * dz) / (dx * dx + dy * dy + dz * dz + 1e-6), 0, 1)
        distance = np.sqrt((x - t * dx) ** 2 + (y - t * dy) ** 2 + (z - t * dz) ** 2)
        radius = tube.start_radius + (tube.end_radius - tube.start_radius) * t
        share = inside(distance - radius, self.voxel) * np.minimum(1, (2 * radius / self.voxel) ** 2)
        hu, drawn = self.hu[where], tube.around + (tube.value - tube.around) * share
        stronger = drawn > hu if tube.value > tube.around else drawn < hu
        self.hu[where] = np.where((share > 0) & stronger, drawn, hu)


def _texture(canvas: _Canvas, rng: np.random.Generator) -> FloatArray:
    """Slow variations of 10 to 16 HU, with widths of 8 mm and 26 mm."""
    coarse, fine = (np.ceil(np.array(EXTENT) / width).astype(int) + 1 for width in (26, 8))
    field = ndimage.zoom(rng.normal(0, 10, coarse), fine / coarse, order=1) + rng.normal(0, 16, fine)
    total: FloatArray = ndimage.zoom(field.astype(np.float32), canvas.shape / fine, order=1)
    total[canvas.hu < anatomy.LUNG - 60] = 0  # not in air
    return total


class _Depth:
    """The depth in mm of each point below the surface of the lungs, on a 3 mm grid; 0 outside."""

    step = 3.0

    def __init__(self) -> None:
        grid = np.ix_(*(np.arange(-size / 2, size / 2, self.step) for size in EXTENT))
        mask = anatomy.lung(*grid) < 0
        self.map: Points = ndimage.distance_transform_edt(mask, sampling=self.step)

    def deeper_than(self, depth: float) -> Points:
        """The grid points in the lungs, shape (N, 3), below `depth` mm."""
        return np.argwhere(self.map > depth) * self.step - np.array(EXTENT) / 2

    def at(self, point: Points) -> float:
        """The depth of the nearest grid point."""
        i, j, k = np.round((point + np.array(EXTENT) / 2) / self.step).astype(int).tolist()
        return float(self.map[i, j, k])


def _lung_vessels(depth: _Depth, rng: np.random.Generator) -> Iterator[Tube]:
    """The arterial and the venous tree of each lung."""
    inner = depth.deeper_than(4)
    for side in SIDES:
        own = inner[inner[:, 0] * side > 0]
        for hilum in HILA * (side, 1, 1):
            yield from _tree(rng.permutation(own)[:LEAVES], hilum, rng)


def _tree(leaves: Points, root: Points, rng: np.random.Generator) -> Iterator[Tube]:
    """Grow a vessel from `root` towards the middle of the `leaves`, splits them in two halves, and repeats with each.

    A branch with n leaves has n^(1/3) times the radius of a leaf: Murray's law (PNAS 1926;12:207).
    """
    stack = [(root, leaves + rng.uniform(-1.5, 1.5, leaves.shape))]
    while stack:
        start, ends = stack.pop()
        radius = min(LEAF_RADIUS * len(ends) ** (1 / 3), 3.6)
        middle = ends.mean(axis=0)
        end = start + (middle - start) * (1 if len(ends) == 1 else rng.uniform(0.3, 0.5))
        yield from _bend(Tube(start, end, radius, 0.85 * radius if len(ends) > 1 else 0.8 * radius), rng)
        if len(ends) > 1:
            widest = np.linalg.svd(ends - middle, full_matrices=False)[2][0]
            order = np.argsort((ends - middle) @ widest)
            cut = round(len(ends) * rng.uniform(0.35, 0.65)) or 1
            stack += [(end, ends[order[:cut]]), (end, ends[order[cut:]])]


def _bend(vessel: Tube, rng: np.random.Generator) -> Iterator[Tube]:
    """The vessel in slightly winding pieces of at most 7 mm."""
    length = float(np.linalg.norm(vessel.end - vessel.start))
    if length < 7:
        yield vessel
        return
    middle = (vessel.start + vessel.end) / 2 + rng.normal(0, 0.045 * length, 3)
    radius = (vessel.start_radius + vessel.end_radius) / 2
    yield from _bend(Tube(vessel.start, middle, vessel.start_radius, radius), rng)
    yield from _bend(Tube(middle, vessel.end, radius, vessel.end_radius), rng)


def _place(lesions: Sequence[Lesion], depth: _Depth, vessels: Sequence[Tube], rng: np.random.Generator) -> list[Points]:
    """A centre in mm for each lesion; surfaces are at least 10 mm apart."""
    centres: list[Points] = []
    finders = {"free": _free, "vessel": _beside_vessel, "pleura": _at_pleura}
    for lesion in lesions:
        gaps = [(lesion.diameter_mm + other.diameter_mm) / 2 + 10 for other in lesions]
        candidates = finders[lesion.place](lesion.diameter_mm / 2, depth, vessels, rng)
        found = (
            c for c in candidates if all(np.linalg.norm(c - d) > gap for d, gap in zip(centres, gaps, strict=False))
        )
        centre = next(found, None)
        if centre is None:
            msg = f"the phantom has no room for a nodule of {lesion.diameter_mm} mm ({lesion.place})"
            raise ValueError(msg)
        centres.append(centre)
    return centres


def _free(radius: float, depth: _Depth, vessels: Sequence[Tube], rng: np.random.Generator) -> Iterator[Points]:
    """Places in the lung away from its surface, its hilum and vessels of more than 2 mm."""
    thick = [v for v in vessels if v.start_radius > 1]
    tree = cKDTree([(v.start + v.end) / 2 for v in thick])
    for point in rng.permutation(depth.deeper_than(radius + 5)):
        distance, nearest = tree.query(point)
        central = np.linalg.norm(np.abs(point) * (1, 0, 0) + point * (0, 1, 1) - HILA[0]) < radius + 30
        if not central and distance > radius + thick[nearest].start_radius + 2.5:
            yield point


def _beside_vessel(radius: float, depth: _Depth, vessels: Sequence[Tube], rng: np.random.Generator) -> Iterator[Points]:
    """Places where the nodule sits on a vessel of 2 to 4 mm."""
    for index in rng.permutation(len(vessels)):
        vessel = vessels[index]
        across = np.cross(vessel.end - vessel.start, rng.normal(size=3))
        point = (vessel.start + vessel.end) / 2 + across / np.linalg.norm(across) * (radius + 0.5 * vessel.start_radius)
        if 1 < vessel.start_radius < 2 and depth.at(point) > radius + 5:
            yield point


def _at_pleura(radius: float, depth: _Depth, _vessels: Sequence[Tube], rng: np.random.Generator) -> Iterator[Points]:
    """Places where the nodule is attached to the outer chest wall, its centre 0.85 radii inside the lung."""
    inner = depth.deeper_than(radius)
    for point in rng.permutation(inner[np.abs(inner[:, 0]) > 65]):
        outwards = np.array([point[0] - np.sign(point[0]) * 50, point[1], 0.0])
        outwards /= np.linalg.norm(outwards)
        path = point + np.arange(0, 60, 0.25)[:, np.newaxis] * outwards
        outside = anatomy.lung(*path.T) > 0
        centre = path[np.argmax(outside)] - 0.85 * radius * outwards
        if outside.any() and depth.at(centre) > 0.5 * radius:
            yield centre


def _draw_lesion(canvas: _Canvas, lesion: Lesion, centre: Points, rng: np.random.Generator) -> None:
    """Draw a lumpy ball of the lesion's volume. Denser voxels stay."""
    waves = rng.normal(0, 1.7, (4, 3))
    edge = canvas.voxel if lesion.nodule_type == "solid" else max(canvas.voxel, 2.5)  # ground-glass fades out
    _draw_ball(canvas, centre, lesion.diameter_mm / 2, waves, NODULE[lesion.nodule_type], edge)
    if lesion.nodule_type == "part-solid":
        _draw_ball(canvas, centre, CORE * lesion.diameter_mm / 2, waves, NODULE["solid"], canvas.voxel)


def _draw_ball(canvas: _Canvas, centre: Points, radius: float, waves: Points, value: float, edge: float) -> None:
    where, grid = canvas.box(centre - 1.3 * radius, centre + 1.3 * radius)
    x, y, z = np.broadcast_arrays(*(axis - float(c) for axis, c in zip(grid, centre, strict=True)))
    offset = np.stack([x, y, z], axis=-1)
    distance = np.linalg.norm(offset, axis=-1)
    directions = np.random.default_rng(0).normal(size=(4000, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    mean_radius = np.mean(_relief(directions, waves) ** 3) ** (1 / 3)  # of the sphere of the same volume
    surface = radius / mean_radius * _relief(offset / np.maximum(distance, 1e-6)[..., np.newaxis], waves)
    hu = canvas.hu[where]
    canvas.hu[where] = np.maximum(hu, hu + (value - hu) * inside(distance - surface, edge))


def _relief(directions: Points, waves: Points) -> Points:
    """The relative radius in unit `directions` of shape (..., 3); even, so the centroid stays the centre."""
    relief: Points = 1 + 0.05 * np.cos(directions @ waves.T).sum(axis=-1)
    return relief


def _acquire(canvas: _Canvas, rng: np.random.Generator) -> npt.NDArray[np.int16]:
    """The int16 image that a scanner makes of the canvas: blurred, with slightly correlated noise."""
    sigmas = PSF_FWHM / 2.355 / canvas.spacing
    impulse = np.zeros(31)
    impulse[15] = 1
    damping = np.prod([np.linalg.norm(ndimage.gaussian_filter1d(impulse, sigma)) for sigma in sigmas])
    hu = canvas.hu
    hu += rng.standard_normal(canvas.shape, np.float32) * np.float32(NOISE / damping)
    for axis, sigma in enumerate(sigmas):
        ndimage.gaussian_filter1d(hu, sigma, axis, output=hu, truncate=3)
    return np.clip(np.round(hu), -1024, 3071).astype(np.int16)


def _truth(canvas: _Canvas, lesion: Lesion, centre: Points) -> PhantomNodule:
    index = (centre - canvas.first) / canvas.spacing
    i, j, k = np.round(index).astype(int).tolist()
    x, y, z = (index * canvas.spacing).tolist()
    left, back, up = to_lps(canvas.affine, index).tolist()
    return PhantomNodule((x, y, z), (i, j, k), (left, back, up), *lesion)
