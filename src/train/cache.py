"""A disk cache of scans at 1 mm, for training sets larger than memory."""

from collections.abc import Sequence
from itertools import repeat
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..data.loader import scan_name
from ..files import whole_file
from ..processes import helpers
from .scans import LungScan, Places, load_lung_scan

__all__ = ["cached_scan", "fill_cache"]

VERSION = 2  # increase it when the content changes; old files are then made again
KEPT_POINTS = 20_000  # of each kind; all points of 888 scans would take 40 GB


def fill_cache(paths: Sequence[Path], folder: Path, processes: int) -> None:
    """Prepare the scans that are missing in `folder`. After an interruption, finished scans are kept.

    Raises:
        BadScan: a scan cannot be read, or shows no lungs.
    """
    missing = [path for path in paths if not _is_cached(path, folder)]
    if processes <= 1 or len(missing) <= 1:
        for path in missing:
            _prepare(path, folder)
        return
    with helpers(min(processes, len(missing))) as pool:
        for _ in pool.map(_prepare, missing, repeat(folder)):
            pass


def cached_scan(path: Path, folder: Path) -> LungScan:
    """A scan that `fill_cache` prepared. Its voxels stay on disk."""
    voxels, places = _cache_files(path, folder)
    with np.load(places) as data:
        return LungScan(scan_name(path), voxels, data["affine"], data["lung"], data["rim"])


def _prepare(path: Path, folder: Path) -> None:
    scan = load_lung_scan(path)
    lung, rim = (_subsample(places) for places in (scan.lung, scan.rim))
    voxels, places = _cache_files(path, folder)
    with whole_file(voxels) as partial_file:
        np.save(partial_file, scan.hu)
    with whole_file(places) as partial_file:  # written last: it shows that the scan is complete
        np.savez(partial_file, affine=scan.affine, lung=lung, rim=rim, stamp=_stamp(path))


def _subsample(places: Places) -> npt.NDArray[np.int16]:
    kept = np.random.default_rng(0).choice(len(places), min(len(places), KEPT_POINTS), replace=False)
    return places[kept].astype(np.int16)


def _is_cached(path: Path, folder: Path) -> bool:
    voxels, places = _cache_files(path, folder)
    if not (voxels.is_file() and places.is_file()):
        return False
    with np.load(places) as data:
        return bool(np.array_equal(data["stamp"], _stamp(path)))


def _stamp(path: Path) -> npt.NDArray[np.int64]:
    """Values that change with the scan's file and with `VERSION`."""
    status = path.stat()
    return np.array([VERSION, status.st_size, status.st_mtime_ns])


def _cache_files(path: Path, folder: Path) -> tuple[Path, Path]:
    name = scan_name(path)
    return folder / f"{name}.npy", folder / f"{name}.npz"
