"""Training samples. Each depends on the seed and its number alone."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from numpy.random import Generator
from torch import Tensor
from torch.utils.data import Dataset

from ..types import FloatArray
from .augmentation import degrade, turn
from .chance import chance, log_uniform, orientation, rotation
from .crops import Crop
from .insertion import NoduleToInsert, insert, procedural_nodule, real_nodule, resampled
from .scans import LungScan, Places, balls
from .targets import Points, Sample, Spread, Truth, heat_target

__all__ = ["Batches", "Recipe"]

SIZES = (48, 64, 96)  # mm, the patches' edges, in turn; the network cannot learn where a patch ends
POSITIVE, PLANTED = 0.6, 0.8  # shares of the patches, cumulated: a real nodule or its surroundings; planted nodules
BESIDE = 0.4  # share of the patches of a crop that are placed by one of its false marks or look-alikes
SUBSOLID, TWICE = 4.0, 2.0  # nodules below this texture are rare, and drawn twice as often
RIM_SHARE = 0.35  # share of the patches whose planted nodules touch the pleura or a vessel
PROCEDURAL_SHARE = 0.35  # of the planted nodules
LIKE = 0.7  # the largest log ratio between the diameters of a crop and of its planted nodule
HARD, ANY_LUNG = 0.6, 0.85  # shares of the patches without nodule, cumulated: at a false mark; in the lung
PARTLY = 0.1  # a voxel is unknown if another finding has this share of it
KNOWN_HEAT = 0.05  # unknown voxels with a lower target have no weight
MARGIN = 3  # voxels from the end of a patch without planted nodules
DRAWS = 20_000  # random places of a scan; those inside the patch are used


class Recipe(NamedTuple):
    """How samples are made."""

    clip_range: tuple[float, float]  # HU that become 0 and 1
    small: int  # patches of 48 mm in a batch
    diameters: tuple[float, float]  # mm, of the planted nodules
    mixed: float  # the share of those from crops that becomes ground-glass
    spread: Spread  # of the targets


class Batches(Dataset[tuple[Tensor, Tensor, Tensor, Tensor]]):
    """Batch number i: patches of 48, 64 or 96 mm in turn. All batches have about the same volume.

    Items are the input (N, 1, X, Y, Z) in 0..1 and the targets (N, X/2, Y/2, Z/2): heatmap, log diameter, weight.

    Args:
        crops: nodules with outlines; may be empty.
        scans: at least one.
        hard: voxels (n, 3) of false marks, for each scan, then for each crop.
        indices: the batch numbers of item 0, 1 and so on.
        seed: of all randomness.
        recipe: how samples are made.
    """

    def __init__(
        self,
        crops: Sequence[Crop],
        scans: Sequence[LungScan],
        hard: Sequence[npt.NDArray[np.intp]],
        indices: range,
        seed: int,
        recipe: Recipe,
    ) -> None:
        self.crops, self.scans, self.hard = crops, scans, hard
        self.indices, self.seed, self.recipe = indices, seed, recipe
        self.annotated = [(scan, truth) for scan in scans for truth in scan.truths]
        often = np.array([TWICE if c.texture < SUBSOLID else 1.0 for c in crops] + [1.0] * len(self.annotated))
        self.often = often / max(often.sum(), 1.0)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, item: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        index = self.indices[item]
        rng = np.random.default_rng([self.seed, index])
        size = SIZES[index % len(SIZES)]
        count = max(1, round(self.recipe.small * (SIZES[0] / size) ** 3))
        samples = [self._sample(rng, size) for _ in range(count)]
        parts = [self._arrays(rng, sample) for sample in samples]
        image, heat, diameter, weight = (torch.from_numpy(np.stack(part)) for part in zip(*parts, strict=True))
        return image[:, None], heat, diameter, weight

    def _sample(self, rng: Generator, size: int) -> Sample:
        kind = rng.random()
        if kind < POSITIVE:
            return self._positive(rng, size)
        most = size**3 // SIZES[0] ** 3
        return self._background(rng, size, nodules=int(rng.integers(1, most + 1)) if kind < PLANTED else 0)

    def _positive(self, rng: Generator, size: int) -> Sample:
        """A real nodule in its own surroundings, or the surroundings alone. Subsolid ones are drawn twice as often."""
        if not len(self.often):
            return self._background(rng, size, nodules=1)
        which = int(rng.choice(len(self.often), p=self.often))
        if which < len(self.crops):
            hard = self.hard[len(self.scans) + which]
            return _from_crop(rng, self.crops[which], size, self.recipe.diameters[1], hard)
        return _in_place(rng, *self.annotated[which - len(self.crops)], size)

    def _background(self, rng: Generator, size: int, nodules: int) -> Sample:
        """A piece of a whole scan, with its own and with planted nodules."""
        which = int(rng.integers(len(self.scans)))
        scan = self.scans[which]
        corner = self._corner(rng, which, size, wants_lung=nodules > 0)
        hu, ignore, truths = scan.patch(corner, size)
        places = scan.rim if chance(rng, RIM_SHARE) and len(scan.rim) else scan.lung
        drawn = places[rng.integers(len(places), size=DRAWS)] - corner
        inside = ((drawn >= MARGIN) & (drawn < size - MARGIN)).all(1)
        for centre in drawn[inside][:nodules]:
            diameter = log_uniform(rng, *self.recipe.diameters)
            is_free = all(np.linalg.norm(centre - t.centre) > (diameter + t.diameter) / 2 + 4 for t in truths)
            if is_free and insert(hu, self._nodule(rng, diameter), centre):
                truths.append(Truth(centre.astype(np.float64), diameter))
        return turn(rng, Sample(hu, truths, ignore))

    def _nodule(self, rng: Generator, diameter: float) -> NoduleToInsert:
        if chance(rng, PROCEDURAL_SHARE) or not self.crops:
            return procedural_nodule(rng, diameter)
        # From a crop of similar size: a mass shrunk to 4 mm would have a texture that no small nodule has.
        ratio = np.array([abs(np.log(crop.diameter / diameter)) for crop in self.crops])
        nearest = np.argsort(ratio)[: max(15, int((ratio < LIKE).sum()))]
        return real_nodule(rng, self.crops[rng.choice(nearest)], diameter, self.recipe.mixed)

    def _corner(self, rng: Generator, which: int, size: int, *, wants_lung: bool) -> npt.NDArray[np.intp]:
        scan, hard = self.scans[which], self.hard[which]
        choice = rng.random()
        if not wants_lung and len(hard) and choice < HARD:
            middle = hard[rng.integers(len(hard))] + rng.integers(-10, 11, 3)
        elif wants_lung or choice < ANY_LUNG:
            middle = scan.lung[rng.integers(len(scan.lung))] + rng.integers(-size // 3, size // 3 + 1, 3)
        else:
            middle = rng.integers(0, np.array(scan.hu.shape))
        return _corner_around(scan, middle, size)

    def _arrays(self, rng: Generator, sample: Sample) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        low, high = self.recipe.clip_range
        image = (np.clip(degrade(rng, sample.hu), low, high) - low) / (high - low)
        heat, log_diameter = heat_target(sample.hu.shape, sample.truths, self.recipe.spread)
        weight = np.ones_like(heat)
        if sample.ignore is not None:
            weight[sample.ignore[::2, ::2, ::2] & (heat < KNOWN_HEAT)] = 0
        return image.astype(np.float32), heat, log_diameter, weight


def _from_crop(rng: Generator, crop: Crop, size: int, largest: float, hard: Places) -> Sample:
    """A nodule in its own surroundings, rotated and resized. The surroundings are mirrored beyond their ends.

    The nodule, or one of the `hard` places (n, 3) beside it, lies anywhere in the patch. Its mirror images are nodules
    too.
    """
    low, high = max(0.8, 4.0 / crop.diameter), max(1.0, min(1.4, largest / crop.diameter))
    scale = log_uniform(rng, min(low, high), high)
    shift = rng.uniform(MARGIN - size / 2, size / 2 - MARGIN, 3)
    turned = rotation(rng) if chance(rng, 0.5) else orientation(rng)
    if len(hard) and chance(rng, BESIDE):
        shift -= (hard[rng.integers(len(hard))] - crop.centre) @ turned * scale
    hu = resampled(crop.hu, "mirror", crop.centre, turned / scale, shift, size)
    centres = (_mirrored(crop) - crop.centre) @ turned * scale + (size - 1) / 2 + shift
    diameter = crop.diameter * scale
    whole = ((centres >= 0) & (centres <= size - 1)).all(axis=1)
    cut = ((centres > -diameter / 2) & (centres < size - 1 + diameter / 2)).all(axis=1) & ~whole
    truths, unknown = ([Truth(centre, diameter) for centre in centres[which]] for which in (whole, cut))
    ignore = balls(size, unknown)
    if crop.other is not None:
        ignore |= resampled(crop.other, "mirror", crop.centre, turned / scale, shift, size) > PARTLY
    return Sample(hu, truths, ignore)


def _mirrored(crop: Crop) -> Points:
    """The nodule's centre and its mirror images (n, 3), as in `resampled`."""
    period = 2 * (np.array(crop.hu.shape) - 1)
    axes = [np.add.outer([c, -c], p * np.arange(-2, 3)).ravel() for c, p in zip(crop.centre, period, strict=True)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)


def _in_place(rng: Generator, scan: LungScan, truth: Truth, size: int) -> Sample:
    """A piece of an annotated scan, with one of its nodules anywhere in it."""
    reach = size / 2 - MARGIN
    middle = np.round(truth.centre + rng.uniform(-reach, reach, 3)).astype(np.intp)
    hu, ignore, truths = scan.patch(_corner_around(scan, middle, size), size)
    return turn(rng, Sample(hu, truths, ignore))


def _corner_around(scan: LungScan, middle: npt.NDArray[np.intp], size: int) -> npt.NDArray[np.intp]:
    """The first voxel of a patch around `middle`, moved into the scan."""
    return np.clip(middle - size // 2, 0, np.maximum(np.array(scan.hu.shape) - size, 0))
