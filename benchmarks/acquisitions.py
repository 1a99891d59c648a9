"""Whether one nodule stays one nodule on other slices: `python -m benchmarks.acquisitions`.

Each synthetic nodule of known volume and type is shown in thin, thick, overlapping and gapped slices, by three kernels
and at two doses, and measured from a place and size as wrong as a detector's. Pairs of these are compared as two
examinations, between which nothing grew. Then cores of 2 to 12 mm in ground-glass of 10 to 30 mm are typed.
"""

import argparse
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from src.files import whole_file
from src.followup.growth import grown
from src.guidelines.lung_rads import lung_rads
from src.guidelines.nodule import SizedNodule, as_nodule
from src.guidelines.patient import Patient
from src.measurement.nodule_properties import segment_and_measure
from src.types import Acquisition, NoduleType, Properties, Vec3
from tests.synthetic_nodules import Case, Setting, draw_case, misplaced

__all__ = ["main"]

FINE = 0.5  # mm, of which all slices are means
KERNELS = {"sharp": 0.8, "medium": 1.1, "smooth": 1.5}  # mm, FWHM
SIZES = (6.0, 10.0, 20.0)  # mm
SETTINGS: tuple[Setting, ...] = ("isolated", "vessel beside", "vessel feeding")
GROUND_GLASS, SOLID = -600.0, 30.0  # HU
CORE = 0.5  # of the diameter of a part-solid nodule
WHOLES, CORES = (10.0, 20.0, 30.0), (2.0, 4.0, 6.0, 8.0, 12.0)  # mm
THIN_ENOUGH = 0.5  # of the diameter: thicker slices hardly show a nodule's shape
SCREENED = Patient(setting="screening", prior_ct=False)


class Slices(NamedTuple):
    """How a scanner shows a nodule: slices of so many mm, so far apart, by a kernel, with noise in HU."""

    thickness: float
    apart: float
    kernel: str = "medium"
    noise: float = 20.0


ACQUISITIONS = (
    *(Slices(t, t) for t in (0.5, 1.0, 2.0, 2.5, 3.0, 5.0)),
    *(Slices(t, a) for t, a in ((2.5, 1.0), (5.0, 2.5))),  # overlapping
    Slices(1.0, 2.5),  # with gaps
    *(Slices(t, t, kernel) for t in (1.0, 2.5) for kernel in ("sharp", "smooth")),
    Slices(1.0, 1.0, noise=50.0),
)


class Shown(NamedTuple):
    """A nodule in one acquisition: how it was shown, what was measured, and the voxel sides."""

    how: Slices
    found: Properties
    spacing: Vec3


def main() -> None:
    """Print the figures and write them into the output folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--parts", nargs="+", choices=("spacing", "types"), default=["spacing", "types"])
    parser.add_argument("--output", type=Path, default=Path("results/acquisitions"))
    parser.add_argument("--seed", type=int, default=2026)
    options = parser.parse_args()
    report: dict[str, Any] = {}
    if "spacing" in options.parts:
        report["spacing"] = _spacing(options.pairs, options.seed)
    if "types" in options.parts:
        report["types"] = _types()
    with whole_file(options.output / "acquisitions.json") as partial:
        partial.write_text(json.dumps(report, indent=2, allow_nan=False) + "\n")


def _shown(case: Case, acquisitions: Sequence[Slices]) -> Iterator[Shown]:
    """A nodule in each of the acquisitions."""
    drawn = {
        kernel: draw_case(replace(case, spacing=(0.7, 0.7, FINE), blur_fwhm=KERNELS[kernel], noise_sd=0.0))
        for kernel in {how.kernel for how in acquisitions}
    }
    for number, how in enumerate(acquisitions):
        scan, (x, y, z), _ = drawn[how.kernel]
        rng = np.random.default_rng([case.seed, number])
        sliced, first = _sliced(rng, scan.astype(np.float32), how)
        (a, b, c), guess = misplaced(replace(case, seed=1000 * case.seed + number), (x, y, z - first))
        spacing = (0.7, 0.7, how.apart)
        found, _ = segment_and_measure(sliced, (a, b, max(c, 0.0)), guess, spacing)
        yield Shown(how, found, spacing)


def _sliced(rng: np.random.Generator, scan: npt.NDArray[np.float32], how: Slices) -> tuple[Any, float]:
    """The slices of a scan whose slices are `FINE`, from a random start on, and where the first one's middle lies."""
    count, step = round(how.thickness / FINE), round(how.apart / FINE)
    start = int(rng.integers(step))
    firsts = range(start, scan.shape[2] - count + 1, step)
    means = np.stack([scan[:, :, first : first + count].mean(axis=2) for first in firsts], axis=2)
    noise = ndimage.gaussian_filter(rng.normal(size=means.shape), 0.5)
    noisy = means + noise * (how.noise / noise.std())
    return np.rint(noisy).astype(np.int16), FINE * (start + (count - 1) / 2)


