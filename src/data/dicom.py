"""Reads a folder of DICOM files into one volume."""

import os
import re
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..errors import BadScan
from ..types import Acquisition, Affine
from .checks import check_shape
from .formats import DICOM, VOLUMES, content_of, format_of
from .geometry import RAS_TO_LPS
from .headers import Header, is_dicom, read_header
from .pixels import Repairs, read_pixels
from .plausibility import AIR
from .series import Chosen, choose
from .slices import Slice
from .stacks import Stack, heights_of, on_grid
from .weave import woven

__all__ = ["Series", "files_in", "holds_dicom", "read_series", "series_slices"]

THREADS = 4
UNFINISHED = (".part", ".partial", ".tmp", ".crdownload", ".download", ".filepart", ".gz", ".bz2", ".xz", ".zst")
TEXT = bytes(range(32, 127)) + b"\t\n\r\f\x1b" + bytes(range(128, 256))  # bytes of text, in any common encoding
EVERY, FITS = 2, 0.5  # pixels; the share of the difference between two slices
SAMPLE = 1024  # bytes to read to tell text from binary data

Voxels = npt.NDArray[Any]


class Series(NamedTuple):
    """The best CT series in a folder or file: (X, Y, Z) HU, affine (RAS+), its attributes, and notes.

    x is the column index, y the row index, z runs along the slice normal.
    """

    array: Voxels
    affine: Affine
    uid: str | None  # SeriesInstanceUID
    body_part: str  # BodyPartExamined, in upper case
    notes: tuple[str, ...]
    acquisition: Acquisition


def holds_dicom(folder: Path, *, nested: bool = True) -> bool:
    """Whether the folder or any folder below it holds a DICOM file."""
    return any(is_dicom(file) for file in files_in(folder, nested=nested))


def read_series(path: Path) -> Series:
    """The best CT series in a folder or file.

    Raises:
        BadScan: there is no CT series, or it cannot be read.
    """
    chosen = _chosen(path)
    stack = chosen.stack
    array, repairs = _decode(stack.slices)
    _check_one(array, stack.slices)
    _check_rescaling(array, stack.slices)
    if stack.resampled:
        array = on_grid(array, heights_of(stack.slices), stack.grid)
    about = stack.slices[0].about
    numbers = () if stack.resampled else tuple(one.number for one in stack.slices)
    made = Acquisition(about.thickness, about.kernel, numbers)
    return Series(array, _affine(stack), chosen.uid, chosen.body_part, (*chosen.notes, *repairs.notes()), made)


def series_slices(path: Path) -> Stack:
    """The slices of the best CT series, sorted along their normal, and the planes of its volume."""
    return _chosen(path).stack


def _chosen(path: Path) -> Chosen:
    headers, others = _headers(path) if path.is_dir() else ([_header(path)], [])
    chosen = choose(headers)
    if not others:
        return chosen
    names = ", ".join(file.name for file in others[:3]) + ", ..." * (len(others) > 3)
    note = f"left out: {len(others)} file{'s are' if len(others) > 1 else ' is'} no DICOM ({names})"
    return chosen._replace(notes=(*chosen.notes, note))


def _header(path: Path) -> Header:
    header = read_header(path)
    if header is None:
        msg = f"{path.name} is not a DICOM file{_instead(path)}: copy it again or take it out of the folder"
        raise BadScan(msg)
    return header


def _headers(folder: Path) -> tuple[list[Header], list[Path]]:
    """The headers of all DICOM files, and the names of the other files except texts and volumes.

    A file whose name says DICOM must be DICOM, else it is refused.
    """
    headers, others = list[Header](), list[Path]()
    for file in files_in(folder):
        header = read_header(file)
        if header is None:
            others.append(file)
        else:
            headers.append(header)
    suffixes = {header.path.suffix.lower() for header in headers} | set(DICOM)
    names = {_pattern(header.path) for header in headers} - {""}
    for file in others:
        suffix = file.suffix.lower()
        whole = Path(file.stem).suffix.lower() if suffix in UNFINISHED else suffix
        named = whole in suffixes - {""} or suffix[1:].isdecimal()
        if named and (headers or suffix in DICOM):
            _header(file)
        if _pattern(file) in names or (headers and not suffix and not _is_text(file) and not format_of(file)):
            _header(file)
    return headers, [file for file in others if not _is_text(file) and format_of(file) not in VOLUMES]


