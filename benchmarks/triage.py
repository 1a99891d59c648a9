"""Does PIVOT recognise calcified nodules? `python -m benchmarks.triage` (some minutes).

The triage score takes calcification from the mean HU of the segmented nodule. LIDC's outlines come
without images, so balls of known density are used. Prints the calcification that the score assumes (0 to 1).
"""

from itertools import product

import numpy as np

from src.measurement.nodule_properties import segment_and_measure
from src.triage.model import calcified_share
from tests.synthetic_nodules import Case, draw_case, misplaced

__all__ = ["main"]

DIAMETERS = (3.5, 4.5, 5.5, 7.0, 10.0)  # mm
DENSITIES = (40.0, 100.0, 200.0, 300.0, 400.0, 600.0, 900.0)  # HU


def main() -> None:
    """Print a table: rows are diameters, columns densities."""
    print("mm \\ HU" + "".join(f"{hu:8.0f}" for hu in DENSITIES))
    for diameter in DIAMETERS:
        print(f"{diameter:7.1f}" + "".join(f"{_share(diameter, hu):8.2f}" for hu in DENSITIES), flush=True)


def _share(diameter: float, hu: float) -> float:
    """The mean over two slice thicknesses and three noises."""
    shares = []
    for thickness, seed in product((1.25, 2.5), range(3)):
        case = Case(diameter, nodule_hu=hu, spacing=(0.7, 0.7, thickness), noise_sd=30.0, seed=seed)
        scan, centre, _ = draw_case(case)
        point, guess = misplaced(case, centre)
        mean = segment_and_measure(scan, point, guess, case.spacing)[0]["mean_intensity"]
        shares.append(0.0 if mean is None else calcified_share(mean))
    return float(np.mean(shares))


if __name__ == "__main__":
    main()
