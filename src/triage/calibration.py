"""Calibrated malignancy scores, by a map from a file.

`python -m src.train.triage.fit` writes the shipped `calibration/triage_calibration.json`. Like the score, it is fitted
to readers' ratings, not to pathology. The file's `label` states this.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator
from scipy.special import expit, logit

from ..errors import BadConfig, BadOutput
from ..files import here_or_shipped
from ..given import path_of
from ..types import Detection, Triage
from .model import Cutoffs, read_json, score

__all__ = ["Calibration", "Isotonic", "Mapping", "Platt", "Temperature", "calibrate_scores", "load_calibration"]

Array: TypeAlias = npt.NDArray[np.float64]
Probability = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
EDGE = 1e-6  # scores are kept this far from 0 and 1 before their log-odds are taken


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Platt(_Strict):
    """Log-odds times `slope` plus `intercept` (Platt, Advances in Large Margin Classifiers 1999)."""

    method: Literal["platt"] = "platt"
    slope: Positive
    intercept: float

    def apply(self, scores: npt.ArrayLike) -> Array:
        """Calibrated scores in 0..1."""
        odds = logit(np.clip(np.asarray(scores, dtype=np.float64), EDGE, 1 - EDGE))
        return np.asarray(expit(self.slope * odds + self.intercept))


class Temperature(_Strict):
    """Log-odds divided by `temperature` (Guo et al. ICML 2017)."""

    method: Literal["temperature"] = "temperature"
    temperature: Positive

    def apply(self, scores: npt.ArrayLike) -> Array:
        """Calibrated scores in 0..1."""
        return Platt(slope=1 / self.temperature, intercept=0.0).apply(scores)


class Isotonic(_Strict):
    """A rising piecewise linear map through the points (`scores`, `values`) (Zadrozny and Elkan, KDD 2002)."""

    method: Literal["isotonic"] = "isotonic"
    scores: tuple[Probability, ...] = Field(min_length=1)
    values: tuple[Probability, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _rises(self) -> "Isotonic":
        if len(self.scores) != len(self.values):
            msg = f"{len(self.scores)} scores, but {len(self.values)} values: give one value a score"
            raise ValueError(msg)
        if np.any(np.diff(self.scores) <= 0) or np.any(np.diff(self.values) < 0):
            msg = "scores must rise, and values must not fall"
            raise ValueError(msg)
        return self

    def apply(self, scores: npt.ArrayLike) -> Array:
        """Calibrated scores in 0..1."""
        return np.interp(np.asarray(scores, dtype=np.float64), self.scores, self.values)


Mapping: TypeAlias = Platt | Temperature | Isotonic


class Calibration(_Strict):
    """The content of a calibration file."""

    format: Literal["pivot-triage-calibration-1"] = "pivot-triage-calibration-1"
    model: str  # the triage model of the scores
    label: str  # the event whose probability the calibrated score is
    mapping: Annotated[Mapping, Field(discriminator="method")]
    cutoffs: Cutoffs  # on the calibrated scale
    data: dict[str, Any]
    results: dict[str, Any] = {}


def calibrate_scores(detections: Sequence[Detection], calibration_file: str | Path) -> list[Detection]:
    """The detections with a calibrated `malignancy_score` (0 to 1) and the file's risk categories.

    A null score stays null, with its reason. A peak with `properties` is scored by them; without, its score is null.
    The given detections are not changed. Their scores must come from the triage model: a second calibration would
    distort them.

    Raises:
        BadConfig: the calibration file is missing, damaged or not monotone.
        BadOutput: a detection has no triage, or a score outside 0..1.
    """
    calibration = load_calibration(calibration_file)
    return [_calibrated(found, calibration) for found in detections]


def load_calibration(path: str | Path) -> Calibration:
    """The content of a calibration file.

    Raises:
        BadConfig: the file is missing or not JSON, or a key or value is wrong.
    """
    there = here_or_shipped(path_of(path, "the calibration file"))
    return read_json(Calibration, there, "triage calibration", BadConfig)


def _scored(peak: Detection) -> Triage:
    """The score of a mark that has none yet; null where its `properties` do not allow one."""
    properties = peak.get("properties")
    if properties is None:
        reason = "nothing was measured: set `properties` to what extract_properties gives"
        return Triage(malignancy_score=None, risk_category=None, reason=reason)
    diameter = properties.get("effective_diameter_mm") if isinstance(properties, dict) else None
    try:
        return score(properties, math.nan if diameter is None else diameter)
    except (KeyError, TypeError):
        msg = f"detection {peak.get('id', '?')} has properties that extract_properties did not give"
        raise BadOutput(msg) from None


def _calibrated(found: Detection, calibration: Calibration) -> Detection:
    triage = _scored(found) if "triage" not in found and "coordinates" in found else found.get("triage")
    if not isinstance(triage, dict) or "malignancy_score" not in triage:
        msg = f"detection {found.get('id', '?')} has no triage.malignancy_score: give detections of PIVOT"
        raise BadOutput(msg)
    score = triage["malignancy_score"]
    if score is None:
        return {**found, "triage": {**triage}}
    if not (isinstance(score, int | float) and math.isfinite(score) and 0 <= score <= 1):
        msg = f"detection {found.get('id', '?')} has a malignancy score of {score!r}: it must lie in 0 to 1"
        raise BadOutput(msg)
    value = round(float(calibration.mapping.apply(score)), 4)
    category = calibration.cutoffs.category(value)
    return {**found, "triage": {**triage, "malignancy_score": value, "risk_category": category}}
