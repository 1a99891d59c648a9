"""Separates a nodule from the chest wall, the mediastinum and the diaphragm."""

import numpy as np
import numpy.typing as npt

from ..types import FloatArray, Shape3
from .cube import Cube
from .masks import Mask, around, depth_of, within

__all__ = ["BALL", "base_on_wall", "find_wall"]

BALL = 1.25  # radius of a ball far larger than a nodule, in diameters of the nodule
ENOUGH = 30  # faces needed to fit a surface with six coefficients
Points = npt.NDArray[np.floating]  # (N, 3) millimetres


def find_wall(solid: Mask, depth: FloatArray, ball: float, step: float) -> Mask:
    """The tissue that a ball far larger than the nodule can roll through: chest wall, mediastinum, diaphragm.

    `ball` is its radius in mm. `depth` need not be exact beyond it. Every other voxel is enough, because the distance
    to a large ball's centres is smooth.
    """
    if depth.max() < ball:
        return np.zeros_like(solid)
    thick = depth_of(solid[::2, ::2, ::2], 2 * step, ball) >= ball
    if not thick.any():
        return np.zeros_like(solid)
    reach = depth_of(~thick, 2 * step, ball + 4 * step)  # no further than from a voxel's corner to another voxel
    return np.asarray(solid & (_between(reach) <= ball))


def _between(coarse: FloatArray) -> FloatArray:
    """Upsample every other voxel (N, N, N) by means of neighbours to (2N - 1, 2N - 1, 2N - 1)."""
    for axis in range(3):
        known = np.moveaxis(coarse, axis, 0)
        fine = np.repeat(known, 2, axis=0)[:-1]
        fine[1::2] = (known[:-1] + known[1:]) / 2
        coarse = np.moveaxis(fine, 0, axis)
    return coarse


def base_on_wall(body: Mask, wall: Mask, dense: Mask, centre: Shape3, radius: float, cube: Cube) -> Mask:
    """The part of a wall that belongs to the nodule on it: the part above a smooth surface fitted to its surroundings.

    The ball that finds the wall dips into the base of a nodule.
    """
    reach = 2.5 * radius + 3
    box, middle = around(centre, reach, cube.step)
    away = cube.away_from(centre)[box]
    beside = ~within(body, 2 * cube.step, cube.step)[box] & (away < reach)
    surface = _faces(wall[box] & beside, ~dense[box] & beside) - middle
    near = within(body, 0.4 * radius + cube.step, cube.step)[box] & (away < 1.5 * radius + cube.step)
    base = np.zeros_like(body)
    candidates = np.argwhere(wall[box] & near) - middle
    if len(surface) < ENOUGH or len(candidates) == 0:
        return base
    fit = _Surface(surface * cube.step, 1.5 * radius + 1)
    if fit.spread > max(cube.step, 0.15 * radius):
        return base
    side = np.median(fit.height((np.argwhere(body) - centre) * cube.step))
    above = fit.height(candidates * cube.step) * side > 0
    base[tuple((candidates[above] + centre).T)] = True
    return base


def _faces(one: Mask, two: Mask) -> Points:
    """The centres of the voxel faces between two masks, (N, 3) in voxels."""
    faces = []
    for axis in range(3):
        for side in (-1, 1):
            beside = np.argwhere(one & np.roll(two, side, axis)).astype(np.float64)
            beside[:, axis] -= side / 2
            faces.append(beside)
    return np.concatenate(faces)


class _Surface:
    """Fit a quadratic surface robustly to (N, 3) points in millimetres, with the largest weights for the nearest."""

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
        """The signed distance in millimetres of (N, 3) points from the surface."""
        design, target = self._design(points)
        return target - design @ self.terms

    def _design(self, points: Points) -> tuple[Points, npt.NDArray[np.floating]]:
        u, v, w = (points @ self.frame).T
        return np.stack([np.ones_like(u), u, v, u * u, u * v, v * v], axis=1), w
