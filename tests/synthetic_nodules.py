"""Synthetic nodules of known volume in a block of lung, sampled like a CT scanner does.

The scene is drawn on a fine grid with anti-aliased surfaces, blurred by a Gaussian point spread,
averaged over each voxel, and given noise that is correlated over about a voxel.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from src.types import Shape3, Vec3

__all__ = ["SETTINGS", "Case", "Setting", "draw_case", "misplaced", "random_case"]

Setting = Literal["isolated", "vessel beside", "vessel feeding", "flat wall", "curved wall"]
Array = npt.NDArray[np.floating]
SETTINGS: tuple[Setting, ...] = ("isolated", "vessel beside", "vessel feeding", "flat wall", "curved wall")
FINE_MM = (0.4, 0.8)  # the fine grid, coarser for large nodules; surfaces are anti-aliased on it
SOFT_TISSUE = 40.0  # HU of vessels and walls


@dataclass(frozen=True)
class Case:
    """One nodule: an ellipsoid near the middle of the scene, and its surroundings."""

    diameter: float  # mm, of the sphere with the ellipsoid's volume
    setting: Setting = "isolated"
    nodule_hu: float = 40.0
    lung_hu: float = -850.0
    core: float = 0.0  # diameter of the solid core as a fraction of the nodule's
    aspect: float = 1.0  # ratio of longest to shortest axis
    spacing: Vec3 = (0.7, 0.7, 1.25)
    blur_fwhm: float = 1.1  # mm
    noise_sd: float = 25.0  # HU
    vessel_diameter: float = 2.5  # mm
    wall_depth: float = 0.6  # distance of the centre from the wall, in radii
    seed: int = 0

    @property
    def shape(self) -> Shape3:
        """The number of voxels along x, y and z."""
        half = max(20.0, 1.8 * self.diameter + 5)
        x, y, z = (2 * int(np.ceil(half / step)) + 1 for step in self.spacing)
        return x, y, z


def random_case(seed: int, setting: Setting, bounds: tuple[float, float], ground_glass: bool) -> Case:
    """A case with random size, shape, density and position."""
    draw = np.random.default_rng(seed).uniform
    in_plane = draw(0.6, 0.9)
    return Case(
        diameter=draw(*bounds),
        setting=setting,
        nodule_hu=draw(-600, -500) if ground_glass else draw(0, 80),
        lung_hu=draw(-880, -820),
        aspect=draw(1, 1.5),
        spacing=(in_plane, in_plane, draw(0.6, 2.5)),
        blur_fwhm=draw(0.8, 1.5),
        noise_sd=draw(15, 40),
        vessel_diameter=draw(1.5, 4),
        wall_depth=draw(0.3, 1.0),
        seed=seed,
    )


def draw_case(case: Case, shift: Vec3 = (0, 0, 0)) -> tuple[npt.NDArray[np.int16], Vec3, float]:
    """The scan of a case (X, Y, Z) in HU, the nodule's centre in mm, and its true volume in mm3.

    `shift` moves the whole scene by millimetres against the voxel grid. For a nodule at a wall, the
    volume is that of the part outside the wall.
    """
    rng = np.random.default_rng(case.seed)
    rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0].astype(np.float32)
    centre = np.array([(n - 1) / 2 * s for n, s in zip(case.shape, case.spacing, strict=True)]) + shift
    factors = [int(np.ceil(step / np.clip(case.diameter / 20, *FINE_MM))) for step in case.spacing]
    axes = [
        ((np.arange(n * f) + 0.5) / f - 0.5) * s - c
        for n, f, s, c in zip(case.shape, factors, case.spacing, centre, strict=True)
    ]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1, dtype=np.float32)
    sub = np.divide(case.spacing, factors)
    semi = _semi_axes(case, rng)
    nodule = _occupancy(_ellipsoid(points @ rotation, semi), sub)
    core = _occupancy(_ellipsoid(points @ rotation, semi * max(case.core, 1e-3)), sub)
    tissue = case.nodule_hu + (SOFT_TISSUE - case.nodule_hu) * core * (case.core > 0)
    other, cut = _surroundings(case, points, rotation, semi, rng)
    other = _occupancy(other, sub)
    hu = case.lung_hu + (tissue - case.lung_hu) * nodule
    hu += (SOFT_TISSUE - hu) * (other if cut else other * (1 - nodule))
    inside = nodule * (1 - other) if cut else nodule
    hu = ndimage.gaussian_filter(hu, case.blur_fwhm / 2.3548 / sub, mode="nearest")
    for axis, factor in enumerate(factors):
        hu = np.add.reduceat(hu, np.arange(0, hu.shape[axis], factor), axis=axis) / factor
    noise = ndimage.gaussian_filter(rng.normal(size=hu.shape), 0.5)
    noisy = np.rint(hu + noise * (case.noise_sd / noise.std())).astype(np.int16)
    x, y, z = (float(c) for c in centre)
    return noisy, (x, y, z), float(inside.sum() * np.prod(sub))


def misplaced(case: Case, centre: Vec3) -> tuple[Vec3, float]:
    """A point up to a quarter diameter (at most 2 mm) off the centre, and a diameter with the network's error."""
    rng = np.random.default_rng([case.seed, 1])
    direction = rng.normal(size=3)
    step = min(0.25 * case.diameter, 2) * rng.uniform() ** (1 / 3) / np.linalg.norm(direction)
    x, y, z = (float(c + step * d) for c, d in zip(centre, direction, strict=True))
    return (x, y, z), float(case.diameter * np.exp(rng.uniform(np.log(0.75), np.log(1.3))))


