"""Fits the maps of `triage.calibration` to scores and outcomes."""

import numpy as np
import numpy.typing as npt
from scipy.optimize import isotonic_regression, minimize_scalar
from scipy.special import logit

from ...triage.calibration import EDGE, Isotonic, Mapping, Platt, Temperature
from ...triage.model import Array
from .statistics import Labels, fit_logistic, log_loss

__all__ = ["METHODS", "cross_calibrated", "fit_mapping"]

METHODS = ("temperature", "platt", "isotonic")


def fit_mapping(method: str, scores: Array, labels: Labels) -> Mapping:
    """The map of one of `METHODS` that fits the scores (n,) in 0..1 best to the labels (n,)."""
    if method == "isotonic":
        return _fit_isotonic(scores, labels)
    if method == "temperature":
        best = minimize_scalar(
            lambda log_t: log_loss(labels, Temperature(temperature=np.exp(log_t)).apply(scores)),
            bounds=(-3.0, 3.0),
            method="bounded",
        )
        return Temperature(temperature=round(float(np.exp(best.x)), 6))
    odds = logit(np.clip(scores, EDGE, 1 - EDGE))
    slope, intercept = fit_logistic(np.stack([odds, np.ones_like(odds)], axis=1), labels)
    return Platt(slope=round(float(slope), 6), intercept=round(float(intercept), 6))


def _fit_isotonic(scores: Array, labels: Labels) -> Isotonic:
    """Isotonic regression. Equal scores are one point. Of each level only the ends are kept."""
    points, index, weights = np.unique(scores, return_inverse=True, return_counts=True)
    shares = np.bincount(index, labels.astype(np.float64)) / weights
    values = isotonic_regression(shares, weights=weights).x.clip(0, 1)
    ends = np.flatnonzero(np.diff(values, prepend=-1.0, append=2.0))
    kept = np.union1d(ends[:-1], ends[1:] - 1)
    return Isotonic(scores=tuple(points[kept].tolist()), values=tuple(values[kept].tolist()))


def cross_calibrated(method: str, scores: Array, labels: Labels, folds: npt.NDArray[np.int64]) -> Array:
    """Every score, calibrated by the map fitted on the other folds."""
    result = np.empty_like(scores)
    for fold in np.unique(folds):
        here = folds == fold
        result[here] = fit_mapping(method, scores[~here], labels[~here]).apply(scores[here])
    return result
