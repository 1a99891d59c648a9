"""Detection of nodules planted into a scan: `python -m benchmarks.planted`. Training saw neither.

Nodules of the held-out patients are put at seeded places into copies of the held-out scan. Half of
them lie anywhere in the lungs; half touch the border of the aerated lung (pleura, mediastinum, large
vessels). The copies go through `InferencePipeline` with a low threshold. `src.eval` evaluates the
written files, so its command gives the same figures.
"""

import argparse
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from src.config import PeakDetection
from src.data.loader import read_scan
from src.detection.pipeline import InferencePipeline
from src.errors import BadConfig
from src.eval.evaluation import Evaluation, evaluate
from src.eval.matching import Matched, match
from src.eval.output import row, save, table
from src.eval.reports import read_reports
from src.eval.tables import FindingTable, MarkTable, read_findings
from src.files import whole_file
from src.results.output_formatter import load_report
from src.train.chance import orientation
from src.train.config import load_train_config
from src.train.crops import Crop, load_crops, split_by_patient
from src.train.insertion import LUNG_HU, NoduleToInsert, insert, resample_crop, soft_outline
from src.train.scans import LungScan
from src.train.sources import load_background
from src.train.targets import Points
from src.types import Results, Scan

__all__ = [
    "DEFAULT",
    "TO_LPS",
    "Lung",
    "add_copies",
    "add_data",
    "evaluate_copies",
    "held_out",
    "low_threshold",
    "main",
    "match_one",
    "plant",
    "predict_copies",
]

LOW = 0.1  # the lowest confidence on the curve, which must reach 8 false marks a scan
DEFAULT = PeakDetection().threshold
ANY = 1000  # mm; reports leave out nodules that are measured larger, but the detector found them
TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])  # the affine (RAS+) of a 1 mm grid where indices are LPS points
MIRRORED = 40  # voxels on each side of a crop
GAP = 15.0  # mm between the surfaces of two nodules
TRIES = 1000  # places that are tried for a nodule
TOUCH = 1.0  # mm from the surface of a bordering nodule to the border
MIXED = (0.25, 0.5)  # the nodule's share in the mixture with lung that makes ground-glass
PLACES = ("anywhere", "border")


class Planted(NamedTuple):
    """A nodule in a copy: its centre (LPS, mm), its patient, and its properties."""

    centre: Points
    crop: Crop
    kind: str
    place: str


def _as_it_is(hu: npt.NDArray[np.int16], name: str) -> Scan:
    return Scan(hu, TO_LPS, name)


def main() -> None:
    """Run the parts in turn, print their tables and write everything into the output folder."""
    options = _options()
    start = time.perf_counter()
    pipeline = InferencePipeline(options.checkpoint, low_threshold(_tta(options.tta)))
    background, crops = held_out(options)
    name = background.name
    series, places = predict_copies(pipeline, background, crops, options.output, options.copies, options.seed)
    marks, nodules, unsure = _read_copies(options.output, series)
    result = evaluate(marks, nodules, len(series), unsure)
    of_places = evaluate(marks, nodules._replace(kind=places), len(series), unsure, bootstraps=0)
    strict = evaluate(marks, nodules, len(series), bootstraps=0)
    save(result, options.output)
    about = pipeline.checkpoint
    report = {
        "model": f"{about.about.name} {about.sha256[:12]}",
        "tta": options.tta,
        "validation_background": name,
        "seed": options.seed,
        "planted": result.figures,
        "planted_by_place": of_places.figures["by_type"],
        "planted_with_unsure_marks_as_false": strict.figures,
        "sizes": _sizes(options.output, series),
        "planted_at_default_threshold": _at_default(result, len(series)),
        "crops": _crops(pipeline, crops, result),
        "backgrounds": list(_backgrounds(options, name)),
        "seconds": round(time.perf_counter() - start),
    }
    with whole_file(options.output / "planted.json") as partial:
        partial.write_text(json.dumps(report, indent=2, allow_nan=False) + "\n")
    _print(report)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add_data(parser)
    add_copies(parser)
    parser.add_argument("--output", type=Path, default=Path("results/planted"))
    parser.add_argument("--tta", type=int, default=1, metavar="VIEWS", help="test-time augmentation (default: none)")
    parser.add_argument("--held-out-only", action="store_true", help="leave out the scans that were trained on")
    return parser.parse_args()


