"""The FROC curve, its score (CPM) and their uncertainty.

The CPM is the mean sensitivity at 1/8, 1/4, 1/2, 1, 2, 4 and 8 false marks a scan. It is interpolated linearly on the
curve of all marks.
"""

from collections.abc import Hashable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .matching import Matched

__all__ = ["RATES", "Curve", "Sweep", "band", "by_nodules", "by_scans", "draws_of"]

RATES = np.array([0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0])  # false marks a scan
CONFIDENCE = 0.95
ROUNDING = 1e-9

Floats = npt.NDArray[np.float64]


class Curve(NamedTuple):
    """Operating points from the highest threshold to the lowest. The curve starts at (0, 0), before the first."""

    threshold: Floats  # the smallest probability that counts
    false_per_scan: Floats
    sensitivity: Floats

    def at(self, rates: Floats) -> Floats:
        """The sensitivities (0..1) at these numbers of false marks a scan, constant beyond the curve's end."""
        heights: Floats = np.interp(rates, np.append(0.0, self.false_per_scan), np.append(0.0, self.sensitivity))
        return heights

    def threshold_at(self, rate: float) -> float:
        """The lowest threshold with at most `rate` false marks a scan; infinite if there is none."""
        allowed = self.threshold[self.false_per_scan < rate + ROUNDING]
        return float(allowed[-1]) if len(allowed) else np.inf


class Sweep:
    """Found nodules and false marks in order of probability, for curves under any weights."""

    def __init__(self, matched: Matched, scans: int) -> None:
        found = np.flatnonzero(np.isfinite(matched.best))
        probability = np.concatenate([matched.best[found], matched.false])
        order = np.argsort(-probability, kind="stable")
        ranked = probability[order]
        self.matched, self.scans = matched, scans
        # The nodule or the scan of each. The other of the two is one past the last, with weight 0.
        self._nodule = np.append(found, np.full(len(matched.false), len(matched.best)))[order]
        self._scan = np.append(np.full(len(found), scans), matched.false_scan)[order]
        self._last = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], bool(len(ranked))))  # of each tie
        self._threshold = ranked[self._last]

    def curve(self, nodule_weight: Floats | None = None, scan_weight: Floats | None = None) -> Curve:
        """The curve with these weights for each nodule (nodules,), and for the false marks of each scan (scans,)."""
        nodule = np.ones(len(self.matched.best)) if nodule_weight is None else nodule_weight
        scan = np.ones(self.scans) if scan_weight is None else scan_weight
        found = np.append(nodule, 0.0)[self._nodule].cumsum()[self._last]
        false = np.append(scan, 0.0)[self._scan].cumsum()[self._last]
        total = false.max(initial=1.0)
        # Not false / scans: if the curve rises exactly at a rate, the rounding of LUNA16's script matters.
        return Curve(self._threshold, false / total * total / scan.sum(), found / nodule.sum())


def by_scans(sweep: Sweep, rates: Floats, repeats: int, seed: int) -> Floats:
    """Sensitivities (repeats', rates) of a bootstrap over scans, as LUNA16 does.

    A draw without nodules has no sensitivity and is left out.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(repeats):
        drawn = np.bincount(rng.integers(sweep.scans, size=sweep.scans), minlength=sweep.scans).astype(np.float64)
        nodules = drawn[sweep.matched.nodule_scan]
        if nodules.any():
            rows.append(sweep.curve(nodules, drawn).at(rates))
    return np.array(rows).reshape(-1, len(rates))


def by_nodules(
    sweep: Sweep, rates: Floats, repeats: int, seed: int, owners: Sequence[Hashable] | None = None
) -> Floats:
    """Sensitivities (repeats, rates) of a bootstrap over nodules. Scans and false marks are kept.

    With `owners` (one for each nodule) it is over owners, each with all its nodules.
    """
    names: Sequence[Hashable] = range(len(sweep.matched.best)) if owners is None else owners
    rows = [sweep.curve(weights).at(rates) for weights in draws_of(names, repeats, seed)]
    return np.array(rows).reshape(-1, len(rates))


def draws_of(owners: Sequence[Hashable], repeats: int, seed: int) -> Iterator[Floats]:
    """Bootstrap weights (nodules,) of each nodule, `repeats` times. Owners are drawn with replacement."""
    place = {name: i for i, name in enumerate(dict.fromkeys(owners))}
    owner = np.array([place[name] for name in owners])
    rng = np.random.default_rng(seed)
    for _ in range(repeats):
        drawn = np.bincount(rng.integers(len(place), size=len(place)), minlength=len(place)).astype(np.float64)
        yield drawn[owner]


def band(samples: Floats) -> tuple[Floats, Floats]:
    """The central 95 % of samples along the first axis, as order statistics (LUNA16's rule)."""
    ordered = np.sort(samples, axis=0)
    tail = (1 - CONFIDENCE) / 2
    low, high = (int(np.floor(share * len(ordered) + ROUNDING)) for share in (tail, 1 - tail))
    return ordered[low], ordered[high]
