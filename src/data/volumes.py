"""Files that hold a whole volume: NIfTI through nibabel, MetaImage and NRRD through SimpleITK."""

import math
import re
from io import BufferedIOBase
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from isal import igzip
from nibabel.imageglobals import logger as nibabel_logger

from ..errors import BadScan
from ..types import Affine, Shape3
from .checks import check_shape, nearest_orthogonal
from .geometry import RAS_TO_LPS

if TYPE_CHECKING:
    from SimpleITK import ImageFileReader

__all__ = ["read_itk", "read_nifti"]

# It reports what it repairs on stderr; PIVOT checks the same things itself and raises.
nibabel_logger.setLevel("CRITICAL")

MAX_DEFLATE = 1032  # the most that deflate can shrink (https://zlib.net/zlib_tech.html)
HEADER_BYTES = 65536  # the text header of a MetaImage or NRRD is far shorter
MILLIMETRES = {1: 1000.0, 3: 0.001}  # NIfTI xyzt_units: metres, micrometres; unknown counts as mm

# https://itk.org/Wiki/ITK/MetaIO/Documentation#Reference:_Tags_of_MetaImage
ITEM_BYTES = {
    "MET_CHAR": 1,
    "MET_UCHAR": 1,
    "MET_SHORT": 2,
    "MET_USHORT": 2,
    "MET_INT": 4,
    "MET_UINT": 4,
    "MET_FLOAT": 4,
    "MET_DOUBLE": 8,
}
META_GEOMETRY = ("ElementSpacing", "ElementSize", "Offset", "Position", "Origin", "TransformMatrix", "Rotation")
NO_SPACING = "states no usable voxel spacing: write the scan again with its spacing in millimetres"

Read = tuple[npt.NDArray[Any], Affine, tuple[str, ...]]


def read_nifti(path: Path) -> Read:
    """Values of shape (X, Y, Z) as scaled by the header, the affine (RAS+), and notes on repairs."""
    with _decompressed(path) as stream:
        kind = _nifti_kind(stream)
        raw = kind.header_class(stream.read(kind.header_class.sizeof_hdr), check=False)
        dtype = raw.get_data_dtype()
        if dtype.fields or dtype.kind == "c":
            msg = f"holds {'RGB' if dtype.fields else 'complex'} voxels: a CT has one real number in each voxel"
            raise BadScan(msg)
        shape, notes = check_shape(raw.get_data_shape())
        _check_bytes(math.prod(shape) * dtype.itemsize, path.stat().st_size)
        affine, repairs = _nifti_affine(raw)
        stream.seek(0)
        array = _voxels(kind.from_stream(stream).dataobj, shape)
        if stream.read(1):  # also makes gzip compare its checksum
            msg = f"holds more data than the {' x '.join(map(str, shape))} voxels of its header: one of them is wrong"
            raise BadScan(msg)
    return array, affine, notes + repairs


def read_itk(path: Path) -> Read:
    """Values of shape (X, Y, Z) of a MetaImage or NRRD file, the affine (RAS+), and notes on repairs."""
    import SimpleITK as sitk  # noqa: PLC0415 - a quarter of a second, which NIfTI need not wait for

    sitk.ProcessObject.SetGlobalWarningDisplay(False)  # noqa: FBT003 - as for nibabel
    nrrd = path.suffix.lower() == ".nrrd"
    stored = _stored_bytes_nrrd(path) if nrrd else _stored_bytes_meta(path)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.SetImageIO("NrrdImageIO" if nrrd else "MetaImageIO")
    try:
        reader.ReadImageInformation()
        if reader.GetNumberOfComponents() > 1:
            msg = f"holds {reader.GetNumberOfComponents()} channels in each voxel (RGB?): a CT has one"
            raise BadScan(msg)
        shape, notes = check_shape(reader.GetSize())
        _check_bytes(math.prod(shape), stored)
        array = sitk.GetArrayFromImage(reader.Execute()).T.reshape(shape, order="F")
    except RuntimeError as error:
        msg = "is damaged, cut short, or not what its name says: copy it again, or save it anew"
        if re.search("Zero-valued spacing|Bad direction", str(error)):
            msg = "has a voxel spacing or direction of zero: write the scan again with its geometry"
        raise BadScan(msg) from error
    return array, RAS_TO_LPS @ _itk_affine(reader), notes