def add_data(parser: argparse.ArgumentParser) -> None:
    """Add the options of `held_out`."""
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="holds the crops and backgrounds/")
    parser.add_argument("--config", type=Path, default=Path("configs/train.yaml"), help="names the held-out scan")


def add_copies(parser: argparse.ArgumentParser) -> None:
    """Add the options of the copies and of the detector."""
    parser.add_argument("--checkpoint", type=Path, help="default: the shipped weights")
    parser.add_argument("--copies", type=int, default=4)
    parser.add_argument("--seed", type=int, default=2026)


def held_out(options: argparse.Namespace) -> tuple[LungScan, list[Crop]]:
    """The held-out scan and nodules."""
    config = load_train_config(options.config).model_copy(update={"data": options.data})
    return load_background(config, config.validation_background or ""), split_by_patient(load_crops(options.data))[1]


def low_threshold(inference: dict[str, Any]) -> dict[str, Any]:
    """The default configuration with this section `inference`, low thresholds, and no limits of size."""
    return {
        "inference": inference,
        "post_processing": {
            "peak_detection": {"threshold": LOW},
            "confidence_filter": {"min_confidence": LOW},
            "size_filter": {"min_diameter": 0, "max_diameter": ANY},
        },
    }


def _tta(views: int) -> dict[str, Any]:
    return {"tta": {"enabled": views > 1, "num_augmentations": views}}


def predict_copies(
    pipeline: InferencePipeline,
    background: LungScan,
    crops: Sequence[Crop],
    folder: Path,
    copies: int,
    seed: int,
    scanned: Callable[[npt.NDArray[np.int16], str], Scan] = _as_it_is,
) -> tuple[list[str], tuple[str, ...]]:
    """The ids of the copies, and the places of their nodules. Detections and truth are written into the folder.

    `scanned` makes a scan from a copy's HU on the 1 mm grid of `TO_LPS` and its name.
    """
    rows, series, places = ["seriesuid,coordX,coordY,coordZ,diameter_mm,nodule_type,patient"], list[str](), list[str]()
    unsure = [rows[0].removesuffix(",nodule_type,patient")]
    lung = Lung(background)
    for copy in range(copies):
        name = f"copy{copy}"
        hu, planted = plant(np.random.default_rng([seed, copy]), copy, background, lung, crops)
        results = pipeline.predict(scanned(hu, name))
        pipeline.save_detections(results, folder / "predictions" / f"{name}_detections.json")
        print(
            f"{name}: {results['summary']['processing_time_seconds']:.0f} s, {len(results['detections'])} marks",
            flush=True,
        )
        series.append(name)
        places += [nodule.place for nodule in planted]
        for nodule in planted:
            point = ",".join(f"{v:.2f}" for v in nodule.centre)
            what = f"{nodule.crop.diameter:.2f},{nodule.kind},{nodule.crop.patient}"
            rows.append(f"{name},{point},{what}")
        unsure += [f"{name},{','.join(f'{v:.1f}' for v in centre)},{size:g}" for centre, size in background.excluded]
    for file, lines in (("annotations.csv", rows), ("excluded.csv", unsure), ("seriesuids.csv", series)):
        with whole_file(folder / file) as partial:
            partial.write_text("\n".join(lines) + "\n")
    return series, tuple(places)


def _read_copies(folder: Path, series: Sequence[str]) -> tuple[MarkTable, FindingTable, FindingTable]:
    """The files of `predict_copies`: the marks, the nodules, and the places that count neither way."""
    nodules, unsure = (read_findings(folder / f"{name}.csv", series) for name in ("annotations", "excluded"))
    return read_reports(folder / "predictions", series), nodules, unsure


