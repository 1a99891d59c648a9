"""Detectors side by side on the same data: `python -m benchmarks.detectors --checkpoints A B ...`.

Each runs in a process of its own, whose time and memory are told. Without more, it is `benchmarks.detection` on the
held-out nodules and scans (FROC). With `--scan FILE` it is the command `pivot` on this scan. `--beside` then also runs
each detector of MONAI as its users do (`benchmarks.own_predictor`), and tells how many times faster PIVOT is, and how
many of PIVOT's marks it gives, too: within 3 mm, and within 0.05 of the confidence.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from src.files import writable_folder, write_json

__all__ = ["main"]

NEAR, ALIKE = 3.0, 0.05  # mm between two marks that are one, and between their confidences
GIGABYTE = 1e6  # in the kilobytes of `ru_maxrss`


def main() -> None:
    """Run each detector, print the table, and write it into the output folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoints", nargs="+", required=True, help="what --checkpoint of pivot takes")
    parser.add_argument("--scan", type=Path, help="only run this scan")
    parser.add_argument("--output", type=Path, default=Path("results/detectors"))
    parser.add_argument("--beside", action="store_true", help="with --scan: MONAI's own predictor as well")
    options = parser.parse_args()
    rows = []
    print(f"{'detector':44}{'marks':>6}{'CPM':>8}{'seconds':>9}{'GB':>7}   (marks: with FROC, only false ones)")
    for number, checkpoint in enumerate(options.checkpoints):
        row = _run(checkpoint, options.scan, writable_folder(options.output / str(number)))
        score = "-" if row["score"] is None else f"{row['score']:.3f}"
        print(
            f"{checkpoint[-43:]:44}{row['marks']:6}{score:>8}{row['seconds']:9.1f}{row['gigabytes']:7.2f}", flush=True
        )
        if options.beside and options.scan:
            row["own"] = own = _own(checkpoint, options.scan, options.output / f"{number}.json", row["found"])
            told = f"PIVOT is {own['seconds'] / row['seconds']:.1f} times faster; {own['shared']} of its marks are here"
            own_figures = f"{own['marks']:6}{'-':>8}{own['seconds']:9.1f}{own['gigabytes']:7.2f}"
            print(f"{'  its own predictor':44}{own_figures}   {told}", flush=True)
        row.pop("found", None)
        rows.append(row)
    write_json(rows, options.output / "detectors.json")


def _run(checkpoint: str, scan: Path | None, folder: Path) -> dict[str, Any]:
    """The figures of one detector."""
    module = "benchmarks.detection" if scan is None else "src.inference.main"
    seconds, gigabytes = _timed(module, "--checkpoint", checkpoint, "--output", folder, *_given(scan))
    found = _of_scan(folder) if scan else _of_detection(folder)
    return {"checkpoint": checkpoint, "seconds": seconds, "gigabytes": gigabytes, **found}


def _given(scan: Path | None) -> Sequence[str | Path]:
    return () if scan is None else ("--input", scan)


def _timed(module: str, *arguments: str | Path) -> tuple[float, float]:
    """Seconds and gigabytes of a command."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", module, *map(str, arguments)])
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(process.returncode)
    return time.perf_counter() - start, usage.ru_maxrss / GIGABYTE


def _own(checkpoint: str, scan: Path, file: Path, found: list[dict[str, Any]]) -> dict[str, Any]:
    """The figures of MONAI's predictor, and how many of PIVOT's marks it gives."""
    told = ("--checkpoint", checkpoint, "--scan", scan, "--output", file)
    seconds, gigabytes = _timed("benchmarks.own_predictor", *told)
    own = json.loads(file.read_text())
    places = np.array([mark["lps"] for mark in own]).reshape(-1, 3)
    sure = np.array([mark["confidence"] for mark in own])
    shared = sum(
        bool(
            (
                (np.linalg.norm(places - mark["peak_lps"], axis=1) < NEAR) & (np.abs(sure - mark["confidence"]) < ALIKE)
            ).any()
        )
        for mark in found
    )
    return {"marks": len(own), "seconds": seconds, "gigabytes": gigabytes, "shared": shared}


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
