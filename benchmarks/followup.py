"""How well two examinations are compared: `python -m benchmarks.followup`.

Nodules of known growth are put into real scans and into copies of these in another breath, position and
noise. Detections are not the network's: every nodule is measured at its place, off by as much as a detector
is, so that this tells of registration, matching and growth, and in minutes. Copies share the anatomy and
half of the noise of their scan, which makes them easier to register than two true examinations.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from benchmarks.breathing import breathe, lung_places, noisy, random_breath
from src.data.geometry import RAS_TO_LPS, canonical, map_points, spacing_of
from src.data.loader import read_scan
from src.data.phantom import chest_phantom
from src.data.resample import resample
from src.files import whole_file
from src.followup.comparison import Comparison, Interval, compare
from src.followup.exam import Exam
from src.followup.registration import Points, register
from src.guidelines.patient import Patient
from src.measurement.nodule_properties import segment_and_measure
from src.train.chance import rotation
from src.train.crops import Crop, load_crops
from src.train.insertion import NoduleToInsert, insert, resample_crop, soft_outline
from src.types import Detection, Scan, Vec3

__all__ = ["Planted", "detections_at", "exam", "main"]

BACKGROUNDS = ("nlst-101287", "tcga-thca-a4ma", "covid-ct-md-normal001", "covid-ct-md-normal002")
GROWTH = (1.0, 1.0, 1.1, 1.15, 1.25, 1.4, 0.85)  # of diameters
MISPLACED, MISSIZED = 1.0, 0.15  # mm and log of diameters by which the first guess is off, SD
NOISE = 20.0  # HU
DAYS = 180
INTERVAL = Interval(days=DAYS, source="given", reason=None)
LANDMARKS = 300  # inside the lungs, for the registration alone
PERCENTILES = {"median": 50, "95th": 95, "max": 100}


class Planted(NamedTuple):
    """A nodule at an LPS point with its diameter in mm."""

    place: Points
    diameter: float
    crop: Crop | None  # None: an ellipsoid
    seed: int


def main() -> None:
    """Print the tables and write `followup.json`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="holds the crops and backgrounds/")
    parser.add_argument("--pairs", type=int, default=3, help="pairs of scans with nodules that grew")
    parser.add_argument("--repeats", type=int, default=20, help="scans of the same nodules with other noise")
    parser.add_argument("--nodules", type=int, default=14, help="in each scan")
    parser.add_argument("--output", type=Path, default=Path("results/followup"))
    parser.add_argument("--seed", type=int, default=2026)
    options = parser.parse_args()
    crops = [crop for crop in load_crops(options.data) if crop.texture == 5]
    paths = [options.data / "backgrounds" / f"{name}.nii.gz" for name in BACKGROUNDS[: options.pairs]]
    pairs = [_grown_pair(path, crops, options.nodules, options.seed + i) for i, path in enumerate(paths)]
    report = {"pairs": pairs, "repeats": _repeats(options.repeats, options.seed) if options.repeats else {}}
    with whole_file(options.output / "followup.json") as partial:
        partial.write_text(json.dumps(report, indent=2) + "\n")
    _print(report)


def _grown_pair(path: Path, crops: Sequence[Crop], count: int, seed: int) -> dict[str, Any]:
    """A scan with nodules against its second examination: they grew, the first is gone and the last is new."""
    rng = np.random.default_rng(seed)
    read = read_scan(path)
    scan = Scan(*resample(*canonical(read.array, read.affine), (1.0, 1.0, 1.0)), read.scan_id)
    breath = random_breath(rng, scan, depth=float(rng.uniform(15, 20)))
    places = lung_places(rng, scan, count + 1, 9.0, 40.0)
    planted = [
        Planted(place, float(rng.uniform(5, 14)), crops[int(rng.integers(len(crops)))] if i % 2 else None, seed + i)
        for i, place in enumerate(places)
    ]
    factors = np.resize(GROWTH, len(planted))
    grown = [
        one._replace(place=place, diameter=one.diameter * factor)
        for one, place, factor in zip(planted, breath.to_second(places), factors, strict=True)
    ]
    exams = exam(rng, scan, planted[:-1]), exam(rng, breathe(scan, breath), grown[1:])
    start = time.process_time()
    result = compare(*exams, INTERVAL, Patient())
    seconds = time.process_time() - start
    landmarks = lung_places(rng, scan, LANDMARKS, 3.0, 6.0)
    fit = register(exams[0].lungs, exams[1].lungs)
    errors = np.linalg.norm(fit.to_followup(landmarks) - breath.to_second(landmarks), axis=1)
    return {
        "scan": scan.scan_id,
        "breath_mm": round(breath.depth, 1),
        "target_error_mm": {name: round(float(np.percentile(errors, at)), 2) for name, at in PERCENTILES.items()},
        "registration": result["registration"],
        "seconds": round(seconds, 1),
        **_score(result, planted, factors),
    }


