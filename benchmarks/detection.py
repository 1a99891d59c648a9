"""Detection on patients and scans that training never saw: `python -m benchmarks.detection`.

(a) The nodules of the held-out subset of LUNA16, each in its own surroundings (a cube of 50 mm, mirrored beyond its
ends). A nodule is found if a mark's distance to its centre is less than half its diameter.
(b) False marks on whole scans that training never saw. In two of them four readers outlined no nodule; the third was
read for infections only.
Both together give a FROC curve by LUNA16's rules, except that the false marks come from other scans. The command also
prints the false marks in a litre of the cubes' tissue, where four readers found nothing else, and the reliability of
the confidence, with false marks weighted as if there were as many scans as patients. No mark is excluded. Marks are
the nodules, masses and candidates of the default configuration.

`--record FILE` writes a copy of the checkpoint with the measured operating points and the fitted probability. Reports
take `metadata.expected` and `nodule_probability` from them.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import expit, logit

from benchmarks.planted import DEFAULT, TO_LPS
from src.data.loader import read_scan
from src.detection.pipeline import InferencePipeline
from src.eval.froc import RATES, Sweep, band, by_nodules, draws_of
from src.eval.matching import Matched
from src.files import whole_file, writable_folder
from src.model.checkpoint import Checkpoint, save_checkpoint
from src.model.validation import Validation
from src.train.config import load_train_config
from src.train.crops import Crop
from src.train.cubes import load_cubes
from src.train.triage.statistics import Labels, calibration_error, fit_logistic, folds_by_group, reliability
from src.triage.model import Array
from src.types import Scan

__all__ = ["Found", "add_data", "figures", "main"]

MIRRORED = 23  # voxels on each side of a cube
REPEATS = 1000  # draws of patients
READ = ("lidc-idri-0646", "lidc-idri-0745")  # read by four: no nodule
SCANS = (*READ, "covid-ct-md-normal002")  # never trained on
THRESHOLDS = np.arange(2, 19) / 20  # of the operating points: 0.1 to 0.9
SHOWN = 4  # strongest false marks of each scan in the report
SIZES = (3, 4, 6, 8, 10, 15, 100)  # mm
GROUPS: dict[str, Callable[[Crop], bool]] = {
    **{
        f"{low} to {high} mm": lambda crop, low=low, high=high: low <= (crop.luna_diameter or 0) < high  # type: ignore[misc]
        for low, high in pairwise(SIZES)
    },
    "ground-glass (texture <= 2)": lambda crop: crop.texture <= 2,
    "part-solid": lambda crop: 2 < crop.texture < 4,
    "solid (texture >= 4)": lambda crop: crop.texture >= 4,
    "slices up to 1.25 mm": lambda crop: (crop.slice_spacing or 0) <= 1.25,
    "thicker slices": lambda crop: (crop.slice_spacing or 0) > 1.25,
    "with contrast": lambda crop: bool(crop.contrast),
    "without contrast": lambda crop: not crop.contrast,
}


class Found(NamedTuple):
    """The detector's answers for the held-out nodules and scans."""

    nodules: list[Crop]
    best: npt.NDArray[np.float64]  # (nodules,) confidence of the strongest mark that hits, -inf without one
    beside: list[npt.NDArray[np.float64]]  # of each nodule, the confidences of false marks in its cube
    litres: float  # of tissue in the cubes
    scans: dict[str, list[dict[str, Any]]]  # of each scan, its marks


