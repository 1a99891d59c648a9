"""Parses the header of an NRRD file (https://teem.sourceforge.net/nrrd/format.html)."""

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import BadScan
from ..types import Affine, Shape3
from .checks import LARGEST_SHIFT, check_shape
from .geometry import RAS_TO_LPS
from .textheader import NO_SPACING, Fields, beside, files, grid, header_lines, integers, numbered, numbers, unit
from .voxels import Encoding, Stated, VoxelFile

__all__ = ["nrrd"]

MAGIC = re.compile(r"NRRD000[1-5]")
FIELD = re.compile(r"([^:=]+?): ?(.*?)[ \t]*")
REMARK = re.compile(r"([^:=]+?):=(.*)")  # comments of writers, without effect
FIELDS = {
    *("dimension", "type", "encoding", "endian", "data file", "line skip", "byte skip", "sizes", "spacings", "units"),
    *("kinds", "space", "space dimension", "space units", "space origin", "space directions", "axis mins", "axis maxs"),
    # These have no effect either.
    *("content", "min", "max", "old min", "old max", "number", "sample units", "thicknesses", "centers", "labels"),
    "measurement frame",
}
SAME = {
    "datafile": "data file",
    "lineskip": "line skip",
    "byteskip": "byte skip",
    "oldmin": "old min",
    "oldmax": "old max",
    "axismins": "axis mins",
    "axismaxs": "axis maxs",
    "centerings": "centers",
    "sampleunits": "sample units",
}
TYPES = {
    "i1": ("signed char", "int8", "int8_t"),
    "u1": ("uchar", "unsigned char", "uint8", "uint8_t"),
    "i2": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    "u2": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
    "i4": ("int", "signed int", "int32", "int32_t"),
    "u4": ("uint", "unsigned int", "uint32", "uint32_t"),
    "i8": ("longlong", "long long", "long long int", "signed long long", "signed long long int", "int64", "int64_t"),
    "u8": ("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"),
    "f4": ("float",),
    "f8": ("double",),
}
ENCODINGS: dict[str, Encoding] = {"raw": "raw", "gzip": "gzip", "gz": "gzip", "bzip2": "bzip2", "bz2": "bzip2"}
# Signs from a space to left, posterior, superior. None: the space does not define the patient's sides.
VECTOR = re.compile(r"none|\([^()]*\)")
Vectors = list[list[float]]
SPACES: dict[str, tuple[int, int, int] | None] = {
    "left-posterior-superior": (1, 1, 1),
    "right-anterior-superior": (-1, -1, 1),
    "left-anterior-superior": (1, -1, 1),
    "scanner-xyz": None,
    "3d-right-handed": None,
    "3d-left-handed": None,
}
SHORT = {"lps": "left-posterior-superior", "ras": "right-anterior-superior", "las": "left-anterior-superior"}
SPATIAL = ("domain", "space", "time", "none", "???", "")  # kinds of spatial axes


def nrrd(path: Path) -> Stated:
    """Parse the header at `path`.

    Raises:
        BadScan: it is no NRRD header of a CT volume, or uses a feature that PIVOT does not know.
    """
    lines = header_lines(path)
    fields, start = _fields(lines)
    sizes = integers("sizes", fields.get("sizes", ""))
    if not sizes or integers("dimension", fields.get("dimension", "")) != [len(sizes)]:
        msg = f"states dimension as {fields.get('dimension')!r}, and {len(sizes)} sizes: correct its header"
        raise BadScan(msg)
    directions = _vectors("space directions", fields, len(sizes))
    axes = _axes(fields, directions, sizes)
    shape, notes = check_shape(tuple(sizes[axis] for axis in axes))
    affine, placed = _affine(fields, directions, axes[:3], shape)
    parts = _parts(path, fields, start, lines, sizes)
    encoding = ENCODINGS.get(fields.get("encoding", "").lower())
    if encoding is None:
        msg = f"states encoding as {fields.get('encoding')!r}: save it as one of {', '.join(ENCODINGS)}"
        raise BadScan(msg)
    skip = _skip(fields, raw=encoding == "raw", attached=start > 0)
    if encoding == "raw" and skip is not None:
        parts, skip = [VoxelFile(part.path, (part.start or 0) + skip) for part in parts], 0
    elif skip is None:
        parts, skip = [VoxelFile(part.path, None) for part in parts], 0
    return Stated(shape, _dtype(fields), RAS_TO_LPS @ affine, parts, encoding, skip, notes=notes + placed)


