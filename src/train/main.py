"""Train the default network: `python -m src.train.main --config configs/train.yaml`.

An interrupted run goes on from its last state when the command is given again.
"""

import argparse
import copy
import json
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import torch
import yaml
from pydantic import Field, ValidationError
from torch import nn
from torch.utils.data import DataLoader

from ..config import Section, explain
from ..errors import BadConfig, PivotError
from ..files import whole_file
from ..model.checkpoint import About, Preprocessing, load_model, save_checkpoint
from ..model.device import autocast, pick_device, precision
from ..model.unet import HEATMAP, UNet
from .dataset import Batches
from .losses import detection_loss
from .sources import Background, load_background, load_crops, split_by_patient
from .validation import find_marks, validate, validation_set

__all__ = ["TrainConfig", "main", "train"]

log = logging.getLogger("pivot.train")
HARD_MARKS = 60  # of each scan, the strongest false marks
MARGIN_PATCH = 0.15  # confidence below which a false mark teaches nothing new


class Scan(Section):
    """A background scan by its file name in `backgrounds/`."""

    name: str
    has_opacities: bool = False


class TrainConfig(Section):
    """Everything that decides the outcome of a training run."""

    data: Path
    train_backgrounds: tuple[Scan, ...] = Field(min_length=1)
    validation_background: str
    features: tuple[Annotated[int, Field(ge=4)], ...] = (32, 64, 96, 128)
    clip_range: tuple[float, float] = (-1000.0, 400.0)
    seed: int = 0
    steps: Annotated[int, Field(ge=1)]
    batch_size: Annotated[int, Field(ge=1)] = 8
    learning_rate: Annotated[float, Field(gt=0)] = 2e-3
    warmup: int = 200
    decay: Annotated[float, Field(gt=0, le=1)] = 0.35
    weight_decay: float = 1e-4
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.998
    validate_every: int = 1000
    mine_every: int = 1000
    workers: int = 1
    device: str = "auto"
    initial: Path | None = None  # a checkpoint of the same `features` to start from
    run: Path
    checkpoint: Path
    name: str


