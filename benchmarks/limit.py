"""The least time that the network can take: its multiply-adds at the processor's best rate of a convolution."""

import time
from functools import cache

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.peers import PATCH
from src.detection.pipeline import InferencePipeline
from src.model.checkpoint import load_model
from src.model.unet import DIAMETER, output_grid, strides_of
from src.types import Scan

__all__ = ["adds_of_a_voxel", "best_rate", "print_limit", "work_of"]


def print_limit() -> None:
    """Print the multiply-adds of a window, and their seconds at the best rate."""
    adds = adds_of_a_voxel() * PATCH**3
    print(f"{adds / 1e9:.1f} billion multiply-adds for a window of {PATCH}^3; {torch.get_num_threads()} threads")
    for dtype in (torch.float32, torch.bfloat16):
        rate = best_rate(dtype)
        print(f"{dtype}: {rate / 1e9:.0f} billion a second in one convolution, {adds / rate:.3f} s a window at best")


@cache
def adds_of_a_voxel() -> float:
    """The network's multiply-adds for each voxel of its input."""
    model, patch = load_model().model, torch.zeros(1, 1, 64, 64, 64)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model(patch)
    return float(counter.get_total_flops() / 2 / patch.numel())


def work_of(scan: Scan, speed: str = "auto") -> float:
    """The multiply-adds of a scan's search with a preset, both looks. Nothing is computed."""
    pipeline = InferencePipeline(None, {"inference": {"speed": speed, "engine": "torch"}}, "cpu")
    network = pipeline.network
    counter = _Voxels(network.model)
    network.model = network.any_shape = counter  # type: ignore[assignment]
    pipeline.predict(scan)
    return counter.voxels * adds_of_a_voxel()


class _Voxels(torch.nn.Module):
    """A network on the grid of another that finds nothing, and counts the voxels that it is given."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.output_stride, self.multiple = strides_of(model)
        self.output_offset = output_grid(model).offset
        self.voxels = 0

    def forward(self, x: Tensor) -> Tensor:
        self.voxels += x.numel()
        return x.new_zeros(len(x), DIAMETER + 1, *(side // self.output_stride for side in x.shape[2:]))


@torch.inference_mode()
def best_rate(dtype: torch.dtype, threads: int | None = None, features: int = 96, size: int = 32) -> float:
    """The multiply-adds per second of a 3x3x3 convolution with many features, the best of five."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    layer = torch.nn.Conv3d(features, features, 3, padding=1).to(dtype).to(memory_format=torch.channels_last_3d)
    x = torch.rand(1, features, size, size, size).to(dtype, memory_format=torch.channels_last_3d)
    seconds = []
    for _ in range(6):
        start = time.perf_counter()
        layer(x)
        seconds.append(time.perf_counter() - start)
    torch.set_num_threads(before)
    return features**2 * 27 * size**3 / min(seconds[1:])
