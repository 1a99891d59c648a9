"""Train the second stage: `python -m src.train.second_stage --config configs/second_stage.yaml`.

An interrupted run goes on from its last state when the same command is given again.
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

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional
from torch.optim.swa_utils import get_ema_multi_avg_fn
from torch.utils.data import DataLoader

from ..config import Device, Section, load_section
from ..errors import command
from ..files import whole_file, writable_folder
from ..model.checkpoint import load_model
from ..model.classifier import LOG_DIAMETER, NODULE, CandidateNet
from ..model.device import autocast, pick_device, precision
from .candidates import CandidateBatches, collect
from .config import load_train_config
from .parallel import Workers
from .sources import load_sources

__all__ = ["SecondStageConfig", "main", "train_second_stage"]

log = logging.getLogger("pivot.train")
TELL_EVERY, SAVE_EVERY = 100, 200  # steps
WEIGHTS = (1.0, 0.5, 0.3, 0.3)  # of the losses of the four answers


class SecondStageConfig(Section):
    """A training run of the second stage."""

    detector: Path | None = None  # whose marks are the candidates; default: the shipped weights
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


def second_stage_loss(answers: Tensor, wanted: Tensor, known: Tensor) -> Tensor:
    """Cross-entropy of the three shares and the absolute error of the log diameter, each where it is known.

    Args:
        answers: (N, 4), what `CandidateNet` gives.
        wanted: the same shape, 0..1 and the log diameter.
        known: the same shape, bool.
    """
    shares = functional.binary_cross_entropy_with_logits(answers, wanted.clamp(0, 1), reduction="none")
    errors = torch.cat(
        [shares[:, :LOG_DIAMETER], (answers[:, LOG_DIAMETER:] - wanted[:, LOG_DIAMETER:]).abs()], dim=1
    )
    means = (errors * known).sum(0) / known.sum(0).clamp(min=1)
    return (means * torch.tensor(WEIGHTS, device=means.device)).sum()


def train_second_stage(config: SecondStageConfig) -> CandidateNet:
    """The running average after the last step; its state is kept in `config.run`."""
    torch.manual_seed(config.seed)
    device = pick_device(config.device)
    writable_folder(config.run)
    detector = load_model(config.detector)
    clip_range = detector.about.preprocessing.clip_range
    sources = load_sources(load_train_config(config.sources), Workers(device))
    found = collect(detector.model.to(device), sources.crops, sources.scans, clip_range)
    log.info("%d nodules, %d false marks beside them, %d in scans", *map(len, (found.nodules, found.beside, found.elsewhere)))
    model = CandidateNet(config.features).to(device).to(memory_format=torch.channels_last_3d)
    average = copy.deepcopy(model).eval()
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    state_file, step = config.run / "state.pth", 0
    if state_file.is_file():
        state = torch.load(state_file, map_location=device, weights_only=True)
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        step = state["step"]
        log.info("resumed at step %d", step)
    batches = CandidateBatches(found, range(step, config.steps), clip_range, config.seed, config.batch_size)
    loader = DataLoader(batches, batch_size=None, num_workers=config.workers, prefetch_factor=6 if config.workers else None)
    dtype = precision(device, mixed=True)
    started, losses, right = time.monotonic(), list[float](), list[float]()
    model.train()
    for cubes, wanted, known in loader:
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * min((step + 1) / config.warmup, (1 + math.cos(math.pi * step / config.steps)) / 2)
        with autocast(device, dtype):
            answers = model(cubes.to(device).to(memory_format=torch.channels_last_3d))
        loss = second_stage_loss(answers.float(), wanted.to(device), known.to(device))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        step += 1
        _follow(average, model, min(config.ema, (1 + step) / (10 + step)))
        losses.append(loss.item())
        right.append(((answers[:, NODULE].float().cpu() > 0) == (wanted[:, NODULE] > 0.5)).float().mean().item())
        if step % TELL_EVERY == 0:
            log.info("step %d  loss %.4f  right %.3f  %.0f s", step, sum(losses) / len(losses), sum(right) / len(right), time.monotonic() - started)
            losses.clear()
            right.clear()
        if step % SAVE_EVERY == 0 or step == config.steps:
            with whole_file(state_file) as partial:
                torch.save({"model": model.state_dict(), "average": average.state_dict(), "optimizer": optimizer.state_dict(), "step": step}, partial)
    return average


@torch.no_grad()
def _follow(average: CandidateNet, model: CandidateNet, decay: float) -> None:
    pairs = list(zip(average.state_dict().values(), model.state_dict().values(), strict=True))
    moving = [pair for pair in pairs if pair[0].is_floating_point()]
    get_ema_multi_avg_fn(decay)([kept for kept, _ in moving], [new for _, new in moving], None)


@command
def main(arguments: Sequence[str] | None = None) -> None:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m src.train.second_stage", description="Train the second stage.")
    parser.add_argument("--config", type=Path, default=Path("configs/second_stage.yaml"), help="default: %(default)s")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    train_second_stage(load_section(SecondStageConfig, options.config))


if __name__ == "__main__":
    sys.exit(main())
