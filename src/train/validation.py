"""Validation on held-out patients: nodules planted in a held-out scan, and nodules in their own surroundings."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from scipy.spatial.distance import cdist

from ..detection.peak_detection import detect_peaks
from ..detection.sliding_window import predict_windows
from ..errors import BadScan
from ..eval.froc import Sweep
from ..eval.matching import match
from ..eval.tables import FindingTable, MarkTable
from ..model.unet import HEATMAP
from .crops import Crop
from .insertion import insert, real_nodule
from .parallel import Workers
from .scans import LungScan
from .targets import Points, Truth

__all__ = ["ValidationSet", "best_hits", "find_in_crop", "find_marks", "plant", "validate"]

PATCH, OVERLAP = 112, 32  # voxels
MULTIPLE = 16  # voxels; patch sides are multiples of it
AROUND = 7  # voxels by which a crop is extended, mirrored, at each end
LEAST = 0.02  # the smallest confidence of a mark
APART = 6.0  # mm between two marks
DEFAULT = 0.5  # the default threshold
RATES = (1, 4)  # false marks a scan
GAP, TRIES = 15.0, 100_000  # mm between two planted nodules; draws for a place

FoundMarks: TypeAlias = tuple[Points, npt.NDArray[np.float64]]
Find: TypeAlias = Callable[[npt.NDArray[np.generic]], FoundMarks]


@dataclass(frozen=True, eq=False)
class ValidationSet:
    """A held-out scan, copies of it with planted nodules, held-out crops, and held-out annotated scans."""

    background: LungScan | None
    planted: list[tuple[npt.NDArray[np.int16], list[Truth]]]
    crops: list[Crop]
    scans: list[LungScan]


def plant(
    crops: Sequence[Crop], background: LungScan, copies: int = 3, seed: int = 2026
) -> list[tuple[npt.NDArray[np.int16], list[Truth]]]:
    """Copies of a scan. Each has every nodule once, at its own size, at a random (seeded) place in the lung.

    Raises:
        BadScan: the lungs have no room for them.
    """
    planted = []
    for number in range(copies):
        rng = np.random.default_rng([seed, number])
        hu, truths = background.hu.astype(np.float32), list[Truth]()
        for crop in crops:
            nodule = real_nodule(rng, crop, crop.diameter)
            while not insert(hu, nodule, centre := _free_place(rng, background, truths, crop.diameter)):
                pass
            truths.append(Truth(centre.astype(np.float64), crop.diameter))
        planted.append((hu.astype(np.int16), truths))
    return planted


def _free_place(
    rng: np.random.Generator, background: LungScan, truths: Sequence[Truth], diameter: float
) -> npt.NDArray[np.intp]:
    for _ in range(TRIES):
        centre = background.lung[rng.integers(len(background.lung))]
        if all(np.linalg.norm(centre - t.centre) > (diameter + t.diameter) / 2 + GAP for t in truths):
            return np.asarray(centre, dtype=np.intp)
    msg = f"{background.name}: its lungs have no room for {len(truths) + 1} nodules: validate on a whole chest"
    raise BadScan(msg)


def validate(
    model: torch.nn.Module, data: ValidationSet, clip_range: tuple[float, float], workers: Workers
) -> dict[str, float]:
    """Sensitivities (0..1) at 1 and 4 false marks a scan, their thresholds, and their mean (`score`).

    `planted` nodules lie in another patient's lung, `crops` in their own surroundings. For both, false marks are
    counted on the original scan. These may include a true nodule that nobody marked, so the figures are pessimistic.
    `luna16` is the FROC on annotated scans.
    """

    def find(hu: npt.NDArray[np.generic]) -> FoundMarks:
        return find_marks(model, hu, clip_range)

    def in_crop(crop: Crop) -> float:
        truth = Truth(crop.centre, crop.luna_diameter or crop.diameter)
        return float(best_hits(find_in_crop(model, crop.hu, clip_range), [truth])[0])

    figures = {}
    if data.background:
        figures = _planted_figures(find, data.background, data, workers.map(in_crop, data.crops), workers)
    if data.scans:
        figures |= _luna16_figures(find, data.scans, workers)
    kinds = ("planted", "crops", "luna16")
    sensitivities = [figures[key] for kind in kinds for rate in RATES if (key := f"{kind}_at_{rate}") in figures]
    return {**figures, "score": float(np.mean(sensitivities))}


def _planted_figures(
    find: Find, background: LungScan, data: ValidationSet, in_crops: Sequence[float], workers: Workers
) -> dict[str, float]:
    volumes = [background.hu, *(hu for hu, _ in data.planted)]
    marks = workers.map(find, volumes)
    points, confidence = marks[0]
    false = np.sort(confidence[background.certainly_false(points)])[::-1]
    planted = np.concatenate([best_hits(m, truths) for m, (_, truths) in zip(marks[1:], data.planted, strict=True)])
    crops = np.array(in_crops)
    figures = {}
    for rate in RATES:
        threshold = float(false[rate]) if len(false) > rate else 0.0
        figures[f"threshold_at_{rate}"] = threshold
        figures[f"planted_at_{rate}"] = float((planted > threshold).mean())
        figures[f"crops_at_{rate}"] = float((crops > threshold).mean())
    above = {
        "planted": (planted >= DEFAULT).mean(),
        "crops": (crops >= DEFAULT).mean(),
        "false_marks": (false >= DEFAULT).sum(),
    }
    return {**figures, **{f"{key}_above_half": float(value) for key, value in above.items()}}


def _luna16_figures(find: Find, scans: Sequence[LungScan], workers: Workers) -> dict[str, float]:
    found = workers.map(lambda scan: find(scan.hu), scans)
    counts = [len(confidence) for _, confidence in found]
    marks = MarkTable(
        np.repeat(np.arange(len(scans)), counts),
        np.concatenate([points for points, _ in found]),
        np.concatenate([confidence for _, confidence in found]),
    )
    matched = match(marks, _findings([s.truths for s in scans]), _findings([s.excluded for s in scans]))
    curve = Sweep(matched, len(scans)).curve()
    figures: dict[str, float] = {}
    for rate, sensitivity in zip(RATES, curve.at(np.array(RATES, dtype=np.float64)).tolist(), strict=True):
        figures[f"luna16_at_{rate}"] = sensitivity
        figures[f"luna16_threshold_at_{rate}"] = min(curve.threshold_at(rate), 1.0)
    return figures


def _findings(truths: Sequence[Sequence[Truth]]) -> FindingTable:
    """All findings with the number of their scan. Voxels of 1 mm serve as world points."""
    flat = [truth for own in truths for truth in own]
    return FindingTable(
        np.repeat(np.arange(len(truths)), [len(own) for own in truths]),
        np.array([truth.centre for truth in flat]).reshape(-1, 3),
        np.array([truth.diameter for truth in flat]),
    )


def find_marks(model: torch.nn.Module, hu: npt.NDArray[np.generic], clip_range: tuple[float, float]) -> FoundMarks:
    """Voxel positions (n, 3) and confidences (n,) of the model's peaks above 0.02 on a 1 mm volume."""
    low, high = clip_range
    volume = ((np.clip(hu, low, high) - low) / (high - low)).astype(np.float32)
    x, y, z = (min(PATCH, -(-size // MULTIPLE) * MULTIPLE) for size in volume.shape)
    a, b, c = (max(side - OVERLAP, MULTIPLE) for side in (x, y, z))
    maps = predict_windows(
        model,
        volume,
        (x, y, z),
        (a, b, c),
        batch_size=1,
        device=next(model.parameters()).device,
        mixed_precision=True,
    ).maps
    peaks = detect_peaks(maps[HEATMAP], LEAST, APART, (2.0, 2.0, 2.0))
    points = np.array([peak["coordinates"] for peak in peaks]).reshape(-1, 3)
    return points, np.array([peak["confidence"] for peak in peaks])


def best_hits(marks: FoundMarks, truths: Sequence[Truth]) -> npt.NDArray[np.float64]:
    """For each nodule the confidence of the strongest mark within its radius, or 0."""
    points, confidence = marks
    if not len(points) or not truths:
        return np.zeros(len(truths))
    near = cdist([t.centre for t in truths], points) < np.array([[t.diameter / 2] for t in truths])
    return np.asarray(np.where(near, confidence, 0).max(axis=1))


def find_in_crop(model: torch.nn.Module, hu: npt.NDArray[np.generic], clip_range: tuple[float, float]) -> FoundMarks:
    """`find_marks` in a crop that is mirrored beyond its ends. Marks there are kept, with voxels outside the crop."""
    added = [((size + 2 * AROUND) // MULTIPLE * MULTIPLE - size) // 2 for size in hu.shape]
    points, confidence = find_marks(model, np.pad(hu, [(n, n) for n in added], mode="reflect"), clip_range)
    return points - added, confidence
