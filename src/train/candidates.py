"""Training data of the second stage: nodules, and the detector's false marks."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from numpy.random import Generator
from torch import Tensor
from torch.utils.data import Dataset

from ..model.classifier import SIDE
from .augmentation import degrade
from .chance import chance, log_uniform, orientation, rotation
from .crops import Crop
from .insertion import resampled
from .scans import LungScan
from .targets import Points
from .validation import find_in_crop, find_marks

__all__ = ["CandidateBatches", "Candidates", "FalseMark", "collect"]

MIN_CONFIDENCE = 0.03  # of a candidate
POSITIVE = 0.4  # share of nodules among the samples
IN_SCANS = 0.3  # share of the false marks from whole scans; the others are from crops
SUBSOLID, TWICE = 4.0, 2.0  # nodules below this texture are rare, and drawn twice as often
JITTER = 2.0  # mm, the largest standard deviation of a mark's position along each axis
SCALES = (0.8, 1.3)
AROUND = 28  # voxels of a scan that are kept on each side of a mark
PADDING = -1000  # HU outside a scan


@dataclass(frozen=True, eq=False)
class FalseMark:
    """A mark of the detector where no reader outlined a nodule."""

    hu: npt.NDArray[np.generic]  # (X, Y, Z) at 1 mm, its surroundings
    point: Points  # (3,) voxels
    confidence: float  # of the detector
    ends: bool  # whether the surroundings end 25 mm from a nodule, as in a crop


@dataclass(frozen=True, eq=False)
class Candidates:
    """Nodules in their own surroundings, and false marks."""

    nodules: list[Crop]
    beside: list[FalseMark]  # in the nodules' crops
    elsewhere: list[FalseMark]  # in whole scans


def collect(
    model: torch.nn.Module, crops: Sequence[Crop], scans: Sequence[LungScan], clip_range: tuple[float, float]
) -> Candidates:
    """The nodules, and the detector's false marks in crops and scans."""
    beside, elsewhere = list[FalseMark](), list[FalseMark]()
    for crop in crops:
        points, confidence = find_in_crop(model, crop.hu, clip_range)
        certain = (confidence >= MIN_CONFIDENCE) & crop.certainly_false(points)
        beside += [
            FalseMark(crop.hu, p, c, ends=True) for p, c in zip(points[certain], confidence[certain], strict=True)
        ]
    for scan in scans:
        points, confidence = find_marks(model, scan.hu, clip_range)
        certain = (confidence >= MIN_CONFIDENCE) & scan.certainly_false(points)
        elsewhere += [_cut(scan, p, c) for p, c in zip(points[certain], confidence[certain], strict=True)]
    return Candidates(list(crops), beside, elsewhere)


def _cut(scan: LungScan, point: Points, confidence: float) -> FalseMark:
    low = np.round(point).astype(int) - AROUND
    high = low + 2 * AROUND + 1
    inside = tuple(slice(max(a, 0), max(b, 0)) for a, b in zip(low, high, strict=True))
    missing = [(max(0, -a), max(0, b - n)) for a, b, n in zip(low, high, scan.hu.shape, strict=True)]
    hu = np.pad(scan.hu[inside], missing, constant_values=PADDING)
    return FalseMark(hu, point - low, confidence, ends=False)


class CandidateBatches(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """Batch number i: cubes (N, 1, 32, 32, 32) in 0..1, targets (N, 4), and which targets are known (N, 4).

    A false mark lies anywhere in its crop, a nodule in the middle. The network must not learn to separate them by the
    crop's ends, where it is mirrored. So a nodule's surroundings are trimmed to end where those of a random false mark
    end.

    Args:
        candidates: the training data.
        indices: the batch numbers of item 0, 1 and so on.
        clip_range: HU that become 0 and 1.
        seed: of all randomness.
        size: candidates in a batch.
    """

    def __init__(
        self, candidates: Candidates, indices: range, clip_range: tuple[float, float], seed: int, size: int
    ) -> None:
        self.candidates, self.indices, self.clip_range, self.seed, self.size = (
            candidates,
            indices,
            clip_range,
            seed,
            size,
        )
        often = np.array([TWICE if crop.texture < SUBSOLID else 1.0 for crop in candidates.nodules])
        self.often = often / often.sum()
        self.harder = [_by_confidence(marks) for marks in (candidates.beside, candidates.elsewhere)]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, item: int) -> tuple[Tensor, Tensor, Tensor]:
        rng = np.random.default_rng([self.seed, self.indices[item]])
        samples = [self._sample(rng) for _ in range(self.size)]
        low, high = self.clip_range
        cubes = np.stack([(np.clip(cube, low, high) - low) / (high - low) for cube, _ in samples])[:, None]
        targets = np.array([target for _, target in samples], dtype=np.float32)
        known = np.isfinite(targets)
        return (
            torch.from_numpy(cubes.astype(np.float32)),
            torch.from_numpy(np.where(known, targets, 0).astype(np.float32)),
            torch.from_numpy(known),
        )

    def _sample(self, rng: Generator) -> tuple[npt.NDArray[np.float32], tuple[float, float, float, float]]:
        scale = log_uniform(rng, *SCALES)
        if chance(rng, POSITIVE):
            crop = self.candidates.nodules[int(rng.choice(len(self.often), p=self.often))]
            spread = min(JITTER, crop.diameter * scale / 6)
            hu, point = _trimmed_like(crop, self._false_mark(rng))
            target = (1.0, (crop.malignancy - 1) / 4, (crop.texture - 1) / 4, float(np.log(crop.diameter * scale)))
        else:
            mark = self._false_mark(rng)
            spread, hu, point, target = 1.0, mark.hu, mark.point, (0.0, np.nan, np.nan, np.nan)
        turned = rotation(rng) if chance(rng, 0.3) else orientation(rng)
        cube = resampled(hu, "mirror", point, turned / scale, rng.normal(0, spread, 3), SIDE)
        return degrade(rng, cube) if chance(rng, 0.7) else cube, target

    def _false_mark(self, rng: Generator) -> FalseMark:
        sources = (self.candidates.beside, self.candidates.elsewhere)
        which = int(chance(rng, IN_SCANS)) if all(sources) else int(not sources[0])
        return sources[which][int(rng.choice(len(sources[which]), p=self.harder[which]))]


def _by_confidence(marks: Sequence[FalseMark]) -> npt.NDArray[np.float64]:
    """The probability of drawing each mark. Marks of higher confidence are drawn more often."""
    weight = np.sqrt([mark.confidence for mark in marks])
    return np.asarray(weight / max(weight.sum(), 1e-9))


def _trimmed_like(crop: Crop, mark: FalseMark) -> tuple[npt.NDArray[np.generic], Points]:
    """The crop and its centre, trimmed to end as near to the nodule as the surroundings of `mark` end to the mark."""
    if not mark.ends:
        return crop.hu, crop.centre
    before = np.ceil(np.maximum(crop.centre - mark.point, 0)).astype(int)
    beyond = np.ceil(np.maximum(mark.point - crop.centre, 0)).astype(int)
    part = tuple(slice(a, n - b) for a, b, n in zip(before, beyond, crop.hu.shape, strict=True))
    return crop.hu[part], crop.centre - before
