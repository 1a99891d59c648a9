"""Pictures of the detector's failures in `benchmarks.detection`: `python -m benchmarks.failures`.

Draws the held-out nodules whose confidence is lowest, and the strongest false marks of each whole scan, all from the
report of a finished run. Each has its surroundings of 50 mm in an axial and a coronal slice.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.detection import add_data
from src.data.geometry import RAS_TO_LPS, map_points
from src.files import whole_file
from src.train.config import load_train_config
from src.train.cubes import load_cubes
from src.train.sources import load_background

__all__ = ["main"]

COLUMNS = 6
MISSED = 12  # nodules
HALF = 25  # voxels of 1 mm on each side
WINDOW = (-1000.0, 200.0)  # HU


class Failure(NamedTuple):
    """The cube around a place, (50, 50, 50) HU, x to the left, y to the back, z to the head; and the failure there."""

    cube: npt.NDArray[Any]
    title: str


def main() -> None:
    """Draw the failures of a finished benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--detection", type=Path, default=Path("results/detection"), help="the benchmark's output")
    add_data(parser)
    parser.add_argument("--output", type=Path, default=Path("docs/images/failures.png"))
    options = parser.parse_args()
    report = json.loads((options.detection / "detection.json").read_text())
    failures = [*_missed(options, report["nodules"]), *_false(options, report["scans"])]
    figure = _draw(failures, report["model"])
    options.output.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(options.output) as partial:
        figure.savefig(partial, format="png")


def _missed(options: argparse.Namespace, nodules: list[dict[str, Any]]) -> Iterator[Failure]:
    cubes = {cube.crop_id: cube for cube in load_cubes(options.data)}
    for nodule in sorted(nodules, key=lambda one: one["confidence"] or 0)[:MISSED]:
        cube, confidence = cubes[nodule["id"]], nodule["confidence"]
        found = "no mark" if confidence is None else f"confidence {confidence:.2f}"
        title = f"{nodule['diameter_mm']:.1f} mm, texture {nodule['texture']:g}: {found}"
        yield Failure(_around(cube.hu, cube.centre), title)


def _false(options: argparse.Namespace, scans: dict[str, list[dict[str, Any]]]) -> Iterator[Failure]:
    config = load_train_config(options.config).model_copy(update={"data": options.data})
    for name, marks in scans.items():
        scan = load_background(config, name)
        for mark in marks:
            place = map_points(np.linalg.inv(RAS_TO_LPS @ scan.affine), np.array(mark["coordinates_lps"]))
            yield Failure(_around(scan.hu, place), f"{name}: false, {mark['confidence']:.2f}")


def _around(hu: npt.NDArray[Any], place: npt.NDArray[np.float64]) -> npt.NDArray[Any]:
    x, y, z = np.round(place).astype(int)
    padded = np.pad(hu, HALF, constant_values=-1000)
    return padded[x : x + 2 * HALF, y : y + 2 * HALF, z : z + 2 * HALF]


def _draw(failures: Sequence[Failure], model: str) -> Figure:
    rows = -(-len(failures) // COLUMNS) * 2
    figure = Figure(figsize=(2 * COLUMNS, 2.15 * rows), dpi=80, layout="constrained", facecolor="black")
    figure.suptitle(f"{model}: axial above, coronal below, {2 * HALF} mm wide", color="white", fontsize=9)
    grid = figure.subplots(rows, COLUMNS, squeeze=False)
    for panel in grid.flat:
        panel.axis("off")
    for number, failure in enumerate(failures):
        row, column = divmod(number, COLUMNS)
        _pair(grid[2 * row, column], grid[2 * row + 1, column], failure)
    return figure


def _pair(axial: Axes, coronal: Axes, failure: Failure) -> None:
    low, high = WINDOW
    axial.imshow(failure.cube[:, :, HALF].T, cmap="gray", vmin=low, vmax=high)
    coronal.imshow(failure.cube[:, HALF, ::-1].T, cmap="gray", vmin=low, vmax=high)
    axial.set_title(failure.title, color="white", fontsize=6)


if __name__ == "__main__":
    main()
