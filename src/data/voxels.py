"""Decodes voxels from files: exactly as many as the header states, with every checksum verified."""

import bz2
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, Self

import numpy as np
import numpy.typing as npt
from isal import isal_zlib

from ..errors import BadScan
from ..types import Affine, Shape3

__all__ = ["CHUNK", "GZIP", "REMEDY", "Encoding", "Stated", "Stream", "VoxelFile", "voxels_of"]

Encoding = Literal["raw", "gzip", "zlib", "deflate", "bzip2"]

GZIP = b"\x1f\x8b"
CHUNK = 2**18  # bytes decoded at once
MAX_DEFLATE = 1032  # highest ratio of deflate (https://zlib.net/zlib_tech.html); no scan comes near it
REMEDY = "copy it again, or save it again"
FIRST: dict[Encoding, bytes] = {"gzip": GZIP, "bzip2": b"BZh"}  # first bytes of each stream; a file may hold several
DECODERS: dict[Encoding, Callable[[], Any]] = {
    "gzip": lambda: isal_zlib.decompressobj(wbits=31),
    "zlib": lambda: isal_zlib.decompressobj(wbits=15),
    "deflate": lambda: isal_zlib.decompressobj(wbits=-15),
    "bzip2": bz2.BZ2Decompressor,
}


@dataclass(frozen=True, slots=True)
class VoxelFile:
    """A file with voxels, from byte `start` to its end. None: the last bytes of the file, as many as are needed."""

    path: Path
    start: int | None = 0


