"""The second stage: a small 3D network that classifies each candidate."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn
from torch.nn import functional

from .unet import Block

__all__ = ["OUTPUTS", "SIDE", "CandidateNet", "Fusion"]

SIDE = 32  # voxels of the input cube, which is centred on the candidate
OUTPUTS = ("nodule", "malignancy", "texture", "log_diameter")
NODULE, LOG_DIAMETER = OUTPUTS.index("nodule"), OUTPUTS.index("log_diameter")
DROPOUT = 0.2
SURE = 1e-4  # confidences are kept this far from 0 and 1


class Fusion(BaseModel):
    """Joins the confidences of both stages by a logistic regression, fitted on held-out candidates."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bias: float
    detector: float  # the weight of the logit of the heatmap's peak
    nodule: float  # the weight of the second stage's logit

    def confidence(self, heat: npt.ArrayLike, nodule_logit: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """The joint confidences (n,) in 0..1, from the peaks `heat` (n,) in 0..1 and the second stage's logits (n,)."""
        peak = np.clip(np.asarray(heat, dtype=np.float64), SURE, 1 - SURE)
        logit = self.bias + self.detector * np.log(peak / (1 - peak)) + self.nodule * np.asarray(nodule_logit)
        return np.asarray(1 / (1 + np.exp(-logit)))


class CandidateNet(nn.Module):
    """Maps (N, 1, 32, 32, 32) normalised HU to (N, 4): `OUTPUTS`.

    The first three are logits. The first is of a nodule. The second is of the readers' malignancy rating, the third of
    their texture rating (1 ground-glass, 5 solid); ratings from 1 to 5 are scaled to 0..1. The last output is the
    logarithm of the diameter in mm.

    Args:
        features: channels of each level, finest first. The first level has half the input's resolution.
    """

    def __init__(self, features: Sequence[int] = (32, 64, 128)) -> None:
        super().__init__()
        self.hyperparameters: dict[str, Any] = {"features": list(features)}
        self.stem = nn.Sequential(
            nn.Conv3d(1, features[0], 5, stride=2, padding=2, bias=False),
            nn.BatchNorm3d(features[0]),
            nn.ReLU(inplace=True),
        )
        self.blocks = nn.ModuleList(Block(a, b) for a, b in pairwise((features[0], *features)))
        self.head = nn.Sequential(
            nn.Dropout(DROPOUT),
            nn.Linear(2 * features[-1], features[-1]),
            nn.ReLU(),
            nn.Linear(features[-1], len(OUTPUTS)),
        )

    def forward(self, x: Tensor) -> Tensor:
        """The outputs of each cube."""
        x = self.stem(x)
        for level, block in enumerate(self.blocks):
            x = block(x if level == 0 else functional.max_pool3d(x, 2))
        pooled = torch.cat([x.mean(dim=(2, 3, 4)), x.amax(dim=(2, 3, 4))], dim=1)
        outputs: Tensor = self.head(pooled)
        return outputs
