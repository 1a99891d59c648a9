"""Parses the header of a NIfTI file (nifti1.h). nibabel names the fields; PIVOT checks their values."""

import math
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from ..errors import BadScan
from ..types import Affine, Shape3
from .checks import LARGEST_SHIFT, check_shape, nearest_orthogonal
from .geometry import map_points
from .voxels import GZIP, Encoding, Stated, Stream, VoxelFile

__all__ = ["nifti"]

MILLIMETRES = {1: 1000.0, 3: 0.001}  # xyzt_units: metres, micrometres; unknown means mm
LONG = 1e-3  # excess length of a quaternion that rounding explains
MAX_EXTENSION = 2**26  # bytes between header and voxels

Header = nib.Nifti1Header


def nifti(path: Path) -> Stated:
    """Parse the header at `path`, a NIfTI file that may be gzipped.

    Raises:
        BadScan: the header is no NIfTI header of a CT volume, or contradicts itself.
    """
    with path.open("rb") as file:
        encoding: Encoding = "gzip" if file.read(2) == GZIP else "raw"
        if encoding == "raw" and path.name.lower().endswith(".gz"):
            msg = "is not gzip data, although its name says so: rename it, or copy it again"
            raise BadScan(msg)
        file.seek(0)
        header = _header(Stream(file, encoding))
    dtype = _dtype(header)
    count = int(header["dim"][0])
    shape, notes = check_shape(tuple(map(int, header["dim"][1 : count + 1])))
    start, moved = _start(header)
    affine, placed = _affine(header, shape)
    slope, intercept = _scaling(header)
    parts = [VoxelFile(path, start if encoding == "raw" else 0)]
    skip = 0 if encoding == "raw" else start
    return Stated(shape, dtype, affine, parts, encoding, skip, slope, intercept, (*notes, *moved, *placed))


def _header(stream: Stream) -> Header:
    """The header of NIfTI-1 or NIfTI-2 in either byte order. Its size field, 348 or 540 bytes, tells which."""
    first = stream.take(4)
    for kind in (nib.Nifti1Header, nib.Nifti2Header):
        for order in ("<", ">"):
            size = kind.sizeof_hdr
            if first == int.to_bytes(size, 4, "little" if order == "<" else "big"):
                content = first + stream.take(size - 4)
                if len(content) < size:
                    msg = "is cut short: its header has no end"
                    raise BadScan(msg)
                header: Header = kind(content, order, check=False)  # type: ignore[no-untyped-call]
                _check(header)
                return header
    msg = "not a NIfTI file, because its header is neither NIfTI-1 nor NIfTI-2"
    raise BadScan(msg)


def _check(header: Header) -> None:
    magic, dimensions = bytes(header["magic"])[:3], int(header["dim"][0])
    if magic in (b"ni1", b"ni2"):
        msg = "keeps its voxels in another file (.img): save it as one .nii file"
        raise BadScan(msg)
    if magic not in (b"n+1", b"n+2"):
        msg = f"not a NIfTI file, because its header does not say so ({magic!r}): save it again"
        raise BadScan(msg)
    if not 1 <= dimensions <= 7:
        msg = f"is damaged: its header states {dimensions} dimensions"
        raise BadScan(msg)


def _dtype(header: Header) -> np.dtype[Any]:
    try:
        dtype: np.dtype[Any] = header.get_data_dtype()
    except (KeyError, nib.spatialimages.HeaderDataError):
        msg = f"is damaged: its header states an unknown datatype, {int(header['datatype'])}"
        raise BadScan(msg) from None
    if dtype.fields or dtype.kind not in "iuf" or dtype.itemsize > 8:
        kind = "RGB" if dtype.fields else "complex" if dtype.kind == "c" else dtype.name
        msg = f"holds {kind} voxels: a CT has one real number in each voxel"
        raise BadScan(msg)
    if int(header["bitpix"]) != 8 * dtype.itemsize:
        msg = f"states datatype {dtype.name} and {int(header['bitpix'])} bits in a voxel: correct its header"
        raise BadScan(msg)
    return dtype


def _start(header: Header) -> tuple[int, tuple[str, ...]]:
    """The offset of the first voxel; 0 stands for the first possible byte."""
    first, stated = header.sizeof_hdr + 4, float(header["vox_offset"])
    if stated == 0:
        return first, (f"the header does not say where its voxels begin: taken from byte {first} on",)
    if not (math.isfinite(stated) and stated.is_integer() and first <= stated <= MAX_EXTENSION):
        msg = f"states that its voxels begin at byte {stated:g}: correct vox_offset in its header"
        raise BadScan(msg)
    return int(stated), ()


def _scaling(header: Header) -> tuple[float, float]:
    """Slope and intercept. A slope of zero, or none, means unscaled values (nifti1.h)."""
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0 or math.isnan(slope):
        return 1.0, 0.0
    if not (math.isfinite(slope) and math.isfinite(intercept)):
        msg = f"states scl_slope {slope:g} and scl_inter {intercept:g}: correct its header"
        raise BadScan(msg)
    return slope, intercept


