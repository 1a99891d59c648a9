"""A checkpoint as TorchScript: one file that runs without PIVOT's Python code."""

import io
import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import BadCheckpoint, BadConfig, BadOutput
from ..files import whole_file
from ..given import numbers_of, path_of, words_for
from .checkpoint import EXTRA_FILE, Checkpoint, legacy_jit, open_checkpoint
from .graphs import fold_batch_norms
from .unet import OutputGrid, output_grid, strides_of

__all__ = ["optimize_model"]

log = logging.getLogger("pivot")
TOLERANCE = 1e-3  # of a probability, or of a diameter in mm; rounding stays below 1e-4


def optimize_model(
    checkpoint: Checkpoint | str | Path,
    output_path: str | Path,
    example_input_shape: Sequence[int] = (1, 1, 128, 128, 128),
) -> torch.jit.ScriptModule:
    """Fold the batch norms into the convolutions, trace the model, and write it as TorchScript.

    Use the file as a checkpoint, or with `torch.jit.load`. It takes the same patches as the original.
    `example_input_shape` (N, 1, X, Y, Z) is that of the trace. Both models are compared on random input of another
    shape, and their largest difference is logged.

    Raises:
        BadCheckpoint: the file cannot be loaded, is TorchScript already, or differs too much once optimized.
        BadConfig: the shape does not suit the model.
        BadOutput: the file cannot be written.
    """
    loaded, output_path = open_checkpoint(checkpoint), path_of(output_path, "output_path", BadOutput)
    checkpoint = loaded.path
    if isinstance(loaded.model, torch.jit.ScriptModule):
        msg = f"{checkpoint} is TorchScript already: give the .pth or .safetensors that it was made from"
        raise BadCheckpoint(msg)
    multiple = int(getattr(loaded.model, "multiple", 1))
    shape = _checked(example_input_shape, multiple)
    optimized = _script(loaded.model, shape)
    difference = _difference(loaded.model, optimized, (2, 1, 2 * multiple, 3 * multiple, 4 * multiple))
    if not difference <= TOLERANCE:
        msg = f"the output of {checkpoint} changes once optimized (by {difference:.2g}): use the original"
        raise BadCheckpoint(msg)
    log.info("%s: the optimized model differs by at most %.2g from %s", output_path, difference, checkpoint)
    _save(optimized, output_path, loaded.about.model_dump_json())
    return optimized


class _Deployed(nn.Module):
    """A traced network with the three attributes that the sliding window needs. A trace alone loses them."""

    output_stride: int
    output_offset: float
    multiple: int

    def __init__(self, network: nn.Module, grid: OutputGrid, multiple: int) -> None:
        super().__init__()
        self.network, self.multiple = network, multiple
        self.output_stride, self.output_offset = grid.stride, grid.offset

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.network(x.contiguous(memory_format=torch.channels_last_3d))
        return output


def _checked(shape: Sequence[int], multiple: int) -> tuple[int, ...]:
    try:
        sizes = tuple(int(size) for size in numbers_of(shape, "example_input_shape", 5))
    except BadConfig:
        sizes = ()
    if not sizes or sizes[1] != 1 or min(sizes) < 1 or any(size % multiple for size in sizes[2:]):
        msg = f"example_input_shape {words_for(shape)} does not suit this model: give [1, 1, x, y, z], "
        msg += f"with x, y and z multiples of {multiple}"
        raise BadConfig(msg)
    return sizes


@torch.no_grad()
def _script(model: nn.Module, shape: tuple[int, ...]) -> torch.jit.ScriptModule:
    # Not `torch.jit.freeze`: it turns weights into constants, which `.to("cuda")` leaves on the CPU. It was no faster.
    # Not `optimize_for_inference`: it was 1.25 times as fast, but torch cannot save the result.
    grid, (_, multiple) = output_grid(model), strides_of(model)
    network = fold_batch_norms(model).to(memory_format=torch.channels_last_3d)  # saves a CPU 6 to 8 %
    example = torch.rand(shape).contiguous(memory_format=torch.channels_last_3d)
    with legacy_jit():
        traced = torch.jit.trace(network, example, check_trace=False)
        scripted: torch.jit.ScriptModule = torch.jit.script(_Deployed(traced, grid, multiple))
    return scripted.eval()


@torch.inference_mode()
def _difference(one: nn.Module, other: nn.Module, shape: tuple[int, ...]) -> float:
    """The largest absolute difference of two models' outputs on random input in 0..1; NaN if either has one."""
    x = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    return float((one(x) - other(x)).abs().max())


def _save(model: torch.jit.ScriptModule, path: str | Path, about: str) -> None:
    buffer = io.BytesIO()  # torch's own writer does not report why it failed
    with legacy_jit():
        torch.jit.save(model, buffer, _extra_files={EXTRA_FILE: about})
    with whole_file(path) as partial:
        partial.write_bytes(buffer.getvalue())
