"""Train the second stage: `python -m src.train.second_stage --config configs/second_stage.yaml`.

To resume an interrupted run, give the same command again.
"""

import argparse
import copy
import logging
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

from ..config import Device, Section, load_section
from ..errors import command
from ..files import whole_file, writable_folder
from ..logs import add_log_options, show_log
from ..model.checkpoint import load_model
from ..model.classifier import LOG_DIAMETER, NODULE, CandidateNet
from ..model.device import autocast, pick_device, precision
from .candidates import CandidateBatches, collect
from .config import load_train_config
from .parallel import Workers
from .run import follow
from .sources import load_sources

__all__ = ["SecondStageConfig", "main", "second_stage_loss", "train_second_stage"]

log = logging.getLogger("pivot.train")
SAVE_EVERY = 100  # steps between log lines and saved states
LARGEST_GRADIENT = 5.0  # larger gradient norms are clipped
PARTS = ("model", "average", "optimizer")  # of the state
WEIGHTS = (1.0, 0.5, 0.3, 0.3)  # of the losses of the four outputs


class SecondStageConfig(Section):
    """A training run of the second stage."""

    detector: Path | None = None  # its marks are the candidates; default: the shipped weights
    sources: Path = Path("configs/train.yaml")  # the detector's configuration, for the data and the split by patient
    features: tuple[Annotated[int, Field(ge=4)], ...] = Field((32, 64, 128), min_length=2)
    seed: Annotated[int, Field(ge=0)] = 0
    steps: Annotated[int, Field(ge=1)]
    batch_size: Annotated[int, Field(ge=2)] = 32
    learning_rate: Annotated[float, Field(gt=0)] = 2e-3
    warmup: Annotated[int, Field(ge=1)] = 100
    weight_decay: Annotated[float, Field(ge=0)] = 1e-2
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.998
    workers: Annotated[int, Field(ge=0, le=256)] = 1
    device: Device = "auto"
    run: Path  # the folder of the state


def second_stage_loss(outputs: Tensor, targets: Tensor, known: Tensor) -> Tensor:
    """Cross-entropy of the first three outputs, and the absolute error of the log diameter, if they are known.

    Args:
        outputs: (N, 4), of `CandidateNet`.
        targets: the same shape: three in 0..1, and the log diameter.
        known: the same shape, bool.
    """
    shares = functional.binary_cross_entropy_with_logits(outputs, targets.clamp(0, 1), reduction="none")
    lengths = (outputs - targets).abs()
    errors = torch.cat([shares[:, :LOG_DIAMETER], lengths[:, LOG_DIAMETER:]], dim=1)
    means = (errors * known).sum(0) / known.sum(0).clamp(min=1)
    return (means * torch.tensor(WEIGHTS, device=means.device)).sum()


def train_second_stage(config: SecondStageConfig) -> CandidateNet:
    """Train, and return the running average after the last step. `config.run` keeps the state.

    Raises:
        BadConfig: a file in the configuration is missing or does not fit.
        BadCheckpoint: the detector cannot be read.
        BadOutput: the run's folder cannot be written.
    """
    device = pick_device(config.device)
    writable_folder(config.run)
    detector = load_model(config.detector)
    clip_range = detector.about.preprocessing.clip_range
    sources = load_sources(load_train_config(config.sources), Workers(device))
    found = collect(detector.model.to(device), sources.crops, sources.scans, clip_range)
    counts = len(found.nodules), len(found.beside), len(found.elsewhere)
    log.info("%d nodules, %d false marks beside them, %d in scans", *counts)
    run = _Run(config, device)
    run.resume()
    batches = CandidateBatches(found, range(run.step, config.steps), clip_range, config.seed, config.batch_size)
    ahead = 6 if config.workers else None
    started, recent = time.monotonic(), list[tuple[float, float]]()
    for batch in DataLoader(batches, batch_size=None, num_workers=config.workers, prefetch_factor=ahead):
        recent.append(run.train_step(*batch))
        if run.step % SAVE_EVERY == 0 or run.step == config.steps:
            loss, right = np.mean(recent, axis=0)
            log.info("step %d  loss %.4f  right %.3f  %.0f s", run.step, loss, right, time.monotonic() - started)
            recent.clear()
            run.save()
    return run.average


class _Run:
    """The network, its running average and the optimizer."""

    def __init__(self, config: SecondStageConfig, device: torch.device) -> None:
        torch.manual_seed(config.seed)
        self.config, self.device, self.step = config, device, 0
        self.model = CandidateNet(config.features).to(device).to(memory_format=torch.channels_last_3d)
        self.average = copy.deepcopy(self.model).eval()
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        self.state_file = config.run / "state.pth"

    def train_step(self, cubes: Tensor, targets: Tensor, known: Tensor) -> tuple[float, float]:
        """Do one step. Return the loss and the share of correctly classified candidates before it."""
        self.model.train()
        decayed = (1 + math.cos(math.pi * self.step / self.config.steps)) / 2
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * min((self.step + 1) / self.config.warmup, decayed)
        with autocast(self.device, precision(self.device, mixed=True)):
            outputs = self.model(cubes.to(self.device).to(memory_format=torch.channels_last_3d)).float()
        targets = targets.to(self.device)
        loss = second_stage_loss(outputs, targets, known.to(self.device))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), LARGEST_GRADIENT)
        self.optimizer.step()
        self.step += 1
        follow(self.average, self.model, min(self.config.ema, (1 + self.step) / (10 + self.step)))
        right = (outputs[:, NODULE] > 0) == (targets[:, NODULE] > 0)
        return loss.item(), right.float().mean().item()

    def save(self) -> None:
        """Write the state, whole or not at all."""
        parts = {name: getattr(self, name).state_dict() for name in PARTS}
        with whole_file(self.state_file) as partial:
            torch.save({**parts, "step": self.step}, partial)

    def resume(self) -> None:
        """Continue from the state in the run's folder, if there is one."""
        if not self.state_file.is_file():
            return
        state = torch.load(self.state_file, map_location=self.device, weights_only=True)
        for name in PARTS:
            getattr(self, name).load_state_dict(state[name])
        self.step = state["step"]
        log.info("resumed at step %d", self.step)


@command
def main(arguments: Sequence[str] | None = None) -> None:
    """The command line. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m src.train.second_stage", description="Train the second stage.")
    parser.add_argument("--config", type=Path, default=Path("configs/second_stage.yaml"), help="default: %(default)s")
    add_log_options(parser)
    options = parser.parse_args(arguments)
    show_log(options.log, "info")
    train_second_stage(load_section(SecondStageConfig, options.config))


if __name__ == "__main__":
    sys.exit(main())
