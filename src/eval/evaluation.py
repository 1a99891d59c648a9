"""Evaluation of marks against a reference standard: every figure of `froc.json`."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import BadConfig
from .froc import RATES, Curve, Sweep, band, by_nodules, by_scans
from .matching import Matched, match, treated_diameter
from .tables import FindingTable, MarkTable

__all__ = ["Evaluation", "evaluate"]

VARIANT = "mean sensitivity on the interpolated curve of all marks (LUNA16 evaluation page)"
SIZES = ((0.0, 3.0, "<3"), (3.0, 6.0, "3-6"), (6.0, 10.0, "6-10"), (10.0, 20.0, "10-20"), (20.0, np.inf, ">=20"))  # mm
# The rates at which the picture's band is computed, followed by the seven rates of the score.
DRAWN = np.append(np.geomspace(RATES[0], RATES[-1], 61), RATES)


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The curve, its band (rates, low, high; None without a bootstrap), all figures, and the CPM of each draw of scans.

    Evaluations of the same nodules, scans and seed have the same draws.
    """

    curve: Curve
    band: tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]] | None
    matched: Matched
    figures: dict[str, Any]
    drawn: npt.NDArray[np.float64]  # empty without a bootstrap


def evaluate(
    marks: MarkTable,
    nodules: FindingTable,
    scans: int,
    excluded: FindingTable | None = None,
    *,
    bootstraps: int = 1000,
    seed: int = 0,
) -> Evaluation:
    """FROC, CPM, intervals, and sensitivity by size and type, by the rules of LUNA16.

    Args:
        marks: the detector's marks.
        nodules: the reference standard.
        scans: the number of listed scans, with or without marks.
        excluded: findings whose marks are neither hits nor false.
        bootstraps: draws for each interval; 0 gives none.
        seed: of the draws.

    Raises:
        BadConfig: no nodule lies in a listed scan.
    """
    if not len(nodules.scan):
        msg = "no nodule of the annotations lies in a listed scan: sensitivity cannot be computed"
        raise BadConfig(msg)
    matched = match(marks, nodules, excluded)
    sweep = Sweep(matched, scans)
    curve = sweep.curve()
    figures = {
        **_score(curve),
        "cpm_variant": VARIANT,
        "detected": matched.detected,
        "nodules": len(nodules.scan),
        "scans": scans,
        "curve_ends_at": _last(curve),
        "marks": matched.counts,
        "scans_without_marks": scans - len(np.unique(marks.scan)),
        "scans_without_file": marks.scans_without_file,
        "annotations_not_listed": nodules.unlisted,
        "excluded_not_listed": excluded.unlisted if excluded else 0,
        "by_size": dict(_groups(sweep, _size_names(nodules), [name for *_, name in SIZES])),
        "by_type": dict(_groups(sweep, nodules.kind, sorted(set(nodules.kind)))) if nodules.kind else None,
    }
    drawn = by_scans(sweep, DRAWN, bootstraps, seed)
    if not len(drawn):
        return Evaluation(curve, None, matched, figures, np.empty(0))
    figures |= _intervals(drawn[:, -len(RATES) :], by_nodules(sweep, RATES, bootstraps, seed, nodules.patient))
    figures["bootstrap"] = {"repeats": bootstraps, "seed": seed, "scan_draws_without_nodules": bootstraps - len(drawn)}
    shown = (DRAWN[: -len(RATES)], *band(drawn[:, : -len(RATES)]))
    return Evaluation(curve, shown, matched, figures, drawn[:, -len(RATES) :].mean(axis=1))


def _score(curve: Curve) -> dict[str, Any]:
    sensitivity = curve.at(RATES)
    return {"cpm": float(sensitivity.mean()), "sensitivity": _by_rate(sensitivity)}


def _by_rate(values: Iterable[Any]) -> dict[str, Any]:
    return {f"{rate:g}": value for rate, value in zip(RATES, np.asarray(values).tolist(), strict=True)}


def _last(curve: Curve) -> float:
    """The largest number of false marks per scan on the curve. Beyond it sensitivity is constant."""
    return float(curve.false_per_scan[-1]) if len(curve.false_per_scan) else 0.0


def _intervals(scans: npt.NDArray[np.float64], nodules: npt.NDArray[np.float64]) -> dict[str, Any]:
    """95 % intervals over scans (LUNA16's bootstrap), and over nodules or their patients."""
    return {
        "cpm_ci95": [float(v) for v in band(scans.mean(axis=1))],
        "cpm_ci95_nodules": [float(v) for v in band(nodules.mean(axis=1))],
        "cpm_bootstrap_mean": float(scans.mean()),
        "sensitivity_ci95": _by_rate(np.stack(band(scans), axis=1)),
        "sensitivity_ci95_nodules": _by_rate(np.stack(band(nodules), axis=1)),
    }


def _size_names(nodules: FindingTable) -> list[str]:
    limits = [low for low, *_ in SIZES[1:]]
    return [SIZES[i][2] for i in np.searchsorted(limits, treated_diameter(nodules), side="right")]


def _groups(sweep: Sweep, names: Sequence[str], order: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The figures of each group of nodules, against all false marks."""
    of_each = np.array(names)
    for name in order:
        chosen = of_each == name
        if chosen.any():
            curve = sweep.curve(chosen.astype(np.float64))
            detected = int(np.isfinite(sweep.matched.best[chosen]).sum())
            yield name, {"nodules": int(chosen.sum()), "detected": detected, **_score(curve)}
