"""The configuration of a training run."""

import os
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field, model_validator

from ..config import Device, Section, load_section
from .targets import Spread

__all__ = ["BackgroundScan", "TrainConfig", "load_train_config"]

Positive = Annotated[int, Field(ge=1)]
Paths = Annotated[tuple[Path, ...], BeforeValidator(lambda given: [given] if isinstance(given, str | Path) else given)]
CHECKPOINTS = (".pth", ".safetensors")


def _spare_cores() -> int:
    """All cores but one, which drives the network. torchrun's processes share them."""
    return max(1, min(32, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")) - 1))


class BackgroundScan(Section):
    """A scan without marked nodules, by its file name in `backgrounds/`."""

    name: str
    has_opacities: bool = False  # lesion-like densities in the lungs then have no weight


class TrainConfig(Section):
    """A training run. It needs a source of nodules and scans, and validation data."""

    data: Path | None = None  # a folder with lidc_nodule_crops.npz and .csv, and backgrounds/
    train_backgrounds: tuple[BackgroundScan, ...] = ()
    validation_background: str | None = None
    unsure: Path | None = None  # a table of places in these scans that look like nodules; neither positive nor negative
    cubes: Path | None = None  # a folder with luna16_nodules.csv and its arrays: nodules in cubes of 50 mm
    cubes_validation_subset: Annotated[int, Field(ge=0, le=9)] = 8  # of LUNA16; its cubes are validation
    cubes_share: Annotated[float, Field(gt=0, le=1)] = 1.0  # of their training patients, for a learning curve
    leave_out_patients: tuple[str, ...] = ()  # their crops and cubes are not used at all
    luna16: Path | None = None  # a folder with subset0 to subset9 (or scans) and annotations.csv
    luna16_validation_subset: Annotated[int, Field(ge=0, le=9)] | None = None
    luna16_leave_out: tuple[str, ...] = ()  # names of scans that are not used at all
    cache: Path = Path("runs/scans")  # LUNA16's scans at 1 mm, about 60 MB each
    features: tuple[Annotated[int, Field(ge=4)], ...] = Field((32, 64, 96, 128), min_length=2)
    extra_blocks: tuple[Annotated[int, Field(ge=0, le=8)], ...] = ()  # more residual blocks after the encoder's levels
    clip_range: tuple[float, float] = (-1000.0, 400.0)  # HU
    seed: Annotated[int, Field(ge=0)] = 0
    steps: Positive
    batch_size: Positive = 8  # patches of 48 mm; those of 64 and 96 mm are fewer, with the same total volume
    diameters: tuple[float, float] = (3.0, 36.0)  # mm, of the planted nodules
    mixed: Annotated[float, Field(ge=0, le=1)] = 0.35  # share of those from crops that becomes ground-glass
    spread: Spread = Spread()  # of the heatmap's targets
    learning_rate: Annotated[float, Field(gt=0)] = 2e-3
    warmup: Positive = 200  # steps
    decay: Annotated[float, Field(gt=0, le=1)] = 0.35  # share of the steps in which the rate falls to zero
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.998  # decay of the running average in a step
    freeze_norms: Annotated[float, Field(ge=0, le=1)] = 1.0  # share of the steps that change the norms' statistics
    confidence_shift: float = 0.0  # is added to the heatmap's logit of the validated and exported model
    validate_every: Positive = 1000  # steps
    mine_every: Positive = 1000
    mine_scans: Positive = 64  # most scans to search for false marks each time
    save_every: Positive = 500
    patience: Positive | None = None  # validations without improvement until the run stops; the best average is kept
    workers: Annotated[int, Field(ge=0, le=256)] = Field(default_factory=_spare_cores)  # processes that make samples
    device: Device = "auto"
    initial: Paths = ()  # checkpoints of the same `features`: training starts from the mean of their weights
    run: Path  # the folder of the state and the logs
    checkpoint: Path
    name: str

    @model_validator(mode="after")
    def _sources_fit(self) -> "TrainConfig":
        backgrounds = {scan.name for scan in self.train_backgrounds}
        low, high = self.clip_range
        problems = (
            (
                self.data is None and bool(backgrounds or self.validation_background),
                "train_backgrounds and validation_background lie in the folder `data`: give it as well",
            ),
            (
                not backgrounds and self.luna16 is None,
                "there are no scans to train on: give train_backgrounds (with data), luna16, or both",
            ),
            (
                self.luna16 is None and self.luna16_validation_subset is not None,
                "luna16_validation_subset needs `luna16`",
            ),
            (
                self.validation_background is None and self.luna16_validation_subset is None,
                "there is no validation data: give validation_background, luna16_validation_subset, or both",
            ),
            (
                self.validation_background in backgrounds,
                "validation_background is one of the train_backgrounds: hold one of your scans out",
            ),
            (
                len(self.extra_blocks) > len(self.features),
                f"extra_blocks {list(self.extra_blocks)} has more levels than features {list(self.features)}",
            ),
            (low >= high, f"clip_range {[low, high]} is empty: the first value must be the smaller one"),
            (
                not 0 < self.diameters[0] < self.diameters[1],
                f"diameters {list(self.diameters)} must be two lengths in mm, the first the smaller one",
            ),
            (
                not (self.spread.share >= 0 and 0 < self.spread.least <= self.spread.most),
                f"spread {list(self.spread)} must be a share of the diameter and two limits in mm, the smaller first",
            ),
            (self.checkpoint.suffix not in CHECKPOINTS, f"checkpoint must end in {' or '.join(CHECKPOINTS)}"),
        )
        for holds, message in problems:
            if holds:
                raise ValueError(message)
        return self


def load_train_config(path: Path) -> TrainConfig:
    """The training configuration in a YAML file.

    Raises:
        BadConfig: as for `load_section`.
    """
    return load_section(TrainConfig, path)
