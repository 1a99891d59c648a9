"""An exported network: `model.onnx`, with `config.yaml`, which describes its input and output.

ONNX Runtime computes it. ONNX is data: a graph of known operators. A file of `torch.export` is none: loading one
unpickles objects, evaluates texts, and looks functions up by their names. So it is refused, with the way to ONNX.
"""

from typing import Annotated, Any, NoReturn

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from ..config import Section
from ..errors import BadCheckpoint
from ..model.checkpoint import first_line
from .networks import library
from .source import Source

__all__ = ["EXPORTED", "Program", "ProgramFile", "open_program", "refuse_exported"]

ONNX, EXPORTED = "model.onnx", ".pt2"  # the usual name; the suffix of torch.export's files
TO_ONNX = (
    "python -c \"import torch; torch.onnx.export(torch.export.load('IN.pt2'), f='model.onnx', dynamo=True, "
    'external_data=False)"'
)
OWN_DOMAINS = ("", "ai.onnx", "ai.onnx.ml")  # of operators that ONNX Runtime itself computes


class ProgramFile(Section):
    """The file. It maps (1, 1, X, Y, Z) float32 to (1, C, X, Y, Z), for the windows' X, Y and Z."""

    file: Annotated[str, Field(pattern=r"^[\w-][\w.-]{0,200}\.(onnx|pt2)$")] | None = None  # else model.onnx


class Program(nn.Module):
    """An ONNX graph as a network. Several threads may call it."""

    def __init__(self, session: Any) -> None:  # noqa: ANN401 - ONNX Runtime's
        super().__init__()
        self.session, self.given = session, session.get_inputs()[0].name

    def forward(self, x: Tensor) -> Tensor:
        """Each patch by itself, on the CPU, in float32."""
        patches = x.float().cpu().contiguous().numpy()
        outputs = [self.session.run(None, {self.given: patch[None]})[0] for patch in patches]
        return torch.from_numpy(np.concatenate(outputs)).to(x.device)


def open_program(source: Source, file: ProgramFile, patch: tuple[int, int, int], where: str) -> tuple[Program, int]:
    """The network and the number of its output channels. It is run once on an empty patch.

    Raises:
        BadCheckpoint: it is a file of `torch.export`; ONNX Runtime is not installed, or refuses the graph; the graph
            holds parts of other files or operators of its own; or it does not answer a patch as described.
    """
    name = file.file or source.first(ONNX, f"model{EXPORTED}") or ONNX
    if name.endswith(EXPORTED):
        refuse_exported(f"{name} of {source.path}")
    onnx, runtime = library("onnx", "onnx"), library("onnxruntime", "onnx")
    try:
        graph = onnx.load_model_from_string(source.read(name))
    except Exception as error:  # noqa: BLE001 - of the parser
        msg = f"{name} of {source.path} is damaged or no ONNX ({first_line(error)})"
        raise BadCheckpoint(msg) from None
    if fault := _fault(onnx, graph):
        msg = f"{name} of {source.path} is refused: {fault}"
        raise BadCheckpoint(msg)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4
    try:
        session = runtime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
        network = Program(session)
        with torch.inference_mode():
            shape = tuple(network(torch.zeros(1, 1, *patch)).shape)
    except Exception as error:  # noqa: BLE001 - of ONNX Runtime, which has its own for each fault
        msg = f"{where}: {name} cannot be run on a patch of {list(patch)} ({first_line(error)})"
        raise BadCheckpoint(msg) from None
    if len(shape) != 5 or shape[2:] != patch:
        msg = f"{where}: {name} answers a patch of {list(patch)} with {list(shape)}, not with maps of its size"
        raise BadCheckpoint(msg)
    return network.eval(), shape[1]


def refuse_exported(where: str) -> NoReturn:
    """Raise `BadCheckpoint` for a file of `torch.export`, with the command that makes ONNX of it."""
    msg = f"{where} is refused: torch.export.load unpickles objects and calls functions by their names, so PIVOT did "
    msg += f"not load it. If you trust its origin, export it to ONNX ({TO_ONNX}), and describe it in a config.yaml "
    msg += "beside it (docs/detectors.md)"
    raise BadCheckpoint(msg)


def _fault(onnx: Any, graph: Any) -> str | None:  # noqa: ANN401 - ONNX's
    """What is wrong with a graph that is read from one file alone."""
    nodes = [node for holder in (graph.graph, *graph.functions) for node in holder.node]
    tensors = [*graph.graph.initializer]
    own = {*OWN_DOMAINS, *(function.domain for function in graph.functions)}
    while nodes:
        node = nodes.pop()
        if node.domain not in own:
            return f"it holds the operator {node.domain}.{node.op_type}, which ONNX does not define"
        for attribute in node.attribute:
            tensors += [attribute.t, *attribute.tensors]
            for part in (attribute.g, *attribute.graphs):
                nodes += part.node
                tensors += part.initializer
    if any(one.data_location == onnx.TensorProto.EXTERNAL or one.external_data for one in tensors):
        return "its weights lie in other files: export it as one file"
    return None