def _pattern(path: Path) -> str:
    """The name without its digits, which slices of one series share; empty if it has no digits."""
    name = re.sub(r"\d+", "#", path.name)
    return name if "#" in name else ""


def _instead(path: Path) -> str:
    if not path.exists():
        return ", but a link to a missing file"
    size = path.stat().st_size
    if not size:
        return ", but empty"
    if held := content_of(path):
        return f", but a {held} file by its content"
    return ", but text" if _is_text(path) else f", or is damaged or cut short ({size} bytes)"


def _is_text(path: Path) -> bool:
    if not path.exists():
        return False
    with path.open("rb") as file:
        start = file.read(SAMPLE)
    return bool(start) and not start.translate(None, TEXT)


def files_in(folder: Path, *, nested: bool = True) -> Iterator[Path]:
    """All files in a folder and below it, through links; each folder once. Hidden files are skipped.

    A broken link counts as a file.
    """

    def refuse(error: OSError) -> None:
        raise error

    seen = {os.path.realpath(folder)}
    for parent, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        below = {os.path.realpath(Path(parent, name)): name for name in sorted(folders, reverse=True) if nested}
        folders[:] = sorted(name for place, name in below.items() if place not in seen)
        seen.update(below)
        files = (Path(parent, name) for name in sorted(names) if name != "DICOMDIR" and not name.startswith("."))
        yield from (file for file in files if file.is_file() or not file.exists())


def _decode(slices: list[Slice]) -> tuple[Voxels, Repairs]:
    columns, rows = slices[0].size
    shape, _ = check_shape((columns, rows, len(slices)))
    whole = all(one.slope.is_integer() and one.intercept.is_integer() and _highest(one) <= 32767 for one in slices)
    array: Voxels = np.empty(shape, np.int16 if whole else np.float32, order="F")
    places: dict[Path, list[int]] = defaultdict(list)
    for z, one in enumerate(slices):
        places[one.path].append(z)

    def fill(path: Path) -> Repairs:
        done = Repairs()
        pixels = read_pixels(path, [slices[z] for z in places[path]])
        for z, (values, repairs) in zip(places[path], pixels, strict=True):
            array[..., z] = values
            done = done.plus(repairs)
        return done

    repairs = Repairs()
    with ThreadPoolExecutor(THREADS) as pool:
        for done in pool.map(fill, places):
            repairs = repairs.plus(done)
    return array, repairs


def _check_one(array: Voxels, slices: list[Slice]) -> None:
    """Refuse reconstructions or phases whose slices alternate and that no attribute separates."""
    count = woven(array)
    if count > 1:
        names = ", ".join(str(one.number) for one in slices[:count])
        what = f"slices alternate between {count} reconstructions or phases (by their pixels), starting with instances"
        msg = f"{what} {names}, and no attribute separates them: put each into its own folder"
        raise BadScan(msg)


def _check_rescaling(array: Voxels, slices: list[Slice]) -> None:
    """Refuse neighbouring slices with different rescaling whose pixels match much better with the same one."""
    for k, (one, other) in enumerate(pairwise(slices)):
        if (one.slope, one.intercept) == (other.slope, other.intercept):
            continue
        here, there = (array[::EVERY, ::EVERY, z].astype(np.float64) for z in (k, k + 1))
        alike = (there - other.intercept) / other.slope * one.slope + one.intercept
        body = there > AIR
        if np.abs(alike - here)[body].sum() < FITS * np.abs(there - here)[body].sum():
            what = f"instances {one.number} and {other.number} match only with the same RescaleSlope and"
            ways = " and ".join(f"{each.slope:g} and {each.intercept:g}" for each in (one, other))
            msg = f"{what} RescaleIntercept, and have {ways}: export the series again"
            raise BadScan(msg)


def _highest(one: Slice) -> float:
    """The most HU that the stored bits allow. With 16 bits, larger values are negative (see `pixels`)."""
    bits = one.bits - 1 if one.signed or one.bits == 16 else one.bits
    return float((2**bits - 1) * one.slope + one.intercept)


def _affine(stack: Stack) -> Affine:
    first, grid = stack.slices[0], stack.grid
    affine = np.eye(4)
    affine[:3, 0] = first.along_row * first.spacing[0]
    affine[:3, 1] = first.along_column * first.spacing[1]
    affine[:3, 2] = first.normal * (grid[-1] - grid[0]) / (len(grid) - 1)
    affine[:3, 3] = first.position
    return RAS_TO_LPS @ affine