def _score(result: Comparison, planted: Sequence[Planted], factors: npt.NDArray[np.float64]) -> dict[str, Any]:
    """What was right; detection i of the baseline is nodule i, detection i of the follow-up nodule i + 1."""
    status = [one["status"] for one in result["nodules"]]
    pairs = [(one["baseline"], one["followup"], one["growth"]) for one in result["nodules"]]
    right = [(a["id"], growth) for a, b, growth in pairs if a and b and a["id"] is not None and a["id"] - 1 == b["id"]]
    changes = [
        (
            round(100 * (factors[index] ** 3 - 1), 1),
            growth["volume_change_percent"],
            growth["trend"],
            "real" if planted[index].crop else "ellipsoid",
        )
        for index, growth in right
        if growth and growth["volume_change_percent"] is not None
    ]
    return {
        "nodules": len(planted) - 2,
        "matched": len(right),
        "resolved": status.count("resolved"),
        "new": status.count("new"),
        "volume_changes_percent": changes,  # true, measured, trend, kind
    }


def exam(rng: np.random.Generator, scan: Scan, planted: Sequence[Planted], noise: float = NOISE) -> Exam:
    """The scan with its nodules and noise, and these measured where they are."""
    hu = np.array(scan.array, dtype=np.float32)
    back = np.linalg.inv(RAS_TO_LPS @ scan.affine)
    for one in planted:
        index = map_points(back, one.place)
        voxel = np.round(index).astype(np.intp)
        insert(hu, _nodule(one, index - voxel), voxel)
    noised = Scan(noisy(rng, hu, noise), scan.affine, scan.scan_id)
    return Exam(noised, detections_at(rng, noised, [(one.place, one.diameter) for one in planted]))


def _nodule(one: Planted, shift: Points) -> NoduleToInsert:
    """The nodule on a 1 mm grid, off the middle by a part of a voxel; the same seed turns it the same way."""
    rng = np.random.default_rng(one.seed)
    size = int(2 * np.ceil(0.9 * one.diameter + 4) + 1)
    matrix = rotation(rng)
    if one.crop:
        hu, mask = resample_crop(one.crop, matrix * (one.crop.diameter / one.diameter), shift, size)
        return NoduleToInsert(hu, soft_outline(mask), one.diameter)
    axes = np.array([1.15, 1.0, 1 / 1.15])
    grid = np.moveaxis(np.indices((size, size, size)), 0, -1) - (size - 1) / 2 - shift
    radius = np.linalg.norm(grid @ matrix / axes, axis=-1)
    weight = ndimage.gaussian_filter(np.clip(one.diameter / 2 - radius + 0.5, 0, 1), 0.5)
    return NoduleToInsert(np.full_like(weight, 30, np.float32), weight.astype(np.float32), one.diameter)


def detections_at(rng: np.random.Generator, scan: Scan, places: Sequence[tuple[Points, float]]) -> list[Detection]:
    """Nodules at LPS points with their diameters in mm, measured from a place and size as wrong as a detector's."""
    array, affine = canonical(scan.array, scan.affine)
    found = []
    for number, (place, diameter) in enumerate(places):
        guess = diameter * float(np.exp(rng.normal(0, MISSIZED)))
        off = place + rng.normal(0, MISPLACED, 3) / np.sqrt(3)
        here = map_points(np.linalg.inv(RAS_TO_LPS @ affine), off) * spacing_of(affine)
        given = map_points(np.linalg.inv(RAS_TO_LPS @ scan.affine), off) * scan.spacing
        properties, _ = segment_and_measure(array, _vec3(here), guess, spacing_of(affine))
        measured = properties["effective_diameter_mm"]
        voxel = np.round(given / scan.spacing).astype(int)
        found.append(
            Detection(
                id=number,
                coordinates=_vec3(given),
                coordinates_voxel=(int(voxel[0]), int(voxel[1]), int(voxel[2])),
                coordinates_lps=_vec3(off),
                peak_lps=_vec3(off),
                diameter_mm=guess if measured is None else measured,
                diameter_source="network" if measured is None else "segmentation",
                confidence=0.9,
                properties=properties,
                triage={"malignancy_score": None, "risk_category": None, "reason": "not asked for"},
            )
        )
    return found


