"""Writes one scan in many formats, byte by byte by their definitions, without a library."""

import bz2
import gzip
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from src.data.geometry import RAS_TO_LPS
from src.types import Affine

from .dicom_files import AFFINE, CHEST

__all__ = ["DATA", "PACKED", "SPACES", "metaimage", "nrrd", "numbers"]

Voxels = npt.NDArray[Any]
Data = Literal["one", "list", "pattern", "local"]

PACKED: dict[str, Callable[[bytes], bytes]] = {
    "raw": bytes,
    "zlib": zlib.compress,
    "gzip": lambda data: gzip.compress(data, mtime=0),
    "bzip2": bz2.compress,
}
SPACES = {
    "left-posterior-superior": (1, 1, 1),
    "right-anterior-superior": (-1, -1, 1),
    "left-anterior-superior": (1, -1, 1),
}
DATA: tuple[Data, ...] = ("local", "one", "list", "pattern")


def numbers(values: npt.ArrayLike) -> str:
    """Numbers as text for a header."""
    return " ".join(f"{value:.17g}" for value in np.ravel(values))


def metaimage(
    folder: Path,
    array: Voxels = CHEST,
    affine: Affine = AFFINE,
    *,
    data: Data = "local",
    packing: str = "raw",
    extra: str = "",
    without: tuple[str, ...] = (),
    **fields: str,
) -> Path:
    """Write a MetaImage file `a.mha`, or `a.mhd` with its voxels in other files; `fields` replace header fields."""
    lps = RAS_TO_LPS @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    kinds = {"i2": "MET_SHORT", "u2": "MET_USHORT", "i4": "MET_INT", "f4": "MET_FLOAT", "f8": "MET_DOUBLE"}
    names, where = _names(array, data, "ElementDataFile = ")
    stated = {
        "ObjectType": "Image",
        "NDims": "3",
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": str(array.dtype.byteorder == ">"),
        "CompressedData": str(packing != "raw"),
        "TransformMatrix": numbers((lps[:3, :3] / spacing).T),
        "Offset": numbers(lps[:3, 3]),
        "ElementSpacing": numbers(spacing),
        "DimSize": numbers(array.shape),
        "ElementType": kinds[array.dtype.str[1:]],
    } | fields
    lines = [f"{key} = {value}\n" for key, value in stated.items() if key not in without]
    path = folder / ("a.mha" if data == "local" else "a.mhd")
    return _save(path, "".join(lines) + extra + where, names, array, packing)


def nrrd(
    folder: Path,
    array: Voxels = CHEST,
    affine: Affine = AFFINE,
    *,
    data: Data = "local",
    packing: str = "raw",
    space: str = "left-posterior-superior",
    extra: str = "",
    without: tuple[str, ...] = (),
    **fields: str,
) -> Path:
    """Write an NRRD file `a.nrrd`, or `a.nhdr` with its voxels in other files; `_` in field names means a space."""
    signs = np.array(SPACES.get(space, (1, 1, 1)))
    turned = (RAS_TO_LPS @ affine)[:3] * signs[:, np.newaxis]
    kinds = {"i2": "short", "u2": "ushort", "i4": "int", "f4": "float", "f8": "double"}
    names, where = _names(array, data, "data file: ")
    stated = {
        "type": kinds[array.dtype.str[1:]],
        "dimension": "3",
        "space": space,
        "sizes": numbers(array.shape),
        "space directions": " ".join(f"({numbers(axis).replace(' ', ',')})" for axis in turned[:, :3].T),
        "kinds": "domain domain domain",
        "endian": "big" if array.dtype.byteorder == ">" else "little",
        "encoding": packing,
        "space origin": f"({numbers(turned[:, 3]).replace(' ', ',')})",
    } | {name.replace("_", " "): value for name, value in fields.items()}
    lines = [f"{key}: {value}\n" for key, value in stated.items() if key not in without]
    path = folder / ("a.nrrd" if data == "local" else "a.nhdr")
    head = "NRRD0004\n# by hand\n" + "".join(lines) + extra + (where if data != "local" else "\n")
    return _save(path, head, names, array, packing)


def _names(array: Voxels, data: Data, field: str) -> tuple[list[str], str]:
    """The names of the voxel files, and the header field that names them."""
    count = array.shape[2]
    return {
        "local": ([], f"{field}LOCAL\n"),
        "one": (["a.dat"], f"{field}a.dat\n"),
        "list": ([f"s{z}.dat" for z in range(count)], f"{field}LIST\n" + "".join(f"s{z}.dat\n" for z in range(count))),
        "pattern": ([f"s{z:03d}.dat" for z in range(1, count + 1)], f"{field}s%03d.dat 1 {count} 1\n"),
    }[data]


def _save(path: Path, head: str, names: list[str], array: Voxels, packing: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = array.tobytes("F")
    if not names:
        path.write_bytes(head.encode() + PACKED[packing](content))
        return path
    path.write_text(head)
    share = len(content) // len(names)
    for z, name in enumerate(names):
        (path.parent / name).write_bytes(PACKED[packing](content[z * share : (z + 1) * share]))
    return path