def _nodules() -> Iterator[tuple[NoduleType, Case]]:
    for seed, size in enumerate(SIZES):
        setting = SETTINGS[seed % len(SETTINGS)]
        yield "solid", Case(size, setting, SOLID, aspect=1.2, seed=seed)
        yield "ground-glass", Case(size, "isolated", GROUND_GLASS, aspect=1.2, seed=seed + 10)
        if size >= 10:  # a core of less than 5 mm in thick slices is ground-glass to anybody
            yield "part-solid", Case(size, "isolated", GROUND_GLASS, core=CORE, aspect=1.2, seed=seed + 20)


def _spacing(wanted: int, seed: int) -> dict[str, Any]:
    """How volumes and types repeat over the acquisitions, and what pairs of them are called."""
    spreads, right, alike, failed, pairs = (
        list[float](),
        list[bool](),
        list[bool](),
        0,
        list[tuple[Any, Shown, Shown]](),
    )
    every = 0
    print(f"{'':32}{'measured':>9}{'mean mm3':>10}{'CV %':>7}  types")
    for kind, case in _nodules():
        shown = list(_shown(case, ACQUISITIONS))
        every += len(shown)
        known = [one for one in shown if one.found["volume_mm3"]]
        failed += len(shown) - len(known)
        thin = [one for one in known if max(one.how.thickness, one.how.apart) <= THIN_ENOUGH * case.diameter]
        volumes = np.array([one.found["volume_mm3"] for one in thin], dtype=np.float64)
        types = Counter(one.found["nodule_type"] for one in thin)
        spread = float(100 * volumes.std() / volumes.mean())
        name = f"{kind}, {case.diameter:g} mm, {case.setting}"
        print(f"{name:32}{len(thin):6d}/{len(shown)}{volumes.mean():10.0f}{spread:7.1f}  {dict(types)}", flush=True)
        spreads.append(spread)
        right += [one.found["nodule_type"] == kind for one in thin]
        usual = types.most_common(1)[0][0]
        alike += [one.found["nodule_type"] == usual for one in thin]
        pairs += [(case, one, two) for one, two in combinations(known, 2)]
    order = np.random.default_rng(seed).permutation(len(pairs))[:wanted]
    trends = Counter(str(_trend(*pairs[index][1:])) for index in order)
    report = {
        "nodules": len(spreads),
        "measurements": every,
        "not_measured": failed,
        "volume_cv_percent": {"median": round(float(np.median(spreads)), 2), "largest": round(max(spreads), 2)},
        "nodules_below_10_percent": sum(spread < 10 for spread in spreads),
        "type_as_drawn": round(float(np.mean(right)), 3),
        "type_stable": round(float(np.mean(alike)), 3),
        "unchanged_pairs": len(order),
        "trends": dict(trends),
    }
    print(json.dumps(report, indent=2))
    return report


def _trend(before: Shown, after: Shown) -> str | None:
    told = [Acquisition(thickness_mm=one.how.thickness, kernel=one.how.kernel) for one in (before, after)]
    return grown(before.found, after.found, 180, (before.spacing, after.spacing), (told[0], told[1]))["trend"]


def _types() -> dict[str, Any]:
    """Type, solid part and Lung-RADS category of cores in ground-glass, in thin and thick slices."""
    right = alike = same = lower = count = 0
    errors = list[float]()
    for whole in WHOLES:
        for core in (core for core in CORES if core < whole):
            case = Case(whole, nodule_hu=GROUND_GLASS, core=core / whole, seed=int(10 * whole + core))
            shown = list(_shown(case, [Slices(1.0, 1.0), Slices(2.5, 2.5)]))
            kinds = [one.found["nodule_type"] for one in shown]
            truth = SizedNodule("part-solid", whole, whole, np.pi / 6 * whole**3, (core / whole) ** 3, core)
            due = lung_rads(truth, SCREENED)["category"]
            measured = [as_nodule(one.found) for one in shown]
            told = [lung_rads(one, SCREENED)["category"] if one else None for one in measured]
            solids = [one.found.get("solid_mm") for one in shown]
            print(f"{whole:g} mm, core {core:g} mm: {kinds}, solid {[s and round(s, 1) for s in solids]},", end="")
            print(f" Lung-RADS {told}, due {due}", flush=True)
            count += len(kinds)
            usual = Counter(kinds).most_common(1)[0][0]
            alike += kinds.count(usual)
            right += sum(kind == "part-solid" or (core < 4 and kind == "ground-glass") for kind in kinds)
            same += told.count(due)
            lower += sum(category is None or category < str(due) for category in told)
            errors += [solid - core for solid in solids if solid is not None and core >= 4]
    report = {
        "measurements": count,
        "type_as_drawn": round(right / count, 3),
        "type_stable": round(alike / count, 3),
        "category_due": round(same / count, 3),
        "category_lower_or_unknown": round(lower / count, 3),
        "solid_mm_error": {"median": round(float(np.median(errors)), 2), "95th": round(_tail(errors), 2)},
    }
    print(json.dumps(report, indent=2))
    return report


def _tail(errors: Sequence[float]) -> float:
    return float(np.percentile(np.abs(errors), 95))


if __name__ == "__main__":
    main()