def _vec3(values: Points) -> Vec3:
    x, y, z = (float(v) for v in values)
    return x, y, z


def _repeats(count: int, seed: int) -> dict[str, Any]:
    """The synthetic chest against itself with other noise, and a little moved: nothing grows."""
    scan, truth = chest_phantom(spacing=(1.0, 1.0, 1.25))
    rng = np.random.default_rng(seed)
    places = [(np.array(nodule.coordinates_lps), nodule.diameter_mm) for nodule in truth]
    baseline = _repeat(rng, scan, places)
    trends, changes, found = list[str](), list[float](), 0
    for _ in range(count):
        result = compare(baseline, _repeat(rng, scan, places), INTERVAL, Patient())
        found += result["summary"]["matched"]
        known = [one["growth"] for one in result["nodules"] if one["growth"] and one["growth"]["trend"]]
        trends += [str(growth["trend"]) for growth in known]
        changes += [growth["volume_change_percent"] or 0.0 for growth in known]
    return {
        "scans": count,
        "nodules": count * len(truth),
        "matched": found,
        "false_growth": trends.count("growing"),
        "false_shrinkage": trends.count("shrinking"),
        "volume_change_percent_95": round(float(np.percentile(np.abs(changes), 95)), 2),
    }


def _repeat(rng: np.random.Generator, scan: Scan, places: Sequence[tuple[Points, float]]) -> Exam:
    """The scan with noise of its own, on a table that stands elsewhere."""
    move = rng.uniform(-15, 15, 3)
    affine = scan.affine.copy()
    affine[:3, 3] += RAS_TO_LPS[:3, :3] @ move
    again = Scan(noisy(rng, scan.array.astype(np.float32), NOISE), affine, scan.scan_id)
    return Exam(again, detections_at(rng, again, [(place + move, diameter) for place, diameter in places]))


def _print(report: dict[str, Any]) -> None:
    if report["pairs"]:
        _print_pairs(report["pairs"])
    print("repeats:", report["repeats"])


def _print_pairs(pairs: Sequence[dict[str, Any]]) -> None:
    print(f"{'scan':24}{'breath':>8}{'method':>12}{'TRE mm: median':>16}{'95th':>7}{'max':>7}{'matched':>9}", end="")
    print(f"{'new':>5}{'resolved':>9}{'s':>6}")
    for pair in pairs:
        error, fit = pair["target_error_mm"], pair["registration"]
        print(f"{pair['scan']:24}{pair['breath_mm']:8.1f}{fit['method']:>12}{error['median']:16.2f}", end="")
        print(f"{error['95th']:7.2f}{error['max']:7.2f}{pair['matched']:6d}/{pair['nodules']:2d}", end="")
        print(f"{pair['new']:5d}{pair['resolved']:9d}{pair['seconds']:6.1f}")
    changes = [change for pair in pairs for change in pair["volume_changes_percent"]]
    print("volume change against the truth, points:")
    for kind in ("ellipsoid", "real"):
        errors = np.array([measured - true for true, measured, _, what in changes if what == kind])
        within = 100 * float(np.mean(np.abs(errors) <= 10))
        print(f"  {kind} (n {len(errors)}): median error {np.median(errors):+.1f}, {within:.0f} % within 10", end="")
        print(f", 95 % within {np.percentile(np.abs(errors), 95):.1f}")
    for truth in sorted({true for true, *_ in changes}):
        part = [(measured, str(trend)) for true, measured, trend, _ in changes if true == truth]  # a trend may be None
        trends = ", ".join(f"{name} {sum(trend == name for _, trend in part)}" for name in sorted({t for _, t in part}))
        print(f"  true {truth:+6.1f} %: measured {np.mean([m for m, _ in part]):+6.1f} % (n {len(part)}; {trends})")


if __name__ == "__main__":
    main()
