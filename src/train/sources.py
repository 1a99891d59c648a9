"""The data of a training run: training and validation sources, by its configuration."""

import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..errors import BadConfig
from ..eval.tables import read_findings
from .cache import fill_cache
from .config import TrainConfig
from .crops import Crop, load_crops, split_by_patient
from .cubes import load_cubes
from .luna16 import annotated_scans, list_scans, truths_of
from .parallel import Workers
from .scans import LungScan, load_lung_scan
from .validation import ValidationSet, plant

__all__ = ["Sources", "load_background", "load_sources"]

log = logging.getLogger("pivot.train")


class Sources(NamedTuple):
    """The training nodules and scans, and the validation set."""

    crops: list[Crop]
    scans: list[LungScan]
    validation: ValidationSet

    @property
    def nodules(self) -> int:
        """The number of real nodules for training."""
        return len(self.crops) + sum(len(scan.truths) for scan in self.scans)


def load_sources(config: TrainConfig, workers: Workers) -> Sources:
    """Read the crops and backgrounds, and prepare LUNA16's scans. Each process prepares its share.

    Raises:
        BadConfig: files are missing or do not fit, or there is no training or validation data.
        BadScan: a scan cannot be read.
    """
    crops, old_held_out = split_by_patient(load_crops(config.data)) if config.data else ([], [])
    crops, held_out = _with_cubes(config, crops, old_held_out)
    scans = [load_background(config, scan.name, has_opacities=scan.has_opacities) for scan in config.train_backgrounds]
    luna, luna_held_out = _luna16(config, config.luna16, workers) if config.luna16 else ([], [])
    _check_split(crops, held_out, luna_held_out)
    validation = ValidationSet(None, [], [], luna_held_out)
    if config.validation_background:
        background = load_background(config, config.validation_background)
        validation = ValidationSet(background, plant(old_held_out, background), held_out, luna_held_out)
    sources = Sources(crops, scans + luna, validation)
    log.info(
        "%d scans and %d nodules for training, %d nodules for validation",
        len(sources.scans),
        sources.nodules,
        len(validation.crops) + sum(len(scan.truths) for scan in validation.scans),
    )
    return sources


def _with_cubes(config: TrainConfig, crops: list[Crop], held_out: list[Crop]) -> tuple[list[Crop], list[Crop]]:
    """The training crops and the held-out ones, including the cubes, split by patient.

    A patient held out in one source is held out in both. A patient's cubes replace the crops.
    """
    cubes = load_cubes(config.cubes) if config.cubes else []
    validation = {crop.patient for crop in held_out}
    validation |= {cube.patient for cube in cubes if cube.subset == config.cubes_validation_subset}
    known = {cube.patient for cube in cubes}
    kept = [crop for crop in crops if crop.patient not in known] + cubes
    unused = set(config.leave_out_patients) | _beyond_share(known - validation, config.cubes_share)
    kept = [crop for crop in kept if crop.patient not in unused]
    return [c for c in kept if c.patient not in validation], held_out + [c for c in kept if c.patient in validation]


def _beyond_share(patients: set[str], share: float) -> set[str]:
    """The patients that a learning curve leaves out at this share. A larger share includes all of a smaller one."""
    drawn = np.random.default_rng(0).permutation(sorted(patients))
    return set(drawn[math.ceil(share * len(drawn)) :].tolist())


def _check_split(crops: Sequence[Crop], held_out: Sequence[Crop], scans: Sequence[LungScan]) -> None:
    """Raise `BadConfig` if a patient is in training and in validation."""
    shared = {crop.patient for crop in crops} & {crop.patient for crop in held_out}
    shared |= {crop.patient for crop in crops if crop.series_uid in {scan.name for scan in scans}}
    if shared:
        some = ", ".join(sorted(shared)[:5])
        msg = f"{some} would be in training and in validation: hold out the same subset everywhere"
        raise BadConfig(msg)
    if scans and any(crop.series_uid is None for crop in crops):
        log.warning("the crops come from LIDC-IDRI, as LUNA16 does: held-out scans may show patients of the crops")


def load_background(config: TrainConfig, name: str, *, has_opacities: bool = False) -> LungScan:
    """A scan of `backgrounds/`. The table `unsure` gives its excluded findings.

    Raises:
        BadConfig: the table is broken.
        BadScan: the scan cannot be read.
    """
    scan = load_lung_scan(Path(config.data or "") / "backgrounds" / f"{name}.nii.gz", has_opacities=has_opacities)
    if config.unsure is None:
        return scan
    return replace(scan, excluded=truths_of(scan, read_findings(config.unsure, [scan.name]), 0))


def _luna16(config: TrainConfig, folder: Path, workers: Workers) -> tuple[list[LungScan], list[LungScan]]:
    """The annotated training scans, and the held-out ones."""
    found = list_scans(folder, config.luna16_validation_subset, config.luna16_leave_out)
    paths = found.training + found.held_out
    log.info("preparing up to %d scans in %s", len(paths), config.cache)
    shares = [paths[rank :: workers.count] for rank in range(workers.count)]
    workers.map(lambda share: fill_cache(share, config.cache, config.workers), shares)
    training, held_out = (annotated_scans(part, folder, config.cache) for part in (found.training, found.held_out))
    if held_out and not any(scan.truths for scan in held_out):
        msg = f"luna16: no nodule of {folder / 'annotations.csv'} lies in the held-out scans"
        raise BadConfig(msg)
    return training, held_out