def main() -> None:
    """Run both parts, print their tables, and write the report into the output folder."""
    options = _options()
    start = time.perf_counter()
    settings: dict[str, Any] = {"inference": {"speed": options.speed}}
    if options.threshold is not None:
        settings["post_processing"] = {"peak_detection": {"threshold": options.threshold}}
    pipeline = InferencePipeline(options.checkpoint, settings)
    config = load_train_config(options.config)
    cubes = [cube for cube in load_cubes(options.data) if cube.subset == config.cubes_validation_subset]
    found = _found(pipeline, cubes, options.data)
    about = pipeline.checkpoint
    report = {
        "model": f"{about.about.name} {about.sha256[:12]}",
        "speed": pipeline.config.inference.speed,
        **figures(found),
        "scans": {name: marks[:SHOWN] for name, marks in found.scans.items()},
        "nodules": [
            {
                "id": cube.crop_id,
                "diameter_mm": cube.luna_diameter,
                "texture": cube.texture,
                "confidence": _number(best),
            }
            for cube, best in zip(found.nodules, found.best, strict=True)
        ],
        "seconds": round(time.perf_counter() - start),
    }
    with whole_file(writable_folder(options.output) / "detection.json") as partial:
        partial.write_text(json.dumps(report, indent=2, allow_nan=False) + "\n")
    _print(report)
    if options.record:
        _record(about, report, options.record)


