"""A network as another engine's graph: exported, compared with PyTorch, and cached for the next run.

A graph is for one patch shape. It lies in the user's cache folder. Its name holds the weights' SHA-256, the shape, the
precision, the engine's version and `VERSION`. A JSON file beside it holds the largest difference from PyTorch's output.
"""

import copy
import functools
import importlib
import json
import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ..errors import BadCheckpoint, BadOutput
from ..files import whole_file
from .checkpoint import legacy_jit

__all__ = ["PACKAGES", "Answer", "GraphKind", "GraphSource", "fold_batch_norms", "in_bfloat16", "open_graph"]

log = logging.getLogger("pivot")
# (1, 1, X, Y, Z) float32 to (1, C, X/s, Y/s, Z/s), on the CPU; several threads may call it at once.
Answer = Callable[[Tensor], Tensor]
GraphKind = Literal["torchscript", "export", "onnx", "openvino"]
PACKAGES: dict[GraphKind, str] = {
    "torchscript": "torch",
    "export": "torch",
    "onnx": "onnxruntime",
    "openvino": "openvino",
}
VERSION = "2"  # of cached graphs; increase it when the network's channels change
SUFFIXES: dict[GraphKind, str] = {"torchscript": ".pt", "export": ".pt2", "onnx": ".onnx", "openvino": ".blob"}
TOLERANCE = 1e-3  # of the heatmap, 0 to 1; float32 stays below 1e-5
HALF_TOLERANCE = 0.05  # of bfloat16, which has three digits


class GraphSource(NamedTuple):
    """The source of a graph: a network in float32 on the CPU, and the SHA-256 of its file."""

    network: nn.Module
    sha256: str
    half: bool  # whether the graph computes in bfloat16


def open_graph(kind: GraphKind, source: GraphSource, shape: Sequence[int]) -> tuple[Answer, float]:
    """The graph for patches of `shape` (1, 1, X, Y, Z), and its heatmap's largest difference from PyTorch in float32.

    Raises:
        BadCheckpoint: the graph's output differs from PyTorch's.
        BadOutput: neither the cache folder nor a temporary one can be written to.
    """
    path = _cached(kind, source, shape)
    note = _note(path)
    if path.is_file() and note.is_file():
        try:
            return _load(kind, path, half=source.half), float(json.loads(note.read_text())["largest_difference"])
        except Exception:  # of any engine; OpenVINO refuses a graph that was compiled for another processor
            log.debug("%s cannot be opened on this machine", path, exc_info=True)
    log.warning("making the %s graph for patches of %s, once", kind, " x ".join(map(str, shape[2:])))
    try:
        return _make(kind, source, shape, path)
    except BadOutput as error:
        log.warning("%s: the graph is used for this run only", error)
        with tempfile.TemporaryDirectory(prefix="pivot-graph-") as folder:
            return _make(kind, source, shape, Path(folder, path.name))


def _make(kind: GraphKind, source: GraphSource, shape: Sequence[int], path: Path) -> tuple[Answer, float]:
    """Make the graph at `path`, compare it with PyTorch, and return it as `open_graph` does."""
    with whole_file(path) as partial, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # exporters warn about their own internals
        _export(kind, source, shape, partial)
    answer = _load(kind, path, half=source.half)
    difference = _largest_difference(source.network, answer, shape)
    if not difference <= (HALF_TOLERANCE if source.half else TOLERANCE):
        msg = f"the output of {kind} differs from PyTorch's (by {difference:.2g}): use inference.engine torch"
        raise BadCheckpoint(msg)
    with whole_file(_note(path)) as partial:
        partial.write_text(json.dumps({"largest_difference": difference}), encoding="utf-8")
    return answer, difference


def _note(path: Path) -> Path:
    return path.with_suffix(".json")


def fold_batch_norms(module: nn.Module) -> nn.Module:
    """A copy of the module in which each batch norm that follows a convolution is folded into it."""
    copied = copy.deepcopy(module)
    for part in copied.modules():
        if isinstance(part, nn.Sequential):
            for i, (one, other) in enumerate(pairwise(part)):
                if isinstance(one, nn.Conv3d) and isinstance(other, nn.BatchNorm3d):
                    part[i], part[i + 1] = fuse_conv_bn_eval(one, other), nn.Identity()
    return copied


