"""Parses the header of a MetaImage file (https://itk.org/Wiki/ITK/MetaIO/Documentation)."""

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import BadScan
from ..types import Affine
from .checks import LARGEST_SHIFT, check_shape
from .geometry import RAS_TO_LPS
from .textheader import Fields, beside, files, grid, header_lines, integers, numbered, numbers, unit
from .voxels import GZIP, Encoding, Stated, VoxelFile

__all__ = ["metaimage"]

END = "ElementDataFile"  # the last field: voxels or names of files follow
LINE = re.compile(r"([\w|\[\]]+)[ \t]*=[ \t]*(.*?)[ \t]*", re.ASCII)
# Fields that do not change how voxels are read: remarks on patient and writer, and what ITK copies from DICOM and
# NIfTI.
REMARK = re.compile(
    r"Comment|ObjectSubType|TransformType|Name|ID|ParentID|AcquisitionDate|Color|CompressionLevel|CenterOfRotation"
    r"|ElementMin|ElementMax|ElementNBits|SequenceID|ITK_\w+|[0-9a-fA-F]{4}\|[0-9a-fA-F]{4}"
    r"|aux_file|bitpix|cal_(max|min)|datatype|descrip|dim\[[0-7]\]|dim_info|intent_(code|name|p[123])|magic|nifti_type"
    r"|pixdim\[[0-7]\]|qfac|qform_code(_name)?|qoffset_[xyz]|qto_\w+|quatern_[bcd]|scl_(inter|slope)"
    r"|sform_code(_name)?|sizeof_hdr|slice_(code|duration|end|start)|srow_[xyz]|sto_\w+|toffset|vox_offset|xyzt_units"
)
SAME = {  # other names of a field
    "Position": "Offset",
    "Origin": "Offset",
    "ImagePosition": "Offset",
    "Rotation": "TransformMatrix",
    "Orientation": "TransformMatrix",
    "ElementByteOrderMSB": "BinaryDataByteOrderMSB",
}
FIELDS = {
    *("ObjectType", "NDims", "DimSize", "Modality", "HeaderSize", "DistanceUnits", "AnatomicalOrientation"),
    *("BinaryData", "CompressedData", "CompressedDataSize", "ElementSpacing", "ElementSize", "ElementType"),
    *("ElementNumberOfChannels", "ElementToIntensityFunctionSlope", "ElementToIntensityFunctionOffset"),
    *SAME.values(),
}
TYPES = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}
OBLIQUE = 0.1  # cosine; an axis closer to a right angle has no direction along the world's axis
SIGNS = {"L": 1, "P": 1, "S": 1, "R": -1, "A": -1, "I": -1}  # in LPS
TRUE, FALSE = ("true", "t", "1"), ("false", "f", "0")


def metaimage(path: Path) -> Stated:
    """Parse the header at `path`.

    Raises:
        BadScan: it is no MetaImage header of a CT volume, or uses a feature that PIVOT does not know.
    """
    lines = header_lines(path)
    fields, data, start = _fields(lines)
    sizes = integers("DimSize", fields.get("DimSize", ""))
    if not sizes or integers("NDims", fields.get("NDims", "")) != [len(sizes)]:
        msg = f"states NDims as {fields.get('NDims')!r}, and {len(sizes)} sizes in DimSize: correct its header"
        raise BadScan(msg)
    channels = integers("ElementNumberOfChannels", fields.get("ElementNumberOfChannels", "1"))
    if channels != [1]:
        msg = f"holds {fields['ElementNumberOfChannels']} channels in each voxel (RGB?): a CT has one"
        raise BadScan(msg)
    shape, notes = check_shape(tuple(sizes))
    affine, placed = _affine(fields, len(sizes))
    parts = _parts(path, fields, data, start, lines, sizes)
    scale = [_one(fields, f"ElementToIntensityFunction{name}", value) for name, value in (("Slope", 1), ("Offset", 0))]
    if scale != [1, 0]:
        notes += (f"the header's intensity function was applied: {scale[0]:g} x value + {scale[1]:g}",)
    return Stated(
        shape,
        _dtype(fields),
        RAS_TO_LPS @ affine,
        parts,
        _encoding(fields, parts),
        slope=scale[0],
        intercept=scale[1],
        notes=notes + placed,
    )


def _fields(lines: Iterator[tuple[str, int]]) -> tuple[Fields, str, int]:
    """The fields, the value of the last one, and the offset where its line ends."""
    fields = Fields()
    for line, end in lines:
        match = LINE.fullmatch(line)
        if not match and line.strip():
            msg = f"not a MetaImage file, or damaged: its header has the line {line[:60]!r}, not `key = value`"
            raise BadScan(msg)
        if not match:
            continue
        key, value = SAME.get(match[1], match[1]), match[2]
        if key == END:
            return fields, value, end
        if key not in FIELDS and not REMARK.fullmatch(key):
            msg = f"has a field {key[:60]!r} in its header, which MetaImage does not define: remove the line"
            raise BadScan(msg)
        fields.add(key, value)
    msg = f"not a MetaImage file, because its header has no {END}"
    raise BadScan(msg)