def _affine(header: Header, shape: Shape3) -> tuple[Affine, tuple[str, ...]]:
    """The sform, else the qform, else the voxel sizes alone. Those that are stated must agree.

    Raises:
        BadScan: they disagree by more than half a millimetre at a voxel, or none is usable.
    """
    scale = np.diag([*np.full(3, MILLIMETRES.get(int(header["xyzt_units"]) & 7, 1.0)), 1.0])
    sform = scale @ _sform(header) if header["sform_code"] else None
    qform = scale @ quaternion if header["qform_code"] and (quaternion := _qform(header)) is not None else None
    if sform is not None and _is_straight(sform):
        if qform is not None:
            _agree(sform, qform, shape)
        _agree_in_size(sform, np.abs(header["pixdim"][1:4]) * scale[0, 0], shape)
        broken = bool(header["qform_code"]) and qform is None
        return sform, ("the qform is not usable, so the sform places the scan",) if broken else ()
    if qform is not None:
        return qform, () if sform is None else ("the sform is not usable, so the qform places the scan",)
    if sform is not None:
        return sform, ()  # refused later, with its own message
    sizes = header["pixdim"][1:4]
    if header["qform_code"] or not _sized(header):
        msg = f"has voxel sizes of {' x '.join(f'{size:g}' for size in sizes)}: write it again with the right spacing"
        if _sized(header):
            what = f"has a qform that is no rotation ({_stated(header)}), and no sform"
            msg = f"{what}: write it again with its orientation"
        raise BadScan(msg)
    note = "the header states no orientation: right and left, and world coordinates, are assumed"
    return scale @ header.get_base_affine(), (note,)


def _sform(header: Header) -> Affine:
    return np.array([*(header[name] for name in ("srow_x", "srow_y", "srow_z")), [0, 0, 0, 1]], dtype=np.float64)


def _qform(header: Header) -> Affine | None:
    """The affine from index to RAS+ by the quaternion and the voxel sizes; None if they are unusable."""
    vector = np.array([header[f"quatern_{name}"] for name in "bcd"], dtype=np.float64)
    origin = np.array([header[f"qoffset_{name}"] for name in "xyz"], dtype=np.float64)
    length, handed = float(vector @ vector), float(header["pixdim"][0])
    if not (_sized(header) and np.isfinite(origin).all() and length <= 1 + LONG and handed in (-1, 0, 1)):
        return None
    b, c, d = vector / max(1.0, math.sqrt(length))
    a = math.sqrt(max(0.0, 1 - length))
    turn = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )
    affine = np.eye(4)
    affine[:3, :3] = turn * header["pixdim"][1:4] * (1, 1, handed or 1)
    affine[:3, 3] = origin
    return affine


def _stated(header: Header) -> str:
    """The fields of a qform, for a message."""
    fields = (("quatern", "bcd"), ("qoffset", "xyz"))
    words = [f"{name}_{axis} {float(header[f'{name}_{axis}']):g}" for name, axes in fields for axis in axes]
    return f"pixdim[0] {float(header['pixdim'][0]):g}, {', '.join(words)}"


def _sized(header: Header) -> bool:
    sizes = header["pixdim"][1:4]
    return bool(np.isfinite(sizes).all() and (sizes > 0).all())


def _is_straight(affine: Affine) -> bool:
    try:
        nearest_orthogonal(affine)
    except BadScan:
        return False
    return True


def _agree(sform: Affine, qform: Affine, shape: Shape3) -> None:
    """Refuse two affines that place a corner of the volume more than half a millimetre apart."""
    corners = np.stack(np.meshgrid(*[(0, n - 1) for n in shape], indexing="ij"), -1).reshape(-1, 3)
    apart = np.linalg.norm(map_points(sform, corners) - map_points(qform, corners), axis=1).max()
    if apart > LARGEST_SHIFT:
        msg = (
            f"states two places, {apart:.1f} mm apart: by its sform {_words(sform)}, by its qform {_words(qform)}. "
            "Remove the wrong one, or write the scan again"
        )
        raise BadScan(msg)


def _agree_in_size(sform: Affine, sizes: npt.NDArray[np.float64], shape: Shape3) -> None:
    """Refuse voxel sizes that differ from the sform's. Zero or NaN counts as not stated."""
    own = np.linalg.norm(sform[:3, :3], axis=0)
    stated = np.where(np.isfinite(sizes) & (sizes > 0), sizes, own)
    if (np.abs(stated - own) * shape).max() > LARGEST_SHIFT:
        words = (" x ".join(f"{value:.4g}" for value in values) for values in (own, stated))
        msg = "states voxels of {} mm in its sform and of {} mm in pixdim: write it again with the right ones"
        raise BadScan(msg.format(*words))


def _words(affine: Affine) -> str:
    """Voxel sizes, axis directions and first voxel of an affine, for a message."""
    sides = "".join(nib.orientations.aff2axcodes(affine))
    sizes, first = np.linalg.norm(affine[:3, :3], axis=0), affine[:3, 3]
    return "{} mm towards {} from ({})".format(
        " x ".join(f"{value:.4g}" for value in sizes), sides, ", ".join(f"{value:.1f}" for value in first)
    )
