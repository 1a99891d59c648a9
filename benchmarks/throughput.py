"""The parts of the command line's time: `python -m benchmarks.throughput --sizes --batch 8 --first-window`.

`--sizes` runs synthetic chests of four lengths, with the same voxels, and draws time and memory over litres of lung;
`--batch N` compares a folder of N scans with N runs of one scan, in turns; `--first-window` measures from the start of
the process to the end of its first window; `--network` compares the time of a process's second scan with that of its
network.
"""

import argparse
import json
import statistics
import subprocess
import tempfile
import time
from argparse import Namespace
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from benchmarks.memory import write_chest
from benchmarks.speed import CHESTS, LIDC, ROOT, command_line, start_side
from src.config import load_config
from src.data.geometry import canonical
from src.data.loader import read_scan, scan_name
from src.data.lung_finder import find_lungs
from src.files import whole_file
from src.model.device import autocast, precision
from src.results.output_formatter import load_report
from src.runs.batch import infer_file, open_pipeline
from src.types import Vec3

__all__ = ["main"]

SIZES = (150, 300, 450, 600)  # slices
SPACING: Vec3 = (0.7, 0.7, 1.25)  # mm


def main() -> None:
    """Run the chosen parts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", action="store_true", help="time and memory over the volume of lung")
    parser.add_argument("--batch", type=int, metavar="N", help="a folder of N scans beside N single runs")
    parser.add_argument("--first-window", action="store_true", help="seconds from the start to the first window's end")
    parser.add_argument("--network", action="store_true", help="a scan beside the pure network time of its windows")
    parser.add_argument("--repeats", type=int, default=3, help="of --batch and --first-window (%(default)s)")
    parser.add_argument("--speed", default="auto", choices=("auto", "accurate", "balanced", "fast"))
    parser.add_argument("--figure", type=Path, default=Path("docs/images/linear.png"), help="the plot of --sizes")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pivot-throughput-") as folder:
        if options.first_window:
            _print_first_window(options.repeats, Path(folder))
        if options.network:
            _print_network(Path(folder))
        if options.sizes:
            _print_sizes(options, Path(folder))
        if options.batch:
            _print_batch(options, Path(folder))


def _print_first_window(repeats: int, folder: Path) -> None:
    command = [*command_line(folder, "accurate"), "--input", str(LIDC), "--output", str(folder / "first")]
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        with subprocess.Popen([*command, "--progress", "json"], cwd=ROOT, stdout=subprocess.PIPE, text=True) as run:
            assert run.stdout is not None  # noqa: S101 - stdout is a pipe
            next(line for line in run.stdout if json.loads(line)["event"] == "windows")
            seconds.append(time.perf_counter() - start)
            run.kill()
    print(f"first window of {LIDC.name} after {statistics.median(seconds):.2f} s (median of {repeats})")


def _print_network(folder: Path) -> None:
    """Print the seconds from reading to writing, and those of the same number of windows through the network."""
    write_chest(folder / "chest-300.nii.gz", *CHESTS["chest-300"])
    pipeline = open_pipeline(None, load_config({"inference": {"num_workers": 0}}), "cpu", folder)
    patch = torch.rand(1, 1, *pipeline.config.inference.patch_size)
    for scan in (LIDC, folder / "chest-300.nii.gz"):
        seconds = [infer_file(pipeline, scan, folder)["avg_time"] for _ in range(2)][1]
        metadata = load_report(folder / f"{scan_name(scan)}_detections.json")["metadata"]
        windows = metadata["windows"]
        with torch.inference_mode(), autocast(pipeline.device, precision(pipeline.device, mixed=True)):
            start = time.perf_counter()
            for _ in range(windows):
                pipeline.network.model(patch)
            network = time.perf_counter() - start
        stages = {stage: f"{taken / seconds:.0%}" for stage, taken in metadata["timings_seconds"].items()}
        print(f"{scan.name}: {seconds:.2f} s, {seconds / network:.2f} times its network; {windows} windows; {stages}")


def _print_sizes(options: Namespace, folder: Path) -> None:
    litres, seconds, memory = [], [], []
    print("slices  litres  windows  seconds (read to write)  network  GiB")
    for slices in SIZES:
        path = folder / f"chest-{slices}.nii.gz"
        write_chest(path, (512, 512, slices), SPACING)
        run = start_side("pivot", path, folder, options.speed, "auto")
        stages = run["stages"]
        litres.append(_litres(path))
        seconds.append(run["wall"] - stages["start"])
        memory.append(run["gib"])
        figures = f"{litres[-1]:8.2f} {run['windows']:8} {seconds[-1]:24.1f} {stages['inference']:8.1f}"
        print(f"{slices:6}{figures} {memory[-1]:4.2f}", flush=True)
        path.unlink()
    slope, offset = np.polyfit(litres, seconds, 1)
    off = max(abs(offset + slope * x - y) / y for x, y in zip(litres, seconds, strict=True))
    print(f"{offset:.1f} s + {slope:.2f} s a litre; the worst of the {len(SIZES)} is {off:.0%} off that line")
    figure = Figure(figsize=(8, 3.2), dpi=100, layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(litres, seconds, "o", [0, max(litres)], [offset, offset + slope * max(litres)], "-")
    left.set(xlabel="litres of lung", ylabel="seconds, read to write", xlim=(0, None), ylim=(0, None))
    right.plot(SIZES, memory, "o-")
    right.set(xlabel="slices of 512 x 512", ylabel="highest memory, GiB", xlim=(0, None), ylim=(0, None))
    options.figure.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(options.figure) as partial:
        figure.savefig(partial, format="png")


def _litres(path: Path) -> float:
    scan = read_scan(path)
    return find_lungs(*canonical(scan.array, scan.affine)).litres


def _print_batch(options: Namespace, folder: Path) -> None:
    """Compare, in pairs, one process for the folder with one process for each scan."""
    scans = folder / "scans"
    scans.mkdir()
    write_chest(scans / "scan0.nii.gz", *CHESTS["chest-100"])
    for number in range(1, options.batch):
        (scans / f"scan{number}.nii.gz").hardlink_to(scans / "scan0.nii.gz")
    command, ratios = command_line(folder, options.speed), []
    for pair in range(options.repeats):
        out = folder / f"out{pair}"
        together = _seconds([*command, "--input-dir", str(scans), "--output-dir", str(out / "batch")])
        alone = sum(
            _seconds([*command, "--input", str(scan), "--output", str(out / "single")]) for scan in scans.iterdir()
        )
        ratios.append(alone / together)
        print(f"{options.batch} scans: {together:.1f} s together, {alone:.1f} s one by one", flush=True)
    print(f"throughput of the batch: {statistics.median(ratios):.2f} times (median of {options.repeats})")


def _seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