class Run:
    """The network being trained, its running average, and everything needed to go on after a stop."""

    def __init__(self, config: TrainConfig) -> None:
        torch.manual_seed(config.seed)
        self.config, self.device = config, pick_device(config.device)
        self.model = UNet(config.features).to(self.device, memory_format=torch.channels_last_3d)
        if config.initial is not None:
            self.model.load_state_dict(load_model(config.initial).model.state_dict())
        self.average = copy.deepcopy(self.model).eval()
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        self.step, self.best, self.seconds = 0, -1.0, 0.0
        self.hard: list[npt.NDArray[np.intp]] = [np.empty((0, 3), dtype=np.intp) for _ in config.train_backgrounds]

    @property
    def state_file(self) -> Path:
        return self.config.run / "state.pth"

    def save(self) -> None:
        state = {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "hard": [torch.from_numpy(points) for points in self.hard],
            "progress": {"step": self.step, "best": self.best, "seconds": self.seconds},
        }
        with whole_file(self.state_file) as partial:
            torch.save(state, partial)

    def resume(self) -> None:
        if not self.state_file.is_file():
            return
        state = torch.load(self.state_file, map_location=self.device, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.hard = [points.numpy() for points in state["hard"]]
        self.step, self.best, self.seconds = (state["progress"][key] for key in ("step", "best", "seconds"))
        log.info("resumed at step %d", self.step)

    def learn(self, batch: Sequence[torch.Tensor]) -> dict[str, float]:
        """One optimisation step."""
        image, *targets = (tensor.to(self.device) for tensor in batch)
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * self._schedule()
        with autocast(self.device, self._dtype()):
            logits = self.model.logits(image.to(memory_format=torch.channels_last_3d))
        losses = detection_loss(logits.float(), *targets)
        self.optimizer.zero_grad(set_to_none=True)
        sum(losses.values()).backward()  # type: ignore[union-attr]
        nn.utils.clip_grad_norm_(self.model.parameters(), 10.0)
        self.optimizer.step()
        self.step += 1
        self._follow()
        return {key: value.item() for key, value in losses.items()}

    def _dtype(self) -> torch.dtype:
        # bfloat16 on CUDA too: float16 would need loss scaling.
        dtype = precision(self.device, mixed=True)
        return torch.bfloat16 if dtype == torch.float16 else dtype

    def _schedule(self) -> float:
        """Warm up, stay, then fall to zero in the last part (warmup-stable-decay)."""
        decay_steps = self.config.decay * self.config.steps
        left = (self.config.steps - self.step) / decay_steps
        return min(1.0, (self.step + 1) / self.config.warmup, left)

    @torch.no_grad()
    def _follow(self) -> None:
        """Move the running average towards the model; faster in the beginning, when both are far off."""
        share = 1 - min(self.config.ema, (1 + self.step) / (10 + self.step))
        for kept, new in zip(self.average.state_dict().values(), self.model.state_dict().values(), strict=True):
            if kept.is_floating_point():
                kept.lerp_(new, share)
            else:
                kept.copy_(new)


def train(config: TrainConfig) -> Path:
    """Train to the last step and write the checkpoint; returns its path."""
    config.run.mkdir(parents=True, exist_ok=True)
    crops, held_out = split_by_patient(load_crops(config.data))
    folder = config.data / "backgrounds"
    backgrounds = [
        load_background(folder / f"{scan.name}.nii.gz", has_opacities=scan.has_opacities)
        for scan in config.train_backgrounds
    ]
    held_out_scan = load_background(folder / f"{config.validation_background}.nii.gz")
    data = validation_set(held_out, held_out_scan)
    run = Run(config)
    run.resume()
    log.info("%d nodules to learn from, %d to validate on, %s", len(crops), len(held_out), run.device)
    if config.initial is not None and run.step == 0:
        run.hard = [_mine(run, background) for background in backgrounds]
    while run.step < config.steps:
        stop = min(config.steps, (run.step // config.mine_every + 1) * config.mine_every)
        batches = Batches(crops, backgrounds, run.hard, range(run.step, stop), config.clip_range, config.seed)
        _epoch(run, batches)
        if run.step % config.mine_every == 0:
            run.hard = [_mine(run, background) for background in backgrounds]
        if run.step % config.validate_every == 0 and run.step < config.steps:
            _record(run, validate(run.average, data, config.clip_range))
        run.save()
    result = validate(run.average, data, config.clip_range)
    _record(run, result)
    return _export(run, result, crops, held_out)


def _epoch(run: Run, batches: Batches) -> None:
    loader = DataLoader(batches, batch_size=None, num_workers=run.config.workers, prefetch_factor=None if not run.config.workers else 6)
    sums: dict[str, float] = {}
    run.model.train()
    start, first = time.monotonic(), run.step
    for batch in loader:
        for key, value in run.learn(batch).items():
            sums[key] = sums.get(key, 0.0) + value
        if run.step % 100 == 0:
            now = time.monotonic()
            rate = (now - start) / (run.step - first)
            log.info("step %d  %s  %.2f s/step", run.step, _show({k: v / 100 for k, v in sums.items()}), rate)
            sums.clear()
        if run.step % 500 == 0:
            run.save()
    run.seconds += time.monotonic() - start


def _mine(run: Run, background: Background) -> npt.NDArray[np.intp]:
    """Where the network is wrong on a scan without marked nodules: its strongest marks."""
    points, confidence = find_marks(run.average, background.hu, run.config.clip_range)
    places = np.round(points).astype(np.intp)
    keep = confidence > MARGIN_PATCH
    if background.ignore is not None:
        keep &= ~background.ignore[tuple(np.minimum(places, np.array(background.hu.shape) - 1).T)]
    order = np.argsort(-confidence[keep])[:HARD_MARKS]
    log.info("%s: %d false marks above %.2f", background.name, keep.sum(), MARGIN_PATCH)
    return places[keep][order]


def _record(run: Run, result: dict[str, float]) -> None:
    log.info("step %d  validation  %s", run.step, _show(result))
    with (run.config.run / "validation.jsonl").open("a") as file:
        file.write(json.dumps({"step": run.step, "seconds": round(run.seconds), **result}) + "\n")


def _export(run: Run, result: dict[str, float], crops: Sequence[Any], held_out: Sequence[Any]) -> Path:
    config = run.config
    about = About(
        hyperparameters=run.model.hyperparameters,
        preprocessing=Preprocessing(clip_range=config.clip_range),
        name=config.name,
        training={
            "steps": run.step,
            "initial": None if config.initial is None else config.initial.name,
            "seed": config.seed,
            "seconds": round(run.seconds),
            "nodules": len(crops),
            "validation_patients": sorted(crop.patient for crop in held_out),
            "backgrounds": [scan.name for scan in config.train_backgrounds],
            "validation_background": config.validation_background,
        },
        results={key: round(value, 4) for key, value in result.items()},
    )
    save_checkpoint(config.checkpoint, run.average.state_dict(), about)
    log.info("wrote %s  %s", config.checkpoint, _show(result))
    return config.checkpoint


def _show(values: dict[str, float]) -> str:
    return "  ".join(f"{key} {value:.3f}" for key, value in values.items())


def load_train_config(path: Path) -> TrainConfig:
    """The training configuration in a YAML file.

    Raises:
        BadConfig: unreadable, not YAML, or a wrong key or value.
    """
    try:
        return TrainConfig.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, yaml.YAMLError) as error:
        msg = f"cannot read {path}: {error}"
        raise BadConfig(msg) from None
    except ValidationError as error:
        problems = "\n".join(f"  {line}" for line in explain(error))
        msg = f"{path} cannot be used:\n{problems}"
        raise BadConfig(msg) from None


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m src.train.main", description=__doc__)
    parser.add_argument("--config", type=Path, default=Path("configs/train.yaml"), help="default: %(default)s")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    try:
        train(load_train_config(options.config))
    except PivotError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201 - the command line's own voice
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
