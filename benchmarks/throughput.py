"""A batch beside single runs and beside processes at the same time: `python -m benchmarks.throughput`.

Each way searches the same copies of a synthetic chest: one command for the folder; one command for each scan; and
`--processes` commands at the same time, each on its share of the cores and for a part of the folder (`--num-shards`).
The ways run in turns. For each preset the command prints scans an hour, processor seconds a scan and memory (medians).
"""

import argparse
import os
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

from benchmarks.commands import Used, measure, pivot
from benchmarks.memory import write_chest
from benchmarks.speed import CHESTS
from src.config import load_config

__all__ = ["HOUR", "batch", "main", "write_copies"]

HOUR = 3600  # s
Command: TypeAlias = list[str | Path]


def main() -> None:
    """Print the table of each preset."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scans", type=int, default=8, help="%(default)s")
    parser.add_argument("--processes", type=int, default=2, help="at the same time (default: %(default)s)")
    parser.add_argument("--chest", choices=CHESTS, default="chest-100", help="default: %(default)s")
    parser.add_argument(
        "--speeds", nargs="+", choices=("default", "accurate", "balanced", "fast"), default=["default"], help="presets"
    )
    parser.add_argument("--repeats", type=int, default=3, help="turns (default: %(default)s)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pivot-throughput-") as name:
        folder = Path(name)
        scans = write_copies(folder / "scans", options.chest, options.scans)
        for speed in options.speeds:
            command = pivot(folder, None if speed == "default" else speed)
            ways: dict[str, list[Used]] = {}
            for turn in range(1, options.repeats + 1):
                for way, used in _turn(command, scans, folder / "out", options.processes):
                    ways.setdefault(way, []).append(used)
                    print(f"{speed}, {turn}, {way}: {used.seconds:.1f} s, processor {used.processor:.1f} s", flush=True)
            _print_table(speed, ways, options.scans)


def write_copies(folder: Path, chest: str, count: int) -> list[Path]:
    """A synthetic chest under `count` names."""
    folder.mkdir()
    paths = [folder / f"scan{number}.nii.gz" for number in range(count)]
    write_chest(paths[0], *CHESTS[chest])
    for path in paths[1:]:
        path.hardlink_to(paths[0])
    return paths


def _turn(command: Command, scans: list[Path], out: Path, processes: int) -> Iterator[tuple[str, Used]]:
    """Each way once."""
    folder = scans[0].parent
    yield "one batch", measure([batch(command, folder, out)])
    alone = [measure([[*command, "--input", scan, "--output", out]]) for scan in scans]
    seconds, processor, gib = zip(*alone, strict=True)
    yield "single runs", Used(sum(seconds), sum(processor), max(gib))
    parts = [["--num-shards", str(processes), "--shard-index", str(index)] for index in range(processes)]
    threads = max(1, len(os.sched_getaffinity(0)) // processes)
    together = measure([[*batch(command, folder, out), *part] for part in parts], {"OMP_NUM_THREADS": str(threads)})
    yield f"{processes} processes", together


def batch(command: Command, scans: Path, out: Path) -> Command:
    """The command for a folder of scans."""
    return [*command, "--input-dir", scans, "--output-dir", out]


def _print_table(speed: str, ways: dict[str, list[Used]], scans: int) -> None:
    preset = load_config({}).inference.speed if speed == "default" else speed
    print(f"\n{speed} (`{preset}`), {scans} scans, medians of {len(ways['one batch'])}")
    print(f"{'':14}{'scans an hour':>15}{'processor s a scan':>20}{'GiB':>7}{'batch is faster':>17}")
    for way, runs in ways.items():
        hourly = statistics.median(scans / used.seconds * HOUR for used in runs)
        processor = statistics.median(used.processor / scans for used in runs)
        gib = statistics.median(used.gib for used in runs)
        faster = statistics.median(a.seconds / b.seconds for a, b in zip(runs, ways["one batch"], strict=True))
        print(f"{way:14}{hourly:15.0f}{processor:20.1f}{gib:7.2f}{faster:16.2f}x")


if __name__ == "__main__":
    main()
