"""How good a network is on patients it never saw: held-out nodules in a held-out scan."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.spatial.distance import cdist

from ..inference.peak_detection import detect_peaks
from ..inference.sliding_window import predict_windows
from ..model.unet import HEATMAP
from ..types import FloatArray, Peak
from .dataset import Truth
from .insertion import insert, real_nodule
from .sources import Background, Crop

__all__ = ["ValidationSet", "find_marks", "validate", "validation_set"]

PATCH = 112
DEFAULT = 0.5  # the default threshold
CORE = 48  # a crop, less the border that 51 voxels leave over
Marks = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]


@dataclass(frozen=True, eq=False)
class ValidationSet:
    """The held-out scan as it is, copies of it with nodules put in, and held-out crops as they are."""

    background: Background
    planted: list[tuple[npt.NDArray[np.int16], list[Truth]]]
    crops: list[Crop]


def validation_set(crops: Sequence[Crop], background: Background, copies: int = 3, seed: int = 2026) -> ValidationSet:
    """Every held-out nodule once in each copy, at its own size, at seeded places in the lung."""
    planted = []
    for copy in range(copies):
        rng = np.random.default_rng([seed, copy])
        hu, truths = background.hu.astype(np.float32), list[Truth]()
        for crop in crops:
            centre = _free_place(rng, background, truths, crop.diameter)
            insert(hu, real_nodule(rng, crop, crop.diameter), centre)
            truths.append(Truth(centre.astype(np.float64), crop.diameter))
        planted.append((hu.astype(np.int16), truths))
    return ValidationSet(background, planted, list(crops))


def _free_place(
    rng: np.random.Generator, background: Background, truths: Sequence[Truth], diameter: float
) -> npt.NDArray[np.int32]:
    while True:
        centre = background.lung[rng.integers(len(background.lung))]
        if all(np.linalg.norm(centre - t.centre) > (diameter + t.diameter) / 2 + 15 for t in truths):
            return centre


def validate(model: torch.nn.Module, data: ValidationSet, clip_range: tuple[float, float]) -> dict[str, float]:
    """Sensitivities at 1 and 4 false marks a scan, and the confidence at which each is reached.

    False marks are counted on the scan as it is: what the network finds there may include a true
    nodule that nobody marked, so the figures are pessimistic. `planted` nodules stand in another
    patient's lung, `crops` in their own surroundings.
    """
    false = np.sort(find_marks(model, data.background.hu, clip_range)[1])[::-1]
    found = [
        best_hits(find_marks(model, hu, clip_range), truths) for hu, truths in data.planted
    ]
    planted = np.concatenate(found)
    crops = np.array([_crop_confidence(model, crop, clip_range) for crop in data.crops])
    result = {}
    for rate in (1, 4):
        threshold = float(false[rate]) if len(false) > rate else 0.0
        result[f"threshold_at_{rate}"] = threshold
        result[f"planted_at_{rate}"] = float((planted > threshold).mean())
        result[f"crops_at_{rate}"] = float((crops > threshold).mean())
    above = {"planted": (planted >= DEFAULT).mean(), "crops": (crops >= DEFAULT).mean(), "false_marks": (false >= DEFAULT).sum()}
    return {**result, **{f"{key}_above_half": float(value) for key, value in above.items()}}


def find_marks(model: torch.nn.Module, hu: npt.NDArray[np.generic], clip_range: tuple[float, float]) -> Marks:
    """Voxel positions (n, 3) and confidences (n,) of the model's peaks above 0.02 on a 1 mm volume."""
    low, high = clip_range
    volume: FloatArray = ((np.clip(hu, low, high) - low) / (high - low)).astype(np.float32)
    patch = (PATCH, PATCH, PATCH)
    device = next(model.parameters()).device
    maps = predict_windows(
        model, volume, patch, (PATCH - 32,) * 3, batch_size=1, device=device, mixed_precision=True
    ).maps
    peaks: list[Peak] = detect_peaks(maps[HEATMAP], 0.02, 6.0, (2.0, 2.0, 2.0))
    points = np.array([peak["coordinates"] for peak in peaks]).reshape(-1, 3)
    return points, np.array([peak["confidence"] for peak in peaks])


def best_hits(marks: Marks, truths: Sequence[Truth]) -> npt.NDArray[np.float64]:
    """For each nodule the strongest mark closer than its radius, or 0."""
    points, confidence = marks
    if not len(points):
        return np.zeros(len(truths))
    near = cdist([t.centre for t in truths], points) < np.array([[t.diameter / 2] for t in truths])
    return np.where(near, confidence, 0).max(axis=1)


def _crop_confidence(model: torch.nn.Module, crop: Crop, clip_range: tuple[float, float]) -> float:
    corner = (crop.hu.shape[0] - CORE) // 2
    core = crop.hu[(slice(corner, corner + CORE),) * 3]
    return float(best_hits(find_marks(model, core, clip_range), [Truth(crop.centre - corner, crop.diameter)])[0])
