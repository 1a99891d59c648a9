"""Deflated DICOM files are inflated within bounds, completely, and in the transfer syntax stated first."""

import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian

from src.data import part10
from src.data.loader import read_scan
from src.data.part10 import read_dicom
from src.data.survey import find_scans
from src.errors import BadScan

from .dicom_files import CHEST, change, slice_dataset, write_series

PIXELS = 24 * 20 * 2  # bytes of a slice


def meta_end(content: bytes) -> int:
    return 144 + int.from_bytes(content[140:144], "little")  # after (0002,0000), which holds the length of the rest


def broken(content: bytes) -> bytes:
    """The file with an invalid deflate block type."""
    place = meta_end(content)
    return content[:place] + bytes([content[place] | 6]) + content[place + 1 :]


def deflated(dataset: Dataset | None = None, behind: bytes = b"", cut: int = 0) -> bytes:
    """A deflated file, with bytes after the data set or without its last bytes."""
    dataset = dataset or slice_dataset(CHEST)
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    content = buffer.getvalue()
    return content[: len(content) - cut] + behind


def padded(size: int) -> bytes:
    """A deflated file with `size` zeros in a private element."""
    dataset = slice_dataset(CHEST)
    dataset.private_block(0x29, "PIVOT", create=True).add_new(1, "OB", b"\0" * size)
    return deflated(dataset)


def test_a_deflated_file_is_read_as_pydicom_reads_it() -> None:
    content = deflated()
    expected, found = dcmread(BytesIO(content)), read_dicom(BytesIO(content))
    assert found == expected
    assert found.file_meta == expected.file_meta
    assert found.original_encoding == expected.original_encoding
    few = read_dicom(BytesIO(content), stop_before_pixels=True, specific_tags=["Rows"])
    assert set(few.dir()) == {"Rows"}
    assert few.Rows == 20


def test_a_data_set_inflates_to_no_more_than_its_header_can_need(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(part10, "HEADER", 2**20)
    read_dicom(BytesIO(padded(2**20 - 4096)))
    with pytest.raises(BadScan, match=f"inflates to more than {2**20 + PIXELS} bytes, the limit for a header"):
        read_dicom(BytesIO(padded(2**21)))


def test_pixels_may_be_larger_than_any_header(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(part10, "HEADER", 2**10)
    monkeypatch.setattr(part10, "CHUNK", 2**10)
    assert len(read_dicom(BytesIO(deflated())).PixelData) == PIXELS


def test_no_header_can_need_more_than_the_largest_scan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(part10, "HEADER", 2**10)
    monkeypatch.setattr(part10, "MAX_TOTAL", 2**10)
    dataset = slice_dataset(CHEST)
    dataset.Rows, dataset.Columns, dataset.NumberOfFrames = 65535, 65535, 2**31 - 1
    dataset.PixelData = b"\0" * 2**20
    with pytest.raises(BadScan, match=f"more than {2**10 + 2 * 2**10} bytes"):
        read_dicom(BytesIO(deflated(dataset)))


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (deflated(cut=5), "is cut short"),
        (deflated(behind=b"more"), "holds more than its deflate data"),
        (deflated(behind=zlib.compress(b"more", wbits=-15)), "holds more than its deflate data"),
        (broken(deflated()), "is damaged"),
    ],
)
def test_a_deflated_data_set_must_be_complete_and_nothing_may_follow(tmp_path: Path, content: bytes, why: str) -> None:
    file = write_series(tmp_path / "scan", CHEST) / "1-0003.dcm"
    file.write_bytes(content)
    with pytest.raises(BadScan, match=rf"1-0003\.dcm is a damaged DICOM file \({why}.*copy it again"):
        read_scan(tmp_path / "scan")


def test_a_padding_zero_after_a_deflated_data_set_is_accepted() -> None:
    content = deflated()
    assert read_dicom(BytesIO(content + b"\0")) == read_dicom(BytesIO(content))


@pytest.mark.parametrize("syntax", [DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian])
def test_a_data_set_may_not_state_another_transfer_syntax(tmp_path: Path, syntax: UID) -> None:
    """A peer can send this: the start of its data set is written after the file meta information."""
    file = write_series(tmp_path / "scan", CHEST, edit=change()) / "1-0003.dcm"
    content, other = file.read_bytes(), BytesIO()
    dataset = dcmread(file)
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.save_as(other, enforce_file_format=True)
    second = other.getvalue()[144 : meta_end(other.getvalue())]
    file.write_bytes(content[: meta_end(content)] + second + content[meta_end(content) :])
    with pytest.raises(BadScan, match=r"states \(0002,00..\) of its file meta information twice"):
        read_dicom(file)
    with pytest.raises(BadScan, match=r"1-0003\.dcm is a damaged DICOM file"):
        read_scan(tmp_path / "scan")


def test_other_files_are_read_by_pydicom(tmp_path: Path) -> None:
    file = write_series(tmp_path / "scan", CHEST) / "1-0003.dcm"
    dataset = read_dicom(file)
    assert dataset == dcmread(file)
    assert dataset.filename == str(file)
    np.testing.assert_array_equal(dataset.pixel_array, dcmread(file).pixel_array)


def test_a_damaged_file_does_not_stop_the_search_for_scans(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "study" / "series", CHEST)
    (folder / "1-0003.dcm").write_bytes(deflated(cut=9))
    write_series(tmp_path / "study" / "other", CHEST, series=2)
    assert find_scans(tmp_path / "study" / "series") == [folder]
