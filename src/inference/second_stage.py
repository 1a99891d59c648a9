"""What the second stage says of candidates, each looked at alone."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from ..model.classifier import LOG_DIAMETER, MALIGNANCY, NODULE, SIDE, TEXTURE, CandidateNet
from ..model.device import autocast, precision
from ..types import FloatArray

__all__ = ["Opinions", "second_opinions"]

AT_ONCE = 16  # cubes; more are no faster on a CPU


class Opinions(NamedTuple):
    """Of n candidates, each (n,)."""

    nodule_logit: npt.NDArray[np.float64]
    malignancy: npt.NDArray[np.float64]  # 1 to 5, as readers rate it
    texture: npt.NDArray[np.float64]  # 1 ground-glass to 5 solid
    diameter_mm: npt.NDArray[np.float64]


@torch.inference_mode()
def second_opinions(
    network: CandidateNet, volume: FloatArray, points: npt.NDArray[np.float64], device: torch.device, *, mixed: bool
) -> Opinions:
    """The opinions on candidates at `points` (n, 3), voxels of a normalised (X, Y, Z) volume at 1 mm.

    What lies beyond the volume is as its least voxel, air.
    """
    cubes = torch.from_numpy(_cubes(volume, points))[:, None]
    with autocast(device, precision(device, mixed=mixed)):
        parts = [network(part.to(device)).float().cpu() for part in cubes.split(AT_ONCE)]
    answers = torch.cat([torch.empty((0, LOG_DIAMETER + 1)), *parts]).numpy().astype(np.float64)
    shares = 1 / (1 + np.exp(-answers))
    return Opinions(
        answers[:, NODULE], 1 + 4 * shares[:, MALIGNANCY], 1 + 4 * shares[:, TEXTURE], np.exp(answers[:, LOG_DIAMETER])
    )


def _cubes(volume: FloatArray, points: npt.NDArray[np.float64]) -> FloatArray:
    """(n, 32, 32, 32): the voxels around each point, whose own voxel has the index 16."""
    half = SIDE // 2
    cubes = np.full((len(points), SIDE, SIDE, SIDE), volume.min(initial=1.0), dtype=np.float32)
    for cube, low in zip(cubes, np.round(points).astype(int) - half, strict=True):
        shown = tuple(slice(max(a, 0), max(a + SIDE, 0)) for a in low)
        part = volume[shown]
        inside = tuple(slice(max(-a, 0), max(-a, 0) + n) for a, n in zip(low, part.shape, strict=True))
        cube[inside] = part
    return cubes
