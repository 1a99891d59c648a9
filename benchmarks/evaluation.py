"""How long an evaluation of LUNA16's size takes: `OMP_NUM_THREADS=1 python -m benchmarks.evaluation`.

The files are synthetic and as large as LUNA16's: 888 scans, 1,186 nodules, 35,192 excluded findings
and 55,677 marks. The time includes the command's start.
"""

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt

__all__ = ["main", "write_case"]

SCANS, NODULES, EXCLUDED, MARKS = 888, 1186, 35_192, 55_677
CHEST = (300.0, 250.0, 300.0)  # mm
FINDING = "seriesuid,coordX,coordY,coordZ,diameter_mm"
MARK = "seriesuid,coordX,coordY,coordZ,probability"


def main() -> None:
    """Write the files, evaluate them with 1,000 bootstraps, print the table and the seconds."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_case(folder)
        command = [sys.executable, "-m", "src.eval.main", "--output", name]
        for option in ("predictions", "annotations", "excluded", "seriesuids"):
            command += [f"--{option}", str(folder / f"{option}.csv")]
        start = time.perf_counter()
        subprocess.run(command, check=True)
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        print(f"{time.perf_counter() - start:.1f} s, {used.ru_utime + used.ru_stime:.1f} s of them computing")


def write_case(folder: Path, seed: int = 0) -> None:
    """Write four CSV files of a simulated detector, which marks most nodules and some other places."""
    rng = np.random.default_rng(seed)
    uids = [f"1.3.6.1.4.1.14519.5.2.1.6279.6001.{i:018d}" for i in range(SCANS)]
    (folder / "seriesuids.csv").write_text("\n".join(uids) + "\n")
    owner, places = rng.integers(SCANS, size=NODULES), rng.uniform(0, CHEST, (NODULES, 3))
    _write(folder / "annotations.csv", FINDING, uids, owner, places, rng.uniform(3, 32, NODULES))
    other, others = rng.integers(SCANS, size=EXCLUDED), rng.uniform(0, CHEST, (EXCLUDED, 3))
    _write(folder / "excluded.csv", FINDING, uids, other, others, np.full(EXCLUDED, -1.0))
    rest = MARKS - NODULES - EXCLUDED
    scans = np.concatenate([owner, other, rng.integers(SCANS, size=rest)])
    points = np.concatenate([places, others, rng.uniform(0, CHEST, (rest, 3))]) + rng.normal(0, 2, (MARKS, 3))
    probability = np.concatenate([rng.beta(3, 1, NODULES), rng.beta(1, 4, MARKS - NODULES)])
    _write(folder / "predictions.csv", MARK, uids, scans, points, probability)


def _write(
    path: Path,
    header: str,
    uids: list[str],
    scans: npt.NDArray[np.int64],
    points: npt.NDArray[np.float64],
    values: npt.NDArray[np.float64],
) -> None:
    rows = zip(scans, points.tolist(), values.tolist(), strict=True)
    lines = [f"{uids[scan]},{x:.4f},{y:.4f},{z:.4f},{value:.6f}" for scan, (x, y, z), value in rows]
    path.write_text("\n".join([header, *lines]) + "\n")


if __name__ == "__main__":
    main()
