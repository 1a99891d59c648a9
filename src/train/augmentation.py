"""Augmentation: a patch in another orientation, or from another scanner."""

import numpy as np
from numpy.random import Generator
from scipy import ndimage

from ..types import FloatArray
from .chance import chance
from .targets import Sample, Truth

__all__ = ["degrade", "turn"]

FLIPPED = 0.5  # of all samples, along each axis


def turn(rng: Generator, sample: Sample) -> Sample:
    """The sample in a random orientation: flipped along each axis in half of the cases, axes permuted in 30 %."""
    order = rng.permutation(3) if chance(rng, 0.3) else np.arange(3)
    flips = rng.random(3) < FLIPPED
    index = tuple(slice(None, None, -1 if flip else 1) for flip in flips)
    size = np.array(sample.hu.shape)[order]
    truths = [Truth(np.where(flips, size - 1 - t.centre[order], t.centre[order]), t.diameter) for t in sample.truths]
    ignore = None if sample.ignore is None else sample.ignore.transpose(order)[index]
    return Sample(sample.hu.transpose(order)[index], truths, ignore)


def degrade(rng: Generator, hu: FloatArray) -> FloatArray:
    """The patch from another scanner: thicker slices, another kernel, dose and calibration."""
    if chance(rng, 0.4):
        hu = _thick_slices(rng, hu)
    if chance(rng, 0.4):
        hu = ndimage.gaussian_filter(hu, rng.uniform(0.3, 0.9))
    if chance(rng, 0.15):
        hu = hu + rng.uniform(0.3, 1.0) * (hu - ndimage.gaussian_filter(hu, 0.8))  # an edge-enhancing kernel
    if chance(rng, 0.7):
        noise = rng.normal(size=hu.shape).astype(np.float32)
        if chance(rng, 0.6):
            noise = ndimage.gaussian_filter(noise, rng.uniform(0.4, 0.9))
            noise /= noise.std()
        hu = hu + rng.gamma(2.0, 12.0) * noise
    return (hu * rng.uniform(0.97, 1.03) + rng.normal(0, 20)).astype(np.float32)


def _thick_slices(rng: Generator, hu: FloatArray) -> FloatArray:
    """Slices of 1.5 to 6 mm along one axis, interpolated back to 1 mm."""
    axis, thickness = (2 if chance(rng, 0.7) else int(rng.integers(3))), rng.uniform(1.5, 6.0)
    blurred = ndimage.gaussian_filter1d(hu, thickness / 2.355 * 0.8, axis=axis)
    positions = np.arange(hu.shape[axis])
    grid = np.arange(rng.uniform(0, thickness), hu.shape[axis], thickness)
    lower = np.clip(np.searchsorted(grid, positions, side="right") - 1, 0, len(grid) - 2)
    share = np.clip((positions - grid[lower]) / thickness, 0, 1)
    nearest = np.clip(np.round(grid).astype(int), 0, hu.shape[axis] - 1)
    slices = np.moveaxis(blurred, axis, 0)[nearest]
    share = share[:, None, None].astype(np.float32)
    return np.moveaxis(slices[lower] * (1 - share) + slices[lower + 1] * share, 0, axis)
