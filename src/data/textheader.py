"""Shared parsing of the text headers of MetaImage and NRRD: lines, numbers, and names of files beside the header."""

import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..errors import BadScan
from ..types import Affine
from .voxels import VoxelFile

__all__ = ["NO_SPACING", "Fields", "beside", "files", "grid", "header_lines", "integers", "numbered", "numbers", "unit"]

HEADER_BYTES = 2**20  # bytes; a list of a thousand slices needs a tenth of it
NO_SPACING = "states no usable voxel spacing: write the scan again with its spacing in millimetres"
NO_ORIGIN = "the header states no origin: world coordinates count from the first voxel"
NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?|[-+]?(nan|inf|infinity)", re.IGNORECASE)
PATTERN = re.compile(r"([^%]*)%(0?\d?\d?)[di]([^%]*)")
UNITS = {"": 1.0, "?": 1.0, "???": 1.0, "mm": 1.0, "cm": 10.0, "m": 1000.0, "um": 0.001}  # in millimetres

Vectors = npt.NDArray[np.float64]


class Fields(dict[str, str]):
    """The fields of a header by name. A repeated field is refused unless its value is the same."""

    def add(self, name: str, value: str) -> None:
        """Store a field.

        Raises:
            BadScan: the field exists with another value.
        """
        if self.setdefault(name, value) != value:
            msg = f"states {name} twice, as {self[name][:60]!r} and as {value[:60]!r}: remove the wrong one"
            raise BadScan(msg)


def header_lines(path: Path) -> Iterator[tuple[str, int]]:
    """Yield the lines of a text header and the offset of each line's end. The caller stops before the voxels.

    Raises:
        BadScan: a line is not text.
    """
    with path.open("rb") as file:
        content = file.read(HEADER_BYTES)
    start = 0
    while start < len(content):
        end = content.find(b"\n", start)
        end = len(content) if end < 0 else end
        line = content[start:end].removesuffix(b"\r")
        if any(byte < 32 and byte != 9 for byte in line) or (end == HEADER_BYTES and start < end):
            msg = "is damaged, or of another format than its name says: its header is not text, or has no end"
            raise BadScan(msg)
        try:
            text = line.decode()
        except UnicodeDecodeError:
            text = line.decode("latin-1")
        start = min(end + 1, len(content))
        yield text, start


def numbers(name: str, text: str) -> list[float]:
    """The numbers of a field; NaN and infinity are allowed."""
    words = re.split(r"[\s,]+", text.strip()) if text.strip() else []
    if not all(NUMBER.fullmatch(word) for word in words):
        msg = f"states {name} as {text[:60]!r}, which are not numbers: correct its header"
        raise BadScan(msg)
    return [float(word) for word in words]


def integers(name: str, text: str) -> list[int]:
    """The whole numbers of a field."""
    values = numbers(name, text)
    if not all(value.is_integer() and abs(value) < 2**53 for value in values):
        msg = f"states {name} as {text[:60]!r}, which are not whole numbers: correct its header"
        raise BadScan(msg)
    return [int(value) for value in values]


def unit(text: str) -> float:
    """The factor from a unit of length to millimetres."""
    if text.strip('" ').lower() not in UNITS:
        msg = f"states lengths in {text[:20]!r}: write the scan again in millimetres"
        raise BadScan(msg)
    return UNITS[text.strip('" ').lower()]


def beside(header: Path, name: str) -> Path:
    """The file of that plain name in the folder of the header. No other folder is allowed.

    Raises:
        BadScan: the name is no plain name, or there is no such file.
    """
    name = name.removeprefix("./")
    if not name or name in (".", "..") or any(mark in name for mark in "/\\\0"):
        msg = f"points to {name[:200]}: the voxels must be in a file beside the header"
        raise BadScan(msg)
    folder = header.resolve().parent
    data = folder / name
    if data.is_symlink() and data.resolve().parent != folder:
        msg = f"points to {name}, a link to another folder: put the file itself beside the header"
        raise BadScan(msg)
    if not data.is_file():
        msg = f"needs its voxels in {name}, which is not beside it: copy both files"
        raise BadScan(msg)
    return data


def numbered(pattern: str, ranges: Sequence[int]) -> list[str]:
    """The names from a pattern such as `slice%03d.raw`, for the numbers from `first` to `last` by `step`."""
    match = PATTERN.fullmatch(pattern)
    first, last, step = ranges
    if not match or step == 0 or not 0 <= (last - first) / step < 2**16:
        msg = f"names its files {pattern[:60]!r} from {first} to {last} by {step}: name them slice%03d.raw or in a list"
        raise BadScan(msg)
    before, width, behind = match.groups()
    return [f"{before}{f'%{width}d' % number}{behind}" for number in range(first, last + (1 if step > 0 else -1), step)]


def files(
    header: Path, names: Sequence[str], sizes: Sequence[int], dimension: Sequence[int], start: int | None = 0
) -> list[VoxelFile]:
    """The files that share the voxels equally, each of a number of dimensions (by default one less than the image).

    Raises:
        BadScan: the number of files does not fit `sizes`.
    """
    axes, *more = dimension or [len(sizes) - 1]
    if more or not 0 < axes <= len(sizes):
        msg = f"names files of {axes} dimensions for an image of {len(sizes)}: correct its header"
        raise BadScan(msg)
    wanted = math.prod(sizes[axes:])
    if len(names) != wanted if axes < len(sizes) else not names or sizes[-1] % len(names):
        msg = f"names {len(names)} files for {sizes[-1]} slices: correct its header"
        raise BadScan(msg)
    parts = [VoxelFile(beside(header, name), start) for name in names]
    if len({part.path for part in parts}) < len(parts):
        msg = "names a file twice, so a part of the scan is missing: correct its header"
        raise BadScan(msg)
    return parts


def grid(axes: Vectors, origin: Vectors | None) -> tuple[Affine, tuple[str, ...]]:
    """The affine from three axes, each a row of direction times spacing, and notes on missing fields."""
    affine = np.eye(4)
    affine[:3, :3] = axes.T
    if origin is not None and not np.isfinite(origin).all():
        words = ", ".join(f"{value:g}" for value in origin)
        msg = f"states its origin (Offset or space origin) as ({words}), not three finite numbers: correct its header"
        raise BadScan(msg)
    affine[:3, 3] = 0 if origin is None else origin
    if not np.isfinite(affine).all():
        raise BadScan(NO_SPACING)
    if not np.linalg.norm(axes, axis=1).all() or np.linalg.matrix_rank(axes) < 3:
        msg = "has a voxel spacing or direction of zero: write the scan again with its geometry"
        raise BadScan(msg)
    return affine, (NO_ORIGIN,) if origin is None else ()