@dataclass(frozen=True, slots=True)
class Stated:
    """The values of a header. Each of `parts` holds an equal share of the voxels, with the first axis fastest."""

    shape: Shape3
    dtype: np.dtype[Any]
    affine: Affine  # RAS+
    parts: Sequence[VoxelFile]
    encoding: Encoding = "raw"
    skip: int = 0  # decoded bytes before the first voxel of each part
    slope: float = 1.0
    intercept: float = 0.0
    notes: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Decoded bytes of voxels."""
        return math.prod(self.shape) * self.dtype.itemsize


def voxels_of(stated: Stated) -> npt.NDArray[Any]:
    """The voxels of a scan in Fortran order and native byte order, scaled by the header.

    Raises:
        BadScan: the files hold too much or too little data, or are damaged.
    """
    scaled = (stated.slope, stated.intercept) != (1, 0)
    short = stated.dtype.kind in "iu" and stated.dtype.itemsize == 2 and _is_whole(stated.slope, stated.intercept)
    with _Shares(stated) as shares:
        if short or (not scaled and (stated.dtype.kind in "iu" or stated.dtype.itemsize == 4)):
            array: npt.NDArray[Any] = np.empty(stated.shape, stated.dtype, order="F")
            shares.fill(_bytes_of(array))
            native = stated.dtype.newbyteorder("=")
            array = array if stated.dtype == native else array.byteswap(inplace=True).view(native)
            return _scaled(array, int(stated.slope), int(stated.intercept)) if scaled else array
        array = np.empty(stated.shape, np.float32, order="F")
        plane = np.empty(stated.shape[:2], stated.dtype, order="F")
        with np.errstate(over="ignore", invalid="ignore"):  # infinite results are refused later
            for z in range(stated.shape[2]):
                shares.fill(_bytes_of(plane))
                array[..., z] = plane * np.float64(stated.slope) + stated.intercept if scaled else plane
        return array


def _is_whole(*numbers: float) -> bool:
    return all(number.is_integer() and abs(number) < 2**15 for number in numbers)


def _scaled(array: npt.NDArray[Any], slope: int, intercept: int) -> npt.NDArray[Any]:
    """Scale 16-bit voxels by whole numbers; in place if the results also fit 16 bits, as HU do."""
    ends = [int(end) * slope + intercept for end in (array.min(), array.max())]
    short = np.iinfo(np.int16)
    if min(ends) < short.min or max(ends) > short.max:
        return array.astype(np.int32) * slope + intercept
    array = array.view(np.int16)  # overflow wraps by multiples of 2**16, and wraps back
    array *= np.int16(slope)
    array += np.int16(intercept)
    return array


def _bytes_of(array: npt.NDArray[Any]) -> memoryview:
    """The memory of an array in Fortran order."""
    return array.T.view(np.uint8).data.cast("B")


class _Shares:
    """Decodes the voxels of all parts, one after the other."""

    def __init__(self, stated: Stated) -> None:
        self.share, rest = divmod(stated.size, len(stated.parts))
        if rest:
            msg = (
                f"its {stated.size} bytes of voxels cannot be {len(stated.parts)} files of equal size: check the header"
            )
            raise BadScan(msg)
        self.stated, self.parts, self.left = stated, iter(stated.parts), 0
        self.file: BinaryIO | None = None
        for part in stated.parts:
            self._check(part)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.file:
            self.file.close()

    def fill(self, view: memoryview) -> None:
        """Fill `view` with the next bytes. The end of the last part must be the end of its file.

        Raises:
            BadScan: there is more data, or too little.
        """
        while view:
            if not self.left:
                self._open(next(self.parts))
            count = min(len(view), self.left)
            if self.stream.fill(view[:count]) < count:
                raise BadScan(self._words("fewer"))
            view, self.left = view[count:], self.left - count
            if not self.left and self.stream.take(1):  # also verifies the checksum
                raise BadScan(self._words("more"))

    def _check(self, part: VoxelFile) -> None:
        """Refuse a file that is too small for its share, before memory is allocated."""
        stored = part.path.stat().st_size - (part.start or 0)
        wanted = self.share + self.stated.skip
        words = f"declares {wanted} bytes of voxels"
        if self.stated.encoding == "raw":
            if stored < wanted or (stored > wanted and part.start is not None):
                cut = "is cut short: it " if stored < wanted else ""
                msg = f"{cut}{words}, but {part.path.name} has {stored}: the header is wrong, or a copy failed"
                raise BadScan(msg)
        elif wanted > stored * MAX_DEFLATE:
            msg = f"{words}, which its {stored} bytes cannot hold: the header is wrong"
            raise BadScan(msg)

    def _open(self, part: VoxelFile) -> None:
        if self.file:
            self.file.close()
        self.file = part.path.open("rb", buffering=0)
        self.file.seek(part.path.stat().st_size - self.share if part.start is None else part.start)
        self.stream, self.left = Stream(self.file, self.stated.encoding), self.share
        self.stream.drop(self.stated.skip)

    def _words(self, much: str) -> str:
        size = " x ".join(map(str, self.stated.shape))
        start = "is cut short: it holds" if much == "fewer" else "holds"
        return f"{start} {much} data than the {size} voxels of its header: one of them is wrong, or a copy failed"


class Stream:
    """The decoded bytes of an open file, from its current position."""

    def __init__(self, file: BinaryIO, encoding: Encoding) -> None:
        self.file = file
        self._pieces = None if encoding == "raw" else self._decode(encoding)
        self._left = memoryview(b"")

    def fill(self, view: memoryview) -> int:
        """Fill `view` with the next bytes and returns their number, which is smaller only at the end.

        Raises:
            BadScan: the stream is damaged or cut short.
        """
        done = 0
        while done < len(view) and (count := self._give(view[done:])):
            done += count
        return done

    def take(self, size: int) -> bytes:
        """The next `size` bytes; fewer only at the end."""
        content = bytearray(size)
        return bytes(content[: self.fill(memoryview(content))])

    def drop(self, size: int) -> None:
        """Skip up to `size` bytes."""
        while size > 0 and (taken := len(self.take(min(size, CHUNK)))):
            size -= taken

    def _give(self, view: memoryview) -> int:
        if self._pieces is None:
            return int(self.file.readinto(view) or 0)  # type: ignore[attr-defined] # which binary files have
        self._left = self._left or memoryview(next(self._pieces, b""))
        count = min(len(view), len(self._left))
        view[:count], self._left = self._left[:count], self._left[count:]
        return count

    def _decode(self, encoding: Encoding) -> Iterator[bytes]:
        """Decode the stream in pieces. It must end with an end marker and a correct checksum."""
        decoder, data = DECODERS[encoding](), b""
        while True:
            if decoder.eof:
                data = self._behind(encoding, decoder.unused_data)
                if not data:
                    return
                decoder = DECODERS[encoding]()
            elif not data and getattr(decoder, "needs_input", True):
                data = self.file.read(CHUNK)
            try:
                piece = decoder.decompress(data, CHUNK)
            except (isal_zlib.error, OSError, ValueError) as error:  # type: ignore[misc] # its stub has no class
                msg = f"is damaged: its {encoding} data does not match its checksum or its format: {REMEDY}"
                raise BadScan(msg) from error
            if piece:
                yield piece
            elif not data and not decoder.eof:
                msg = f"is cut short: its {encoding} data has no end: {REMEDY}"
                raise BadScan(msg)
            data = getattr(decoder, "unconsumed_tail", b"")

    def _behind(self, encoding: Encoding, data: bytes) -> bytes:
        """The start of another stream, which gzip and bzip2 allow. Zeros at the end may pad a block."""
        padding = b"\0" if encoding in ("gzip", "deflate") else b""
        data = data.lstrip(padding)
        while not data and (more := self.file.read(CHUNK)):
            data = more.lstrip(padding)
        if 0 < len(data) < len(FIRST.get(encoding, b"")):
            data += self.file.read(CHUNK)
        if data and not (encoding in FIRST and data.startswith(FIRST[encoding])):
            msg = f"holds more than its {encoding} data: {REMEDY}"
            raise BadScan(msg)
        return data
