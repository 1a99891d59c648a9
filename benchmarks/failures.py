"""Pictures of the detector's failures in `benchmarks.planted`: `python -m benchmarks.failures`.

Draws the planted nodules whose confidence is lowest and the strongest false marks, each with its
surroundings of 60 mm in an axial and a coronal slice. The copies are made again from their seed.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.spatial.distance import cdist

from src.eval.matching import match
from src.eval.tables import FindingTable, MarkTable, read_seriesuids
from src.files import whole_file

from .planted import Lung, add_data, held_out, plant, read_copies

__all__ = ["main"]

SHOWN = 6  # of each kind
HALF = 30  # voxels of 1 mm on each side
SAME = 5.0  # mm; false marks of two copies within this distance are one
WINDOW = (-1000.0, 200.0)  # HU


class Failure(NamedTuple):
    """A place in a copy (voxels of 1 mm), and the failure there."""

    copy: int
    point: npt.NDArray[np.float64]
    title: str


def main() -> None:
    """Draw the failures of a finished benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--detection", type=Path, default=Path("results/planted"), help="the benchmark's output")
    add_data(parser)
    parser.add_argument("--output", type=Path, default=Path("docs/images/failures.png"))
    options = parser.parse_args()
    folder = options.detection
    series = read_seriesuids(folder / "seriesuids.csv")
    marks, nodules, unsure = read_copies(folder, series)
    failures = [*_missed(marks, nodules, unsure), *_false(marks, nodules, unsure)]
    report = json.loads((folder / "planted.json").read_text())
    volumes = _copies(options, len(series), report["seed"])
    figure = _draw(failures, volumes, report["model"])
    options.output.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(options.output) as partial:
        figure.savefig(partial, format="png")


def _missed(marks: MarkTable, nodules: FindingTable, unsure: FindingTable) -> Iterator[Failure]:
    best = match(marks, nodules, unsure).best
    for index in np.argsort(best)[:SHOWN]:
        found = f"confidence {best[index]:.2f}" if np.isfinite(best[index]) else "no mark"
        kind = nodules.kind[index] if nodules.kind else ""
        yield Failure(
            int(nodules.scan[index]), nodules.point[index], f"{nodules.diameter[index]:.1f} mm {kind}: {found}"
        )


def _false(marks: MarkTable, nodules: FindingTable, unsure: FindingTable) -> Iterator[Failure]:
    """The strongest marks outside all findings. A place is listed once, because the copies share the scan."""
    drawn: list[npt.NDArray[np.float64]] = []
    for index in np.argsort(-marks.probability):
        scan, point = int(marks.scan[index]), marks.point[index]
        is_hit = any(_inside(point, findings, scan) for findings in (nodules, unsure))
        if is_hit or any(np.linalg.norm(point - other) < SAME for other in drawn):
            continue
        drawn.append(point)
        yield Failure(scan, point, f"false mark: confidence {marks.probability[index]:.2f}")
        if len(drawn) == SHOWN:
            return


def _inside(point: npt.NDArray[np.float64], findings: FindingTable, scan: int) -> bool:
    own = findings.scan == scan
    return bool((cdist(point[None], findings.point[own])[0] < findings.diameter[own] / 2).any())


def _copies(options: argparse.Namespace, count: int, seed: int) -> list[npt.NDArray[np.int16]]:
    background, crops = held_out(options)
    lung = Lung(background)
    return [plant(np.random.default_rng([seed, copy]), copy, background, lung, crops)[0] for copy in range(count)]


def _draw(failures: Sequence[Failure], volumes: Sequence[npt.NDArray[np.int16]], model: str) -> Figure:
    rows = -(-len(failures) // SHOWN) * 2
    figure = Figure(figsize=(2 * SHOWN, 2.15 * rows), dpi=80, layout="constrained", facecolor="black")
    figure.suptitle(f"{model}: axial above, coronal below, 60 mm wide", color="white", fontsize=9)
    grid = figure.subplots(rows, SHOWN, squeeze=False)
    for panel in grid.flat:
        panel.axis("off")
    for number, failure in enumerate(failures):
        row, column = divmod(number, SHOWN)
        _pair(grid[2 * row, column], grid[2 * row + 1, column], failure, volumes[failure.copy])
    return figure


def _pair(axial: Axes, coronal: Axes, failure: Failure, volume: npt.NDArray[np.int16]) -> None:
    x, y, z = np.round(failure.point).astype(int) + HALF
    cube = np.pad(volume, HALF, constant_values=-1000)[x - HALF : x + HALF, y - HALF : y + HALF, z - HALF : z + HALF]
    low, high = WINDOW
    axial.imshow(cube[:, :, HALF].T, cmap="gray", vmin=low, vmax=high)
    coronal.imshow(cube[:, HALF, ::-1].T, cmap="gray", vmin=low, vmax=high)
    axial.set_title(failure.title, color="white", fontsize=6)


if __name__ == "__main__":
    main()
