"""PIVOT's command line beside a script of MONAI's or nnU-Net's parts: `python -m benchmarks.speed --scan lidc`.

Both run the same weights on the same scan, in turns, each in its own process. MONAI and nnU-Net use windows of 128
voxels that overlap by half; so does PIVOT with `--speed accurate`. The command prints the median seconds of each
stage, the median of the pairs' ratios, the highest memory, and the marks of both. `--limit` prints the processor's
best rate.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.peers import PATCH, PEERS, Run
from src.types import Shape3, Vec3

__all__ = ["CHESTS", "LIDC", "ROOT", "command_line", "main", "start_side"]

ROOT = Path(__file__).resolve().parents[1]
LIDC = ROOT.parent / "shared" / "data" / "lidc-idri-0001"
CHESTS: dict[str, tuple[Shape3, Vec3]] = {
    "chest-100": ((512, 512, 100), (0.7, 0.7, 3.75)),
    "chest-300": ((512, 512, 300), (0.7, 0.7, 1.25)),
    "chest-800": ((512, 512, 800), (0.7, 0.7, 0.5)),
}
STAGES = ("start", "read", "preprocess", "inference", "postprocess", "write")
NEAR = 5.0  # mm; nearer marks are of one nodule
GIB_IN_KIB = 2**20


def main() -> None:
    """Print the table of one scan, or run one side of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scan", default="lidc", help=f"lidc, {', '.join(CHESTS)}, or a path (default: %(default)s)")
    parser.add_argument("--speed", default="auto", choices=("auto", "accurate", "balanced", "fast"))
    parser.add_argument("--engine", default="auto", help="inference.engine of PIVOT (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=1, help="pairs of runs (default: %(default)s)")
    parser.add_argument("--beside", choices=PEERS, default="monai", help="whose parts (default: %(default)s)")
    parser.add_argument("--only", choices=("pivot", *PEERS), help="leave the other out")
    parser.add_argument("--limit", action="store_true", help="print the processor's best, and run nothing else")
    parser.add_argument("--side", choices=PEERS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.limit:
        _print_limit()
    elif options.side:
        print(json.dumps(PEERS[options.side](Path(options.scan), options.folder)))
    else:
        _compare(options)


def _compare(options: argparse.Namespace) -> None:
    sides = [options.only] if options.only else ["pivot", options.beside]
    runs: dict[str, list[Run]] = {side: [] for side in sides}
    with tempfile.TemporaryDirectory(prefix="pivot-speed-") as folder:
        scan = _scan(options.scan, Path(folder))
        if "nnunet" in sides and scan.is_dir():
            sys.exit("error: nnU-Net does not read DICOM folders: give another --scan")
        for _ in range(options.repeats):
            for side in sides:
                runs[side].append(start_side(side, scan, Path(folder), options.speed, options.engine))
                print(side, json.dumps({key: value for key, value in runs[side][-1].items() if key != "found"}))
    _print_table(runs)


def _scan(name: str, folder: Path) -> Path:
    if name in CHESTS:
        from benchmarks.memory import write_chest

        path = folder / f"{name}.nii.gz"
        write_chest(path, *CHESTS[name])
        return path
    return LIDC if name == "lidc" else Path(name)


def start_side(side: str, scan: Path, folder: Path, speed: str, engine: str) -> Run:
    """Run one side of the comparison in its own process. Returns its stages, costs and marks."""
    command = [sys.executable, "-m", "benchmarks.speed", "--side", side, "--scan", str(scan), "--folder", str(folder)]
    results = folder / f"{scan.name}-results"
    if side == "pivot":
        command = [*command_line(folder, speed, engine), "--input", str(scan), "--output", str(results)]
        command += ["--progress", "none"]
    start = time.perf_counter()
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None  # noqa: S101 - stdout is a pipe
        told = process.stdout.read()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    wall = time.perf_counter() - start
    run = _read_pivot(results) if side == "pivot" else json.loads(told.splitlines()[-1])
    run["stages"]["start"] = wall - sum(run["stages"].values())
    processor = used.ru_utime + used.ru_stime
    return {"wall": round(wall, 2), "processor": round(processor, 2), "gib": used.ru_maxrss / GIB_IN_KIB, **run}


def command_line(folder: Path, speed: str, engine: str = "auto") -> list[str]:
    """PIVOT's command with these settings, which are written into a file in the folder."""
    settings = folder / "settings.yaml"
    settings.write_text(f"inference: {{speed: {speed}, engine: {engine}}}\n")
    return [sys.executable, "-m", "src.inference.main", "--config", str(settings)]


def _read_pivot(folder: Path) -> Run:
    report = json.loads(next(folder.glob("*_detections.json")).read_text())
    about = {key: report["metadata"][key] for key in ("windows", "searched", "precision", "engine")}
    found = [(one["coordinates_lps"], one["confidence"]) for one in report["detections"]]
    return {"stages": report["metadata"]["timings_seconds"], **about, "found": found}


def _print_table(runs: dict[str, list[Run]]) -> None:
    sides = list(runs)
    print(f"{'seconds':12}" + "".join(f"{side:>10}" for side in sides) + ("     ratio" if len(sides) == 2 else ""))
    for stage in (*STAGES, "wall", "processor", "gib"):
        values = [[run["stages"].get(stage, run.get(stage)) for run in runs[side]] for side in sides]
        line = f"{stage:12}" + "".join(f"{statistics.median(value):10.2f}" for value in values)
        if len(sides) == 2:
            line += f"{statistics.median(b / max(a, 1e-3) for a, b in zip(*values, strict=True)):10.2f}"
        print(line)
    if len(sides) == 2:
        _print_marks(runs["pivot"][-1]["found"], sides[1], runs[sides[1]][-1]["found"])


def _print_marks(pivot: list[Any], peer: str, others: list[Any]) -> None:
    left = list(others)
    for place, confidence in pivot:
        near = [mark for mark in left if np.linalg.norm(np.subtract(mark[0], place)) < NEAR]
        other = f"{near[0][1]:.3f}" if near else "none"
        print(f"mark at {np.round(place, 1).tolist()}: PIVOT {confidence:.3f}, {peer} {other}")
        left = [mark for mark in left if not any(mark is one for one in near)]
    for place, confidence in left:
        print(f"mark at {np.round(place, 1).tolist()}: PIVOT none (place or size), {peer} {confidence:.3f}")


def _print_limit() -> None:
    """The multiply-adds of a window, and their seconds at the best rate of a convolution."""
    from torch.utils.flop_counter import FlopCounterMode

    from src.model.checkpoint import load_model

    model = load_model().model
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 1, PATCH, PATCH, PATCH))
    adds = counter.get_total_flops() / 2
    print(f"{adds / 1e9:.1f} billion multiply-adds for a window of {PATCH}^3; {torch.get_num_threads()} threads")
    for dtype in (torch.float32, torch.bfloat16):
        rate = _best_rate(dtype)
        print(f"{dtype}: {rate / 1e9:.0f} billion a second in one convolution, {adds / rate:.3f} s a window at best")


@torch.inference_mode()
def _best_rate(dtype: torch.dtype, features: int = 96, size: int = 32) -> float:
    """The multiply-adds per second of a 3x3x3 convolution with many features, the best of five."""
    layer = torch.nn.Conv3d(features, features, 3, padding=1).to(dtype).to(memory_format=torch.channels_last_3d)
    x = torch.rand(1, features, size, size, size).to(dtype, memory_format=torch.channels_last_3d)
    seconds = []
    for _ in range(6):
        start = time.perf_counter()
        layer(x)
        seconds.append(time.perf_counter() - start)
    return features**2 * 27 * size**3 / min(seconds[1:])


if __name__ == "__main__":
    main()