def add_data(parser: argparse.ArgumentParser) -> None:
    """Add the options that name the nodules and scans."""
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="holds the cubes and backgrounds/")
    parser.add_argument(
        "--config", type=Path, default=Path("configs/train_cubes.yaml"), help="names the held-out subset"
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add_data(parser)
    parser.add_argument("--checkpoint", type=Path, help="default: the shipped weights")
    parser.add_argument("--speed", default="auto", choices=("auto", "accurate", "balanced", "fast"), help="%(default)s")
    parser.add_argument("--threshold", type=float, help="default: 0.5; marks below it are listed, not measured")
    parser.add_argument("--output", type=Path, default=Path("results/detection"))
    parser.add_argument("--record", type=Path, help="a copy of the checkpoint with the measured operating points")
    return parser.parse_args()


def _found(pipeline: InferencePipeline, cubes: Sequence[Crop], data: Path) -> Found:
    best, beside = zip(*(_in_cube(pipeline, cube) for cube in cubes), strict=True)
    litres = sum(float((cube.hu < -500).sum()) for cube in cubes) / 1e6  # aerated
    scans = {}
    for name in SCANS:
        scans[name] = _marks(pipeline, read_scan(data / "backgrounds" / f"{name}.nii.gz"))
        print(f"{name}: {len(scans[name])} marks", flush=True)
    return Found(list(cubes), np.array(best), list(beside), litres, scans)


def _marks(pipeline: InferencePipeline, scan: Scan) -> list[dict[str, Any]]:
    """All marks of a report, of any confidence and size."""
    results = pipeline.predict(scan)
    every = [*results["detections"], *results["masses"], *results["candidates"]]
    return [{key: mark[key] for key in ("confidence", "coordinates_lps", "diameter_mm")} for mark in every]


def _in_cube(pipeline: InferencePipeline, cube: Crop) -> tuple[float, npt.NDArray[np.float64]]:
    """The confidence of the strongest hit of the cube's nodule, and those of the false marks in the cube."""
    hu = np.pad(cube.hu, MIRRORED, mode="reflect")
    marks = _marks(pipeline, Scan(hu, TO_LPS, cube.crop_id))
    points = np.array([mark["coordinates_lps"] for mark in marks], dtype=np.float64).reshape(-1, 3) - MIRRORED
    confidence = np.array([mark["confidence"] for mark in marks])
    hits = np.linalg.norm(points - cube.centre, axis=1) < (cube.luna_diameter or 0) / 2
    return float(confidence[hits].max(initial=-np.inf)), confidence[cube.certainly_false(points) & ~hits]


def figures(found: Found) -> dict[str, Any]:
    """The curve of all nodules against all scans, by groups of nodules, and the figures at the default threshold."""
    sweep = _sweep(found.best, found.scans)
    curve = sweep.curve()
    owners = [cube.patient for cube in found.nodules]
    drawn = by_nodules(sweep, RATES, REPEATS, 0, owners)
    low, high = band(np.column_stack([drawn, drawn.mean(axis=1)]))
    limits = {rate: curve.threshold_at(rate) for rate in (1.0, 4.0)}
    read = {name: found.scans[name] for name in READ}
    groups = {}
    for name, belongs in GROUPS.items():
        chosen = np.array([belongs(cube) for cube in found.nodules])
        best = found.best[chosen]
        if len(best):
            groups[name] = {"nodules": len(best), **_shares(best, limits)}
    return {
        "nodules_of_patients": [len(found.nodules), len(set(owners))],
        "cpm": float(curve.at(RATES).mean()),
        "cpm_ci95": [float(low[-1]), float(high[-1])],
        "sensitivity": {f"{rate:g}": float(value) for rate, value in zip(RATES, curve.at(RATES), strict=True)},
        "sensitivity_ci95": {
            f"{rate:g}": [float(a), float(b)] for rate, a, b in zip(RATES, low[:-1], high[:-1], strict=True)
        },
        "without_the_strongest_false_mark_of_each_scan": {
            f"{rate:g}": float(value)
            for rate, value in zip(RATES, _sweep(found.best, _without_strongest(found)).curve().at(RATES), strict=True)
        },
        "against_the_scans_that_four_readers_read": {
            f"{rate:g}": float(value)
            for rate, value in zip(RATES, _sweep(found.best, read).curve().at(RATES), strict=True)
        },
        "operating_points": _operating_points(found, owners),
        **calibration(found, owners),
        "by_group": {"all": {"nodules": len(found.best), **_shares(found.best, limits)}, **groups},
        "false_marks": {
            "a_scan_at_the_default_threshold": {
                name: sum(mark["confidence"] >= DEFAULT for mark in marks) for name, marks in found.scans.items()
            },
            "a_litre_of_the_cubes_aerated_tissue": {
                f"{limit:g}": float(sum((beside >= limit).sum() for beside in found.beside) / found.litres)
                for limit in (DEFAULT, *limits.values())
            },
        },
    }


def _operating_points(found: Found, owners: Sequence[str]) -> list[dict[str, Any]]:
    """Sensitivity, with its interval over patients, and false marks a scan at each threshold."""
    hits = found.best[:, None] >= THRESHOLDS
    low, high = band(np.array([weights @ hits / weights.sum() for weights in draws_of(owners, REPEATS, 0)]))
    false = np.array([mark["confidence"] for marks in found.scans.values() for mark in marks])
    return [
        {
            "threshold": float(threshold),
            "sensitivity": round(float(share), 3),
            "sensitivity_ci95": [round(float(a), 3), round(float(b), 3)],
            "false_marks_per_scan": round(float((false >= threshold).sum() / len(found.scans)), 2),
        }
        for threshold, share, a, b in zip(THRESHOLDS, hits.mean(axis=0), low, high, strict=True)
    ]


def calibration(found: Found, owners: Sequence[str]) -> dict[str, Any]:
    """How reliable the confidence is, and the probability of a nodule that is fitted to it.

    False marks are weighted as if there were as many scans as patients. The probability is a logistic function of the
    confidence's logit. For its reliability it is fitted on two thirds of the patients and on two of the scans, and
    applied to the others.
    """
    marks = [mark for marks in found.scans.values() for mark in marks]
    hit = np.isfinite(found.best)
    patients, scans = len(set(owners)), len(found.scans)
    confidence = np.concatenate([found.best[hit], [mark["confidence"] for mark in marks]])
    counts = np.concatenate([np.ones(hit.sum()), np.full(len(marks), patients / scans)])
    nodule = np.arange(len(confidence)) < hit.sum()
    thirds = folds_by_group(np.array(owners), scans, 0)[hit]
    fold = np.concatenate([thirds, np.repeat(np.arange(scans), [len(marks) for marks in found.scans.values()])])

    rows = np.column_stack([logit(confidence), np.ones(len(confidence))])
    probability = np.empty(len(confidence))
    for left_out in range(scans):
        used = fold != left_out
        weights = fit_logistic(rows[used], nodule[used], counts=counts[used])
        probability[~used] = expit(rows[~used] @ weights)
    slope, offset = fit_logistic(rows, nodule, counts=counts)
    return {
        "reliability": _reliability(confidence, nodule, counts),
        "probability": {"slope": round(float(slope), 4), "offset": round(float(offset), 4)},
        "reliability_of_the_probability": _reliability(probability, nodule, counts),
    }


def _reliability(score: Array, nodule: Labels, counts: Array) -> dict[str, Any]:
    """The share of nodules among marks of each score, with the weighted number of marks, and the mean error."""
    keys = ("score", "nodules", "marks")
    bins = [dict(zip(keys, map(float, row), strict=True)) for row in reliability(nodule, score, counts=counts)]
    return {"expected_calibration_error": calibration_error(nodule, score, counts=counts), "bins": bins}


def _record(measured: Checkpoint, report: dict[str, Any], path: Path) -> None:
    """A copy of the checkpoint with its validation."""
    nodules, patients = report["nodules_of_patients"]
    validation = Validation(
        of=f"{nodules} nodules of {patients} LUNA16 patients who were kept out of training",
        points=report["operating_points"],
        probability=report["probability"],
    )
    about = measured.about.model_copy(update={"validation": validation})
    save_checkpoint(path, measured.model.state_dict(), about)


def _sweep(best: npt.NDArray[np.float64], scans: dict[str, list[dict[str, Any]]]) -> Sweep:
    counts = [len(marks) for marks in scans.values()]
    false = np.array([mark["confidence"] for marks in scans.values() for mark in marks])
    matched = Matched(best, np.zeros(len(best), dtype=np.intp), false, np.repeat(np.arange(len(scans)), counts), {})
    return Sweep(matched, len(scans))


def _without_strongest(found: Found) -> dict[str, list[dict[str, Any]]]:
    return {name: sorted(marks, key=lambda mark: -mark["confidence"])[1:] for name, marks in found.scans.items()}


def _shares(best: npt.NDArray[np.float64], limits: dict[float, float]) -> dict[str, float]:
    at_rates = {f"at_{rate:g}_a_scan": float((best >= limit).mean()) for rate, limit in limits.items()}
    return {**at_rates, "at_the_default_threshold": float((best >= DEFAULT).mean())}


def _number(value: float) -> float | None:
    return round(float(value), 4) if np.isfinite(value) else None


def _print(report: dict[str, Any]) -> None:
    nodules, patients = report["nodules_of_patients"]
    low, high = report["cpm_ci95"]
    print(f"\n{report['model']}, {report['seconds']} s: {nodules} nodules of {patients} patients, {len(SCANS)} scans")
    print(f"CPM {report['cpm']:.3f} (95 % interval over patients {low:.3f} to {high:.3f})")
    print("false marks a scan      " + "".join(f"{rate:>8}" for rate in report["sensitivity"]))
    print("sensitivity             " + "".join(f"{value:8.3f}" for value in report["sensitivity"].values()))
    read = report["against_the_scans_that_four_readers_read"]
    print("against the read scans  " + "".join(f"{value:8.3f}" for value in read.values()))
    for name, value in report["sensitivity_ci95"].items():
        print(f"  at {name}: {value[0]:.3f} to {value[1]:.3f}")
    without = report["without_the_strongest_false_mark_of_each_scan"]
    print("without the strongest   " + "".join(f"{value:8.3f}" for value in without.values()))
    for point in report["operating_points"][::2]:
        a, b = point["sensitivity_ci95"]
        print(
            f"threshold {point['threshold']:.2f}: sensitivity {point['sensitivity']:.3f} ({a:.3f} to {b:.3f}), "
            f"{point['false_marks_per_scan']:.2f} false marks a scan"
        )
    errors = (report[name]["expected_calibration_error"] for name in ("reliability", "reliability_of_the_probability"))
    print("expected calibration error of the confidence {:.3f}, of the probability {:.3f}".format(*errors))
    for name, group in report["by_group"].items():
        values = (group[key] for key in ("at_1_a_scan", "at_4_a_scan", "at_the_default_threshold"))
        print(f"{name:30} {group['nodules']:4}" + "".join(f"{value:8.3f}" for value in values))
    for name, count in report["false_marks"].items():
        print(f"false marks {name.replace('_', ' ')}: {count}")


if __name__ == "__main__":
    main()
