"""The second stage: it looks at each candidate alone; the heatmap takes the joint confidence of both stages."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from skimage.segmentation import watershed

from ..model.classifier import LOG_DIAMETER, MALIGNANCY, NODULE, SIDE, TEXTURE, CandidateNet, Fusion
from ..model.device import autocast, precision
from ..model.unet import DIAMETER, HEATMAP
from ..types import FloatArray
from .peak_detection import detect_peaks
from .second_look import halve

__all__ = ["Opinions", "judge", "second_opinions"]

WORTH = 0.05  # the heat from which a peak is a candidate
APART = 6.0  # mm between two candidates
MOST = 128  # candidates, the hottest
LARGE = 20.0  # mm, the diameter from which a candidate is shown at half the resolution
AT_ONCE = 16  # cubes; more are no faster on a CPU


class Opinions(NamedTuple):
    """Of n candidates, each (n,)."""

    nodule_logit: npt.NDArray[np.float64]
    malignancy: npt.NDArray[np.float64]  # 1 to 5, as readers rate it
    texture: npt.NDArray[np.float64]  # 1 ground-glass to 5 solid
    diameter_mm: npt.NDArray[np.float64]


def judge(
    maps: FloatArray, volume: FloatArray, network: CandidateNet, fusion: Fusion, device: torch.device, *, mixed: bool
) -> None:
    """Scale the heatmap around each candidate to the joint confidence of both stages; `maps` is changed.

    Args:
        maps: (C, X', Y', Z'), the detector's; heatmap voxel j lies on voxel s j of the volume.
        volume: (X, Y, Z) normalised at 1 mm, of s times the maps' size at the most.
        network: the second stage.
        fusion: how the stages' answers are joined.
        device: where the second stage computes.
        mixed: whether in half precision, where that is faster.
    """
    heat = maps[HEATMAP]
    scale = round(volume.shape[0] / heat.shape[0])
    peaks = detect_peaks(heat, WORTH, APART, (scale, scale, scale))[:MOST]
    if not peaks:
        return
    voxels = np.array([peak["coordinates_voxel"] for peak in peaks])
    points = np.array([peak["coordinates"] for peak in peaks])
    large = maps[DIAMETER][tuple(voxels.T)] >= LARGE
    cubes = _cubes(volume, points)
    if large.any():
        cubes[large] = _cubes(halve(volume), points[large] / 2)
    height = np.array([peak["confidence"] for peak in peaks])
    believed = fusion.confidence(height, second_opinions(network, cubes, device, mixed=mixed).nodule_logit)
    markers = np.zeros(heat.shape, dtype=np.int32)
    markers[tuple(voxels.T)] = np.arange(1, len(peaks) + 1)
    hills = watershed(-heat, markers, mask=heat >= WORTH / 2)
    heat *= np.append(1.0, believed / height).astype(np.float32)[hills]
    np.clip(heat, 0, 1, out=heat)


@torch.inference_mode()
def second_opinions(network: CandidateNet, cubes: FloatArray, device: torch.device, *, mixed: bool) -> Opinions:
    """What the second stage says of normalised cubes (n, 32, 32, 32) at 1 mm, the candidate in the middle."""
    with autocast(device, precision(device, mixed=mixed)):
        parts = [network(part[:, None].to(device)).float().cpu() for part in torch.from_numpy(cubes).split(AT_ONCE)]
    answers = torch.cat(parts).numpy().astype(np.float64)
    shares = 1 / (1 + np.exp(-answers))
    return Opinions(
        answers[:, NODULE], 1 + 4 * shares[:, MALIGNANCY], 1 + 4 * shares[:, TEXTURE], np.exp(answers[:, LOG_DIAMETER])
    )


def _cubes(volume: FloatArray, points: npt.NDArray[np.float64]) -> FloatArray:
    """(n, 32, 32, 32): the voxels around each of the points (n, 3), air beyond the volume; its own has the index 16."""
    cubes = np.full((len(points), SIDE, SIDE, SIDE), volume.min(), dtype=np.float32)
    for cube, low in zip(cubes, np.round(points).astype(int) - SIDE // 2, strict=True):
        part = volume[tuple(slice(max(a, 0), max(a + SIDE, 0)) for a in low)]
        first = np.maximum(-low, 0)
        cube[tuple(slice(a, a + n) for a, n in zip(first, part.shape, strict=True))] = part
    return cubes
