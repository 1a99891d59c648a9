"""Fitting and evaluating a binary score: logistic regression, folds by patient, AUC, calibration error."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import expit
from scipy.stats import rankdata

from ...triage.model import Array

__all__ = [
    "Labels",
    "Paired",
    "auc",
    "bootstrap",
    "calibration_error",
    "fit_logistic",
    "folds_by_group",
    "log_loss",
    "reliability",
]

Labels = npt.NDArray[np.bool_]


class Paired(NamedTuple):
    """Two AUCs on the same cases, and their difference, with 95 % intervals. `p` is two-sided."""

    auc: float
    auc_interval: tuple[float, float]
    baseline: float
    baseline_interval: tuple[float, float]
    difference: float
    difference_interval: tuple[float, float]
    p: float


def fit_logistic(rows: Array, labels: Labels, ridge: float = 1e-3, counts: Array | float = 1.0) -> Array:
    """The (k,) weights of a logistic model for (n, k) rows, with a small penalty for separable data.

    A row counts as often as its `counts` (n,) say.
    """
    signs = np.where(labels, 1.0, -1.0)

    def loss(weights: Array) -> tuple[float, Array]:
        margins = signs * (rows @ weights)
        slope = -(counts * signs * expit(-margins)) @ rows + ridge * weights
        return float((counts * np.logaddexp(0, -margins)).sum() + 0.5 * ridge * weights @ weights), slope

    return np.asarray(minimize(loss, np.zeros(rows.shape[1]), jac=True, method="BFGS").x)


def folds_by_group(groups: npt.NDArray[np.str_], count: int, seed: int) -> npt.NDArray[np.int64]:
    """A fold, 0 to count - 1, for every case. All cases of a group are in one fold."""
    names, index = np.unique(groups, return_inverse=True)
    fold = np.random.default_rng(seed).permutation(len(names)) % count
    return np.asarray(fold[index])


def auc(labels: Labels, scores: npt.NDArray[np.floating]) -> float:
    """The area under the ROC curve. Ties count half."""
    positives = int(labels.sum())
    ranks = rankdata(scores)[labels].sum()
    return float((ranks - positives * (positives + 1) / 2) / (positives * (len(labels) - positives)))


def bootstrap(labels: Labels, scores: Array, baseline: Array, groups: npt.NDArray[np.str_], seed: int = 0) -> Paired:
    """The AUCs of a score and of a baseline, by 2,000 bootstrap draws of whole groups (patients)."""
    names, index = np.unique(groups, return_inverse=True)
    members = np.split(np.argsort(index, kind="stable"), np.cumsum(np.bincount(index))[:-1])
    rng = np.random.default_rng(seed)
    draws: list[tuple[float, float]] = []
    while len(draws) < 2000:
        cases = np.concatenate([members[i] for i in rng.integers(len(names), size=len(names))])
        if 0 < labels[cases].sum() < len(cases):
            draws.append((auc(labels[cases], scores[cases]), auc(labels[cases], baseline[cases])))
    one, two = np.array(draws).T
    tail = min(np.mean(one <= two), np.mean(one >= two))
    ours, theirs = auc(labels, scores), auc(labels, baseline)
    p = min(1.0, 2 * max(float(tail), 1 / len(draws)))  # without a draw beyond 0, p is below the resolution
    return Paired(ours, _interval(one), theirs, _interval(two), ours - theirs, _interval(one - two), p)


def _interval(values: Array) -> tuple[float, float]:
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def reliability(labels: Labels, scores: Array, bins: int = 10, counts: Array | float = 1.0) -> Array:
    """Mean score, share of positives and number of cases (m, 3), for each bin of equal width that holds cases.

    A case counts as often as its `counts` (n,) say.
    """
    index = np.minimum((np.asarray(scores) * bins).astype(int), bins - 1)
    times = np.broadcast_to(counts, labels.shape)
    filled = [index == i for i in range(bins) if np.any(index == i)]
    means = (np.average([scores[part], labels[part]], axis=1, weights=times[part]) for part in filled)
    return np.array([(*mean, times[part].sum()) for mean, part in zip(means, filled, strict=True)])


def calibration_error(labels: Labels, scores: Array, bins: int = 10, counts: Array | float = 1.0) -> float:
    """Expected calibration error: the mean over bins of |score - share of positives|, weighted by cases.

    Naeini et al. AAAI 2015; Guo et al. ICML 2017, equation 3, for a binary score and bins of equal width.
    """
    mean, share, cases = reliability(labels, scores, bins, counts).T
    return float(np.sum(cases * np.abs(mean - share)) / cases.sum())


def log_loss(labels: Labels, scores: Array) -> float:
    """Mean negative log-likelihood, in nats."""
    clipped = np.clip(scores, 1e-6, 1 - 1e-6)
    return float(-np.mean(np.log(np.where(labels, clipped, 1 - clipped))))