def _fields(lines: Iterator[tuple[str, int]]) -> tuple[Fields, int]:
    """The fields, and the offset of the voxels; 0 if other files hold them."""
    magic, _ = next(lines, ("", 0))
    if not MAGIC.fullmatch(magic):
        msg = f"not an NRRD file, or of another format than its name says: it begins with {magic[:20]!r}"
        raise BadScan(msg)
    fields = Fields()
    for line, end in lines:
        if not line:
            return fields, 0 if "data file" in fields else end
        if line.startswith("#"):
            continue
        if remark := REMARK.fullmatch(line):
            fields.add(f"{remark[1]}:=", remark[2])
            continue
        match = FIELD.fullmatch(line)
        if not match:
            msg = f"is damaged: its header has the line {line[:60]!r}, not `field: value`"
            raise BadScan(msg)
        name = SAME.get(match[1].lower(), match[1].lower())
        if name not in FIELDS:
            msg = f"has a field {name[:60]!r} in its header, which NRRD does not define for volumes: remove the line"
            raise BadScan(msg)
        fields.add(name, match[2])
        if name == "data file" and match[2].split()[:1] == ["LIST"]:
            break
    if "data file" not in fields:
        msg = "is cut short: its header has no end (an empty line)"
        raise BadScan(msg)
    return fields, 0


def _parts(
    path: Path, fields: Fields, start: int, lines: Iterator[tuple[str, int]], sizes: list[int]
) -> list[VoxelFile]:
    """The location of the voxels: behind the header, in one file, or in several files of equal size."""
    if start:
        return [VoxelFile(path, start)]
    word, *more = fields["data file"].split() or [""]
    if word == "LIST":
        names = [line.strip() for line, _ in lines if line.strip()]
        return files(path, names, sizes, integers("data file", " ".join(more)))
    if "%" in word:
        ranges = integers("data file", " ".join(more))
        if len(ranges) not in (3, 4):
            msg = f"states data file as {fields['data file'][:60]!r}: give the first number, the last and the step"
            raise BadScan(msg)
        parts = files(path, numbered(word, ranges[:3]), sizes, ranges[3:])
    else:
        parts = [VoxelFile(beside(path, fields["data file"]))]
    if any(line for line, _ in lines):
        msg = "has data behind its header, although its voxels are in another file: remove one of them"
        raise BadScan(msg)
    return parts


def _skip(fields: Fields, *, raw: bool, attached: bool) -> int | None:
    """Bytes before the first voxel. None: the voxels are the last bytes of their file."""
    line, byte = (integers(name, fields.get(name, "0")) for name in ("line skip", "byte skip"))
    if line != [0] or len(byte) != 1 or byte[0] < (-1 if raw and not attached else 0):
        msg = f"skips {line} lines and {byte} bytes before its voxels: give the bytes alone, or -1 before raw voxels"
        raise BadScan(msg)
    return None if byte[0] < 0 else byte[0]


def _dtype(fields: Fields) -> np.dtype[Any]:
    name = " ".join(fields.get("type", "").lower().split())
    kind = next((kind for kind, names in TYPES.items() if name in names), None)
    if kind is None:
        msg = f"states type as {fields.get('type')!r}: a CT has one real number in each voxel, such as short"
        raise BadScan(msg)
    order = {"little": "<", "big": ">"}.get(fields.get("endian", "").lower())
    if order is None and (kind[1] != "1" or "endian" in fields):
        msg = f"states endian as {fields.get('endian')!r}: it must be little or big"
        raise BadScan(msg)
    return np.dtype((order or "") + kind)


