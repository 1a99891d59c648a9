# ruff: noqa: ARG001 - the documented arguments of what is not built
"""Many scans on many machines, with Ray."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import not_built

__all__ = ["distributed_inference"]


def distributed_inference(
    checkpoint: str | Path, input_paths: Sequence[str | Path], num_gpus: int = 1, batch_size: int = 4
) -> dict[str, Any]:
    """Run over scans on all GPUs of a Ray cluster.

    Raises:
        NotBuilt: always, until it exists.
    """
    not_built("inference with Ray", "start `python -m src.inference.main --input-dir` once a GPU or machine")
