"""PIVOT's presets beside MONAI's and nnU-Net's parts: `python -m benchmarks.speed --table --repeats 3`.

All run the same weights on the same scans, in turns, each in its own process. MONAI and nnU-Net use windows of 128
voxels that overlap by half; so does PIVOT's `accurate`. The command prints each run, and a table of medians for each
scan. Ratios are medians of the pairs of one turn. `--cpm` adds the CPM of each preset (`benchmarks.detection`). The
runs and tables are in `speed.json` in the output folder; after an interruption the same command continues from there.
nnU-Net needs `uv run --group bench --with nnunetv2`. `--limit` prints the processor's best rate.
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import nibabel
import numpy as np

from benchmarks.commands import ROOT, Finished, Run, measure, pivot, search
from benchmarks.memory import write_chest
from src.config import load_config
from src.data.loader import read_scan
from src.files import writable_folder
from src.types import Shape3, Vec3

__all__ = ["CHESTS", "WAYS", "main", "run_way", "shared", "table"]

LIDC = ROOT.parent / "shared" / "data" / "lidc-idri-0001"
CHESTS: dict[str, tuple[Shape3, Vec3]] = {
    "chest-100": ((512, 512, 100), (0.7, 0.7, 3.75)),
    "chest-300": ((512, 512, 300), (0.7, 0.7, 1.25)),
    "chest-800": ((512, 512, 800), (0.7, 0.7, 0.5)),
}
STAGES = ("start", "read", "preprocess", "inference", "postprocess", "write")
NEAR = 5.0  # mm; nearer marks are of one nodule


class Way(NamedTuple):
    """A way to search a scan: a preset of PIVOT (None: the default), or the package whose parts are used."""

    speed: str | None = None
    package: str | None = None
    environment: Mapping[str, str] = {}


WAYS = {
    "default": Way(),
    "balanced": Way("balanced"),
    "accurate": Way("accurate"),
    "no-bfloat16": Way(environment={"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}),
    "monai": Way(package="monai"),
    "nnunet": Way(package="nnunetv2"),
}


def main() -> None:
    """Print the tables, or the processor's best rate."""
    parser = argparse.ArgumentParser(description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--table", action="store_true", help="measure")
    what.add_argument("--limit", action="store_true", help="print the processor's best rate, and run nothing else")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), metavar="WAY", help=", ".join(WAYS))
    parser.add_argument(
        "--scans", nargs="+", default=["lidc", "chest-300"], help=f"lidc, {', '.join(CHESTS)}, or a path: %(default)s"
    )
    parser.add_argument("--repeats", type=int, default=3, help="turns (default: %(default)s)")
    parser.add_argument("--cpm", action="store_true", help="also measure the CPM of each preset")
    parser.add_argument("--output", type=Path, default=Path("results/speed"), help="default: %(default)s")
    options = parser.parse_args()
    if options.limit:
        from benchmarks.limit import print_limit

        print_limit()
        return
    missing = [way for way in options.ways if (package := WAYS[way].package) and not find_spec(package)]
    if missing:
        parser.error(f"{missing[0]} is not installed: uv run --group bench --with nnunetv2, or leave it out of --ways")
    _measure(options)


def _measure(options: argparse.Namespace) -> None:
    finished = Finished(writable_folder(options.output) / "speed.json")
    runs: dict[str, dict[str, list[Run]]] = {}
    with tempfile.TemporaryDirectory(prefix="pivot-speed-") as name:
        folder = Path(name)
        for scan in options.scans:
            source = _source(scan, folder)
            for turn in range(1, options.repeats + 1):
                for way in options.ways:
                    run = finished.run(f"{scan}, {way}, {turn}", partial(run_way, way, source, folder))
                    runs.setdefault(scan, {}).setdefault(way, []).append(run)
    cpm = {way: _cpm(way, options.output, finished) for way in options.ways if options.cpm and not WAYS[way].package}
    tables = {scan: table(found) for scan, found in runs.items()}
    finished.keep(cpm=cpm, tables=tables)
    print("\n" + ", ".join(f"{key} {value}" for key, value in finished.about.items()))
    for scan, rows in tables.items():
        _print_table(f"{scan}, medians of {options.repeats}", rows, cpm)
    if "default" in options.ways:
        print(f"The default is `{load_config({}).inference.speed}`, which is therefore no row of its own.")
    if "nnunet" in options.ways:
        print("nnU-Net looks once, all others twice. It reads NIfTI, to which DICOM was converted beforehand.")


