"""LUNA16, or any folder of scans with tables in its format: nodules in their own lungs."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..data.loader import scan_name
from ..data.survey import find_scans
from ..errors import BadConfig
from ..eval.matching import treated_diameter
from ..eval.tables import FindingTable, read_findings
from .cache import cached_scan
from .scans import LungScan
from .targets import Points, Truth

__all__ = ["Luna16", "annotated_scans", "list_scans", "truths_of"]

EVERY = 10  # parts of a folder without subsets
OUTSIDE = 3.0  # voxels; a nodule's centre may lie this far outside its scan


class Luna16(NamedTuple):
    """The files of the training scans and of the held-out scans."""

    training: list[Path]
    held_out: list[Path]


def list_scans(folder: Path, validation_subset: int | None, leave_out: Sequence[str] = ()) -> Luna16:
    """The scans in `subset0` to `subset9`. Without these folders, every tenth scan forms a subset.

    Raises:
        BadConfig: the folder or the subset is missing, two scans have one name, or a name in `leave_out` is unknown.
        BadScan: a folder holds no scans.
    """
    if not folder.is_dir():
        msg = f"luna16: there is no folder {folder}"
        raise BadConfig(msg)
    subsets = sorted(path for path in folder.glob("subset[0-9]") if path.is_dir())
    if subsets:
        parts = [(int(subset.name[-1]), path) for subset in subsets for path in find_scans(subset)]
    else:
        parts = [(i % EVERY, path) for i, path in enumerate(find_scans(folder))]
    _check_names([path for _, path in parts], leave_out)
    parts = [(subset, path) for subset, path in parts if scan_name(path) not in leave_out]
    held_out = [path for subset, path in parts if subset == validation_subset]
    if validation_subset is not None and not held_out:
        msg = f"luna16_validation_subset: {folder} holds no scans of subset {validation_subset}"
        raise BadConfig(msg)
    training = [path for subset, path in parts if subset != validation_subset]
    if not training:
        msg = f"luna16: {folder} holds no scans for training, only those held out"
        raise BadConfig(msg)
    return Luna16(training, held_out)


def annotated_scans(paths: Sequence[Path], folder: Path, cache: Path) -> list[LungScan]:
    """The prepared scans with the nodules of `annotations.csv` and the findings of `annotations_excluded.csv`.

    The second table may be missing. World points are LPS millimetres.

    Raises:
        BadConfig: a table is missing or broken, or a nodule lies outside its scan.
    """
    names = [scan_name(path) for path in paths]
    nodules = read_findings(folder / "annotations.csv", names)
    others = folder / "annotations_excluded.csv"
    excluded = read_findings(others, names, repeats=True) if others.is_file() else None
    scans = []
    for index, path in enumerate(paths):
        scan = cached_scan(path, cache)
        truths = truths_of(scan, nodules, index)
        _check_places(scan, truths, folder)
        unsure = () if excluded is None else truths_of(scan, excluded, index)
        scans.append(replace(scan, truths=truths, excluded=unsure))
    return scans


def truths_of(scan: LungScan, findings: FindingTable, index: int) -> tuple[Truth, ...]:
    """The findings of the scan with the number `index` in the list of scans."""
    own = findings.scan == index
    centres: Points = scan.to_voxels(findings.point[own])
    diameters = treated_diameter(findings)[own].tolist()
    return tuple(Truth(centre, diameter) for centre, diameter in zip(centres, diameters, strict=True))


def _check_names(paths: Sequence[Path], leave_out: Sequence[str]) -> None:
    places: dict[str, Path] = {}
    for path in paths:
        other = places.setdefault(scan_name(path), path)
        if other != path:
            msg = f"luna16: {other} and {path} have the same name: remove one of them"
            raise BadConfig(msg)
    unknown = sorted(set(leave_out) - set(places))
    if unknown:
        msg = f"luna16_leave_out: there is no scan called {', '.join(unknown)}"
        raise BadConfig(msg)


def _check_places(scan: LungScan, truths: Sequence[Truth], folder: Path) -> None:
    last = np.array(scan.hu.shape) - 1
    for centre, _ in truths:
        if (centre < -OUTSIDE).any() or (centre > last + OUTSIDE).any():
            msg = (
                f"{folder / 'annotations.csv'}: a nodule of {scan.name} lies outside that scan, at voxel "
                f"{np.round(centre).astype(int).tolist()} of 1 mm: coordinates must be LPS millimetres, as in LUNA16"
            )
            raise BadConfig(msg)
