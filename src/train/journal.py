"""The records of a training run: log lines, JSON lines, and TensorBoard if it is installed."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..errors import BadOutput

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

__all__ = ["Journal"]

log = logging.getLogger("pivot.train")


class Journal:
    """Appends to `training.jsonl`, `validation.jsonl` and, with TensorBoard, `tensorboard/` in a run's folder.

    Args:
        folder: of the run.
        step: the first step. TensorBoard removes later records of an interrupted run.
        writes: whether this process writes. Of several processes only the first does.
    """

    def __init__(self, folder: Path, step: int, *, writes: bool = True) -> None:
        self.folder, self.writes = folder, writes
        self.board = _board(folder / "tensorboard", step) if writes else None

    def record(
        self, kind: Literal["training", "validation"], step: int, values: Mapping[str, float], seconds: float
    ) -> None:
        """Record named numbers at a step, `seconds` after the start.

        Raises:
            BadOutput: the file cannot be written.
        """
        if not self.writes:
            return
        log.info("step %d  %s  %s", step, kind, "  ".join(f"{key} {value:.4g}" for key, value in values.items()))
        path = self.folder / f"{kind}.jsonl"
        try:
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, "seconds": round(seconds), **values}) + "\n")
        except OSError as error:
            msg = f"cannot write {path}: {error.strerror}"
            raise BadOutput(msg) from None
        if self.board:
            for key, value in values.items():
                self.board.add_scalar(f"{kind}/{key}", value, step)

    def close(self) -> None:
        """Write TensorBoard's buffered records."""
        if self.board:
            self.board.close()


def _board(folder: Path, step: int) -> "SummaryWriter | None":
    try:
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 - not everybody installs it
    except ImportError:
        log.info("tensorboard is not installed (uv sync --group train): figures are written to the .jsonl files only")
        return None
    return SummaryWriter(folder, purge_step=step)
