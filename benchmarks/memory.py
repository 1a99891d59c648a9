"""How much memory a large scan takes: `python -m benchmarks.memory`.

A synthetic chest of 512 x 512 x 600 voxels goes through the command line. The exit
code is 1 if the process and its children ever hold more than `--limit`.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nibabel
import numpy as np
import psutil

from src.data.phantom import chest_phantom
from src.types import Shape3, Vec3

__all__ = ["main", "write_chest"]

ROOT = Path(__file__).resolve().parents[1]
SHAPE: Shape3 = (512, 512, 600)
SPACING = (0.7, 0.7, 1.0)  # mm
AIR = -1000  # HU
GIB = 2**30


def main() -> int:
    """Print the seconds and the highest GiB of one run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--limit", type=float, default=6.0, metavar="GIB", help="GiB that are allowed (%(default)s)")
    parser.add_argument("--interval", type=float, default=0.05, help="seconds between two looks (%(default)s)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pivot-memory-") as folder:
        path = Path(folder) / "large.nii.gz"
        write_chest(path, SHAPE, SPACING)
        seconds, most = _watch(path, options.interval)
    print(f"{' x '.join(map(str, SHAPE))} voxels: {seconds:.0f} s, at most {most / GIB:.2f} GiB")
    return int(most > options.limit * GIB)


def write_chest(path: Path, shape: Shape3, spacing: Vec3) -> None:
    """Write the phantom, surrounded by air and stacked to the wanted length, as int16 NIfTI."""
    scan, _ = chest_phantom(spacing=spacing)
    margins = [(extra // 2, extra - extra // 2) for extra in (shape[0] - scan.shape[0], shape[1] - scan.shape[1])]
    wide = np.pad(scan.array, [*margins, (0, 0)], constant_values=AIR)
    tall = np.take(wide, np.arange(shape[2]) % wide.shape[2], axis=2)
    nibabel.save(nibabel.Nifti1Image(tall, scan.affine), path)


def _watch(path: Path, interval: float) -> tuple[float, int]:
    """The seconds, and the largest number of bytes that the command and its children held at once."""
    start, most = time.perf_counter(), 0
    command = [sys.executable, "-m", "src.inference.main", "--input", str(path), "--output", str(path.parent / "out")]
    with psutil.Popen(command, cwd=ROOT) as process:
        while process.poll() is None:
            most = max(most, _resident(process))
            time.sleep(interval)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return time.perf_counter() - start, most


def _resident(process: psutil.Process) -> int:
    total = 0
    for one in (process, *process.children(recursive=True)):
        try:
            total += one.memory_info().rss
        except psutil.NoSuchProcess:  # it has ended
            continue
    return total


if __name__ == "__main__":
    sys.exit(main())
