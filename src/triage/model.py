"""The triage score: a logistic model of a nodule's measurements.

The score estimates how readers of LIDC-IDRI would rate a nodule by eye: median malignancy above 3, or below 3. It is
not a probability of cancer: it was fitted without pathology.
"""

import functools
import json
import math
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from scipy.special import expit

from ..config import explain
from ..errors import BadCheckpoint, PivotError
from ..files import as_module, shipped
from ..types import Properties, Triage

__all__ = [
    "Array",
    "Cutoffs",
    "TriageModel",
    "calcified_share",
    "default_model",
    "features",
    "load_triage_model",
    "read_json",
    "score",
]

Model = TypeVar("Model", bound=BaseModel)
Array = npt.NDArray[np.float64]
VALID_MM = (3.0, 30.0)  # range of the rated nodules' effective diameters
# Mean HU. Uncalcified LIDC nodules are below the first value (at most 50 HU). Siegelman et al. (AJR 1980;135:1-13) took
# nodules from the second value on as benign, by their 32 densest voxels. The share rises linearly between them.
CALCIFIED_HU = (60.0, 164.0)
Probability = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]


class Cutoffs(BaseModel):
    """Scores below `low` are low risk, scores of `high` and above are high risk."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    low: Probability
    high: Probability

    @model_validator(mode="after")
    def _in_order(self) -> "Cutoffs":
        if self.low > self.high:
            msg = f"low ({self.low}) must not exceed high ({self.high})"
            raise ValueError(msg)
        return self

    def category(self, value: float) -> Literal["low", "intermediate", "high"]:
        """The risk category of a score in 0..1."""
        if value < self.low:
            return "low"
        return "high" if value >= self.high else "intermediate"


class TriageModel(BaseModel):
    """The content of `triage_model.json`. The log-odds are linear in `features`."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    format: Literal["pivot-triage-1"] = "pivot-triage-1"
    name: str
    label: str  # what the score estimates
    intercept: float
    log_long_axis: float
    log_short_axis: float
    calcified: float
    axis_scale: tuple[Positive, Positive]  # PIVOT's length divided by the readers', of the long and the short axis
    cutoffs: Cutoffs
    data: dict[str, Any]

    @property
    def weights(self) -> Array:
        """The four coefficients in the order of `features`, the intercept last."""
        return np.array([self.log_long_axis, self.log_short_axis, self.calcified, self.intercept])


def score(properties: Properties, diameter_mm: float, model: TriageModel | None = None) -> Triage:
    """The probability that readers rate a nodule malignant, 0 to 1, with its risk category.

    `diameter_mm` is the effective diameter. `model` defaults to the shipped one. If no valid score is possible, it is
    null, and `reason` is set.

    Raises:
        BadCheckpoint: the shipped model is missing or damaged.
    """
    model = model or default_model()
    reason = _invalid(properties, diameter_mm)
    if reason:
        return Triage(malignancy_score=None, risk_category=None, reason=reason)
    long_axis, short_axis = properties["long_axis_mm"], properties["short_axis_mm"]
    mean = properties["mean_intensity"]
    assert long_axis and short_axis and mean is not None  # noqa: S101, PT018 - checked above
    row = features(long_axis / model.axis_scale[0], short_axis / model.axis_scale[1], calcified_share(mean))
    value = round(float(expit(row @ model.weights)), 4)
    return Triage(malignancy_score=value, risk_category=model.cutoffs.category(value), reason=None)


def calcified_share(mean_hu: float) -> float:
    """An estimate from the mean HU of the share of readers who rate a nodule calcified, 0 to 1."""
    return float(np.interp(mean_hu, CALCIFIED_HU, (0.0, 1.0)))


def features(long_axis: npt.ArrayLike, short_axis: npt.ArrayLike, calcified: npt.ArrayLike) -> Array:
    """The model's input (..., 4): log of the readers' axes in millimetres, calcified share 0 to 1, and 1."""
    columns = np.log(long_axis), np.log(short_axis), calcified, np.ones_like(long_axis, dtype=float)
    return np.stack(np.broadcast_arrays(*columns), axis=-1).astype(np.float64)


def load_triage_model(path: str | Path) -> TriageModel:
    """The triage model in a JSON file.

    Raises:
        BadCheckpoint: the file is missing, or no triage model.
    """
    return read_json(TriageModel, path, "triage model", BadCheckpoint)


def read_json(kind: type[Model], path: str | Path, name: str, error: type[PivotError]) -> Model:
    """The content of a JSON file that `python -m src.train.triage.fit` writes. Messages call it `name`.

    Raises:
        PivotError: of the type `error`. The file is missing or not JSON, or a key or value is wrong.
    """
    try:
        return kind.model_validate(json.loads(Path(path).read_text(encoding="utf-8")))
    except OSError as problem:
        msg = f"cannot read the {name} {path}: {problem.strerror}; `{as_module('train.triage.fit')}` writes one"
    except ValidationError as problem:
        msg = f"{path} is not a {name}:\n" + "\n".join(f"  {line}" for line in explain(problem, kind))
    except ValueError as problem:
        msg = f"the {name} {path} is not JSON ({problem})"
    raise error(msg)


@functools.cache
def default_model() -> TriageModel:
    """The shipped triage model."""
    return load_triage_model(shipped("calibration/triage_model.json"))


def _invalid(properties: Properties, diameter_mm: float) -> str | None:
    """The reason why a nodule cannot be scored; None if it can."""
    needed = (properties["long_axis_mm"], properties["short_axis_mm"], properties["mean_intensity"])
    if any(value is None for value in needed):
        return "not measured: no clear boundary, or cut by the border of the scan"
    if not all(math.isfinite(value) for value in (*needed, diameter_mm) if value is not None):
        return "not measured: a property is not a finite number"
    if not VALID_MM[0] <= diameter_mm <= VALID_MM[1]:
        return f"diameter of {diameter_mm:.1f} mm is outside {VALID_MM[0]:g} to {VALID_MM[1]:g} mm"
    if not (needed[0] or 0) > 0 < (needed[1] or 0):
        return "not measured: an axis has no length"
    return None
