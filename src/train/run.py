"""A training run's network and its state, from which it can resume."""

import copy
import logging
import math
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ..errors import BadConfig
from ..files import whole_file
from ..model.checkpoint import first_line, load_model
from ..model.device import autocast, precision
from ..model.unet import HEATMAP, UNet
from .config import TrainConfig
from .losses import detection_loss
from .parallel import Workers

__all__ = ["Kept", "Run", "follow"]

log = logging.getLogger("pivot.train")
LARGEST_GRADIENT = 10.0  # larger gradient norms are clipped
Figures = dict[str, float]


@dataclass(frozen=True, eq=False)
class Kept:
    """The result of `Run.exported` at a step, and its validation."""

    average: dict[str, Tensor]
    step: int
    figures: Figures


class Run:
    """A network, its running average, optimizer and progress. After every step they are equal on all processes.

    Args:
        config: of the run.
        workers: the processes of the run.
        scans: the names of the scans and crops, in the order of `hard`.

    Raises:
        BadConfig: `initial` does not fit the configuration.
    """

    def __init__(self, config: TrainConfig, workers: Workers, scans: Sequence[str]) -> None:
        torch.manual_seed(config.seed)
        self.config, self.workers, self.scans = config, workers, list(scans)
        network = UNet(config.features, config.extra_blocks)
        self.model = network.to(workers.device).to(memory_format=torch.channels_last_3d)
        if config.initial:
            _start_from(self.model, config.initial)
        self.average = copy.deepcopy(self.model).eval()
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        self.step, self.seconds = 0, 0.0
        self.mined, self.validated = (-1 if config.initial else 0), 0  # the steps of the last mining and validation
        self.best, self.waited = -1.0, 0  # the best score, and the validations since
        self.figures: Figures = {}  # of the last validation
        self.kept: Kept | None = None  # the best, with `patience`
        self.hard: list[npt.NDArray[np.intp]] = [np.empty((0, 3), dtype=np.intp) for _ in scans]
        self._network: nn.Module = _Logits(self.model)
        if workers.count > 1:
            self._network = DistributedDataParallel(self._network)

    @property
    def state_file(self) -> Path:
        """The file of `save` and `resume`."""
        return self.config.run / "state.pth"

    @property
    def finished(self) -> bool:
        """Whether the last step is done, or patience has run out."""
        patience = self.config.patience
        return self.step >= self.config.steps or (patience is not None and self.waited >= patience)

    @property
    def learning_rate(self) -> float:
        """Warmup-stable-decay: rises at first, then is constant, and falls to zero in the last part."""
        left = (self.config.steps - self.step) / (self.config.decay * self.config.steps)
        return self.config.learning_rate * min(1.0, (self.step + 1) / self.config.warmup, left)

    def train_step(self, batch: Sequence[Tensor]) -> dict[str, Tensor]:
        """Do one optimisation step on this process's batch. Return its losses."""
        self._set_mode()
        image, *targets = (tensor.to(self.workers.device, non_blocking=True) for tensor in batch)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate
        with autocast(self.workers.device, self._dtype()):
            logits = self._network(image.to(memory_format=torch.channels_last_3d))
        losses = detection_loss(logits.float(), *targets)
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(list(losses.values()))
        nn.utils.clip_grad_norm_(self.model.parameters(), LARGEST_GRADIENT)
        self.optimizer.step()
        self.workers.average_([buffer for buffer in self.model.buffers() if buffer.is_floating_point()])
        self.step += 1
        # The average follows faster in the beginning, when both are far from their goal.
        follow(self.average, self.model, min(self.config.ema, (1 + self.step) / (10 + self.step)))
        return {key: value.detach() for key, value in losses.items()}

    def _set_mode(self) -> None:
        """Set training mode. After `freeze_norms` of the steps, batch norms use fixed statistics, as in inference.

        The statistics of a batch hide the output for a patch of pure air. They are fixed at their running average,
        because those of a few batches deviate from it by chance.
        """
        self.model.train()
        first = math.ceil(self.config.freeze_norms * self.config.steps)
        if self.step < first:
            return
        for module, average in zip(self.model.modules(), self.average.modules(), strict=True):
            if isinstance(module, nn.BatchNorm3d):
                module.eval()
                if self.step == first:
                    module.load_state_dict({**module.state_dict(), **dict(average.named_buffers())})

    def _dtype(self) -> torch.dtype:
        # bfloat16 on CUDA too: float16 would need loss scaling.
        dtype = precision(self.workers.device, mixed=True)
        return torch.bfloat16 if dtype == torch.float16 else dtype

    def exported(self) -> UNet:
        """The running average as it is exported: its heatmap logits are shifted by `confidence_shift`."""
        model = copy.deepcopy(self.average)
        with torch.no_grad():
            model.head[-1].get_parameter("bias")[HEATMAP] += self.config.confidence_shift
        return model

    def record_validation(self, figures: Figures) -> None:
        """Record the validation of `exported`. With `patience`, keep the model if its score is the best so far."""
        self.figures, self.validated = figures, self.step
        self.waited += 1
        if figures["score"] > self.best:
            self.best, self.waited = figures["score"], 0
            if self.config.patience:
                self.kept = Kept(self.exported().state_dict(), self.step, figures)

    def save(self) -> None:
        """Write the state, whole or not at all, on the first process only."""
        if self.workers.rank:
            return
        state = {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "hard": [torch.from_numpy(points) for points in self.hard],
            "progress": {key: getattr(self, key) for key in PROGRESS},
            "scans": self.scans,
            "figures": self.figures,
            "kept": None if self.kept is None else vars(self.kept),
        }
        with whole_file(self.state_file) as partial:
            torch.save(state, partial)

    def resume(self) -> None:
        """Continue from the state in the run's folder, if there is one.

        Raises:
            BadConfig: the state is damaged, or belongs to another network or other scans.
        """
        if not self.state_file.is_file():
            return
        try:
            self._restore(torch.load(self.state_file, map_location=self.workers.device, weights_only=True))
        except (RuntimeError, KeyError, ValueError, EOFError, pickle.UnpicklingError) as error:
            reason = first_line(error)
            msg = (
                f"{self.state_file} is damaged, or belongs to a run with other features or scans ({reason}): "
                "give another `run`, or remove the file to start again"
            )
            raise BadConfig(msg) from None
        log.info("resumed at step %d", self.step)

    def _restore(self, state: dict[str, Any]) -> None:
        if state.get("scans", self.scans) != self.scans or len(state["hard"]) != len(self.scans):
            msg = "its scans differ from the configuration's"
            raise ValueError(msg)
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.hard = [points.cpu().numpy() for points in state["hard"]]
        progress = state["progress"]
        # States of earlier versions were written after mining and validation.
        for key, value in {**dict.fromkeys(("mined", "validated"), progress["step"]), **progress}.items():
            setattr(self, key, value)
        self.figures = state.get("figures", {})
        self.kept = Kept(**state["kept"]) if state.get("kept") else None


