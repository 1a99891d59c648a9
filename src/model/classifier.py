"""The second stage: a small 3D network that looks at each candidate alone."""

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

__all__ = ["ANSWERS", "SIDE", "CandidateNet", "Fusion"]

SIDE = 32  # voxels, the cube that it sees, the candidate in the middle
ANSWERS = ("nodule", "malignancy", "texture", "log_diameter")
NODULE, MALIGNANCY, TEXTURE, LOG_DIAMETER = range(4)
DROPOUT = 0.2
SURE = 1e-4  # nearer to 0 or 1 no peak counts


class Fusion(BaseModel):
    """The joint confidence of both stages, by logistic regression fitted on held-out candidates."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bias: float
    detector: float  # the weight of the logit of the heatmap's peak
    nodule: float  # the weight of the second stage's logit

    def confidence(self, heat: npt.ArrayLike, nodule_logit: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """The confidences (n,) in 0..1 of candidates with the peaks `heat` (n,) in 0..1 and the logits (n,)."""
        peak = np.clip(np.asarray(heat, dtype=np.float64), SURE, 1 - SURE)
        logit = self.bias + self.detector * np.log(peak / (1 - peak)) + self.nodule * np.asarray(nodule_logit)
        return np.asarray(1 / (1 + np.exp(-logit)))


class CandidateNet(nn.Module):
    """Maps (N, 1, 32, 32, 32) normalised HU to (N, 4): `ANSWERS`.

    The first three are logits: of a nodule, of malignancy as readers rate it (1 to 5 brought to 0..1), and of
    texture (1, ground-glass, to 5, solid, brought to 0..1); the last is the logarithm of the diameter in mm.

    Args:
        features: channels at each level, finest first; the first level has half the input's resolution.
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
            nn.Linear(features[-1], len(ANSWERS)),
        )

    def forward(self, x: Tensor) -> Tensor:
        """The answers of each cube."""
        x = self.stem(x)
        for level, block in enumerate(self.blocks):
            x = block(x if level == 0 else functional.max_pool3d(x, 2))
        pooled = torch.cat([x.mean(dim=(2, 3, 4)), x.amax(dim=(2, 3, 4))], dim=1)
        answers: Tensor = self.head(pooled)
        return answers
