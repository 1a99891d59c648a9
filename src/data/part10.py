"""Reads DICOM files (PS3.10) and bare data sets through pydicom, with limits.

pydicom inflates a deflated data set (PS3.5 A.5) without limit: 600 kB become 600 MB before you read the first
attribute. It also treats all leading elements of group 2 as file meta information, so a data set that begins with a
TransferSyntaxUID changes how it is read.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from pydicom import dcmread
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.filereader import _read_file_meta_info, data_element_generator, read_dataset, read_preamble
from pydicom.tag import BaseTag, Tag
from pydicom.uid import DeflatedExplicitVRLittleEndian

from ..errors import BadScan
from .checks import MAX_TOTAL
from .voxels import CHUNK, REMEDY, Stream

__all__ = ["read_dicom"]

HEADER = 2**26  # bytes, for everything except the pixels
META, PIXELS = 0x0002, 0x7FE0  # groups
SIZES = ("Rows", "Columns", "SamplesPerPixel", "NumberOfFrames", "BitsAllocated")


def read_dicom(
    source: Path | BinaryIO,
    *,
    force: bool = False,
    stop_before_pixels: bool = False,
    specific_tags: Sequence[str] = (),
) -> FileDataset:
    """Read the data set of a DICOM file, or of its bytes from the current position. Takes the options of `dcmread`.

    Raises:
        BadScan: the file meta information states an element twice; or the data set is deflated and is damaged, cut
            short, followed by other data, or larger than a header can be.
        Exception: pydicom raises various types for a file that is no DICOM.
    """
    with source.open("rb") if isinstance(source, Path) else nullcontext(source) as file:
        start = file.tell()
        preamble = read_preamble(file, force)
        meta = _meta(file)
        if meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
            file.seek(start)
            tags: list[Any] = list(specific_tags)
            return dcmread(file, force=force, stop_before_pixels=stop_before_pixels, specific_tags=tags or None)
        inflated = BytesIO(_inflated(file))
    found = read_dataset(
        inflated,
        is_implicit_VR=False,
        is_little_endian=True,
        stop_when=_in_pixels if stop_before_pixels else None,
        specific_tags=[Tag(name) for name in specific_tags] or None,
    )
    name = str(source) if isinstance(source, Path) else BytesIO()
    dataset = FileDataset(name, found, preamble, meta, is_implicit_VR=False, is_little_endian=True)
    dataset.set_original_encoding(
        is_implicit_vr=False, is_little_endian=True, character_encoding=found.original_character_set
    )
    return dataset


def _meta(file: BinaryIO) -> FileMetaDataset:
    """Read the file meta information as `dcmread` does, and leaves `file` behind it."""
    start = file.tell()
    meta = _read_file_meta_info(file)
    end = file.tell()
    file.seek(start)
    implicit, little = bool(meta.original_encoding[0]), True
    elements = data_element_generator(file, implicit, little, stop_when=lambda tag, *_: tag.group != META)
    tags = [element.tag for element in elements]
    file.seek(end)
    if twice := {tag for tag in tags if tags.count(tag) > 1}:
        msg = f"states {min(twice)} of its file meta information twice: export it again"
        raise BadScan(msg)
    return meta


def _inflated(file: BinaryIO) -> bytes:
    """Inflate the deflated data set that starts here and ends with the file."""
    stream, content, most = Stream(file, "deflate"), bytearray(), 0
    while piece := stream.take(CHUNK):
        content += piece
        if len(content) > HEADER:
            most = most or HEADER + _pixel_bytes(bytes(content))
            if len(content) > most:
                msg = f"inflates to more than {most} bytes, the limit for a header: {REMEDY}"
                raise BadScan(msg)
    return bytes(content)


def _pixel_bytes(start: bytes) -> int:
    """The bytes of pixels that the start of a data set declares, at most those of the largest CT."""
    tags: list[Any] = [Tag(name) for name in SIZES]
    header = read_dataset(BytesIO(start), False, True, stop_when=_in_pixels, specific_tags=tags)  # noqa: FBT003
    rows, columns, samples, frames, bits = (max(0, int(header.get(name) or 1)) for name in SIZES)
    return min(rows * columns * samples * frames, MAX_TOTAL) * -(-min(bits, 64) // 8)


def _in_pixels(tag: BaseTag, _vr: str | None, _length: int) -> bool:
    return tag.group == PIXELS
