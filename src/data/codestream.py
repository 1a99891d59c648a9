"""The image size that a compressed frame states, read before decoding: decoders allocate memory by it.

The headers are those of JPEG (ITU-T T.81, B.1 and B.2), JPEG-LS (T.87, C.2) and JPEG 2000 (T.800, A.5.1 and I.4). RLE
(PS3.5 G) has none, and never shrinks to less than a 64th.
"""

import struct
from typing import NamedTuple

from pydicom.uid import UID, JPEG2000TransferSyntaxes, JPEGLSTransferSyntaxes, JPEGTransferSyntaxes, RLELossless

__all__ = ["FrameSize", "frame_size"]

SOI, SOS, LSE, COM, FILL = 0xFFD8, 0xFFDA, 0xFFF8, 0xFFFE, 0xFFFF
FRAMES = {*range(0xFFC0, 0xFFD0), 0xFFF7} - {0xFFC4, 0xFFC8, 0xFFCC}  # SOF: start of frame, for each process
TABLES = {0xFFC4, 0xFFCC, 0xFFDB, 0xFFDD, COM, *range(0xFFE0, 0xFFF0)}  # segments that may precede SOF
LARGER = b"\4"  # LSE type for an image beyond 65,535 pixels: its size is here, not in SOF
SOC_SIZ = b"\xff\x4f\xff\x51"  # start of a JPEG 2000 codestream
JP2 = b"\0\0\0\x0cjP  "  # start of a JP2 file; DICOM does not allow it, but some files hold it
RLE_HEADER = 64


class FrameSize(NamedTuple):
    """The image size that a frame states."""

    columns: int
    rows: int
    samples: int  # per pixel
    bits: int  # per sample


def frame_size(frame: bytes, syntax: UID, expected: FrameSize) -> FrameSize | None:
    """The size that a frame of a transfer syntax states; None for an unknown syntax.

    RLE states no size: the result is the expected size, if the frame is not too long for it.

    Raises:
        ValueError: the frame does not start like one of its syntax.
    """
    try:
        if syntax in JPEG2000TransferSyntaxes:
            return _jpeg_2000(frame)
        if syntax in JPEGTransferSyntaxes or syntax in JPEGLSTransferSyntaxes:
            return _jpeg(frame)
    except struct.error as error:
        msg = "ends before its size"
        raise ValueError(msg) from error
    if syntax != RLELossless:
        return None
    most = RLE_HEADER + 2 * expected.columns * expected.rows * expected.samples * -(-expected.bits // 8)
    if len(frame) > most:
        msg = f"has {len(frame)} bytes, more than an image of its size can have"
        raise ValueError(msg)
    return expected


def _jpeg(frame: bytes) -> FrameSize:
    (start,) = struct.unpack_from(">H", frame)
    place, found = 2, list[FrameSize]()
    while start == SOI:
        marker, length = struct.unpack_from(">HH", frame, place)
        if marker == SOS and len(found) == 1:
            return found[0]
        if marker in FRAMES:
            bits, rows, columns, samples = struct.unpack_from(">BHHB", frame, place + 4)
            found.append(FrameSize(columns, rows, samples, bits))
        elif not (
            marker in TABLES or marker == FILL or (marker == LSE and b"" < frame[place + 4 : place + 5] < LARGER)
        ):
            break
        place += 1 if marker == FILL else 2 + length
    msg = "is not a JPEG image of one frame"
    raise ValueError(msg)


def _jpeg_2000(frame: bytes) -> FrameSize:
    place = 0
    while frame.startswith(JP2):
        length, kind = struct.unpack_from(">I4s", frame, place)
        if kind == b"jp2c":
            place += 8
            break
        place += length if length >= 8 else len(frame)
    (start, *sizes, samples, depth, across, down) = struct.unpack_from(">4s4x8IH3B", frame, place)
    right, bottom, left, top = sizes[:4]
    if start != SOC_SIZ or (across, down) != (1, 1):
        msg = "is not a JPEG 2000 image of a size that DICOM allows"
        raise ValueError(msg)
    return FrameSize(right - left, bottom - top, samples, (depth & 0x7F) + 1)
