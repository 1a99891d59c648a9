"""The anatomy of the synthetic chest in `phantom`: shapes of organs and paths of tubes, in millimetres.

Positions count from the middle of the chest: x to the patient's left, y to the back, z to the
head. A shape is a function of broadcastable x, y, z that is negative inside and close to the
distance in millimetres near its surface.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from ..types import Vec3

__all__ = [
    "BLOOD",
    "EXTENT",
    "HILA",
    "LUNG",
    "SIDES",
    "Points",
    "Tube",
    "airways",
    "great_vessels",
    "inside",
    "lung",
    "skeleton",
    "tissue",
]

Field: TypeAlias = npt.NDArray[np.floating[Any]]
Points: TypeAlias = npt.NDArray[np.float64]
EXTENT: Vec3 = (320, 240, 280)  # mm
SIDES = (-1, 1)  # the patient's right and left
HILA: Points = np.array([(40.0, 20.0, 15.0), (34.0, 10.0, -4.0)])  # mm: artery and vein of the left lung
AIR, LUNG, FAT, SKIN, MUSCLE, BLOOD, LIVER = -1000, -860, -100, 20, 50, 42, 58  # HU
CORTICAL, ENDPLATE, TRABECULAR, CARTILAGE, TABLE, BRONCHUS = 620, 300, 210, 110, -350, -980
RIB_DEPTH = 6.5  # mm: distance of a rib's centre line from the surface of the half chest
VERTEBRA, VERTEBRAL_STEP = 132.0, 24.5  # mm: height of the first rib's centre, and the distance between two ribs


class Tube(NamedTuple):
    """A tapering capsule of `value` HU in tissue of `around` HU; positions and radii in mm."""

    start: Points
    end: Points
    start_radius: float
    end_radius: float
    value: float = BLOOD
    around: float = LUNG


def inside(distance: Field, voxel: float) -> Field:
    """The fraction of a voxel, 0 to 1, inside a surface at the signed `distance` in mm."""
    share: Field = np.clip(0.5 - distance / voxel, 0, 1)
    return share


def _smooth_max(a: Field, b: Field, width: float) -> Field:
    """The intersection of two shapes, with its edge rounded over `width` mm."""
    return np.maximum(a, b) + np.maximum(width - np.abs(a - b), 0) ** 2 / (4 * width)


def _oval(x: Field, y: Field, a: Field | float, b: Field | float, power: float = 2) -> Field:
    """A superellipse around the origin with half axes `a` and `b` in mm."""
    radius: Field = (np.abs(x / a) ** power + np.abs(y / b) ** power) ** (1 / power)
    return (radius - 1) * np.minimum(a, b)


def _ellipsoid(x: Field, y: Field, z: Field, a: float, b: float, c: float) -> Field:
    radius: Field = np.sqrt((x / a) ** 2 + (y / b) ** 2 + (z / c) ** 2)
    return (radius - 1) * min(a, b, c)


def _half_chest(x: Field, y: Field, z: Field, side: int) -> Field:
    """The inside of the ribs on one `side`: an oval that closes to a dome at the apex."""
    height = np.clip((z + 90) / (112 + 90), 0, 0.99)
    width = (1 - height**2.4) ** (1 / 2.4)
    oval = _oval(x - side * (46 + 8 * width), y - 8 + 10 * width, 60 * width, 79 * width, 2.3)
    return _smooth_max(oval, z - 110, 16)


def _heart(x: Field, y: Field, z: Field) -> Field:
    """The heart: an egg that points left, forwards and down."""
    u, v = 0.85 * (x - 20) - 0.53 * (y + 26), 0.53 * (x - 20) + 0.85 * (y + 26)
    return _ellipsoid(u, v, z + 34 + 0.25 * u, 60, 43, 47)


def _diaphragm(x: Field, y: Field, z: Field, side: int) -> Field:
    """The space below the dome of the diaphragm on one `side`."""
    dome = -48 - 10 * (side > 0) - 55 * (((x - side * 52) / 78) ** 2 + ((y + 14) / 80) ** 2)
    return (z - dome) * 0.7


def _mediastinum(x: Field, y: Field, z: Field) -> Field:
    """The mediastinum: a column between the lungs, narrow in front and wide around the spine."""
    column = _oval(x - 2, y - 6, 25 - 7 * np.exp(-(((z - 70) / 40) ** 2)), 74.0, 2.3)
    spine = _oval(x, y - 62, 24.0, 22.0)
    return np.minimum(np.minimum(column, spine), _heart(x, y, z) - 3)


def lung(x: Field, y: Field, z: Field) -> Field:
    """Both lungs."""
    middle = _mediastinum(x, y, z)
    return np.minimum(*(_lung(x, y, z, side, middle) for side in SIDES))


def _lung(x: Field, y: Field, z: Field, side: int, mediastinum: Field) -> Field:
    """One lung: half of the chest without the mediastinum and the diaphragm."""
    chest = _smooth_max(_half_chest(x, y, z, side), 2 - side * x, 8)
    return _smooth_max(_smooth_max(chest, -mediastinum, 10), -_diaphragm(x, y, z, side), 7)


def tissue(x: Field, y: Field, z: Field, voxel: float) -> Field:
    """HU of the large organs, without noise: body wall, mediastinum, abdomen, lungs, table."""
    hu = np.full(np.broadcast_shapes(x.shape, y.shape, z.shape), AIR, np.float32)
    mattress = np.abs(np.hypot(x, y + 360) - 473) - 1.2
    cage = np.minimum(*(_half_chest(x, y, z, side) for side in SIDES))
    body = _oval(x, y, 149.0 - 0.0002 * z**2, 105.0 - 0.00025 * (z + 20) ** 2, 2.4) + 0 * z
    pectoral = np.minimum(*(_ellipsoid(x - side * 68, y + 74, z - 45, 62, 16, 62) for side in SIDES))
    dorsal = np.minimum(*(_oval(x - side * 36, y - 84, 32.0, 13.0) for side in SIDES)) + 0 * z
    shoulder = np.minimum(*(_ellipsoid(x - side * 104, y - 40, z - 92, 40, 42, 70) for side in SIDES))
    neck = _ellipsoid(x, y - 15, z - 150, 74, 62, 70)
    wall = np.minimum(cage - 13, np.minimum(np.minimum(pectoral, dorsal), np.minimum(shoulder, neck)))
    middle = _mediastinum(x, y, z)
    height = np.abs((z - VERTEBRA + VERTEBRAL_STEP / 2) % VERTEBRAL_STEP - VERTEBRAL_STEP / 2)
    bodies = _smooth_max(_oval(x, y - 59, 19.0, 16.0), height - 10.2, 4)
    layers: list[tuple[Field, Field | float]] = [
        (mattress, TABLE),
        (body, SKIN),
        (body + 2.2, FAT),
        (np.maximum(wall, body + 5), MUSCLE),
        (np.maximum(cage + 1.5, middle + 2), FAT),
        (_heart(x, y, z), BLOOD),
        (_oval(x, y - 62, 21.0, 19.0) + 0 * z, MUSCLE),
        (bodies, ENDPLATE),
        (bodies + 1.8, TRABECULAR),
    ]
    layers += [
        (np.maximum(np.maximum(cage + 1, _diaphragm(x, y, z, side)), 3 - side * x), value)
        for side, value in zip(SIDES, (LIVER, MUSCLE - 4), strict=True)
    ]
    # The patient lies on the back: the parenchyma is denser where it hangs lowest.
    layers += [(_lung(x, y, z, side, middle), LUNG + 0.35 * (y + 10)) for side in SIDES]
    for shape, value in layers:
        hu += (value - hu) * inside(shape, voxel)
    return hu


def _tube(path: npt.ArrayLike, radius: npt.ArrayLike, value: float, around: float) -> Iterator[Tube]:
    """Capsules along `path`, points of shape (N, 3)."""
    points = np.asarray(path, dtype=np.float64)
    radii = np.broadcast_to(np.asarray(radius, dtype=np.float64), len(points))
    for a, b, ra, rb in zip(points[:-1], points[1:], radii[:-1], radii[1:], strict=True):
        yield Tube(a, b, float(ra), float(rb), value, around)


def _bone(path: npt.ArrayLike, radius: float) -> Iterator[Tube]:
    """A cortical shell of about 1.5 mm around marrow."""
    yield from _tube(path, radius, CORTICAL, MUSCLE)
    yield from _tube(path, max(radius - 1.5, 0.5), TRABECULAR, CORTICAL)


def skeleton() -> Iterator[Tube]:
    """Bones and cartilage."""
    for side in SIDES:
        for number in range(13):
            path = _rib(side, 128 - 20.5 * number)
            yield from _tube(path[29:], 4.6, CARTILAGE, MUSCLE)
            yield from _bone(path[:31], 4.6)
        yield from _bone([(side * 12, -80, 84), (side * 60, -68, 100), (side * 120, -20, 108)], 6)
        blade = [(side * (62 + 4.5 * i), 78 - 2.6 * i, z) for i in range(10) for z in (110 - 3 * i, 20 + 7 * i)]
        for low, high in zip(blade[1::2], blade[::2], strict=True):
            yield from _bone([low, high], 2.6)
    for x in (-9, -3, 3, 9):
        yield from _bone([(x, -83, 72), (0.8 * x, -85, -35)], 5)
    for level in range(12):
        yield from _arch(VERTEBRA - VERTEBRAL_STEP * level)


def _arch(z: float) -> Iterator[Tube]:
    """The arch of the vertebra at height `z`."""
    for side in SIDES:
        yield from _bone([(side * 11, 72, z), (side * 12, 84, z), (side * 34, 86, z - 2)], 4)
        yield from _bone([(side * 12, 84, z - 4), (0, 92, z - 8)], 3.5)
    yield from _bone([(0, 88, z - 8), (0, 93, z - 14)], 3.5)


def great_vessels() -> Iterator[Tube]:
    """Aorta, vena cava, pulmonary arteries and oesophagus."""
    yield from _tube([(-8, -14, -15), (-14, -20, 20), (-8, -14, 42), (8, 8, 50), (20, 32, 44)], 14, BLOOD, FAT)
    yield from _tube([(20, 32, 44), (24, 42, 20), (22, 46, -40), (12, 48, -140)], 12, BLOOD, FAT)
    yield from _tube([(-24, -8, -20), (-25, -10, 60), (-22, -5, 140)], 8, BLOOD, FAT)
    yield from _tube([(14, -24, -5), (16, -12, 14), (0, 6, 14), (-36, 18, 14)], (14, 13, 11, 8), BLOOD, FAT)
    yield from _tube([(16, -12, 14), (38, 22, 18)], (13, 8), BLOOD, FAT)
    yield from _tube([(8, 44, 140), (9, 46, -140)], 6, MUSCLE, FAT)  # the oesophagus


def _rib(side: int, top: float) -> Points:
    """The centre line of a rib, shape (41, 3): outside the half chest, falling towards the front."""
    turn = np.linspace(0.06, 0.93, 41) * np.pi
    z = top - 62 * np.sin(turn / 2) ** 1.5 + 12 * np.clip(turn - 2.2, 0, None)
    low, high = np.full(41, 20.0), np.full(41, 180.0)
    for _ in range(20):  # bisection for the distance from the axis
        middle = (low + high) / 2
        x, y = side * middle * np.sin(turn), middle * np.cos(turn)
        outside = _half_chest(x, y, z, side) > RIB_DEPTH
        low, high = np.where(outside, low, middle), np.where(outside, middle, high)
    return np.stack([x, y, z], axis=1)


def airways() -> Iterator[Tube]:
    """Trachea and bronchi: all walls first, then all lumina."""
    branches: list[tuple[list[Vec3], list[float]]] = [([(0, 22, 145), (0, 30, 44)], [8.5, 8.5])]
    for side in SIDES:
        hilum: Vec3 = (side * 38, 34, 10)
        lower: list[Vec3] = [(0, 30, 44), (side * 20, 33, 26), hilum, (side * 50, 38, -18), (side * 58, 46, -45)]
        upper: list[Vec3] = [hilum, (side * 52, 22, 34), (side * 58, 10, 58)]
        branches += [(lower, [7, 6, 4.6, 3, 1.4]), (upper, [3.4, 2.4, 1.2])]
    for path, radii in branches:
        yield from _tube(path, np.array(radii) + 1.3, MUSCLE, LUNG)
    for path, radii in branches:
        yield from _tube(path, radii, BRONCHUS, MUSCLE)
