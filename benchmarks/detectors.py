"""Detectors side by side on the same data: `python -m benchmarks.detectors --checkpoints A B ...`.

Each runs in a process of its own, whose time and memory are told. Without more, it is `benchmarks.detection` on the
held-out nodules and scans (FROC). With `--scan FILE` it is the command `pivot` on this scan.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from src.files import writable_folder, write_json

__all__ = ["main"]

GIGABYTE = 1e6  # in the kilobytes of `ru_maxrss`


def main() -> None:
    """Run each detector, print the table, and write it into the output folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoints", nargs="+", required=True, help="what --checkpoint of pivot takes")
    parser.add_argument("--scan", type=Path, help="only run this scan")
    parser.add_argument("--output", type=Path, default=Path("results/detectors"))
    options = parser.parse_args()
    rows = []
    print(f"{'detector':44}{'marks':>6}{'CPM':>8}{'seconds':>9}{'GB':>7}   (marks: with FROC, only false ones)")
    for number, checkpoint in enumerate(options.checkpoints):
        row = _run(checkpoint, options.scan, writable_folder(options.output / str(number)))
        score = "-" if row["score"] is None else f"{row['score']:.3f}"
        print(
            f"{checkpoint[-43:]:44}{row['marks']:6}{score:>8}{row['seconds']:9.1f}{row['gigabytes']:7.2f}", flush=True
        )
        rows.append(row)
    write_json(rows, options.output / "detectors.json")


def _run(checkpoint: str, scan: Path | None, folder: Path) -> dict[str, Any]:
    """The figures of one detector."""
    module = ["benchmarks.detection"] if scan is None else ["src.inference.main", "--input", str(scan)]
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", *module, "--checkpoint", checkpoint, "--output", str(folder)])
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(process.returncode)
    seconds, gigabytes = time.perf_counter() - start, usage.ru_maxrss / GIGABYTE
    found = _of_scan(folder) if scan else _of_detection(folder)
    return {"checkpoint": checkpoint, "seconds": seconds, "gigabytes": gigabytes, **found}


def _of_scan(folder: Path) -> dict[str, Any]:
    (file,) = folder.glob("*_detections.json")
    report = json.loads(file.read_text())
    marks = [*report["detections"], *report["masses"], *report["candidates"]]
    return {"marks": len(marks), "score": None, "stages": report["metadata"]["timings_seconds"]}


def _of_detection(folder: Path) -> dict[str, Any]:
    report = json.loads((folder / "detection.json").read_text())
    false = report["false_marks"]["a_scan_at_the_default_threshold"]
    return {"marks": sum(false.values()), "score": report["cpm"]}


if __name__ == "__main__":
    main()
