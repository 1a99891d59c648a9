"""How time and memory grow, beside the network's limit: `python -m benchmarks.scaling_law`.

The default preset searches synthetic chests of four lengths on one core and on all cores; batches of 1, 2, 4 and 8
scans; and as many scans on a Ray cluster of one and of two actors, one core each. The limit is the network's
multiply-adds at the best rate of a convolution on this machine. The command prints the figures and draws them. They are
in `law.json` in the output folder; after an interruption the same command continues from there.
"""

import argparse
import os
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.commands import Finished, Run, measure, pivot, search
from benchmarks.limit import best_rate, work_of
from benchmarks.memory import write_chest
from benchmarks.throughput import HOUR, batch, write_copies
from src.data.geometry import canonical
from src.data.loader import read_scan
from src.data.lung_finder import find_lungs
from src.files import whole_file, writable_folder
from src.types import Vec3

__all__ = ["draw", "main"]

CORES = sorted({1, len(os.sched_getaffinity(0))})
SLICES = (150, 300, 450, 600)
SPACING: Vec3 = (0.7, 0.7, 1.25)  # mm
BATCHES = (1, 2, 4, 8)  # scans
WORKERS = (1, 2)  # actors of one core each
CHEST = "chest-100"  # of batches and of Ray


def main() -> None:
    """Measure, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slices", nargs="+", type=int, default=SLICES, help=f"lengths of the chests {SLICES}")
    parser.add_argument("--batches", nargs="*", type=int, default=BATCHES, help=f"scans in a batch {BATCHES}")
    parser.add_argument("--workers", nargs="*", type=int, default=WORKERS, help=f"actors of Ray {WORKERS}")
    parser.add_argument("--output", type=Path, default=Path("results/scaling_law"), help="default: %(default)s")
    parser.add_argument("--figure", type=Path, default=Path("docs/images/linear.png"), help="default: %(default)s")
    options = parser.parse_args()
    if len(set(options.slices)) == 1:
        parser.error("--slices: a line needs two lengths")
    finished = Finished(writable_folder(options.output) / "law.json")
    with tempfile.TemporaryDirectory(prefix="pivot-law-") as name:
        folder = Path(name)
        sizes = [run for slices in options.slices for run in _of_size(slices, folder, finished)]
        batches, workers = _of_many(options, folder, finished, sizes[-1]["precision"])
    finished.keep(sizes=sizes, batches=batches, workers=workers)
    for cores in CORES:
        of_cores = [run for run in sizes if run["cores"] == cores]
        offset, slope, off = _line(of_cores)
        beyond = ", ".join(f"{run['wall'] / run['limit']:.2f}" for run in of_cores)
        print(
            f"{cores} core(s): {offset:.1f} s + {slope:.2f} s a litre, at most {off:.0%} off; {beyond} times the limit"
        )
    with whole_file(options.figure) as partial:
        draw(sizes, batches, workers).savefig(partial, format="png")


def _of_size(slices: int, folder: Path, finished: Finished) -> list[Run]:
    """A chest on one core and on all cores."""
    path = folder / f"chest-{slices}.nii.gz"
    names = [f"{slices} slices, {cores} cores" for cores in CORES]
    if not finished.runs.keys() >= set(names):
        write_chest(path, (512, 512, slices), SPACING)
    runs = [
        finished.run(name, partial(_sized, path, slices, folder, cores, finished))
        for name, cores in zip(names, CORES, strict=True)
    ]
    path.unlink(missing_ok=True)
    return runs


def _sized(path: Path, slices: int, folder: Path, cores: int, finished: Finished) -> Run:
    run = search(pivot(folder), path, folder, cores=cores)
    scan = read_scan(path)
    litres = find_lungs(*canonical(scan.array, scan.affine)).litres
    limit = work_of(scan) / _rate(run["precision"], cores, finished)
    kept = {key: run[key] for key in ("wall", "processor", "gib", "stages", "precision")}
    return {"cores": cores, "slices": slices, "litres": litres, "limit": limit, **kept}


def _rate(precision: str, cores: int, finished: Finished) -> float:
    """The best multiply-adds a second."""
    name = f"best rate, {precision}, {cores} cores"
    return float(finished.run(name, lambda: {"rate": best_rate(getattr(torch, precision), cores)})["rate"])


def _of_many(
    options: argparse.Namespace, folder: Path, finished: Finished, precision: str
) -> tuple[list[Run], list[Run]]:
    """Batches of several lengths on all cores, and the longest one on Ray."""
    command, out = pivot(folder), folder / "out"
    most = max([*options.batches, 1])
    paths = write_copies(folder / "scans", CHEST, most)
    work = finished.run(f"{CHEST}, work", lambda: {"multiply_adds": work_of(read_scan(paths[0]))})["multiply_adds"]

    def batched(count: int) -> Run:
        some = folder / f"scans-{count}"
        some.mkdir()
        for path in paths[:count]:
            (some / path.name).hardlink_to(path)
        seconds, processor, gib = measure([batch(command, some, out)])
        limit = HOUR / work * _rate(precision, CORES[-1], finished)
        return {"scans": count, "wall": seconds, "processor": processor, "gib": gib, "hourly_limit": limit}

    def on_ray(actors: int) -> Run:
        from benchmarks.cluster import local_cluster

        with local_cluster(actors):
            seconds = measure([[*batch(command, paths[0].parent, out), "--distributed"]]).seconds
        limit = actors * HOUR / work * _rate(precision, 1, finished)
        return {"actors": actors, "scans": most, "wall": seconds, "hourly_limit": limit}

    return (
        [finished.run(f"batch of {count}", partial(batched, count)) for count in options.batches],
        [finished.run(f"{actors} actors", partial(on_ray, actors)) for actors in options.workers],
    )


def _line(runs: Sequence[Run]) -> tuple[float, float, float]:
    """The line through seconds over litres: its start, its slope, and how far it is off (largest, relative)."""
    litres, seconds = (np.array([run[key] for run in runs]) for key in ("litres", "wall"))
    slope, offset = np.polyfit(litres, seconds, 1)
    return float(offset), float(slope), float((abs(offset + slope * litres - seconds) / seconds).max())


def draw(sizes: Sequence[Run], batches: Sequence[Run], workers: Sequence[Run]) -> Figure:
    """Seconds over litres, memory over slices, scans an hour over the scans in a batch and over actors, and limits."""
    figure = Figure(figsize=(8, 6), dpi=100, layout="constrained")
    (time, memory), (many, ray) = figure.subplots(2, 2)
    for number, cores in enumerate(sorted({run["cores"] for run in sizes})):
        runs, colour, name = [run for run in sizes if run["cores"] == cores], f"C{number}", _plural(cores, "core")
        offset, slope, _ = _line(runs)
        litres = [run["litres"] for run in runs]
        end = max(litres)
        time.plot(litres, [run["wall"] for run in runs], "o", color=colour, label=name)
        time.plot([0, end], [offset, offset + slope * end], "-", color=colour)
        time.plot([0, *litres], [0, *(run["limit"] for run in runs)], "--", color=colour, label=f"limit, {name}")
        memory.plot([run["slices"] for run in runs], [run["gib"] for run in runs], "o-", color=colour, label=name)
    _label(time, "litres of lung", "seconds")
    _label(memory, "slices of 512 x 512", "highest memory, GiB")
    for axes, counted, key, name in (
        (many, batches, "scans", "scans in a batch"),
        (ray, workers, "actors", "actors of Ray"),
    ):
        counts = [run[key] for run in counted]
        axes.plot(counts, [run["scans"] / run["wall"] * HOUR for run in counted], "o-", label="measured")
        axes.plot(counts, [run["hourly_limit"] for run in counted], "--", color="C0", label="limit")
        axes.set_xticks(counts)
        _label(axes, name, "scans an hour")
    return figure


def _plural(count: int, name: str) -> str:
    return f"{count} {name}{'s' if count > 1 else ''}"


def _label(axes: Axes, x: str, y: str) -> None:
    axes.set(xlabel=x, ylabel=y, xlim=(0, None), ylim=(0, None))
    axes.legend(fontsize="small")


if __name__ == "__main__":
    main()