def _semi_axes(case: Case, rng: np.random.Generator) -> Array:
    middle = rng.uniform(1, case.aspect)
    axes = np.array([1.0, middle, case.aspect])
    return np.asarray(axes / np.prod(axes) ** (1 / 3) * case.diameter / 2, dtype=np.float32)


def _ellipsoid(points: Array, semi: Array) -> Array:
    """The signed distance from an ellipsoid's surface in mm, to first order."""
    level: Array = np.linalg.norm(points / semi, axis=-1)
    slope: Array = np.linalg.norm(points / semi**2, axis=-1)
    return np.asarray(level * (level - 1) / np.maximum(slope, np.float32(1e-6)))


def _surroundings(
    case: Case, points: Array, rotation: Array, semi: Array, rng: np.random.Generator
) -> tuple[Array, bool]:
    """The signed distance from a vessel or wall in mm, and whether it cuts the true nodule."""
    normal, along = np.linalg.qr(rng.normal(size=(3, 2)))[0].T.astype(np.float32)
    support = float(np.linalg.norm(semi * (rotation.T @ normal)))
    touch = rotation @ (semi**2 * (rotation.T @ normal)) / support  # the surface point with this normal
    radius = case.vessel_diameter / 2
    if case.setting == "isolated":
        return np.full(points.shape[:-1], 1e3), False
    if case.setting == "vessel beside":
        across = points - (touch + radius * normal)
        across -= (across @ along)[..., None] * along
        return np.linalg.norm(across, axis=-1) - radius, False
    if case.setting == "vessel feeding":
        height = points @ normal
        across = np.linalg.norm(points - height[..., None] * normal, axis=-1)
        return np.maximum(across - radius, -height), False
    depth = case.wall_depth * support
    if case.setting == "flat wall":
        return depth - points @ normal, True
    curvature = rng.uniform(60, 120)
    return curvature - np.linalg.norm(points - (depth - curvature) * normal, axis=-1), True


def _occupancy(distance: Array, sub: Array) -> Array:
    """The fraction of each fine voxel below a surface, 0 to 1, from the signed distance to it."""
    return np.clip(0.5 - distance / np.mean(sub), 0, 1)
