"""Whether values are taken for Hounsfield units: of real scans and pieces all, of the same with mistakes none.

    python -m benchmarks.plausibility [--data ../shared/data]

Prints, for whole scans (as they are; and at half their resolution noisy, with contrast medium, cut, clipped and in
coarse steps) and for cubes of 50 mm around nodules, how many are refused, and why; then, for each mistake in the
values, how many scans and cubes pass with it. The exit code is 1 where a whole scan is refused, or a mistake in one
passes.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from src.data.loader import read_scan
from src.data.plausibility import check_hounsfield
from src.errors import BadScan
from src.train.cubes import load_cubes
from tests.test_plausibility import MISTAKES, changed, real_scans

__all__ = ["main", "refusals"]

Voxels = npt.NDArray[Any]


def refusals(arrays: Iterable[Voxels], *, whole: bool = False) -> Counter[str]:
    """How many are refused, as whole chests or as pieces, by the reason."""
    reasons: Counter[str] = Counter()
    for array in arrays:
        try:
            check_hounsfield(array, whole=whole)
        except BadScan as error:
            reasons[str(error).partition("chest CT: ")[2]] += 1
    return reasons


def main() -> int:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    folder = parser.parse_args().data
    whole = [read_scan(path).array for path in real_scans(folder)]  # which refuses what is implausible, too
    scans = [array[::2, ::2, ::2] for array in whole]
    every = (array for scan in scans for array in changed(scan))
    ways = refusals(every, whole=True) + refusals(whole, whole=True)
    print(f"{len(scans)} whole scans, and in 6 ways each: {ways.total()} refused {dict(ways) or ''}", flush=True)
    cubes = [crop.hu for crop in load_cubes(folder)]
    pieces = refusals(cubes)
    print(f"{len(cubes)} cubes of 50 mm: {pieces.total()} refused")
    for reason, count in pieces.most_common():
        print(f"  {count} x {reason}")
    wrong = 0
    print("mistake                  scans that pass  cubes that pass")
    for name, (make, _) in MISTAKES.items():
        passed = [
            len(some) - refusals((make(array.astype(np.int32)) for array in some), whole=some is scans).total()
            for some in (scans, cubes)
        ]
        wrong += passed[0]
        print(f"{name:24} {passed[0]:15} {passed[1]:16}", flush=True)
    return int(ways.total() > 0 or wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
