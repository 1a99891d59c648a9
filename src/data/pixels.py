"""The pixels of DICOM slices in HU. Checks stored values against the header."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, get_frame
from pydicom.pixels.utils import pixel_array
from pydicom.uid import UID, JPEGExtended12Bit

from ..errors import BadScan
from .checks import AIR, padding_note
from .codestream import FrameSize, frame_size
from .headers import open_dicom
from .slices import Slice

__all__ = ["Repairs", "read_pixels"]

HIGHEST = 31743  # HU; most that 16 signed bits give with the usual intercept of -1024
LARGE = 2**15  # larger slopes and intercepts could overflow integers
PADDINGS = 2  # distinct values that padding may have
COPIES = 8  # sizes of a frame: memory limit for decoding
AIR_LIKE = -900  # HU; a higher padding value may be lung or tissue, and is not treated as padding
DECODING = (
    "Rows",
    "Columns",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "BitsAllocated",
    "BitsStored",
    "PixelRepresentation",
)

Voxels = npt.NDArray[Any]


class Repairs(NamedTuple):
    """Counts of repaired pixels, and of pixels kept against the header."""

    padded: int = 0  # below -1024 HU: set to air
    negative: int = 0  # unsigned, but too large: read as negative
    kept: int = 0  # equal to a padding value in the range of lung or tissue
    padding: int = 0  # that value, HU

    def plus(self, other: "Repairs") -> "Repairs":
        """Add the counts of both."""
        padded, negative, kept, _ = (a + b for a, b in zip(self, other, strict=True))
        return Repairs(padded, negative, kept, self.padding or other.padding)

    def notes(self) -> tuple[str, ...]:
        """The notes for the user."""
        signed = f"PixelRepresentation is unsigned, but {self.negative} pixels can only be negative: read as signed"
        kept = f"PixelPaddingValue is {self.padding} HU, which may be lung or tissue: its {self.kept} pixels were kept"
        return (*((signed,) if self.negative else ()), *((kept,) if self.kept else ()), *padding_note(self.padded))


def read_pixels(path: Path, slices: list[Slice]) -> Iterator[tuple[Voxels, Repairs]]:
    """For each slice of one file: (columns, rows) HU, int32 or float64, and the repairs.

    Raises:
        BadScan: the pixels are missing, cannot be decoded, or contradict the header.
    """
    where = f"{path.name} (instance {slices[0].number})"
    try:
        dataset = open_dicom(path)
        missing = "PixelData" not in dataset
    except Exception as error:
        msg = f"{where} is damaged or cut short: copy it again"
        raise BadScan(msg) from error
    if missing:
        msg = f"{where} has no pixel data (PixelData): export the series again with images"
        raise BadScan(msg)
    for one in slices:
        yield _as_hounsfield(_numbers(_stored(dataset, one, where), one, where), one)


def _stored(dataset: Dataset, one: Slice, where: str) -> Voxels:
    """The stored values (rows, columns) of a slice, unchanged."""
    syntax = UID(dataset.file_meta.TransferSyntaxUID)
    shape = (one.size[1], one.size[0])
    if not syntax.is_encapsulated:
        return _native(dataset, one, shape, where, "<" if syntax.is_little_endian else ">")
    if dataset.BitsAllocated not in (8, 16):  # GDCM would abort the process
        msg = f"{where} has BitsAllocated {dataset.BitsAllocated}, which {syntax.name} has not: export the series again"
        raise BadScan(msg)
    try:
        stored = _decoded(dataset, one, syntax, where)
    except BadScan:
        raise
    except Exception as error:
        wanted = "convert the series to Explicit VR Little Endian, for example with gdcmconv --raw"
        if isinstance(error, NotImplementedError) or syntax == JPEGExtended12Bit or "plugin" in str(error):
            msg = f"{where} has pixels in {syntax.name} ({syntax}), which PIVOT cannot decode: {wanted}"
        else:
            msg = f"{where} cannot be decoded from {syntax.name} ({syntax}): it is damaged or cut short, copy it again"
        raise BadScan(msg) from error
    if stored.shape != shape:
        msg = f"{where} holds {stored.shape[::-1]} pixels, not {one.size} (Columns, Rows): export the series again"
        raise BadScan(msg)
    return stored


def _decoded(dataset: Dataset, one: Slice, syntax: UID, where: str) -> Voxels:
    """Decode a compressed slice. Its size must match the header, by which the decoder allocates memory."""
    frame = _frame(dataset, one)
    size = FrameSize(*one.size, samples=1, bits=int(dataset.BitsAllocated))
    stated = frame_size(frame, syntax, size)
    if stated and (stated[:3] != size[:3] or stated.bits > size.bits):
        words = "{0} x {1} pixels of {2} x {3} bits"
        msg = (
            f"{where} has {words.format(*stated)} in its {syntax.name} data, but {words.format(*size)} in its header "
            "(Columns, Rows, SamplesPerPixel, BitsAllocated): one of them is wrong, export the series again"
        )
        raise BadScan(msg)
    try:
        decoded: Voxels = pixel_array(_alone(dataset, frame), correct_unused_bits=False)
    except RuntimeError:  # pydicom reports a decoder's lack of memory like any other failure
        bytearray(COPIES * len(frame) + COPIES * size.columns * size.rows * 4)
        raise
    return decoded


def _frame(dataset: Dataset, one: Slice) -> bytes:
    """The compressed bytes of a slice."""
    tables = [dataset.get(name) for name in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths")]
    offsets = (tables[0], tables[1]) if tables[0] and tables[1] and len(tables[0]) == len(tables[1]) else None
    count = int(dataset.get("NumberOfFrames") or 1)
    return get_frame(dataset.PixelData, one.frame, extended_offsets=offsets, number_of_frames=count)


def _alone(dataset: Dataset, frame: bytes) -> Dataset:
    """A frame with only the attributes that its decoder needs."""
    alone = Dataset()
    alone.file_meta = dataset.file_meta
    for name in DECODING:
        if name in dataset:
            alone[name] = dataset[name]
    alone.PixelData = encapsulate([frame])
    alone["PixelData"].VR = "OB"
    return alone


def _native(dataset: Dataset, one: Slice, shape: tuple[int, int], where: str, order: str) -> Voxels:
    kind = np.dtype(f"{order}{'i' if one.signed else 'u'}{int(dataset.BitsAllocated) // 8}")
    content, size = dataset.PixelData, shape[0] * shape[1] * kind.itemsize
    frames = int(dataset.get("NumberOfFrames") or 1)
    if not size * frames <= len(content) < size * frames + max(shape[1] * kind.itemsize, 2):
        need = f"{frames} x {shape[1]} x {shape[0]} pixels (NumberOfFrames, Columns, Rows)"
        what = f"{where} cannot be decoded: it holds {len(content)} bytes of pixels, but {need} take {size * frames}"
        msg = f"{what}: copy it again"
        raise BadScan(msg)
    return np.frombuffer(content, kind, count=shape[0] * shape[1], offset=size * one.frame).reshape(shape)


def _numbers(stored: Voxels, one: Slice, where: str) -> tuple[npt.NDArray[np.int32], int]:
    """Interpret stored values by BitsStored and PixelRepresentation, and counts those that wrapped.

    Unsigned 16-bit values beyond any HU are negative numbers. They are padding, or a program wrote the whole scan with
    the wrong sign.
    """
    values = stored.astype(np.int32)
    most = 2 ** (one.bits - one.signed) - 1
    least = -most - 1 if one.signed else 0
    wrapped = (values > 32767) & (values * one.slope + one.intercept > HIGHEST) if not one.signed else None
    if wrapped is not None and one.bits < 16 and len(np.unique(values[wrapped])) > PADDINGS:
        wrapped = None  # damage beyond the stored bits has many values, as overlays in the high bits have
    negative = 0 if wrapped is None else int(np.count_nonzero(wrapped))
    if wrapped is not None and negative:
        values[wrapped] -= 65536
    low, high = int(values.min()), int(values.max())
    if one.signed and low >= 0 and most < high <= 2 * most + 1:  # PS3.5 8.1.1: the bits above may have any value
        values[values > most] -= 2 * (most + 1)
        if (values * one.slope + one.intercept).min() >= AIR:
            return values, negative
    if high > most or (low < least and not negative):
        value = high if high > most else low
        msg = (
            f"{where} holds the value {value}, beyond BitsStored {one.bits} with PixelRepresentation {int(one.signed)} "
            f"({least} to {most}): one of them is wrong, export the series again"
        )
        raise BadScan(msg)
    return values, negative


def _as_hounsfield(numbers: tuple[npt.NDArray[np.int32], int], one: Slice) -> tuple[Voxels, Repairs]:
    stored, negative = numbers
    whole = one.slope.is_integer() and one.intercept.is_integer() and max(one.slope, abs(one.intercept)) < LARGE
    slope, intercept = (int(one.slope), int(one.intercept)) if whole else (one.slope, one.intercept)
    values: Voxels = stored.astype(np.int32 if whole else np.float64)
    values *= slope
    values += intercept
    kept, padding = 0, 0
    if one.padding:
        declared = (stored >= one.padding[0]) & (stored <= one.padding[1]) & (values > AIR_LIKE)
        kept, padding = int(np.count_nonzero(declared)), round(one.padding[1] * one.slope + one.intercept)
    outside = values < AIR
    values[outside] = AIR
    return values.T, Repairs(int(np.count_nonzero(outside)), negative, kept, padding if kept else 0)
