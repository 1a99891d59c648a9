"""The size stated in a compressed frame must match the DICOM header before the frame is decoded."""

import struct
from collections.abc import Callable
from pathlib import Path

import gdcm  # type: ignore[import-untyped]
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.encaps import encapsulate, get_frame
from pydicom.pixels.decoders.base import JPEG2000LosslessDecoder
from pydicom.uid import JPEG2000Lossless, JPEGLossless, JPEGLSLossless, RLELossless

from src.data import pixels
from src.data.codestream import FrameSize, frame_size
from src.data.loader import read_scan
from src.errors import BadScan, PivotError, lacking

from .dicom_files import CHEST, compress, write_enhanced, write_series

GDCM = gdcm.TransferSyntax
SIZE = FrameSize(24, 20, 1, 16)
SYNTAXES = {
    "JPEG lossless": GDCM.JPEGLosslessProcess14,
    "JPEG-LS": GDCM.JPEGLSLossless,
    "JPEG 2000": GDCM.JPEG2000Lossless,
    "RLE": GDCM.RLELossless,
}
Change = Callable[[bytearray], object]


def compressed(folder: Path, name: str) -> tuple[Path, bytes]:
    """A slice compressed in the named syntax, and its frame."""
    for file in write_series(folder / "scan", CHEST).iterdir():
        compress(file, SYNTAXES[name])
    file = folder / "scan" / "1-0003.dcm"
    return file, get_frame(dcmread(file).PixelData, 0, number_of_frames=1)


def written(file: Path, frame: bytes) -> None:
    dataset = dcmread(file)
    dataset.PixelData = encapsulate([frame])
    dataset.save_as(file)


def stated(name: str, rows: int, columns: int, bits: int, samples: int = 1) -> Change:
    """Return a function that changes the size stated in a frame."""

    def change(frame: bytearray) -> None:
        if name == "JPEG 2000":
            struct.pack_into(">2I", frame, 8, columns, rows)
            struct.pack_into(">HB", frame, 40, samples, bits - 1)
        else:
            place = frame.index(b"\xff\xf7" if name == "JPEG-LS" else b"\xff\xc3")
            struct.pack_into(">BHHB", frame, place + 4, bits, rows, columns, samples)

    return change


@pytest.mark.parametrize("name", ["JPEG lossless", "JPEG-LS", "JPEG 2000"])
@pytest.mark.parametrize(
    ("size", "words"),
    [
        ((30000, 30000, 12), "30000 x 30000 pixels of 1 x 12 bits"),
        ((20, 25, 12), "25 x 20 pixels of 1 x 12 bits"),
        ((0, 24, 12), "24 x 0 pixels"),
        ((20, 24, 17), "24 x 20 pixels of 1 x 17 bits"),
        ((20, 24, 12, 3), "24 x 20 pixels of 3 x 12 bits"),
    ],
)
def test_a_frame_whose_size_differs_from_the_header_is_not_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, size: tuple[int, ...], words: str
) -> None:
    file, frame = compressed(tmp_path, name)
    changed = bytearray(frame)
    stated(name, *size)(changed)
    written(file, bytes(changed))
    monkeypatch.setattr("src.data.pixels.pixel_array", lambda *_, **__: np.zeros((20, 24), np.int16))
    with pytest.raises(
        BadScan, match=rf"1-0003\.dcm \(instance \d+\) has {words}.*24 x 20 pixels of 1 x 16 bits in its"
    ):
        read_scan(file.parent)


def test_a_frame_that_decodes_to_more_than_its_size_is_refused(tmp_path: Path) -> None:
    file, frame = compressed(tmp_path, "RLE")
    written(file, frame + b"\x81\0" * 2000)
    with pytest.raises(BadScan, match="cannot be decoded from RLE Lossless"):
        read_scan(file.parent)


@pytest.mark.parametrize("name", SYNTAXES)
def test_the_size_of_a_frame_is_that_of_the_encoded_image(tmp_path: Path, name: str) -> None:
    _, frame = compressed(tmp_path, name)
    syntaxes = {"JPEG-LS": JPEGLSLossless, "JPEG 2000": JPEG2000Lossless, "RLE": RLELossless}
    found = frame_size(frame, syntaxes.get(name, JPEGLossless), SIZE)
    assert found is not None
    assert found[:3] == SIZE[:3]
    assert 12 <= found.bits <= 16


def segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">HH", marker, 2 + len(content)) + content


SOF = segment(0xFFC3, struct.pack(">BHHB3B", 16, 20, 24, 1, 1, 0x11, 0))
SOS = segment(0xFFDA, b"\1\1\0\1\0\0")
START = b"\xff\xd8"


@pytest.mark.parametrize(
    ("frame", "accepted"),
    [
        (START + SOF + SOS, True),
        (START + segment(0xFFE0, b"JFIF") + segment(0xFFFE, b"comment") + b"\xff\xff" + SOF + SOS, True),
        (START + segment(0xFFF8, b"\1" + bytes(10)) + SOF + SOS, True),
        (START + SOF + segment(0xFFF8, b"\4" + struct.pack(">BHH", 2, 30000, 30000)) + SOS, False),
        (START + SOF + SOF + SOS, False),
        (START + segment(0xFFDE, SOF[4:]) + SOF + SOS, False),  # hierarchical frames
        (START + SOF + segment(0xFFDC, b"\x75\x30") + SOS, False),  # DNL: number of lines
        (START + START + SOF + SOS, False),
        (START + SOS, False),
        (START + SOF, False),
        (SOF + SOS, False),
        (b"", False),
    ],
)
def test_a_jpeg_must_state_its_size_exactly_once(frame: bytes, accepted: bool) -> None:
    if accepted:
        assert frame_size(frame, JPEGLossless, SIZE) == SIZE
    else:
        with pytest.raises(ValueError, match=r"is not a JPEG image of one frame|ends before its size"):
            frame_size(frame, JPEGLossless, SIZE)


def test_the_codestream_in_a_jp2_file_is_checked(tmp_path: Path) -> None:
    file, frame = compressed(tmp_path, "JPEG 2000")
    signature = b"\0\0\0\x0cjP  \r\n\x87\n"
    boxes = signature + struct.pack(">I4s", 8 + 4, b"free") + b"free" + struct.pack(">I4s", 8 + len(frame), b"jp2c")
    found = frame_size(boxes + frame, JPEG2000Lossless, SIZE)
    assert found is not None
    assert found[:2] == (24, 20)
    for damaged in (boxes[:-8], signature + bytes(8) + frame, b"\0" + frame):
        with pytest.raises(ValueError, match=r"JPEG 2000|ends before"):
            frame_size(damaged, JPEG2000Lossless, SIZE)
    changed = bytearray(frame)
    changed[40 + 3] = 2  # every second column is sampled
    with pytest.raises(ValueError, match="JPEG 2000"):
        frame_size(bytes(changed), JPEG2000Lossless, SIZE)
    assert file.exists()


@pytest.mark.parametrize("name", SYNTAXES)
def test_each_frame_of_a_compressed_multiframe_file_is_read(tmp_path: Path, name: str) -> None:
    file = write_enhanced(tmp_path / "scan.dcm", CHEST)
    compress(file, SYNTAXES[name])
    np.testing.assert_array_equal(read_scan(file).array, CHEST)


@pytest.mark.parametrize("copies", [8, 2**40])
def test_a_decoder_that_runs_out_of_memory_is_not_blamed_on_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, copies: int
) -> None:
    """Pydicom reports a decoder's lack of memory only in the message; `copies` is larger than the memory."""

    def decode(*_: object) -> bytes:
        raise MemoryError

    file, _ = compressed(tmp_path, "JPEG 2000")
    available = JPEG2000LosslessDecoder._available  # noqa: SLF001 - a new plugin would be tried last
    for name in available:
        monkeypatch.setitem(available, name, decode)
    monkeypatch.setattr(pixels, "COPIES", copies)
    with pytest.raises(PivotError) as caught:
        read_scan(file.parent)
    assert isinstance(lacking(caught.value), MemoryError) is (copies > 8)
    assert isinstance(caught.value, BadScan) is (copies == 8)