def evaluate_copies(folder: Path, series: Sequence[str]) -> Evaluation:
    """The evaluation of the files of `predict_copies`, without intervals."""
    marks, nodules, unsure = _read_copies(folder, series)
    return evaluate(marks, nodules, len(series), unsure, bootstraps=0)


class Lung:
    """The possible places of nodules: voxels of aerated lung (n, 3) and their depths below its surface (n,) in mm."""

    def __init__(self, background: LungScan) -> None:
        self.points, self.shape = background.lung, background.hu.shape
        mask = np.zeros(self.shape, dtype=bool)
        mask[tuple(self.points.T)] = True
        self.depth = ndimage.distance_transform_edt(mask)[tuple(self.points.T)]

    def free_place(
        self, rng: np.random.Generator, diameter: float, place: str, planted: Sequence[Planted]
    ) -> npt.NDArray[np.intp]:
        """A voxel for a nodule, inside the scan and away from the nodules already there."""
        radius = diameter / 2
        fits = ((self.points >= radius) & (self.points < np.array(self.shape) - radius)).all(axis=1)
        if place == "border":
            fits &= np.abs(self.depth - radius) < TOUCH
        choices = self.points[fits]
        drawn = choices[rng.integers(len(choices), size=TRIES)].astype(np.intp)
        free = np.ones(TRIES, dtype=bool)
        for other in planted:
            free &= np.linalg.norm(drawn - other.centre, axis=1) > radius + other.crop.diameter / 2 + GAP
        if not free.any():
            msg = f"no room is left for a nodule of {diameter:.0f} mm beside {len(planted)} others"
            raise BadConfig(msg)
        voxel: npt.NDArray[np.intp] = drawn[free.argmax()]
        return voxel


