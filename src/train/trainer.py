"""A training run from its sources to its checkpoint."""

import logging
import time
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader

from ..files import writable_folder
from ..model.checkpoint import About, Preprocessing, save_checkpoint
from ..model.device import cudnn_benchmark
from .config import TrainConfig
from .crops import Crop
from .dataset import Batches, Recipe
from .journal import Journal
from .parallel import Workers
from .run import Kept, Run
from .scans import LungScan
from .sources import Sources, load_sources
from .validation import find_in_crop, find_marks, validate

__all__ = ["train"]

log = logging.getLogger("pivot.train")
HARD_MARKS = 60  # false marks of each scan, the strongest
HARD_CONFIDENCE = 0.15  # weaker false marks are not used
LOG_EVERY = 100  # steps
PREFETCH = 6  # batches for each worker


def train(config: TrainConfig, workers: Workers) -> Run:
    """Train to the last step, starting from the saved state if there is one, and write the checkpoint.

    Raises:
        BadConfig: a file in the configuration is missing or does not fit.
        BadScan: a scan cannot be read.
        BadCheckpoint: `initial` cannot be read.
        BadOutput: the run's folder or the checkpoint cannot be written.
    """
    if not workers.rank:
        writable_folder(config.run)
        writable_folder(config.checkpoint.parent)
    sources = load_sources(config, workers)
    run = Run(config, workers, [*(scan.name for scan in sources.scans), *(crop.crop_id for crop in sources.crops)])
    run.hard[len(sources.scans) :] = [_lookalikes(crop) for crop in sources.crops]
    run.resume()
    benchmark = cudnn_benchmark(wanted=True)  # there are three shapes of batches
    with benchmark, closing(Journal(config.run, run.step, writes=not workers.rank)) as journal:
        _mine_and_validate(run, sources, journal)
        while not run.finished:
            _train_steps(run, sources, journal)
            _mine_and_validate(run, sources, journal)
    if not workers.rank:
        _export(run, sources)
    return run


def _train_steps(run: Run, sources: Sources, journal: Journal) -> None:
    """Do the steps until the next mining or validation, or the end."""
    config = run.config
    stop = min(config.steps, *((run.step // n + 1) * n for n in (config.mine_every, config.validate_every)))
    losses: list[dict[str, torch.Tensor]] = []
    last = time.monotonic()
    for batch in _batches(run, sources, stop):
        rate = run.learning_rate
        losses.append(run.train_step(batch))
        now = time.monotonic()
        run.seconds, last = run.seconds + now - last, now
        if run.step % LOG_EVERY == 0 or run.step == stop:
            means = {key: torch.stack([loss[key] for loss in losses]).mean().item() for key in losses[0]}
            journal.record("training", run.step, {**means, "learning_rate": rate}, run.seconds)
            losses.clear()
        if run.step % config.save_every == 0 or run.step == stop:
            run.save()


def _batches(run: Run, sources: Sources, stop: int) -> Iterable[Sequence[torch.Tensor]]:
    """This process's batches up to the step `stop`. Of every `count` batches it takes the one with its rank."""
    config, count = run.config, run.workers.count
    indices = range(run.step * count + run.workers.rank, stop * count, count)
    data = Batches(
        sources.crops,
        sources.scans,
        run.hard,
        indices,
        config.seed,
        Recipe(config.clip_range, config.batch_size, config.diameters, config.mixed, config.spread),
    )
    return DataLoader(
        data,
        batch_size=None,
        num_workers=config.workers,
        prefetch_factor=PREFETCH if config.workers else None,
        pin_memory=run.workers.device.type == "cuda",
    )


def _mine_and_validate(run: Run, sources: Sources, journal: Journal) -> None:
    """Search for false marks, and validate, if they are due at this step and were not done before an interruption."""
    config = run.config
    if run.mined < run.step and run.step % config.mine_every == 0 and not run.finished:
        _mine(run, sources)
        run.save()
    wanted = run.step % config.validate_every == 0 or run.step == config.steps
    if wanted and (run.validated < run.step or not run.figures) and run.step:
        figures = validate(run.exported(), sources.validation, config.clip_range, run.workers)
        journal.record("validation", run.step, figures, run.seconds)
        run.record_validation(figures)
        run.save()


def _mine(run: Run, sources: Sources) -> None:
    """Search for the network's false marks, in all crops and in all scans or some drawn at random."""
    scans, crops = sources.scans, sources.crops
    rng = np.random.default_rng([run.config.seed, run.step])
    chosen = sorted(rng.permutation(len(scans))[: run.config.mine_scans].tolist())
    for index, places in zip(chosen, run.workers.map(lambda i: _false_marks(run, scans[i]), chosen), strict=True):
        run.hard[index] = places
    beside = run.workers.map(lambda crop: _false_marks(run, crop), crops)
    run.hard[len(scans) :] = [np.concatenate([_lookalikes(c), p]) for c, p in zip(crops, beside, strict=True)]
    run.mined = run.step
    log.info(
        "%d false marks above %.2f in %d scans, %d false marks and look-alikes in %d crops",
        sum(map(len, run.hard[: len(scans)])),
        HARD_CONFIDENCE,
        len(chosen),
        sum(map(len, run.hard[len(scans) :])),
        len(crops),
    )


def _false_marks(run: Run, source: LungScan | Crop) -> npt.NDArray[np.intp]:
    """The voxels (n, 3) of the network's strongest marks that are certainly false."""
    find = find_in_crop if isinstance(source, Crop) else find_marks
    points, confidence = find(run.average, source.hu, run.config.clip_range)
    keep = (confidence > HARD_CONFIDENCE) & source.certainly_false(points)
    order = np.argsort(-confidence[keep])[:HARD_MARKS]
    return np.round(points[keep][order]).astype(np.intp)


def _lookalikes(crop: Crop) -> npt.NDArray[np.intp]:
    return np.round(np.empty((0, 3)) if crop.lookalikes is None else crop.lookalikes).astype(np.intp)


def _export(run: Run, sources: Sources) -> Path:
    """Write the best kept average, or the last one, with its figures."""
    config, validation = run.config, sources.validation
    kept = run.kept or Kept(run.exported().state_dict(), run.step, run.figures)
    about = About(
        hyperparameters=run.model.hyperparameters,
        preprocessing=Preprocessing(clip_range=config.clip_range),
        name=config.name,
        training={
            "steps": run.step,
            "exported_step": kept.step,
            "initial": [path.name for path in config.initial],
            "seed": config.seed,
            "confidence_shift": config.confidence_shift,
            "seconds": round(run.seconds),
            "processes": run.workers.count,
            "nodules": sources.nodules,
            "scans": len(sources.scans),
            "validation_patients": sorted({crop.patient for crop in validation.crops}),
            "backgrounds": [scan.name for scan in config.train_backgrounds],
            "validation_background": config.validation_background,
            "validation_scans": [scan.name for scan in validation.scans],
        },
        results={key: round(value, 4) for key, value in kept.figures.items()},
    )
    save_checkpoint(config.checkpoint, kept.average, about)
    log.info("wrote the average of step %d to %s, score %.3f", kept.step, config.checkpoint, kept.figures["score"])
    return config.checkpoint
