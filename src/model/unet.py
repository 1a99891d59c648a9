"""The detector: a 3D U-Net whose output has half the input's resolution."""

from collections.abc import Sequence
from itertools import pairwise, zip_longest
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ..types import Affine

__all__ = ["CHANNELS", "DIAMETER", "HEATMAP", "OutputGrid", "UNet", "output_grid", "strides_of"]

CHANNELS = ("heatmap", "diameter_mm")
HEATMAP, DIAMETER = range(2)
PRIOR_LOGIT = -4.6  # heatmaps start at 0.01: negatives then do not dominate the first steps (RetinaNet, section 4.1)
PRIOR_LOG_DIAMETER = 2.0  # about 7 mm
LOG_DIAMETER = (0.0, 4.5)  # 1 to 90 mm
MOST_EXTRA_BLOCKS = 8  # of a level


def strides_of(model: nn.Module) -> tuple[int, int]:
    """The model's `output_stride` and `multiple`, each 1 if missing. Patch sides must be divisible by `multiple`."""
    return int(getattr(model, "output_stride", 1)), int(getattr(model, "multiple", 1))


class OutputGrid(NamedTuple):
    """The grid of a network's output: voxel j lies on input voxel `stride * j + offset`, along each axis."""

    stride: int
    offset: float  # voxels of the input, a multiple of a half

    @property
    def matrix(self) -> Affine:
        """The 4 x 4 matrix from output indices to input indices."""
        matrix = np.diag([*[float(self.stride)] * 3, 1.0])
        matrix[:3, 3] = self.offset
        return matrix

    @property
    def mirror_shift(self) -> int:
        """By how many input voxels a mirrored patch's output lies too far along the axis."""
        return round(self.stride - 1 - 2 * self.offset)


def output_grid(model: nn.Module) -> OutputGrid:
    """The model's output grid: its attributes `output_stride` (default 1) and `output_offset` (default 0)."""
    return OutputGrid(strides_of(model)[0], float(getattr(model, "output_offset", 0.0)))


class Block(nn.Module):
    """Two 3x3x3 convolutions with batch norm and a shortcut (ResNet v1)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv3d(inputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm3d(outputs),
            nn.ReLU(inplace=True),
            nn.Conv3d(outputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm3d(outputs),
        )
        self.shortcut = nn.Identity() if inputs == outputs else nn.Conv3d(inputs, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.body(x) + self.shortcut(x), inplace=True)


def _unchanging_block(width: int) -> Block:
    """A block that returns its input, nowhere negative, until it is trained (Goyal et al. 2017, section 5.1)."""
    block = Block(width, width)
    nn.init.zeros_(block.body[-1].get_parameter("weight"))
    return block


class UNet(nn.Module):
    """Maps (N, 1, X, Y, Z) normalised HU to (N, 2, X/2, Y/2, Z/2): `CHANNELS`.

    The heatmap lies in 0..1, the diameter is in millimetres. X, Y and Z are multiples of `multiple`. The first
    convolution halves the resolution: 1 mm voxels give a 2 mm heatmap, at an eighth of the cost. Peaks are refined
    between voxels.

    Args:
        features: channels of each level, finest first. Each level halves the resolution.
        extra_blocks: further residual blocks after the encoder's levels, 0 to `MOST_EXTRA_BLOCKS` each. Untrained,
            they change nothing, so that training can start from weights without them.

    Raises:
        ValueError: `extra_blocks` has more levels than `features`, or a number out of range.
    """

    output_stride = 2
    output_offset = 0.0  # the first convolution (kernel 5, padding 2) is centred on voxel 2j

    def __init__(self, features: Sequence[int] = (32, 64, 96, 128), extra_blocks: Sequence[int] = ()) -> None:
        super().__init__()
        if len(extra_blocks) > len(features) or any(not 0 <= count <= MOST_EXTRA_BLOCKS for count in extra_blocks):
            msg = f"extra_blocks {list(extra_blocks)} must be up to {len(features)} numbers of 0 to {MOST_EXTRA_BLOCKS}"
            raise ValueError(msg)
        self.hyperparameters: dict[str, Any] = {"features": list(features)}
        if any(extra_blocks):
            self.hyperparameters["extra_blocks"] = list(extra_blocks)
        self.multiple = self.output_stride * 2 ** (len(features) - 1)
        self.stem = nn.Sequential(
            nn.Conv3d(1, features[0], 5, stride=self.output_stride, padding=2, bias=False),
            nn.BatchNorm3d(features[0]),
            nn.ReLU(inplace=True),
        )
        self.encoder = nn.ModuleList(Block(a, b) for a, b in pairwise((features[0], *features)))
        self.extra = nn.ModuleList(
            nn.Sequential(*(_unchanging_block(width) for _ in range(count)))
            for width, count in zip_longest(features, extra_blocks, fillvalue=0)
        )
        self.lateral = nn.ModuleList(nn.Conv3d(b, a, 1) for a, b in pairwise(features))
        self.decoder = nn.ModuleList(Block(a, a) for a in features[:-1])
        last = nn.Conv3d(features[0], len(CHANNELS), 1)
        nn.init.normal_(last.weight, std=0.01)
        last.bias = nn.Parameter(torch.tensor([PRIOR_LOGIT, PRIOR_LOG_DIAMETER]))
        self.head = nn.Sequential(nn.Conv3d(features[0], features[0], 1), nn.ReLU(inplace=True), last)

    def logits(self, x: Tensor) -> Tensor:
        """The raw channels: heatmap logit, log diameter."""
        x = self.stem(x)
        skips = []
        for level, (block, extra) in enumerate(zip(self.encoder, self.extra, strict=True)):
            x = extra(block(x if level == 0 else functional.max_pool3d(x, 2)))
            skips.append(x)
        x = skips.pop()
        for lateral, block in zip(reversed(self.lateral), reversed(self.decoder), strict=True):
            x = block(functional.interpolate(lateral(x), scale_factor=2.0, mode="nearest") + skips.pop())
        logits: Tensor = self.head(x)
        return logits

    def forward(self, x: Tensor) -> Tensor:
        """The channels in their own units."""
        heat, diameter = self.logits(x).split(1, dim=1)
        return torch.cat([heat.sigmoid(), diameter.clamp(*LOG_DIAMETER).exp()], dim=1)
