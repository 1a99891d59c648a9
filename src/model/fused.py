"""Convolutions by oneDNN's fused operations, for CPUs.

PyTorch computes a convolution, a sum and a ReLU one after the other, each with a pass over the memory; the fused
operation takes one. With one thread PyTorch does not even give small float32 convolutions to oneDNN. The operations
are those that `torch.compile` uses.
"""

import copy
import functools
from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor, nn

from .unet import Block

__all__ = ["fuse"]

Afterwards = Literal["none", "relu"]


def fuse(network: nn.Module) -> nn.Module:
    """A copy of a network without batch norms that computes the same on a CPU, sooner. It cannot be trained."""
    copied = copy.deepcopy(network)
    return _fused(copied) if _available() else copied


@functools.cache
@torch.inference_mode()
def _available() -> bool:
    """Whether this PyTorch has the operations for volumes. They have no public names, and may change."""
    convolution, x = _Convolution(nn.Conv3d(1, 1, 1)), torch.zeros(1, 1, 2, 2, 2)
    try:
        convolution.added_to(x.clone(), convolution(x))
    except (AttributeError, RuntimeError):
        return False
    return True


def _fused(module: nn.Module) -> nn.Module:
    """The module, or what takes its place, with fused operations."""
    if isinstance(module, Block):
        return _FusedBlock(module)
    if isinstance(module, nn.Conv3d):
        return _Convolution(module)
    if isinstance(module, nn.Sequential):
        return _sequence(module)
    for name, child in module.named_children():
        setattr(module, name, _fused(child))
    return module


def _sequence(parts: Iterable[nn.Module]) -> nn.Sequential:
    """The same steps, where a ReLU after a convolution is a part of it."""
    fused: list[nn.Module] = []
    for part in parts:
        last = fused[-1] if fused else None
        if isinstance(part, nn.ReLU) and isinstance(last, _Convolution):
            last.afterwards = "relu"
        elif not isinstance(part, nn.Identity):
            fused.append(_fused(part))
    return nn.Sequential(*fused)


class _Convolution(nn.Module):
    """A convolution, and perhaps a ReLU."""

    def __init__(self, plain: nn.Conv3d, afterwards: Afterwards = "none") -> None:
        super().__init__()
        self.weight, self.bias, self.afterwards = plain.weight, plain.bias, afterwards
        self.places = list(plain.padding), list(plain.stride), list(plain.dilation), plain.groups

    def forward(self, x: Tensor) -> Tensor:
        fused: Tensor = torch.ops.mkldnn._convolution_pointwise(  # noqa: SLF001 - no public name exists
            x, self.weight, self.bias, *self.places, self.afterwards, [], ""
        )
        return fused

    def added_to(self, total: Tensor, x: Tensor) -> Tensor:
        """The ReLU of `total` and the convolution of x. `total` is written over."""
        fused: Tensor = torch.ops.mkldnn._convolution_pointwise_.binary(
            total, x, self.weight, self.bias, *self.places, "add", 1.0, "relu", [], ""
        )
        return fused


class _FusedBlock(nn.Module):
    """A `Block`. It writes over its input, which `UNet` does not need again."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        first, second = (part for part in block.body if isinstance(part, nn.Conv3d))
        self.first, self.second = _Convolution(first, "relu"), _Convolution(second)
        self.shortcut = _Convolution(block.shortcut) if isinstance(block.shortcut, nn.Conv3d) else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        inside = self.first(x)
        return self.second.added_to(self.shortcut(x), inside)