def _decompressed(path: Path) -> BufferedIOBase:
    with path.open("rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
    if path.suffix.lower() == ".gz" and not zipped:
        msg = "is not gzip data, whatever its name says: rename it, or copy it again"
        raise BadScan(msg)
    stream: BufferedIOBase = igzip.open(path, "rb") if zipped else path.open("rb")
    return stream


def _nifti_kind(stream: BufferedIOBase) -> type[nib.Nifti1Image]:
    """The NIfTI version by the header's own size: 348 bytes or 540, in either byte order."""
    first = stream.read(4)
    stream.seek(0)
    sizes = {int.from_bytes(first, "little"), int.from_bytes(first, "big")}
    for kind in (nib.Nifti1Image, nib.Nifti2Image):
        if len(first) == 4 and kind.header_class.sizeof_hdr in sizes:
            return kind
    msg = "not a NIfTI file, because its header is neither NIfTI-1 nor NIfTI-2"
    raise BadScan(msg)


def _voxels(proxy: Any, shape: Shape3) -> npt.NDArray[Any]:  # noqa: ANN401 - a nibabel ArrayProxy
    """Slice by slice, so that a gzip stream is never in memory beside the array."""
    scaled = (proxy.slope, proxy.inter) != (1, 0) or proxy.dtype.kind == "f"
    array = np.empty(shape, np.float32 if scaled else proxy.dtype.newbyteorder("="), order="F")
    rest = (0,) * (len(proxy.shape) - 3)
    try:
        with np.errstate(over="ignore"):  # becomes infinite, which is refused later
            for z in range(shape[2]):
                array[..., z] = proxy[(slice(None), slice(None), z, *rest)]
    except (EOFError, ValueError) as error:
        msg = f"is cut short: fewer than the {' x '.join(map(str, shape))} voxels of its header follow"
        raise BadScan(msg) from error
    return array


def _nifti_affine(header: nib.Nifti1Header) -> tuple[Affine, tuple[str, ...]]:
    """The sform, else the qform, else the bare voxel sizes: the first one that is stated and usable."""
    scale = np.diag([*np.full(3, MILLIMETRES.get(int(header["xyzt_units"]) & 7, 1.0)), 1.0])
    sform = scale @ header.get_sform() if header["sform_code"] else None
    if sform is not None and _is_straight(sform):
        return sform, ()
    sizes = header["pixdim"][1:4]
    sized = bool(np.isfinite(sizes).all() and (sizes > 0).all())
    if header["qform_code"] and sized:
        notes = () if sform is None else ("the sform is not usable, so the qform places the scan",)
        return scale @ header.get_qform(), notes
    if sform is not None:
        return sform, ()  # refused later, for its own fault
    if not sized:
        msg = f"has voxel sizes of {' x '.join(f'{size:g}' for size in sizes)}: write it again with the right spacing"
        raise BadScan(msg)
    note = "the header states no orientation: right and left, and world coordinates, are assumed"
    return scale @ header.get_base_affine(), (note,)


def _is_straight(affine: Affine) -> bool:
    try:
        nearest_orthogonal(affine)
    except BadScan:
        return False
    return True


def _itk_affine(reader: "ImageFileReader") -> Affine:
    dimension = reader.GetDimension()
    affine = np.eye(4)
    direction = np.reshape(reader.GetDirection(), (dimension, dimension))[:3, :3]
    affine[:3, :3] = direction * reader.GetSpacing()[:3]
    affine[:3, 3] = reader.GetOrigin()[:3]
    return affine


def _stored_bytes_nrrd(path: Path) -> int:
    """The size of the file, which must hold its own voxels and state their spacing."""
    header = _text_header(path)
    if re.search(r"(?im)^\s*data ?file\s*:", header):
        msg = "keeps its voxels in another file: save it as one .nrrd file"
        raise BadScan(msg)
    if header.startswith("NRRD") and not re.search(r"(?m)^(space directions:(.*\(){3}|spacings:(?!.*nan))", header):
        raise BadScan(NO_SPACING)
    return path.stat().st_size


def _stored_bytes_meta(path: Path) -> int:
    """The size of the file with the voxels, which must lie beside its header and nowhere else."""
    header, found, rest = _text_header(path).partition("\nElementDataFile")
    name = re.match(r"[ \t]*=[ \t]*(.*?)\s*(\n|$)", rest)
    if not found or not name:
        msg = "not a MetaImage file, because its header has no ElementDataFile"
        raise BadScan(msg)
    fields = dict(re.findall(r"(?m)^(\w+)[ \t]*=[ \t]*(.*?)\s*$", header))
    geometry = " ".join(value for key, value in fields.items() if key in META_GEOMETRY)
    if not fields.keys() & {"ElementSpacing", "ElementSize"} or re.search(r"(?i)\b(nan|inf)", geometry):
        raise BadScan(NO_SPACING)
    return path.stat().st_size if name[1] == "LOCAL" else _bytes_beside(path, name[1], fields)


def _bytes_beside(path: Path, name: str, fields: dict[str, str]) -> int:
    if "/" in name or "\\" in name:
        msg = f"points to {name}: the voxels must be in a file beside the header"
        raise BadScan(msg)
    data = path.parent / name
    if not data.is_file():
        msg = f"needs its voxels in {name}, which is not beside it: copy both files"
        raise BadScan(msg)
    stored = data.stat().st_size
    itemsize = ITEM_BYTES.get(fields.get("ElementType", ""))
    if itemsize and "HeaderSize" not in fields and fields.get("CompressedData") != "True":
        channels = int(fields.get("ElementNumberOfChannels", "1"))
        declared = math.prod(int(n) for n in fields.get("DimSize", "0").split()) * itemsize * channels
        if stored != declared:
            msg = f"declares {declared} bytes of voxels, but {name} has {stored}: the header is wrong, or a copy failed"
            raise BadScan(msg)
    return stored


def _text_header(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(HEADER_BYTES).decode("latin-1").replace("\r\n", "\n")


def _check_bytes(declared: int, stored: int) -> None:
    """Refuse a header that no file of this size can fill, before memory is set aside for it."""
    if declared > stored * MAX_DEFLATE:
        msg = f"declares {declared} bytes of voxels, which its {stored} bytes cannot hold: the header is wrong"
        raise BadScan(msg)
