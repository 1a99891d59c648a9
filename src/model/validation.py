"""How well a model detected nodules that were kept out of its training. `benchmarks.detection` measures it."""

import math

from pydantic import BaseModel, ConfigDict

from ..types import Expected

__all__ = ["Logistic", "Point", "Validation"]

FINITE = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
EXACT = 1e-9  # tolerance between thresholds
SURE = 1e-6  # a confidence nearer to 0 or 1 counts as this near
LARGEST = 100.0  # logit of a probability; a larger one makes no difference


class Point(BaseModel):
    """The sensitivity (0..1) at a threshold of the confidence, with its interval over patients."""

    model_config = FINITE

    threshold: float
    sensitivity: float
    sensitivity_ci95: tuple[float, float]
    false_marks_per_scan: float


class Logistic(BaseModel):
    """The share of nodules among marks, as a logistic function of the confidence's logit (Platt 1999)."""

    model_config = FINITE

    slope: float
    offset: float


class Validation(BaseModel):
    """The measured operating points, and the probability of a nodule."""

    model_config = FINITE

    of: str  # the nodules, in words
    points: tuple[Point, ...]
    probability: Logistic

    def expected_at(self, threshold: float) -> Expected | None:
        """The performance at the next listed threshold from `threshold` up; None if there is none."""
        reached = [point for point in self.points if point.threshold >= threshold - EXACT]
        if not reached:
            return None
        point = min(reached, key=lambda point: point.threshold)
        return Expected(
            threshold=point.threshold,
            sensitivity=point.sensitivity,
            sensitivity_ci95=point.sensitivity_ci95,
            false_marks_per_scan=point.false_marks_per_scan,
            of=self.of,
        )

    def nodule_probability(self, confidence: float) -> float:
        """The share of marks of this confidence (0..1) that were nodules, from 0 to 1."""
        sure = min(max(confidence, SURE), 1 - SURE)
        logit = self.probability.slope * math.log(sure / (1 - sure)) + self.probability.offset
        return round(1 / (1 + math.exp(-min(max(logit, -LARGEST), LARGEST))), 4)
