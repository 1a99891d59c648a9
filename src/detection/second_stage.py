"""The second stage classifies each candidate. The heatmap then holds the joint confidence of both stages."""

import numpy as np
import numpy.typing as npt
import torch
from skimage.segmentation import watershed

from ..model.classifier import NODULE, SIDE, CandidateNet, Fusion
from ..model.device import autocast, precision
from ..model.unet import DIAMETER, HEATMAP
from ..types import FloatArray
from .peak_detection import detect_peaks
from .second_look import halve

__all__ = ["apply_second_stage", "nodule_logits"]

MIN_CONFIDENCE = 0.05  # of a candidate's peak
MIN_DISTANCE = 6.0  # mm between two candidates
MAX_CANDIDATES = 128  # the strongest are kept
LARGE = 20.0  # mm; candidates of this diameter and more are shown at half the resolution
BATCH = 16  # cubes; larger batches are no faster on a CPU


def apply_second_stage(
    maps: FloatArray, volume: FloatArray, network: CandidateNet, fusion: Fusion, device: torch.device, *, mixed: bool
) -> None:
    """Scale the heatmap around each candidate to the joint confidence of both stages. This changes `maps`.

    Args:
        maps: the detector's output, (C, X', Y', Z'). Heatmap voxel j lies on voxel s * j of the volume.
        volume: (X, Y, Z), normalised, at 1 mm; at most s times the size of the maps.
        network: the second stage.
        fusion: joins the outputs of both stages.
        device: where the second stage runs.
        mixed: compute in half precision where that is faster.
    """
    heat = maps[HEATMAP]
    scale = round(volume.shape[0] / heat.shape[0])
    peaks = detect_peaks(heat, MIN_CONFIDENCE, MIN_DISTANCE, (scale, scale, scale))[:MAX_CANDIDATES]
    if not peaks:
        return
    voxels = np.array([peak["coordinates_voxel"] for peak in peaks])
    points = np.array([peak["coordinates"] for peak in peaks])
    large = maps[DIAMETER][tuple(voxels.T)] >= LARGE
    cubes = _cubes(volume, points)
    if large.any():
        cubes[large] = _cubes(halve(volume), points[large] / 2)
    height = np.array([peak["confidence"] for peak in peaks])
    joint = fusion.confidence(height, nodule_logits(network, cubes, device, mixed=mixed))
    markers = np.zeros(heat.shape, dtype=np.int32)
    markers[tuple(voxels.T)] = np.arange(1, len(peaks) + 1)
    hills = watershed(-heat, markers, mask=heat >= MIN_CONFIDENCE / 2)
    heat *= np.append(1.0, joint / height).astype(np.float32)[hills]
    np.clip(heat, 0, 1, out=heat)


@torch.inference_mode()
def nodule_logits(
    network: CandidateNet, cubes: FloatArray, device: torch.device, *, mixed: bool
) -> npt.NDArray[np.float64]:
    """The second stage's logits (n,) for normalised cubes (n, 32, 32, 32) at 1 mm, each centred on its candidate."""
    with autocast(device, precision(device, mixed=mixed)):
        parts = [network(part[:, None].to(device)).float().cpu() for part in torch.from_numpy(cubes).split(BATCH)]
    return torch.cat(parts)[:, NODULE].numpy().astype(np.float64)


def _cubes(volume: FloatArray, points: npt.NDArray[np.float64]) -> FloatArray:
    """A cube (n, 32, 32, 32) around each of the points (n, 3), which has index 16. Beyond the volume is air."""
    cubes = np.full((len(points), SIDE, SIDE, SIDE), volume.min(), dtype=np.float32)
    for cube, low in zip(cubes, np.round(points).astype(int) - SIDE // 2, strict=True):
        part = volume[tuple(slice(max(a, 0), max(a + SIDE, 0)) for a in low)]
        first = np.maximum(-low, 0)
        cube[tuple(slice(a, a + n) for a, n in zip(first, part.shape, strict=True))] = part
    return cubes