def _axes(fields: Fields, directions: Vectors | None, sizes: list[int]) -> list[int]:
    """The order of the axes: spatial axes first, then axes of length 1 that are not spatial."""
    kinds = [word.strip('"').lower() for word in fields.get("kinds", "").split()] or [""] * len(sizes)
    if len(kinds) != len(sizes):
        msg = f"states {len(kinds)} kinds for {len(sizes)} axes: correct its header"
        raise BadScan(msg)
    inner = [axis for axis, kind in enumerate(kinds) if kind in SPATIAL and (not directions or directions[axis])]
    other = [axis for axis in range(len(sizes)) if axis not in inner]
    if len(inner) < 3 <= len(sizes):
        raise BadScan(NO_SPACING)
    for axis in other:
        if sizes[axis] != 1:
            msg = f"holds {sizes[axis]} channels in each voxel (RGB?): a CT has one"
            raise BadScan(msg)
    return inner + other


def _affine(
    fields: Fields, directions: Vectors | None, axes: list[int], shape: Shape3
) -> tuple[Affine, tuple[str, ...]]:
    """The affine from index to LPS millimetres, and notes."""
    if not all(
        math.isnan(value) for name in ("axis mins", "axis maxs") for value in numbers(name, fields.get(name, ""))
    ):
        msg = "states axis mins or maxs: write the scan again with space directions and space origin"
        raise BadScan(msg)
    spacings = numbers("spacings", fields["spacings"]) if "spacings" in fields else None
    if spacings is not None and len(spacings) <= max(axes):
        raise BadScan(NO_SPACING)
    sizes = None if spacings is None else [spacings[axis] for axis in axes]
    if directions is None:
        if sizes is None or not min(sizes) >= 0:
            raise BadScan(NO_SPACING)
        vectors = np.diag(sizes)
    else:
        vectors = np.array([directions[axis] for axis in axes])
        _check_spacings(vectors, sizes, shape)
    signs, notes = _space(fields, turned=directions is not None)
    if vectors.shape[1] < 3:
        raise BadScan(NO_SPACING)
    scale = np.array(signs) * _units(fields)
    origin = _vectors("space origin", fields, 1)
    if origin and len(origin[0]) != vectors.shape[1]:
        msg = f"states {len(origin[0])} numbers in space origin: {vectors.shape[1]} are needed"
        raise BadScan(msg)
    affine, placed = grid(vectors[:, :3] * scale, np.array(origin[0][:3]) * scale if origin else None)
    return affine, notes + placed


def _space(fields: Fields, *, turned: bool) -> tuple[tuple[int, int, int], tuple[str, ...]]:
    """The signs to left, posterior, superior, and a note if the header does not define these directions."""
    name = fields.get("space", "").lower()
    name = SHORT.get(name.removesuffix("t"), name.removesuffix("-time"))
    if name and name not in SPACES:
        msg = f"states space as {fields['space'][:40]!r}: write the scan again in left-posterior-superior"
        raise BadScan(msg)
    signs = SPACES.get(name)
    if signs and turned:
        return signs, ()
    return signs or (1, 1, 1), ("the header states no anatomical orientation: right and left are assumed",)


def _units(fields: Fields) -> list[float]:
    words = re.findall(r'"([^"]*)"|(\S+)', fields.get("space units", fields.get("units", "")))
    return [unit(quoted or bare) for quoted, bare in words[:3]] if len(words) >= 3 else [1.0] * 3


def _check_spacings(vectors: npt.NDArray[np.float64], sizes: list[float] | None, shape: Shape3) -> None:
    if sizes is None:
        return
    lengths = np.linalg.norm(vectors, axis=1)
    if np.nanmax([0, *(np.abs(lengths - sizes) * shape)]) > LARGEST_SHIFT:
        words = (" x ".join(f"{value:g}" for value in values) for values in (sizes, lengths))
        msg = "states spacings of {} and space directions of {} mm: one of them must be wrong".format(*words)
        raise BadScan(msg)


def _vectors(name: str, fields: Fields, count: int) -> Vectors | None:
    """The vectors of a field; `none` is an empty one. None if there is no such field."""
    text = fields.get(name, "")
    if not text:
        return None
    words = VECTOR.findall(text)
    vectors = [numbers(name, word.strip("()")) if word != "none" else [] for word in words]
    if VECTOR.sub("", text).strip() or len(words) != count or len({len(vector) for vector in vectors if vector}) != 1:
        msg = f"states {name} as {text[:80]!r}: write (x,y,z) for each of its axes"
        raise BadScan(NO_SPACING if name == "space directions" else msg)
    return vectors
