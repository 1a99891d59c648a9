"""Nodules for training, inserted into lungs: real ones, moved, rotated and resized, and procedural ones.

Functions work on small (X, Y, Z) float32 HU arrays at 1 mm. All randomness comes from a given generator: a sample
depends on its seed alone.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from numpy.random import Generator
from scipy import ndimage

from ..types import FloatArray
from .chance import chance, rotation
from .crops import Crop
from .targets import Points

__all__ = ["NoduleToInsert", "insert", "procedural_nodule", "real_nodule", "resample_crop", "resampled", "soft_outline"]

LUNG_HU = -860.0
VISIBLE = 80.0  # HU; an inserted nodule must change its place by this much on average


@dataclass(frozen=True, eq=False)
class NoduleToInsert:
    """A nodule ready for insertion: cubes of HU and of its share of each voxel (0..1), centred."""

    hu: FloatArray
    weight: FloatArray
    diameter: float  # mm


def resample_crop(
    crop: Crop, matrix: npt.NDArray[np.float64], shift: npt.NDArray[np.float64], size: int
) -> tuple[FloatArray, FloatArray]:
    """The crop's HU, mirrored beyond its ends, and its mask on the same cube, 0 beyond its ends."""
    outline = resampled(crop.mask, "constant", crop.centre, matrix, shift, size)
    return resampled(crop.hu, "mirror", crop.centre, matrix, shift, size), outline


def resampled(
    voxels: npt.NDArray[Any],
    beyond: Literal["mirror", "constant"],
    centre: Points,
    matrix: npt.NDArray[np.float64],
    shift: npt.NDArray[np.float64],
    size: int,
) -> FloatArray:
    """A cube of `size` voxels. Its point p shows the point `centre + matrix @ (p - shift)` of `voxels` (X, Y, Z).

    p is relative to the cube's centre. Beyond the ends the voxels are mirrored, or 0 (`constant`).
    """
    if voxels.dtype == bool:
        voxels = voxels.astype(np.float32)
    offset = centre - matrix @ ((size - 1) / 2 + shift)
    cube: FloatArray = ndimage.affine_transform(
        voxels, matrix, offset, (size,) * 3, output=np.float32, order=1, mode=beyond
    )
    return cube


def real_nodule(rng: Generator, crop: Crop, diameter: float, mixed: float = 0.25) -> NoduleToInsert:
    """The crop's nodule at a new diameter (mm), rotated at random and stretched by up to 15 % along its axes.

    It becomes ground-glass with the probability `mixed`.
    """
    stretch = np.exp(rng.normal(0, 0.08, 3))
    stretch /= np.cbrt(np.prod(stretch))
    matrix = rotation(rng) @ np.diag(crop.diameter / diameter / stretch)
    size = int(2 * np.ceil(0.9 * diameter + 3) + 1)
    hu, mask = resample_crop(crop, matrix, np.zeros(3), size)
    # The blurred outline makes it fainter than `soft_outline` would: training is harder than real scans.
    weight = ndimage.gaussian_filter(mask, 0.8)
    if chance(rng, mixed):
        hu = _to_ground_glass(rng, hu)
    return NoduleToInsert(hu, weight, diameter)


def soft_outline(mask: FloatArray) -> FloatArray:
    """The fraction of each voxel that a nodule fills: 1 within its outline, almost 0 at 2 mm from it."""
    blurred: FloatArray = ndimage.gaussian_filter(mask, 0.8)
    return np.clip(2 * blurred, mask, 1)


def _to_ground_glass(rng: Generator, hu: FloatArray) -> FloatArray:
    """The nodule mixed with lung: all of it, or all but its densest part."""
    share = rng.uniform(0.25, 0.5)
    glass = LUNG_HU + (hu - LUNG_HU) * share
    if chance(rng, 0.3):
        core = ndimage.gaussian_filter(hu, 1.0)
        solid = np.clip((core - rng.uniform(-300, 0)) / 200, 0, 1)
        glass = glass * (1 - solid) + hu * solid
    return glass.astype(np.float32)


def procedural_nodule(rng: Generator, diameter: float) -> NoduleToInsert:
    """A lumpy ellipsoid of the given diameter (mm): solid, part-solid or, in half of the cases, ground-glass."""
    size = int(2 * np.ceil(0.9 * diameter + 3) + 1)
    grid = np.indices((size, size, size)) - (size - 1) / 2
    stretch = np.exp(rng.normal(0, 0.15, 3))
    stretch /= np.cbrt(np.prod(stretch))
    points = np.tensordot(rotation(rng), grid, axes=1) / stretch[:, None, None, None]
    lumps = _texture(rng, size, max(1.5, diameter / 5))
    radius = np.sqrt((points**2).sum(0)) * (1 + rng.uniform(0, 0.15) * lumps)
    edge = rng.uniform(0.4, 1.2)
    kind = rng.choice(["solid", "ground-glass", "part-solid"], p=[0.35, 0.5, 0.15]) if diameter > 5 else "solid"
    weight = _ball(radius, diameter / 2, edge if kind == "solid" else edge + 0.5)
    inner = rng.normal(20, 40) if kind == "solid" else rng.uniform(-720, -420)
    hu = inner + rng.uniform(10, 60) * _texture(rng, size, 1.0)
    if kind == "part-solid":
        core = _ball(radius, diameter * rng.uniform(0.15, 0.35), edge)
        hu = hu * (1 - core) + rng.normal(0, 50) * core
    return NoduleToInsert(hu.astype(np.float32), weight.astype(np.float32), diameter)


def _ball(radius: npt.NDArray[np.float64], limit: float, edge: float) -> npt.NDArray[np.float64]:
    return 1 / (1 + np.exp(np.clip((radius - limit) / (0.5 * edge), -30, 30)))


def _texture(rng: Generator, size: int, scale: float) -> npt.NDArray[np.float64]:
    """Smooth noise of mean 0 and standard deviation 1."""
    noise = ndimage.gaussian_filter(rng.normal(size=(size, size, size)), scale)
    return np.asarray(noise / (noise.std() + 1e-9))


def insert(volume: FloatArray, nodule: NoduleToInsert, centre: npt.NDArray[np.intp]) -> bool:
    """Insert a nodule into `volume` around voxel `centre`, in place. Denser voxels keep their value.

    Return False, and change nothing, if the nodule would hardly be visible, as inside a vessel.
    """
    half = nodule.hu.shape[0] // 2
    low, high = np.maximum(centre - half, 0), np.minimum(centre + half + 1, volume.shape)
    target = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    source = tuple(slice(a, b) for a, b in zip(low - centre + half, high - centre + half, strict=True))
    old, weight = volume[target], nodule.weight[source]
    new = np.maximum(old, old * (1 - weight) + nodule.hu[source] * weight)
    if (new - old).sum() < VISIBLE * weight.sum():
        return False
    old[...] = new
    return True
