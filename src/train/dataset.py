"""Training samples, each a function of the seed and its number alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from numpy.random import Generator
from scipy import ndimage
from torch import Tensor
from torch.utils.data import Dataset

from ..types import FloatArray
from .insertion import insert, procedural_nodule, real_nodule, resample_crop, rotation
from .sources import Background, Crop

__all__ = ["Batches", "Sample", "Truth", "heat_target"]

DIAMETERS = (3.0, 32.0)  # mm
RIM_SHARE = 0.35  # of the patches whose inserted nodules touch the pleura or a vessel
LARGE_EVERY = 3  # each third batch is one large patch, so that the network also learns from a wide view


class Truth(NamedTuple):
    """A nodule of a sample: its centre in voxels and its diameter in mm."""

    centre: npt.NDArray[np.float64]
    diameter: float


@dataclass(frozen=True, eq=False)
class Sample:
    """A patch of (X, Y, Z) float32 HU, its nodules, and where its content is unknown."""

    hu: FloatArray
    truths: list[Truth]
    ignore: npt.NDArray[np.bool_] | None = None


class Batches(Dataset[tuple[Tensor, Tensor, Tensor, Tensor]]):
    """Batch number i: `small` patches of 48 mm, or, each third one, a single patch of 96 mm.

    Items are (N, 1, X, Y, Z) input in 0..1 and the targets (N, X/2, Y/2, Z/2): heatmap, log
    diameter, weight.
    """

    def __init__(  # noqa: PLR0913
        self,
        crops: Sequence[Crop],
        backgrounds: Sequence[Background],
        hard: Sequence[npt.NDArray[np.intp]],
        indices: range,
        clip_range: tuple[float, float],
        seed: int,
        small: int = 8,
    ) -> None:
        self.crops, self.backgrounds, self.hard = crops, backgrounds, hard
        self.indices, self.clip_range, self.seed, self.small = indices, clip_range, seed, small

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, item: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        index = self.indices[item]
        rng = np.random.default_rng([self.seed, index])
        if index % LARGE_EVERY == 0:
            samples = [self._background(rng, 96, nodules=int(rng.integers(0, 7)))]
        else:
            samples = [self._small(rng, 48) for _ in range(self.small)]
        parts = [self._tensors(rng, sample) for sample in samples]
        image, heat, diameter, weight = (torch.from_numpy(np.stack(part)) for part in zip(*parts, strict=True))
        return image[:, None], heat, diameter, weight

    def _small(self, rng: Generator, size: int) -> Sample:
        kind = rng.random()
        if kind < 0.4:
            return self._crop(rng, size)
        return self._background(rng, size, nodules=1 if kind < 0.75 else 0)

    def _crop(self, rng: Generator, size: int) -> Sample:
        """A real nodule in its own surroundings, turned, resized and off the centre."""
        crop = self.crops[rng.integers(len(self.crops))]
        low, high = max(0.8, 4.0 / crop.diameter), max(1.0, min(1.4, DIAMETERS[1] / crop.diameter))
        scale = np.exp(rng.uniform(np.log(min(low, high)), np.log(high)))
        shift = rng.uniform(-7, 7, 3)  # further, and the mirrored border would show the nodule twice
        # Half of the samples only swap and flip axes: a full turn blurs and mirrors in the corners.
        turn = rotation(rng) if rng.random() < 0.5 else np.eye(3)[rng.permutation(3)] * rng.choice([-1, 1], 3)
        hu, _ = resample_crop(crop, turn / scale, shift, size)
        return Sample(hu, [Truth((size - 1) / 2 + shift, crop.diameter * scale)])

    def _background(self, rng: Generator, size: int, nodules: int) -> Sample:
        """A piece of a whole scan, with nodules put into its lung."""
        which = int(rng.integers(len(self.backgrounds)))
        scan = self.backgrounds[which]
        corner = self._corner(rng, which, size, wants_lung=nodules > 0)
        box = tuple(slice(a, a + size) for a in corner)
        hu = scan.hu[box].astype(np.float32)
        hu = np.pad(hu, [(0, size - n) for n in hu.shape], constant_values=-1000.0)
        ignore = None if scan.ignore is None else np.pad(scan.ignore[box], [(0, size - n) for n in scan.ignore[box].shape])
        places = scan.rim if rng.random() < RIM_SHARE else scan.lung
        places = places[((places >= corner + 3) & (places < corner + size - 3)).all(1)] - corner
        truths: list[Truth] = []
        for _ in range(nodules if len(places) else 0):
            diameter = float(np.exp(rng.uniform(*np.log(DIAMETERS))))
            centre = places[rng.integers(len(places))]
            if all(np.linalg.norm(centre - t.centre) > (diameter + t.diameter) / 2 + 4 for t in truths):
                insert(hu, self._nodule(rng, diameter), centre)
                truths.append(Truth(centre.astype(np.float64), diameter))
        return _turn(rng, Sample(hu, truths, ignore))

    def _nodule(self, rng: Generator, diameter: float):  # noqa: ANN202
        if rng.random() < 0.35:
            return procedural_nodule(rng, diameter)
        # A nodule of like size: shrinking a mass to 4 mm would give a texture that no small nodule has.
        ratio = np.array([abs(np.log(crop.diameter / diameter)) for crop in self.crops])
        nearest = np.argsort(ratio)[: max(15, int((ratio < 0.7).sum()))]
        return real_nodule(rng, self.crops[rng.choice(nearest)], diameter)

    def _corner(self, rng: Generator, which: int, size: int, *, wants_lung: bool) -> npt.NDArray[np.intp]:
        scan, hard = self.backgrounds[which], self.hard[which]
        room = np.maximum(np.array(scan.hu.shape) - size, 0)
        choice = rng.random()
        if not wants_lung and len(hard) and choice < 0.6:
            middle = hard[rng.integers(len(hard))] + rng.integers(-10, 11, 3)
        elif wants_lung or choice < 0.85:
            middle = scan.lung[rng.integers(len(scan.lung))] + rng.integers(-size // 3, size // 3 + 1, 3)
        else:
            middle = rng.integers(0, np.array(scan.hu.shape))
        return np.clip(middle - size // 2, 0, room)

    def _tensors(self, rng: Generator, sample: Sample) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        low, high = self.clip_range
        image = (np.clip(_degrade(rng, sample.hu), low, high) - low) / (high - low)
        heat, log_diameter = heat_target(sample.hu.shape, sample.truths)
        weight = np.ones_like(heat)
        if sample.ignore is not None:
            weight[sample.ignore[::2, ::2, ::2] & (heat < 0.05)] = 0
        return image.astype(np.float32), heat, log_diameter, weight


def heat_target(shape: Sequence[int], truths: Sequence[Truth]) -> tuple[FloatArray, FloatArray]:
    """The heatmap (0..1) and log diameter that a patch of `shape` voxels should give, on the halved grid.

    A bump has a standard deviation of a sixth of the diameter, 2.2 to 4 mm; voxel j of the halved
    grid lies on input voxel 2j.
    """
    small = tuple((size + 1) // 2 for size in shape)
    heat, log_diameter = np.zeros(small, np.float32), np.zeros(small, np.float32)
    grid = np.indices(small, dtype=np.float32) * 2
    for centre, diameter in truths:
        sigma = float(np.clip(diameter / 6, 2.2, 4.0))
        squared = ((grid - centre[:, None, None, None].astype(np.float32)) ** 2).sum(0)
        bump = np.exp(-squared / (2 * sigma**2))
        log_diameter[bump > heat] = np.log(diameter)
        np.maximum(heat, bump, out=heat)
    return heat, log_diameter


def _turn(rng: Generator, sample: Sample) -> Sample:
    """One of the 48 ways to see a cube, mirrored left-right in half, seldom lying on its side."""
    order = rng.permutation(3) if rng.random() < 0.3 else np.arange(3)
    flips = rng.random(3) < 0.5
    index = tuple(slice(None, None, -1 if flip else 1) for flip in flips)
    size = np.array(sample.hu.shape)[order]
    truths = [Truth(np.where(flips, size - 1 - t.centre[order], t.centre[order]), t.diameter) for t in sample.truths]
    ignore = None if sample.ignore is None else sample.ignore.transpose(order)[index]
    return Sample(sample.hu.transpose(order)[index], truths, ignore)


def _degrade(rng: Generator, hu: FloatArray) -> FloatArray:
    """Another scanner: thicker slices, another kernel, dose and calibration."""
    if rng.random() < 0.4:
        hu = _thick_slices(rng, hu)
    if rng.random() < 0.4:
        hu = ndimage.gaussian_filter(hu, rng.uniform(0.3, 0.9))
    if rng.random() < 0.15:
        hu = hu + rng.uniform(0.3, 1.0) * (hu - ndimage.gaussian_filter(hu, 0.8))  # an edge-enhancing kernel
    if rng.random() < 0.7:
        noise = rng.normal(size=hu.shape).astype(np.float32)
        if rng.random() < 0.6:
            noise = ndimage.gaussian_filter(noise, rng.uniform(0.4, 0.9))
            noise /= noise.std()
        hu = hu + rng.gamma(2.0, 12.0) * noise
    return (hu * rng.uniform(0.97, 1.03) + rng.normal(0, 12)).astype(np.float32)


def _thick_slices(rng: Generator, hu: FloatArray) -> FloatArray:
    """Slices of 1.5 to 4 mm along one axis, interpolated back to 1 mm."""
    axis, thickness = (2 if rng.random() < 0.7 else int(rng.integers(3))), rng.uniform(1.5, 4.0)
    blurred = ndimage.gaussian_filter1d(hu, thickness / 2.355 * 0.8, axis=axis)
    positions = np.arange(hu.shape[axis])
    grid = np.arange(rng.uniform(0, thickness), hu.shape[axis], thickness)
    lower = np.clip(np.searchsorted(grid, positions, side="right") - 1, 0, len(grid) - 2)
    share = np.clip((positions - grid[lower]) / thickness, 0, 1)
    nearest = np.clip(np.round(grid).astype(int), 0, hu.shape[axis] - 1)
    slices = np.moveaxis(blurred, axis, 0)[nearest]
    share = share[:, None, None].astype(np.float32)
    return np.moveaxis(slices[lower] * (1 - share) + slices[lower + 1] * share, 0, axis)
