"""The engine that computes a network: PyTorch, or another installed engine."""

import ctypes
import functools
import importlib.util
import sys
import threading
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from ..errors import BadConfig
from .checkpoint import Checkpoint
from .device import precision
from .fused import fuse
from .graphs import PACKAGES, Answer, GraphKind, GraphSource, fold_batch_norms, in_bfloat16, open_graph
from .unet import output_grid, strides_of

__all__ = ["Engine", "EngineNetwork", "open_engine", "pick_engine", "return_freed_memory"]

Engine = Literal["auto", "torch", "torchscript", "export", "onnx", "openvino"]
REUSED_BYTES = 2**28  # freed blocks of up to this size are reused
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


class EngineNetwork(nn.Module):
    """A checkpoint's network, computed by an engine: (N, 1, X, Y, Z) to (N, C, X/s, Y/s, Z/s), float32.

    Under `torch.autocast` it computes in half precision. Several threads may call it at once.
    """

    def __init__(self, checkpoint: Checkpoint, kind: GraphKind | None, device: torch.device, *, half: bool) -> None:
        super().__init__()
        self.engine = kind or "torch"
        self.kind = kind
        self.output_stride, self.multiple = strides_of(checkpoint.model)
        self.output_offset = output_grid(checkpoint.model).offset
        self.difference: float | None = None  # of the opened graphs from PyTorch in float32, the largest
        self.reduced = half and kind != "onnx"  # ONNX Runtime has no bfloat16 on CPUs
        plain = checkpoint.model
        if not isinstance(plain, torch.jit.ScriptModule):
            plain = fold_batch_norms(plain).to(memory_format=torch.channels_last_3d)
        self.source = GraphSource(plain.to(device), checkpoint.sha256, self.reduced)
        fusible = kind is None and device.type == "cpu" and not isinstance(plain, torch.jit.ScriptModule)
        self.plain = fuse(plain) if fusible else self.source.network
        self.quick = fuse(in_bfloat16(plain)) if fusible and half else None
        self.graphs: dict[torch.Size, Answer] = {}
        self.making = threading.Lock()

    def forward(self, x: Tensor) -> Tensor:
        """The channels in their own units."""
        half = torch.is_autocast_enabled(x.device.type)
        x = x.contiguous(memory_format=torch.channels_last_3d)
        if x.device.type != "cpu":
            return self._plain(x)
        if self.reduced and not half:  # PyTorch repeats in float32 what overflowed in half precision
            return self._plain(x)
        if self.kind is not None:
            with torch.autocast("cpu", enabled=False):  # the graph has its own precision
                return self._graph(self.kind, x.shape)(x)
        if half and self.quick is not None:
            with torch.autocast("cpu", enabled=False):
                quick: Tensor = self.quick(x)
                return quick
        return self._plain(x)

    def _plain(self, x: Tensor) -> Tensor:
        answer: Tensor = self.plain(x)
        return answer

    def _graph(self, kind: GraphKind, shape: torch.Size) -> Answer:
        with self.making:  # one thread makes the graph, the others wait
            if shape not in self.graphs:
                self.graphs[shape], difference = open_graph(kind, self.source, shape)
                self.difference = max(self.difference or 0.0, difference)
            return self.graphs[shape]


def open_engine(
    checkpoint: Checkpoint, engine: Engine, device: torch.device, *, mixed: bool, tiled: bool = False
) -> EngineNetwork:
    """The checkpoint's network on `device`, computed by `engine`.

    `mixed` is the setting `mixed_precision`. With `tiled`, the patches' shape differs from scan to scan.

    Raises:
        BadConfig: the engine is not installed, or not for this device or kind of checkpoint.
    """
    scripted = isinstance(checkpoint.model, torch.jit.ScriptModule)
    kind = pick_engine(engine, device, mixed=mixed, scripted=scripted, tiled=tiled)
    if device.type == "cpu":
        _reuse_freed_memory()
    half = precision(device, mixed=mixed) == torch.bfloat16
    return EngineNetwork(checkpoint, kind, device, half=half).eval()


def pick_engine(
    engine: Engine, device: torch.device, *, mixed: bool, scripted: bool = False, tiled: bool = False
) -> GraphKind | None:
    """The kind of graph to compute with, or None for PyTorch itself. `auto` is the fastest by measurement.

    PyTorch starts sooner than OpenVINO. It is as fast on CPUs that compute in bfloat16, and it needs no new graph for
    each scan's tiles (docs/performance.md).

    Raises:
        BadConfig: the engine is not installed, or not for this device or kind of checkpoint.
    """
    if engine == "auto":
        full = device.type == "cpu" and precision(device, mixed=mixed) == torch.float32
        return "openvino" if full and not (scripted or tiled) and _installed("openvino") else None
    if engine == "torch":
        return None
    if device.type != "cpu" or scripted:
        what = "a TorchScript checkpoint" if scripted else f"device {device}"
        msg = f"inference.engine {engine} is not for {what}: use auto or torch"
        raise BadConfig(msg)
    if not _installed(PACKAGES[engine]):
        msg = f"inference.engine {engine} needs the package {PACKAGES[engine]}: run `pip install 'pivot-ct[{engine}]'` "
        msg += f"(in a checkout: `uv sync --extra {engine}`), or use auto"
        raise BadConfig(msg)
    return engine


def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


@functools.cache
def _reuse_freed_memory() -> None:
    """Let glibc keep freed memory. Otherwise the kernel maps and clears memory for every layer's output."""
    if mallopt := _of_malloc("mallopt"):
        mallopt(M_MMAP_THRESHOLD, REUSED_BYTES)
        mallopt(M_TRIM_THRESHOLD, 2 * REUSED_BYTES)


def return_freed_memory() -> None:
    """Give the kernel what `_reuse_freed_memory` keeps, so that it does not add to what a scan's outputs need."""
    if malloc_trim := _of_malloc("malloc_trim"):
        malloc_trim(0)


def _of_malloc(function: str) -> Callable[..., int] | None:
    """A function of glibc's malloc; None elsewhere."""
    return getattr(ctypes.CDLL(None), function, None) if sys.platform == "linux" else None