def plant(
    rng: np.random.Generator, copy: int, background: LungScan, lung: Lung, crops: Sequence[Crop]
) -> tuple[npt.NDArray[np.int16], list[Planted]]:
    """A copy of the scan with the nodule of every crop. In one copy of four it is mixed to ground-glass."""
    hu, planted = background.hu.astype(np.float32), list[Planted]()
    order = sorted(enumerate(crops), key=lambda item: -item[1].diameter)  # while there is room
    for index, crop in order:
        place = PLACES[(index + copy) % 2]
        mixed = (index // 2 + copy) % 4 == 3 and crop.texture > 1  # texture 1 is ground-glass already
        nodule, shift = _nodule(rng, crop, mixed=mixed)
        while not insert(hu, nodule, voxel := lung.free_place(rng, crop.diameter, place, planted)):
            pass  # it would hardly be visible
        kind = "ground-glass (mixed)" if mixed else _kind(crop)
        planted.append(Planted(voxel + shift, crop, kind, place))
    return np.round(hu).astype(np.int16), planted


def _nodule(rng: np.random.Generator, crop: Crop, *, mixed: bool) -> tuple[NoduleToInsert, Points]:
    """The crop's nodule at its own size in one of 48 orientations, and its offset from the middle voxel.

    It is moved by whole voxels only, because resampling would make it fainter and softer than a real one.
    """
    size = int(2 * np.ceil(0.9 * crop.diameter + 3) + 1)
    turned = orientation(rng)
    shift = (crop.centre - np.round(crop.centre)) @ turned
    hu, mask = resample_crop(crop, turned, shift, size)
    if mixed:
        hu = (LUNG_HU + (hu - LUNG_HU) * rng.uniform(*MIXED)).astype(np.float32)
    return NoduleToInsert(hu, soft_outline(mask), crop.diameter), shift


def _kind(crop: Crop) -> str:
    """The group of LIDC's texture: 1 is non-solid, 5 is solid, and the rest is mixed."""
    return {1: "ground-glass", 5: "solid"}.get(round(crop.texture), "part-solid")


def _at_default(result: Evaluation, scans: int) -> dict[str, float]:
    found, false = result.matched.best >= DEFAULT, result.matched.false >= DEFAULT
    return {"threshold": DEFAULT, "sensitivity": float(found.mean()), "false_per_scan": float(false.sum() / scans)}


def _sizes(folder: Path, series: Sequence[str]) -> dict[str, int]:
    """The number of marks with a diameter from a segmentation, and with one from the network."""
    reports = (load_report(folder / "predictions" / f"{name}_detections.json") for name in series)
    return dict(Counter(mark["diameter_source"] for report in reports for mark in report["detections"]))


def _crops(pipeline: InferencePipeline, crops: Sequence[Crop], result: Evaluation) -> dict[str, float]:
    """The share of held-out nodules found in their own surroundings, at thresholds taken from the copies."""
    best = np.array([_strongest_hit(pipeline, crop) for crop in crops])
    limits = {f"at_{rate:g}_a_scan": result.curve.threshold_at(rate) for rate in (1.0, 4.0)}
    limits["at_default_threshold"] = DEFAULT
    shares = {name: float((best >= limit).mean()) for name, limit in limits.items()}
    return {"nodules": len(crops), **shares, "marked_at_all": float(np.isfinite(best).mean())}


def _strongest_hit(pipeline: InferencePipeline, crop: Crop) -> float:
    # Mirrored beyond the crop's ends, so that no border is near.
    hu = np.pad(crop.hu, MIRRORED, mode="reflect")
    found = pipeline.predict(Scan(hu, TO_LPS, crop.crop_id))
    return float(match_one(found, crop.centre + MIRRORED, crop.diameter).best[0])


def match_one(results: Results, centre: Points, diameter: float) -> Matched:
    """The marks of a scan with one nodule, at a point (LPS, mm)."""
    found = results["detections"]
    points = np.array([mark["coordinates_lps"] for mark in found], dtype=np.float64).reshape(-1, 3)
    marks = MarkTable(np.zeros(len(found), dtype=np.intp), points, np.array([mark["confidence"] for mark in found]))
    return match(marks, FindingTable(np.zeros(1, dtype=np.intp), centre[None], np.array([diameter])))


def _backgrounds(options: argparse.Namespace, held_out: str) -> Iterator[dict[str, Any]]:
    """The marks of the default configuration on the unchanged scans, which nobody has read for nodules."""
    pipeline = InferencePipeline(options.checkpoint, {"inference": _tta(options.tta)})
    for path in sorted((options.data / "backgrounds").glob("*.nii.gz")):
        scan = read_scan(path)
        if scan.scan_id != held_out and options.held_out_only:
            continue
        confidence = [mark["confidence"] for mark in pipeline.predict(scan)["detections"]]
        yield {"scan": scan.scan_id, "trained_on": scan.scan_id != held_out, "confidence": confidence}


def _print(report: dict[str, Any]) -> None:
    default = report["planted_at_default_threshold"]
    print(f"\n{report['model']}, {report['tta']} view(s), {report['seconds']} s")
    print("Held-out nodules in copies of one held-out scan: the interval over scans says little, see the other one")
    print(table(report["planted"]))
    print(row("with unsure marks as false", report["planted_with_unsure_marks_as_false"]))
    for name, group in report["planted_by_place"].items():
        print(row(name, group))
    print(
        f"at the default threshold of {default['threshold']:g}: sensitivity {default['sensitivity']:.3f}, "
        f"{default['false_per_scan']:.2f} false marks a scan"
    )
    print("Where the diameters of the marks are from: " + ", ".join(f"{k} {v}" for k, v in report["sizes"].items()))
    print(
        "Held-out nodules in their own surroundings: " + ", ".join(f"{k} {v:.3g}" for k, v in report["crops"].items())
    )
    for scan in report["backgrounds"]:
        known = "trained on" if scan["trained_on"] else "held out"
        print(f"{scan['scan']} ({known}): {len(scan['confidence'])} marks")


if __name__ == "__main__":
    main()
