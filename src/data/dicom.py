"""From a folder of DICOM files to one volume: which series, which order, which repairs.

The series with the first of these wins, and the notes say so: original rather than derived images,
a body part named as chest, most slices, lowest SeriesNumber. CT of several studies is refused.
"""

import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from ..errors import BadScan
from ..types import Affine
from .checks import check_shape, padding_note
from .geometry import RAS_TO_LPS
from .slices import Slice, is_ct_image, is_dicom, read_header, read_pixels, slices_of

__all__ = ["holds_dicom", "read_series", "series_slices"]

MIN_SLICES = 3  # fewer are a localiser
GAP, DUPLICATE = 1.5, 0.1  # of the median distance between slices
SAME = 1e-3  # mm, or parts of a unit vector
THREADS = 4
CHEST = ("CHEST", "LUNG", "THORAX")

Header = tuple[Path, Dataset]
Series = list[Header]
Voxels = npt.NDArray[Any]


def holds_dicom(folder: Path, *, nested: bool = True) -> bool:
    """Whether any file in the folder, or in the folders below it, is DICOM."""
    return any(is_dicom(file) for file in _files(folder, nested=nested))


def read_series(path: Path) -> tuple[Voxels, Affine, str | None, tuple[str, ...]]:
    """The best CT series in a folder or file: (X, Y, Z) HU, affine (RAS+), its SeriesInstanceUID, notes.

    x runs along the columns, y along the rows, z along the slice normal.
    """
    slices, uid, notes = series_slices(path)
    array, padded = _decode(slices)
    return array, _affine(slices), uid, (*notes, *padding_note(padded))


def series_slices(path: Path) -> tuple[list[Slice], str | None, tuple[str, ...]]:
    """The slices of the best CT series in a folder or file along their normal, its SeriesInstanceUID, notes."""
    files = _files(path) if path.is_dir() else [path]
    headers = [(file, header) for file in files if (header := read_header(file)) is not None]
    series, notes = _choose(headers)
    slices = [one for file, header in series for one in slices_of(file, header)]
    _check_uniform(slices)
    slices, repairs = _in_order(slices)
    uid = series[0][1].get("SeriesInstanceUID")
    return slices, str(uid) if uid else None, (*notes, *repairs)


def _files(folder: Path, *, nested: bool = True) -> Iterable[Path]:
    def refuse(error: OSError) -> None:
        raise error

    for parent, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = sorted(folders) if nested else []
        files = (Path(parent, name) for name in sorted(names) if name != "DICOMDIR" and not name.startswith("."))
        yield from (file for file in files if file.is_file())


def _choose(headers: list[Header]) -> tuple[Series, tuple[str, ...]]:
    if not headers:
        msg = "holds no DICOM files: give a scan file, or the folder of a DICOM series"
        raise BadScan(msg)
    images = [(path, header) for path, header in headers if is_ct_image(header)]
    if not images:
        kinds = ", ".join(sorted({str(header.get("Modality", "unknown")) for _, header in headers}))
        msg = f"holds no CT images, only DICOM of modality {kinds}: give the folder of a chest CT"
        raise BadScan(msg)
    groups: dict[str, Series] = defaultdict(list)
    for path, header in images:
        if "LOCALIZER" not in _words(header, "ImageType"):
            groups[str(header.get("SeriesInstanceUID"))].append((path, header))
    series = [group for group in groups.values() if _count(group) >= MIN_SLICES]
    if not series:
        msg = f"holds only localisers, or fewer than {MIN_SLICES} slices of a series: give the folder of all slices"
        raise BadScan(msg)
    studies = {str(group[0][1].get("StudyInstanceUID")) for group in series}
    if len(studies) > 1:
        msg = f"holds CT of {len(studies)} studies: put each into a folder of its own"
        raise BadScan(msg)
    best, *others = sorted(series, key=_preference)
    return best, (f"read series {_label(best)}, not {', '.join(map(_label, others))}",) if others else ()


def _preference(series: Series) -> tuple[bool, bool, int, int, str]:
    header = series[0][1]
    part = " ".join(_words(header, "BodyPartExamined")).upper()
    return (
        "ORIGINAL" not in _words(header, "ImageType"),
        not any(word in part for word in CHEST),
        -_count(series),
        int(header.get("SeriesNumber") or 0),
        str(header.get("SeriesInstanceUID")),
    )


def _words(header: Dataset, name: str) -> list[str]:
    value = header.get(name) or []
    return [value] if isinstance(value, str) else [str(item) for item in value]


def _count(series: Series) -> int:
    return sum(int(header.get("NumberOfFrames") or 1) for _, header in series)


def _label(series: Series) -> str:
    return f"{series[0][1].get('SeriesNumber') or 'without number'} ({_count(series)} slices)"


def _check_uniform(slices: list[Slice]) -> None:
    """Refuse a series whose slices do not all have the same size, pixel spacing and orientation."""
    for name, values in (
        ("sizes", [one.size for one in slices]),
        ("pixel spacings", [one.spacing for one in slices]),
        ("orientations", [np.concatenate([one.along_row, one.along_column]) for one in slices]),
    ):
        deviation = np.abs(np.array(values) - np.median(values, axis=0)).max(axis=1)
        odd = [one for one, amount in zip(slices, deviation, strict=True) if amount > SAME]
        if odd:
            msg = f"mixes {name} in one series, at {_named(odd)}: export each series into a folder of its own"
            raise BadScan(msg)


