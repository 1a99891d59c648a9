"""Sensitivity with thicker slices, more noise and other kernels: `python -m benchmarks.scanners`.

The copies of `benchmarks.planted`, with their nodules, are changed to what another scanner or protocol would show.
Noise and blur are added to those of the scan.
"""

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from benchmarks.planted import TO_LPS, add_copies, add_data, evaluate_copies, held_out, low_threshold, predict_copies
from src.detection.pipeline import InferencePipeline
from src.eval.output import row
from src.files import whole_file
from src.types import FloatArray, Scan

__all__ = ["SCANNERS", "Scanner", "main", "scanned"]

STORED = (-1024, 3071)  # HU, the range of 12 bits
GRAIN = 0.5  # mm, the blur of noise
EDGE = 0.8  # mm, the details that the sharp kernel enhances and the smooth one removes


def _thick(hu: FloatArray, slices: int) -> FloatArray:
    """The means of each `slices` slices."""
    whole = hu.shape[2] // slices * slices
    mean: FloatArray = hu[:, :, :whole].reshape(*hu.shape[:2], -1, slices).mean(axis=-1)
    return mean


def _noisy(hu: FloatArray, deviation: float, blur: float = GRAIN) -> FloatArray:
    """Noise of this standard deviation (HU)."""
    noise = _blurred(np.random.default_rng(0).standard_normal(hu.shape, dtype=np.float32), blur)
    noise *= deviation / noise.std()
    return hu + noise


def _sharp(hu: FloatArray) -> FloatArray:
    return _noisy(2 * hu - _blurred(hu, EDGE), 20, blur=0)


def _blurred(hu: FloatArray, deviation: float) -> FloatArray:
    blurred: FloatArray = ndimage.gaussian_filter(hu, deviation)
    return blurred


class Scanner(NamedTuple):
    """Its slice thickness (whole mm), and its effect on HU on the 1 mm grid."""

    thickness: int = 1
    change: Callable[[FloatArray], FloatArray] = lambda hu: hu


SCANNERS = {
    "as it is": Scanner(),
    "slices of 3 mm": Scanner(3),
    "slices of 5 mm": Scanner(5),
    "noise of 40 HU": Scanner(change=lambda hu: _noisy(hu, 40)),
    "noise of 80 HU": Scanner(change=lambda hu: _noisy(hu, 80)),
    "sharp kernel": Scanner(change=_sharp),
    "smooth kernel": Scanner(change=lambda hu: _blurred(hu, EDGE)),
    "40 HU too high": Scanner(change=lambda hu: hu + 40),
    "40 HU too low": Scanner(change=lambda hu: hu - 40),
}


def scanned(scanner: Scanner, hu: npt.NDArray[np.int16], name: str) -> Scan:
    """Its scan of HU on the 1 mm grid of `TO_LPS`."""
    seen = _thick(scanner.change(hu.astype(np.float32)), scanner.thickness)
    affine = TO_LPS.copy()
    affine[2] = 0, 0, scanner.thickness, (scanner.thickness - 1) / 2  # the first slice's middle
    return Scan(np.round(np.clip(seen, *STORED)).astype(np.int16), affine, name)


def main() -> None:
    """Print a row of sensitivities for each scanner, and write the figures into the output folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_data(parser)
    add_copies(parser)
    parser.add_argument("--output", type=Path, default=Path("results/scanners"))
    parser.add_argument("--scanners", nargs="+", choices=SCANNERS, default=list(SCANNERS), metavar="SCANNER")
    options = parser.parse_args()
    background, crops = held_out(options)
    pipeline = InferencePipeline(options.checkpoint, low_threshold({}))
    figures = {}
    for scanner in options.scanners:
        folder = options.output / scanner.replace(" ", "-")
        series, _ = predict_copies(
            pipeline, background, crops, folder, options.copies, options.seed, partial(scanned, SCANNERS[scanner])
        )
        figures[scanner] = evaluate_copies(folder, series).figures
        print(row(scanner, figures[scanner]), flush=True)
    with whole_file(options.output / "scanners.json") as file:
        file.write_text(json.dumps(figures, indent=2, allow_nan=False) + "\n")


if __name__ == "__main__":
    main()