def _source(name: str, folder: Path) -> Path:
    if name not in CHESTS:
        return LIDC if name == "lidc" else Path(name).resolve()
    path = folder / f"{name}.nii.gz"
    write_chest(path, *CHESTS[name])
    return path


def run_way(way: str, scan: Path, folder: Path) -> Run:
    """Search a scan by one of `WAYS`, in a process of its own. See `search`."""
    speed, package, environment = WAYS[way]
    if not package:
        return search(pivot(folder, speed), scan, folder, environment)
    if way == "nnunet" and scan.is_dir():
        scan = _as_nifti(scan, folder)
    return search([sys.executable, "-m", "benchmarks.peers", way], scan, folder)


def _as_nifti(series: Path, folder: Path) -> Path:
    """The DICOM series as NIfTI, which is made once."""
    path = folder / f"{series.name}.nii.gz"
    if not path.is_file():
        scan = read_scan(series)
        nibabel.save(nibabel.Nifti1Image(np.asarray(scan.array, np.int16), scan.affine), path)
    return path


def _cpm(way: str, folder: Path, finished: Finished) -> Any:  # noqa: ANN401 - JSON
    """The CPM of a preset and its interval, from a finished `benchmarks.detection`."""

    def detect() -> Run:
        out = folder / f"detection-{way}"
        command = [sys.executable, "-m", "benchmarks.detection", "--output", str(out)]
        command += ["--speed", WAYS[way].speed or "auto"]
        seconds = measure([command], WAYS[way].environment).seconds
        report = json.loads((out / "detection.json").read_text())
        return {"cpm": report["cpm"], "ci95": report["cpm_ci95"], "wall": seconds}

    return finished.run(f"CPM, {way}", detect)


def table(runs: Mapping[str, Sequence[Run]]) -> dict[str, dict[str, Any]]:
    """The figures of each way from its runs, one a turn.

    `monai` and `default`: how many times more time than this way each takes, and this way more than the default; None
    without these runs.
    """
    walls = {way: [run["wall"] for run in found] for way, found in runs.items()}
    rows = {}
    for way, found in runs.items():
        stages = {stage: statistics.median(run["stages"][stage] for run in found) for stage in STAGES}
        shares = {stage: statistics.median(run["stages"][stage] / run["wall"] for run in found) for stage in STAGES}
        rows[way] = {
            **{key: statistics.median(run[key] for run in found) for key in ("wall", "processor", "gib")},
            "monai_to_this": _ratio(walls.get("monai"), walls[way]),
            "this_to_default": _ratio(walls[way], walls.get("default")),
            "beside_the_network": statistics.median(run["wall"] - run["stages"]["inference"] for run in found),
            "stages": stages,
            "shares": shares,
            "marks": len(found[-1]["found"]),
            **({"shared": shared(found[-1]["found"], runs["monai"][-1]["found"])} if "monai" in runs else {}),
        }
    return rows


def _ratio(over: Sequence[float] | None, under: Sequence[float] | None) -> float | None:
    return statistics.median(a / b for a, b in zip(over, under, strict=True)) if over and under else None


def shared(marks: Iterable[Any], others: Iterable[Any]) -> dict[str, float]:
    """How many marks both lists have, and the largest difference of their confidences."""
    left, apart = list(others), []
    for place, confidence in marks:
        near = [mark for mark in left if np.linalg.norm(np.subtract(mark[0], place)) < NEAR]
        if near:
            apart.append(abs(near[0][1] - confidence))
            left.remove(near[0])
    return {"marks": len(apart), "confidence_apart": max(apart, default=0.0)}


def _print_table(title: str, rows: Mapping[str, Mapping[str, Any]], cpm: Mapping[str, Any]) -> None:
    heads = ("seconds", "MONAI/it", "it/default", "GiB", "cpu s", *STAGES, "no network", "marks", "as MONAI", "CPM")
    print(f"\n{title}; stages in % of the seconds\n{'':12}" + "".join(f"{head:>12}" for head in heads))
    for way, row in rows.items():
        both = row.get("shared")
        values = [
            f"{row['wall']:.2f}",
            *("-" if row[key] is None else f"{row[key]:.2f}" for key in ("monai_to_this", "this_to_default")),
            *(f"{row[key]:.2f}" for key in ("gib", "processor")),
            *(f"{share:.0%}" for share in row["shares"].values()),
            f"{row['beside_the_network']:.2f}",
            str(row["marks"]),
            f"{both['marks']}, {both['confidence_apart']:.3f}" if both else "-",
            f"{cpm[way]['cpm']:.3f}" if way in cpm else "-",
        ]
        print(f"{way:12}" + "".join(f"{value:>12}" for value in values))


if __name__ == "__main__":
    main()