def _in_order(slices: list[Slice]) -> tuple[list[Slice], tuple[str, ...]]:
    """The slices along their common normal, evenly spaced and straight, without duplicates."""
    slices = sorted(slices, key=lambda one: (_height(one, slices), one.number, one.path.name))
    slices, notes = _without_duplicates(slices)
    heights = np.array([_height(one, slices) for one in slices])
    steps = np.diff(heights)
    median = float(np.median(steps))
    gaps = [i for i, step in enumerate(steps) if step > GAP * median]
    if gaps:
        where = "; ".join(f"between {_name(slices[i])} and {_name(slices[i + 1])}" for i in gaps[:3])
        more = f" and in {len(gaps) - 3} more places" if len(gaps) > 3 else ""
        msg = f"slices are missing {where}{more} (the others are {median:.4g} mm apart): export the whole series"
        raise BadScan(msg)
    even = np.linspace(heights[0], heights[-1], len(heights))
    if np.abs(heights - even).max() > median / 2:
        msg = f"slices are {steps.min():.4g} to {steps.max():.4g} mm apart: give a series with one spacing"
        raise BadScan(msg)
    _check_straight(slices)
    return slices, notes


def _height(one: Slice, slices: Sequence[Slice]) -> float:
    return float(one.position @ slices[0].normal)


def _without_duplicates(slices: list[Slice]) -> tuple[list[Slice], tuple[str, ...]]:
    heights = [_height(one, slices) for one in slices]
    distinct = [b - a for a, b in pairwise(heights) if b - a > SAME]
    if not distinct:
        msg = f"all {len(slices)} slices lie at the same position: export the series again"
        raise BadScan(msg)
    limit = DUPLICATE * float(np.median(distinct))
    kept, dropped = [slices[0]], []
    for one in slices[1:]:
        if _height(one, slices) - _height(kept[-1], slices) >= limit:
            kept.append(one)
        elif _same_pixels(one, kept[-1]):
            dropped.append(one)
        else:
            what = f"{_name(kept[-1])} and {_name(one)} lie at the same position with different pixels"
            msg = f"{what}: put each phase or reconstruction into a folder of its own"
            raise BadScan(msg)
    return kept, (f"duplicate slices dropped: {_named(dropped)}",) if dropped else ()


def _same_pixels(one: Slice, other: Slice) -> bool:
    (a, _), (b, _) = next(read_pixels(one.path, [one])), next(read_pixels(other.path, [other]))
    return np.array_equal(a, b)


def _check_straight(slices: list[Slice]) -> None:
    """Refuse slices whose origins leave the line along the normal by more than a pixel."""
    shifts = np.array([one.position - slices[0].position for one in slices])
    normal = slices[0].normal
    along = shifts @ normal
    drift = np.linalg.norm(shifts - np.outer(along, normal), axis=1)
    if drift.max() > max(slices[0].spacing):
        angle = np.degrees(np.arctan2(drift[-1], along[-1]))
        what = f"slices are shifted in plane by up to {drift.max():.1f} mm (gantry tilt of {angle:.1f} degrees)"
        msg = f"{what}: straighten the series first, for example with dcm2niix, which writes a *_Tilt file"
        raise BadScan(msg)


def _decode(slices: list[Slice]) -> tuple[Voxels, int]:
    columns, rows = slices[0].size
    shape, _ = check_shape((columns, rows, len(slices)))
    whole = all(one.slope.is_integer() and one.intercept.is_integer() and one.largest <= 32767 for one in slices)
    array: Voxels = np.empty(shape, np.int16 if whole else np.float32, order="F")
    places: dict[Path, list[int]] = defaultdict(list)
    for z, one in enumerate(slices):
        places[one.path].append(z)

    def fill(path: Path) -> int:
        padded = 0
        pixels = read_pixels(path, [slices[z] for z in places[path]])
        for z, (values, outside) in zip(places[path], pixels, strict=True):
            array[..., z] = values
            padded += outside
        return padded

    with ThreadPoolExecutor(THREADS) as pool:
        return array, sum(pool.map(fill, places))


def _affine(slices: list[Slice]) -> Affine:
    first, last = slices[0], slices[-1]
    step = (last.position - first.position) @ first.normal / (len(slices) - 1)
    affine = np.eye(4)
    affine[:3, 0] = first.along_row * first.spacing[0]
    affine[:3, 1] = first.along_column * first.spacing[1]
    affine[:3, 2] = first.normal * step
    affine[:3, 3] = first.position
    return RAS_TO_LPS @ affine


def _name(one: Slice) -> str:
    return f"instance {one.number} (z {one.position @ one.normal:.2f} mm)"


def _named(slices: list[Slice]) -> str:
    more = f" and {len(slices) - 5} more" if len(slices) > 5 else ""
    return ", ".join(map(_name, slices[:5])) + more
