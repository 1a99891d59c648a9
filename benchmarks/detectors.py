"""Detectors side by side on the same data: `python -m benchmarks.detectors --checkpoints A B ...`.

Each runs in a process of its own, whose times and memory are told. Without more, it is `benchmarks.detection` on the
held-out nodules and scans (FROC). With `--scan FILE` it is the command `pivot` on this scan. `--beside` then also runs
each detector of others as its users do (`benchmarks.own_predictor`), and tells how many times faster PIVOT is, and how
many of PIVOT's marks it gives, too: within 3 mm, and within 0.05 of the confidence.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.commands import measure
from src.files import writable_folder, write_json

__all__ = ["main"]

NEAR, ALIKE = 3.0, 0.05  # mm between two marks that are one, and between their confidences


def main() -> None:
    """Run each detector, print the table, and write it into the output folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoints", nargs="+", required=True, help="what --checkpoint of pivot takes")
    parser.add_argument("--scan", type=Path, help="only run this scan")
    parser.add_argument("--threshold", help="of pivot; marks below it are not measured")
    parser.add_argument("--output", type=Path, default=Path("results/detectors"))
    parser.add_argument("--beside", action="store_true", help="with --scan: its own predictor as well")
    options = parser.parse_args()
    rows = []
    print(f"{'detector':44}{'marks':>6}{'CPM':>8}{'seconds':>9}{'processor':>11}{'GiB':>7}   (FROC: false marks)")
    for number, checkpoint in enumerate(options.checkpoints):
        given = [*_given("input", options.scan), *_given("threshold", options.threshold)]
        row = _run(checkpoint, given, writable_folder(options.output / str(number)))
        print(_line(checkpoint, row), flush=True)
        if options.beside and options.scan:
            row["own"] = own = _own(checkpoint, options.scan, options.output / f"{number}.json", row["found"])
            ratios = [f"{own[key] / row[key]:.1f}" for key in ("seconds", "processor")]
            told = f"PIVOT takes {ratios[0]} times less (processor: {ratios[1]}); {own['shared']} of its marks are here"
            print(f"{_line('  its own predictor', own)}   {told}", flush=True)
        row.pop("found", None)
        rows.append(row)
    write_json(rows, options.output / "detectors.json")


def _line(name: str, row: dict[str, Any]) -> str:
    score = "-" if row["score"] is None else f"{row['score']:.3f}"
    times = f"{row['seconds']:9.1f}{row['processor']:11.1f}"
    return f"{name[-43:]:44}{row['marks']:6}{score:>8}{times}{row['gib']:7.2f}"


def _run(checkpoint: str, given: Sequence[str], folder: Path) -> dict[str, Any]:
    """The figures of one detector."""
    scan = "--input" in given
    module = "src.inference.main" if scan else "benchmarks.detection"
    used = _used(module, "--checkpoint", checkpoint, "--output", folder, *given)
    return {"checkpoint": checkpoint, **used, **(_of_scan(folder) if scan else _of_detection(folder))}


def _given(option: str, value: object) -> Sequence[str]:
    return () if value is None else (f"--{option}", str(value))


def _used(module: str, *arguments: str | Path) -> dict[str, float]:
    return measure([[sys.executable, "-m", module, *arguments]])._asdict()


def _own(checkpoint: str, scan: Path, file: Path, found: list[dict[str, Any]]) -> dict[str, Any]:
    """The figures of its own predictor, and how many of PIVOT's marks it gives."""
    used = _used("benchmarks.own_predictor", "--checkpoint", checkpoint, "--scan", scan, "--output", file)
    own = json.loads(file.read_text())
    places = np.array([mark["lps"] for mark in own]).reshape(-1, 3)
    sure = np.array([mark["confidence"] for mark in own])
    shared = sum(
        bool(
            (
                (np.linalg.norm(places - mark.get("peak_lps", mark["coordinates_lps"]), axis=1) < NEAR)
                & (np.abs(sure - mark["confidence"]) < ALIKE)
            ).any()
        )
        for mark in found
    )
    return {"marks": len(own), "score": None, "shared": shared, **used}


def _of_scan(folder: Path) -> dict[str, Any]:
    (file,) = folder.glob("*_detections.json")
    report = json.loads(file.read_text())
    marks = [*report["detections"], *report["masses"], *report["candidates"]]
    stages = report["metadata"]["timings_seconds"]
    return {"marks": len(marks), "score": None, "stages": stages, "found": marks}


def _of_detection(folder: Path) -> dict[str, Any]:
    report = json.loads((folder / "detection.json").read_text())
    false = report["false_marks"]["a_scan_at_the_default_threshold"]
    return {"marks": sum(false.values()), "score": report["cpm"]}


if __name__ == "__main__":
    main()