@torch.no_grad()
def follow(average: nn.Module, model: nn.Module, decay: float) -> None:
    """Move the running average towards the model. The fraction `decay` (0..1) of the average is kept."""
    pairs = list(zip(average.state_dict().values(), model.state_dict().values(), strict=True))
    moving = [pair for pair in pairs if pair[0].is_floating_point()]
    get_ema_multi_avg_fn(decay)([kept for kept, _ in moving], [new for _, new in moving], None)
    for kept, new in pairs:
        if not kept.is_floating_point():  # the norms' count of batches
            kept.copy_(new)


PROGRESS = ("step", "best", "seconds", "mined", "validated", "waited")


class _Logits(nn.Module):
    """The network's logits as a forward pass, because DistributedDataParallel tracks only that."""

    def __init__(self, model: UNet) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        return self.model.logits(image)


def _start_from(model: UNet, paths: Sequence[Path]) -> None:
    """Load the mean of these checkpoints' weights. Extra blocks that they lack stay as they are."""
    fresh = copy.deepcopy(model)
    for count, path in enumerate(paths):
        initial = load_model(path)
        if {**model.hyperparameters, **initial.about.hyperparameters} != model.hyperparameters:
            msg = f"initial: {path} has {initial.about.hyperparameters}, but the configuration {model.hyperparameters}"
            raise BadConfig(msg)
        fresh.load_state_dict(initial.model.state_dict(), strict=False)
        follow(model, fresh, count / (count + 1))