def in_bfloat16(network: nn.Module) -> nn.Module:
    """A copy that computes in bfloat16. Input, output and the last layer stay in float32, for precise confidences."""
    half = copy.deepcopy(network).to(torch.bfloat16)
    head, exact = getattr(half, "head", None), getattr(network, "head", None)
    if isinstance(head, nn.Sequential) and isinstance(exact, nn.Sequential):
        head[-1] = nn.Sequential(_Cast(torch.float32), copy.deepcopy(exact[-1]))
    return nn.Sequential(_Cast(torch.bfloat16), half, _Cast(torch.float32)).eval()


class _Cast(nn.Module):
    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        return x.to(self.dtype)


def _cached(kind: GraphKind, source: GraphSource, shape: Sequence[int]) -> Path:
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pivot" / "graphs"
    version = importlib.import_module(PACKAGES[kind]).__version__.split("-")[0]
    precision, sides = "bfloat16" if source.half else "float32", "x".join(map(str, shape[2:]))
    parts = [source.sha256[:32], VERSION, kind, version, precision, sides]
    return folder / ("_".join(parts).replace(".", "-") + SUFFIXES[kind])


@torch.inference_mode()
def _largest_difference(network: nn.Module, answer: Answer, shape: Sequence[int]) -> float:
    """The largest difference in the first channel on random input in 0..1; NaN if either output has one."""
    x = torch.rand(tuple(shape), generator=torch.Generator().manual_seed(0))
    return float((network(x)[:, 0] - answer(x)[:, 0]).abs().max())


@torch.no_grad()
def _export(kind: GraphKind, source: GraphSource, shape: Sequence[int], path: Path) -> None:
    example = torch.rand(tuple(shape)).contiguous(memory_format=torch.channels_last_3d)
    network = in_bfloat16(source.network) if source.half and PACKAGES[kind] == "torch" else source.network
    match kind:
        case "torchscript":
            with legacy_jit():
                torch.jit.save(torch.jit.trace(network, example, check_trace=False), path)
        case "export":
            torch.export.save(torch.export.export(network, (example,)), path)
        case "onnx":
            torch.onnx.export(network, (example,), path, dynamo=True, external_data=False, verbose=False)
        case "openvino":
            openvino: Any = importlib.import_module("openvino")
            model = openvino.convert_model(network, example_input=example, input=list(shape))
            compiled = _openvino_core().compile_model(model, "CPU", _openvino_settings(half=source.half))
            with path.open("wb") as file:
                file.write(compiled.export_model().getvalue())


def _load(kind: GraphKind, path: Path, *, half: bool) -> Answer:
    """The graph in a file that `_export` wrote, as a function of a float32 tensor."""
    if kind == "openvino":
        model = _openvino_core().import_model(path.read_bytes(), "CPU", _openvino_settings(half=half))
        # Each call gets its own request: a request holds one input and one output, which threads would mix up.
        return lambda x: torch.from_numpy(model.create_infer_request().infer([x.numpy()], share_inputs=True)[0].copy())
    if kind == "onnx":
        onnxruntime: Any = importlib.import_module("onnxruntime")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        return lambda x: torch.from_numpy(session.run(None, {name: x.numpy()})[0])
    if kind == "export":
        exported: nn.Module = torch.export.load(path).module()
        return _channels_last(exported)
    with legacy_jit():
        return _channels_last(torch.jit.freeze(torch.jit.load(path).eval()))


def _channels_last(network: nn.Module) -> Answer:
    return lambda x: network(x.contiguous(memory_format=torch.channels_last_3d))


@functools.cache
def _openvino_core() -> Any:  # noqa: ANN401 - OpenVINO may be missing
    """The process's only `openvino.Core`. It is never deleted.

    Each Core makes an alternate signal stack. When it is deleted it restores the stack before its own, which may be
    freed by then. The next signal that Python handles, such as Ctrl-C, would then crash the process (SIGSEGV).
    """
    return importlib.import_module("openvino").Core()


def _openvino_settings(*, half: bool) -> dict[str, Any]:
    precision = "bf16" if half else "f32"
    return {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": torch.get_num_threads(), "NUM_STREAMS": 1}
