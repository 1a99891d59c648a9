"""Evaluation of the triage score: against the diameter, on PIVOT's own measurements, by category."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy.special import expit

from ...triage.model import Array, Cutoffs, TriageModel, calcified_share, features, score
from ...viz.slices import save_png
from .cohort import HALF, MANY, SEED, UNDECIDED, Cohort
from .cubes import MeasuredCube
from .statistics import Labels, Paired, auc, bootstrap, calibration_error, reliability

__all__ = ["by_category", "calcification_seen", "compare_aucs", "less_calcification", "plot_reliability", "transfer"]

SOLID = 4  # the readers' mean rating of texture, 1 ground-glass to 5 solid


def compare_aucs(cohort: Cohort, scores: Array) -> dict[str, Any]:
    """The score against the longest in-plane diameter, for all nodules and for those of three readers or more."""
    longest = np.array([nodule.mean("longest") for nodule in cohort.nodules])
    many = np.array([len(nodule.outlines) >= MANY for nodule in cohort.nodules])
    axes_only = cohort.cross_validated([0, 1, 3])

    def compare(one: Array, part: Labels) -> dict[str, Any]:
        return _rounded(bootstrap(cohort.labels[part], one[part], longest[part], cohort.patients[part]))

    return {
        "all": compare(scores, many | ~many),
        "three_readers_or_more": compare(scores, many),
        "axes_only": compare(axes_only, many | ~many),
    }


def _rounded(paired: Paired) -> dict[str, Any]:
    return {
        key: [round(v, 4) for v in value] if isinstance(value, tuple) else round(value, 4)
        for key, value in paired._asdict().items()
    }


def less_calcification(cohort: Cohort) -> dict[str, float]:
    """The mean AUC over 20 draws, if only a share of the calcified nodules is seen to be calcified."""
    rng = np.random.default_rng(SEED)
    result = {}
    for share in (1.0, 0.8, 0.6, 0.4, 0.2, 0.0):
        values = []
        for _ in range(20):
            seen = cohort.rows.copy()
            seen[rng.random(len(seen)) >= share, 2] = 0
            values.append(auc(cohort.labels, cohort.cross_validated(seen=seen)))
        result[f"{share:g}"] = round(float(np.mean(values)), 4)
    return result


def transfer(measured: list[MeasuredCube], cohort: Cohort, model: TriageModel) -> dict[str, Any]:
    """Scores from PIVOT's measurements on images against scores from the outlines of the same nodules."""
    weights = {patient: cohort.weights_without(patient) for patient in {cube.nodule.patient for cube in measured}}
    pairs = [(cube.nodule, _both_scores(cube, weights[cube.nodule.patient], model)) for cube in measured]
    scored = [(nodule, *both) for nodule, both in pairs if both is not None]
    medians = np.array([nodule.malignancy for nodule, *_ in scored])
    means = np.array([nodule.mean_rating("malignancy") for nodule, *_ in scored])
    solid = np.array([nodule.mean_rating("texture") >= SOLID for nodule, *_ in scored])
    patients = np.array([nodule.patient for nodule, *_ in scored])
    ours, theirs = np.array([both for _, *both in scored]).T

    def compare(by: Array, part: Labels) -> dict[str, Any]:
        kept = part & (by != UNDECIDED)
        labels = by[kept] > UNDECIDED
        paired = _rounded(bootstrap(labels, ours[kept], theirs[kept], patients[kept]))
        return {"n": int(kept.sum()), "suspicious": int(labels.sum()), **paired}

    every = solid | ~solid
    return {
        "matched": len(measured),
        "scored": len(scored),
        "median_of_readers": compare(medians, every),
        "median_of_readers_solid_only": compare(medians, solid),
        "median_of_readers_subsolid_only": compare(medians, ~solid),
        "mean_of_readers": compare(means, every),
    }


def calcification_seen(measured: list[MeasuredCube]) -> dict[str, dict[str, float]]:
    """How calcified PIVOT takes nodules to be (0 to 1, the mean), by the share of readers who rated them calcified."""
    pairs = [(cube.nodule.mean("calcified"), cube.properties["mean_intensity"]) for cube in measured]
    readers, hu = np.array([(share, mean) for share, mean in pairs if mean is not None]).T
    seen = np.array([calcified_share(mean) for mean in hu])
    groups = {
        "none": readers == 0,
        "less_than_half": (readers > 0) & (readers < HALF),
        "half_or_more": (readers >= HALF) & (readers < 1),
        "all": readers == 1,
    }
    table = {
        name: {"nodules": int(part.sum()), "assumed": round(float(seen[part].mean()), 3)}
        for name, part in groups.items()
        if part.any()
    }
    return {**table, "auc_of_half_or_more": {"nodules": len(hu), "auc": round(auc(readers >= HALF, hu), 4)}}


def _both_scores(cube: MeasuredCube, weights: Array, model: TriageModel) -> tuple[float, float] | None:
    """The scores from PIVOT's measurements and from the outlines, by the weights fitted without the patient."""
    nodule, properties = cube.nodule, cube.properties
    unseen = model.model_copy(
        update=dict(zip(("log_long_axis", "log_short_axis", "calcified", "intercept"), weights.tolist(), strict=True))
    )
    ours = score(properties, properties["effective_diameter_mm"] or 0.0, unseen)["malignancy_score"]
    row = features(*(nodule.mean(measure) for measure in ("long_axis", "short_axis", "calcified")))
    return None if ours is None else (ours, float(expit(row @ weights)))


def by_category(labels: Labels, scores: Array, cutoffs: Cutoffs) -> dict[str, dict[str, float]]:
    """For each risk category: the number of nodules, and the share that readers find suspicious."""
    names = np.array([cutoffs.category(value) for value in scores])
    return {
        name: {"nodules": int((names == name).sum()), "suspicious": round(float(labels[names == name].mean()), 3)}
        for name in ("low", "intermediate", "high")
    }


def plot_reliability(path: Path, labels: Labels, before: Array, after: Array, method: str) -> None:
    """Draw the share of suspicious nodules against the mean score, before and after calibration, into a PNG."""
    figure = Figure(figsize=(5.2, 5.2), dpi=120, layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="#999999", linewidth=1, label="perfect")
    for name, scores, marker in (("before", before, "o"), (f"after ({method})", after, "s")):
        mean, share, _ = reliability(labels, scores).T
        axes.plot(mean, share, marker=marker, label=f"{name}, ECE {calibration_error(labels, scores):.3f}")
    axes.set(xlabel="mean score", ylabel="share rated above 3 by readers", xlim=(0, 1), ylim=(0, 1))
    axes.set_title("Triage score, cross-validated by patient\n(readers' visual rating, not pathology)", fontsize=10)
    axes.legend()
    save_png(figure, path)