def _parts(
    path: Path, fields: Fields, data: str, begin: int, lines: Iterator[tuple[str, int]], sizes: list[int]
) -> list[VoxelFile]:
    """The location of the voxels: behind the header, in one file, or in one file for each slice."""
    skip = integers("HeaderSize", fields.get("HeaderSize", "0"))
    if data in ("LOCAL", "Local", "local"):
        if skip != [0]:
            msg = "states a HeaderSize, though its voxels follow its own header: remove the line"
            raise BadScan(msg)
        return [VoxelFile(path, begin)]
    if len(skip) != 1 or skip[0] < -1 or (skip[0] and _flag(fields, "CompressedData")):
        msg = f"states HeaderSize as {fields['HeaderSize']!r}: give the bytes before raw voxels, or -1"
        raise BadScan(msg)
    rest = [line.strip() for line, _ in lines if line.strip()]
    start = None if skip[0] < 0 else skip[0]
    word, *more = data.split() or [""]
    if word == "LIST":
        return files(path, rest, sizes, integers(END, " ".join(more)), start)
    if rest:
        msg = f"has text behind {END} in its header, {rest[0][:60]!r}: remove it"
        raise BadScan(msg)
    if "%" in word:
        first, *others = integers(END, " ".join(more)) or [1]
        ranges = [first, *(others or [first + sizes[-1] - 1]), *([] if len(others) > 1 else [1])]
        return files(path, numbered(word, ranges), sizes, [], start)
    return [VoxelFile(beside(path, data), start)]


def _encoding(fields: Fields, parts: list[VoxelFile]) -> Encoding:
    if not _flag(fields, "BinaryData", default=True):
        msg = "holds its voxels as text: save it with BinaryData = True"
        raise BadScan(msg)
    if not _flag(fields, "CompressedData"):
        return "raw"
    size = integers("CompressedDataSize", fields.get("CompressedDataSize", "0"))
    stored = sum(part.path.stat().st_size - (part.start or 0) for part in parts)
    if size not in ([0], [stored]):
        msg = f"declares {size[0]} bytes of compressed voxels, but {stored} follow: it is cut short, or a copy failed"
        raise BadScan(msg)
    with parts[0].path.open("rb") as file:
        file.seek(parts[0].start or 0)
        return "gzip" if file.read(2) == GZIP else "zlib"


def _dtype(fields: Fields) -> np.dtype[Any]:
    kind = fields.get("ElementType", "")
    if kind not in TYPES:
        msg = f"states ElementType as {kind[:40]!r}: a CT has one of {', '.join(TYPES)}"
        raise BadScan(msg)
    if fields.get("ObjectType", "Image") != "Image":
        msg = f"holds a {fields['ObjectType'][:40]}, not an Image"
        raise BadScan(msg)
    return np.dtype((">" if _flag(fields, "BinaryDataByteOrderMSB") else "<") + TYPES[kind])


def _flag(fields: Fields, name: str, *, default: bool = False) -> bool:
    value = fields.get(name, str(default)).lower()
    if value not in (*TRUE, *FALSE):
        msg = f"states {name} as {value[:40]!r}: write True or False"
        raise BadScan(msg)
    return value in TRUE


def _one(fields: Fields, name: str, default: float) -> float:
    values = numbers(name, fields.get(name, str(default)))
    if len(values) != 1 or not math.isfinite(values[0]):
        msg = f"states {name} as {fields[name][:40]!r}: give one number"
        raise BadScan(msg)
    return values[0]


def _affine(fields: Fields, dimension: int) -> tuple[Affine, tuple[str, ...]]:
    """The affine from index to LPS millimetres, and notes. TransformMatrix lists one axis direction after the other."""
    scale = unit(fields.get("DistanceUnits", ""))
    spacing = numbers("ElementSpacing", fields.get("ElementSpacing", fields.get("ElementSize", "")))
    origin, turn = (numbers(name, fields.get(name, "")) for name in ("Offset", "TransformMatrix"))
    if len(spacing) != dimension or not (np.isfinite(spacing).all() and min(spacing) >= 0):
        stated = fields.get("ElementSpacing", fields.get("ElementSize", ""))
        msg = f"states ElementSpacing as {stated[:60]!r}, no usable voxel spacing: write it again in millimetres"
        raise BadScan(msg)
    if len(turn) not in (0, dimension**2) or len(origin) not in (0, dimension):
        msg = f"states Offset or TransformMatrix for a number of axes other than {dimension}: correct its header"
        raise BadScan(msg)
    directions = np.reshape(turn or np.eye(dimension), (dimension, dimension))[:3, :3]
    _check_directions(directions, fields, spacing)
    notes = ("the header states no orientation: right and left are assumed",) if not turn else ()
    steps = directions * np.reshape(spacing[:3], (3, 1)) * scale
    affine, placed = grid(steps, np.array(origin[:3]) * scale if origin else None)
    return affine, notes + placed


def _check_directions(directions: npt.NDArray[np.float64], fields: Fields, spacing: list[float]) -> None:
    """Refuse directions that are no unit vectors or that contradict AnatomicalOrientation.

    By definition that field names the sides that axes run to; ITK writes the sides they come from. Both are accepted.
    """
    lengths = np.linalg.norm(directions, axis=1)
    shape = numbers("DimSize", fields["DimSize"])[:3]
    moved = np.abs(lengths - 1) * spacing[:3] * shape
    if lengths.all() and moved.max() > LARGEST_SHIFT:
        words = " x ".join(f"{length:g}" for length in lengths)
        msg = f"states directions of length {words} in TransformMatrix, and an ElementSpacing: one must be wrong"
        raise BadScan(msg)
    letters = fields.get("AnatomicalOrientation", "")[:3]
    if not re.fullmatch("[RLAPSI]{3}", letters):
        return
    along = [
        direction["RLAPIS".index(letter) // 2] * SIGNS[letter]
        for letter, direction in zip(letters, directions, strict=True)
    ]
    if min(along) < -OBLIQUE and max(along) > OBLIQUE:
        msg = (
            f"states axes that run {letters} in AnatomicalOrientation, and others in TransformMatrix "
            f"({fields.get('TransformMatrix', 'none')}): right and left may be swapped, so correct one of them"
        )
        raise BadScan(msg)
