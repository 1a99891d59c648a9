"""Reads a scan in another process while this one imports torch. An import holds Python's global lock."""

import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt

from ..processes import helpers
from .read_ahead import Readied, read_timed

__all__ = ["read_beside"]


@contextmanager
def read_beside(path: Path) -> Iterator[Callable[[Path], Readied]]:
    """A function that returns the scan at `path`. Reading starts at once, unless torch is already imported.

    The function raises `BadScan` if the scan cannot be read as a chest CT.
    """
    if "torch" in sys.modules:
        yield read_timed
        return
    with TemporaryDirectory(prefix="pivot-") as folder, helpers(1) as reader:
        voxels = Path(folder, "voxels.npy")  # a pipe between the processes would take a second
        reading = reader.submit(_read_to, voxels, path)

        def take(_: Path) -> Readied:
            read = reading.result()
            reader.shutdown(wait=False)  # the process ends while the network runs
            return _with_array(read, np.load(voxels))

        yield take


def _read_to(voxels: Path, path: Path) -> Readied:
    gc.disable()  # the process ends after one scan
    read = read_timed(path)
    np.save(voxels, read.scan.array)
    return _with_array(read, np.empty((0, 0, 0), read.scan.array.dtype))


def _with_array(read: Readied, array: npt.NDArray[Any]) -> Readied:
    return read._replace(scan=replace(read.scan, array=array))
