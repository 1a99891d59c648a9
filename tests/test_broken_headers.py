"""A header cannot name a file outside its folder, and a file must hold every voxel its header states."""

import gzip
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.data import voxels
from src.data.loader import read_scan
from src.errors import BadScan

from .dicom_files import CHEST, nifti, write
from .scan_writers import DATA, PACKED, Data, metaimage, nrrd

Maker = Callable[[Path], Path]
CASES = [
    *[(metaimage, data, packing) for data in DATA for packing in ("raw", "zlib", "gzip")],
    *[(nrrd, data, packing) for data in DATA for packing in ("raw", "gzip", "bzip2")],
]


def files(path: Path) -> list[Path]:
    """The files of a scan that hold voxels."""
    return sorted(path.parent.glob("*.dat")) or [path]


@pytest.mark.parametrize(("writer", "data", "packing"), CASES)
@pytest.mark.parametrize("dtype", ["<i2", ">i2", "<f4", ">f8"])
def test_volumes_in_several_files_are_read_with_every_compression(
    tmp_path: Path, writer: Callable[..., Path], data: Data, packing: str, dtype: str
) -> None:
    scan = read_scan(writer(tmp_path, np.asfortranarray(CHEST.astype(dtype)), data=data, packing=packing))
    np.testing.assert_array_equal(scan.array, CHEST)
    assert scan.array.dtype == np.int16
    assert scan.array.dtype.isnative
    assert scan.notes == ()


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def without_end(content: bytes) -> bytes:
    return content[:-1]


def longer(content: bytes) -> bytes:
    return content + b"more"


def flipped(content: bytes) -> bytes:
    return content[:-40] + bytes([content[-40] ^ 0xFF]) + content[-39:]


def other_checksum(content: bytes) -> bytes:
    return content[:-8] + bytes([content[-8] ^ 0xFF]) + content[-7:-4] + bytes([content[-4] ^ 0xFF]) + content[-3:]


def empty(_: bytes) -> bytes:
    return b""


@pytest.mark.parametrize(("writer", "data", "packing"), CASES)
@pytest.mark.parametrize("damage", [cut, without_end, longer, flipped, other_checksum, empty])
def test_a_volume_whose_voxels_are_damaged_is_refused(
    tmp_path: Path, writer: Callable[..., Path], data: Data, packing: str, damage: Callable[[bytes], bytes]
) -> None:
    if packing == "raw" and damage in (flipped, other_checksum):
        pytest.skip("raw voxels have no checksum")
    path = writer(tmp_path, data=data, packing=packing)
    file = files(path)[-1]
    content = file.read_bytes()
    head = len(content) - len(PACKED[packing](CHEST.tobytes("F"))) if data == "local" else 0
    file.write_bytes(content[:head] + damage(content[head:]))
    with pytest.raises(BadScan, match=r"cut short|damaged|more|cannot hold|declares|a copy failed"):
        read_scan(path)


@pytest.mark.parametrize("damage", [cut, without_end, longer, flipped, other_checksum])
def test_a_gzipped_nifti_that_is_damaged_is_refused(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = nifti(tmp_path / "a.nii.gz")
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(BadScan, match="gzip data"):
        read_scan(path)


@pytest.mark.parametrize(("dims", "words"), [((24, 20, 11), "more"), ((24, 20, 13), "fewer")])
def test_a_gzipped_volume_of_another_size_than_its_header_is_refused(
    tmp_path: Path, dims: tuple[int, ...], words: str
) -> None:
    for path in (
        nifti(tmp_path / "a.nii.gz", dim=[3, *dims, 1, 1, 1, 1]),
        metaimage(tmp_path, packing="zlib", DimSize=" ".join(map(str, dims))),
        nrrd(tmp_path, packing="bzip2", sizes=" ".join(map(str, dims))),
    ):
        with pytest.raises(BadScan, match=f"{words} data than the 24 x 20 x {dims[2]} voxels"):
            read_scan(path)


@pytest.mark.parametrize("junk", [b"x", b"\x1f", b"BZ", b"<html>" * 9, b"\xff" * 400])
@pytest.mark.parametrize("packing", ["gzip", "bzip2"])
def test_bytes_after_the_data_are_not_reported_as_truncation(tmp_path: Path, packing: str, junk: bytes) -> None:
    path = nifti(tmp_path / "a.nii.gz") if packing == "gzip" else nrrd(tmp_path, packing=packing)
    path.write_bytes(path.read_bytes() + junk)
    with pytest.raises(BadScan, match=f"holds more than its {packing} data"):
        read_scan(path)


def test_missing_voxels_are_never_filled_with_earlier_data(tmp_path: Path) -> None:
    whole = metaimage(tmp_path / "whole", CHEST[::-1].copy(order="F"), packing="zlib")
    part = metaimage(tmp_path / "part", packing="zlib")
    content = part.read_bytes()
    for size in range(len(content) - 4000, len(content), 371):
        read_scan(whole)
        part.write_bytes(content[:size])
        with pytest.raises(BadScan, match="has no end"):
            read_scan(part)


def test_concatenated_streams_are_read_if_the_format_allows_it(tmp_path: Path) -> None:
    path = nifti(tmp_path / "a.nii.gz")
    content = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(content[:5000]) + gzip.compress(content[5000:]) + bytes(512))
    np.testing.assert_array_equal(read_scan(path).array, CHEST)


@given(chunk=st.integers(1, 3000), packing=st.sampled_from(["gzip", "bzip2"]))
@settings(max_examples=20)
def test_chunks_of_any_size_give_the_same_volume(
    tmp_path_factory: pytest.TempPathFactory, chunk: int, packing: str
) -> None:
    path = nrrd(tmp_path_factory.mktemp("scan"), packing=packing)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(voxels, "CHUNK", chunk)
        np.testing.assert_array_equal(read_scan(path).array, CHEST)


def pointing(folder: Path, where: str) -> Path:
    """A MetaImage header that names another place for its voxels."""
    return with_lines(metaimage(folder, data="one"), "a.dat", where)


HOSTILE: dict[str, tuple[Maker, str]] = {
    "absolute list": (
        lambda folder: pointing(folder, "LIST\n" + "/etc/passwd\n" * 12),
        "points to /etc/passwd",
    ),
    "list with a file of that name": (
        lambda folder: with_file(pointing(folder, "LIST\n" + "../a.raw\n" * 12), "LIST"),
        "points to ../a.raw",
    ),
    "absolute file": (lambda folder: pointing(folder, "/etc/passwd"), "points to /etc"),
    "parent folder": (lambda folder: pointing(folder, ".."), "points to .."),
    "own folder": (lambda folder: pointing(folder, "."), "points to ."),
    "windows path": (lambda folder: pointing(folder, "C:\\secret"), "points to C:"),
    "pattern into a folder": (
        lambda folder: pointing(folder, "../s%03d.raw 1 12 1"),
        "points to ../s001.raw",
    ),
    "pattern of text": (
        lambda folder: pointing(folder, "%s 1 12 1"),
        "names its files '%s'",
    ),
    "pattern of two numbers": (
        lambda folder: pointing(folder, "%d%d 1 12 1"),
        "names its files '%d%d'",
    ),
    "pattern without end": (
        lambda folder: pointing(folder, "s%d 1 99999999 1"),
        "names its files 's%d'",
    ),
    "blank before a key": (lambda folder: metaimage(folder, extra=" ElementDataFile = LIST\n"), "not `key = value`"),
    "lone carriage return": (
        lambda folder: metaimage(folder, extra="Comment = a\rElementDataFile = LIST\n"),
        "its header is not text",
    ),
    "nul": (lambda folder: metaimage(folder, extra="Comment = a\0ElementDataFile = LIST\n"), "its header is not text"),
    "colon": (lambda folder: metaimage(folder, extra="ElementDataFile : /etc/passwd\n"), "not `key = value`"),
    "key twice": (lambda folder: metaimage(folder, extra="DimSize = 24 20 11\n"), "states DimSize twice"),
    "synonym": (lambda folder: metaimage(folder, extra="Position = 0 0 0\n"), "states Offset twice"),
    "unknown key": (lambda folder: metaimage(folder, extra="ElementDatafile = x\n"), "has a field 'ElementDatafile'"),
    "text behind the end": (
        lambda folder: with_text(metaimage(folder, data="one"), "ElementDataFile = /etc/passwd\n"),
        "has text behind ElementDataFile",
    ),
    "endless header": (lambda folder: metaimage(folder, extra="Comment = a\n" * 100_000), "or has no end"),
    "endless line": (lambda folder: metaimage(folder, extra=f"Comment = {'a' * 2**20}\n"), "or has no end"),
    "header size": (lambda folder: metaimage(folder, data="one", HeaderSize="-2"), "states HeaderSize as '-2'"),
    "header size of local voxels": (lambda folder: metaimage(folder, HeaderSize="8"), "states a HeaderSize"),
    "too few names": (
        lambda folder: metaimage(folder, data="list", extra="", DimSize="24 20 13"),
        "names 12 files for 13 slices",
    ),
    "a slice twice": (
        lambda folder: with_lines(metaimage(folder, data="list"), "s10.dat", "s9.dat"),
        "names a file twice",
    ),
    "text voxels": (lambda folder: metaimage(folder, BinaryData="False"), "holds its voxels as text"),
    "long type": (lambda folder: metaimage(folder, ElementType="MET_LONG"), "states ElementType as 'MET_LONG'"),
    "no image": (lambda folder: metaimage(folder, ObjectType="Tube"), "holds a Tube"),
    "underscored number": (lambda folder: metaimage(folder, DimSize="2_4 20 12"), "which are not numbers"),
    "nrrd absolute": (lambda folder: nrrd(folder, extra="data file: /etc/passwd\n"), "points to /etc/passwd"),
    "nrrd list": (
        lambda folder: nrrd(folder, extra="data file: LIST\n" + "/etc/passwd\n" * 12, without=("space",)),
        "is damaged, or of another format than its name says",
    ),
    "nrrd absolute list": (
        lambda folder: with_lines(nrrd(folder, data="list"), "s3.dat", "/etc/passwd"),
        "points to /etc/passwd",
    ),
    "nrrd pattern": (
        lambda folder: with_lines(nrrd(folder, data="pattern"), "s%03d.dat", "../s%03d.dat"),
        "points to ../s001.dat",
    ),
    "nrrd key twice": (lambda folder: nrrd(folder, extra="sizes: 24 20 11\n"), "states sizes twice"),
    "nrrd unknown field": (lambda folder: nrrd(folder, extra="slope: 2\n"), "has a field 'slope'"),
    "nrrd text": (lambda folder: nrrd(folder, extra="by my friend\n"), "not `field: value`"),
    "nrrd magic": (lambda folder: with_lines(nrrd(folder), "NRRD0004", "NRRD0009"), "begins with 'NRRD0009'"),
    "nrrd ascii": (lambda folder: nrrd(folder, encoding="ascii"), "states encoding as 'ascii'"),
    "nrrd line skip": (lambda folder: nrrd(folder, line_skip="3"), "skips [3] lines"),
    "nrrd no endian": (lambda folder: nrrd(folder, without=("endian",)), "states endian as None"),
    "nrrd block": (lambda folder: nrrd(folder, type="block"), "states type as 'block'"),
    "nrrd axis mins": (lambda folder: nrrd(folder, axis_mins="0 0 0"), "states axis mins or maxs"),
    "nrrd two places": (
        lambda folder: with_text(nrrd(folder, data="one"), "\nvoxels"),
        "has data behind its header",
    ),
    "nrrd without end": (lambda folder: with_lines(nrrd(folder), "\n\n", "\n"), "its header is not text"),
}


def with_file(path: Path, name: str) -> Path:
    (path.parent / name).write_bytes(bytes(11520))
    return path


def with_text(path: Path, text: str) -> Path:
    path.write_text(path.read_text() + text)
    return path


def with_lines(path: Path, old: str, new: str) -> Path:
    content = path.read_bytes()
    assert old.encode() in content
    path.write_bytes(content.replace(old.encode(), new.encode(), 1))
    return path


@pytest.mark.parametrize("name", HOSTILE)
def test_a_header_that_breaks_its_format_is_refused(
    tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    make, words = HOSTILE[name]
    path = make(tmp_path)
    with pytest.raises(BadScan) as error:
        read_scan(path)
    assert words in str(error.value)
    assert "\n" not in str(error.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("writer", [metaimage, nrrd])
def test_a_symlink_to_another_folder_is_not_followed(tmp_path: Path, writer: Callable[..., Path]) -> None:
    path = writer(tmp_path / "scan", data="one")
    secret = (tmp_path / "scan" / "a.dat").rename(tmp_path / "secret")
    (tmp_path / "scan" / "a.dat").symlink_to(secret)
    with pytest.raises(BadScan, match="a link to another folder"):
        read_scan(path)


def test_a_symlinked_header_finds_its_voxels_beside_the_link(tmp_path: Path) -> None:
    path = metaimage(tmp_path / "scan", data="list")
    (tmp_path / "link.mhd").symlink_to(path)
    np.testing.assert_array_equal(read_scan(tmp_path / "link.mhd").array, CHEST)


def test_voxel_offsets_and_byte_orders_are_read_as_defined(tmp_path: Path) -> None:
    for path in (
        metaimage(tmp_path / "skip", data="one", HeaderSize="8"),
        metaimage(tmp_path / "last", data="one", HeaderSize="-1"),
        nrrd(tmp_path / "bytes", data="one", byte_skip="8"),
        nrrd(tmp_path / "end", data="one", byte_skip="-1"),
    ):
        with_first = bytes(8) + (path.parent / "a.dat").read_bytes()
        (path.parent / "a.dat").write_bytes(with_first)
        np.testing.assert_array_equal(read_scan(path).array, CHEST)
    stated = metaimage(tmp_path, ElementToIntensityFunctionSlope="0.5", ElementToIntensityFunctionOffset="-10")
    stated.write_bytes(stated.read_bytes()[: -CHEST.size * 2] + ((CHEST + 10) * 2).astype("<i2").tobytes("F"))
    scan = read_scan(stated)
    np.testing.assert_array_equal(scan.array, CHEST)
    assert scan.notes == ("the header's intensity function was applied: 0.5 x value + -10",)


def test_a_zip_member_shorter_than_its_stated_size_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "b.zip")
    content = bytearray(path.read_bytes())
    for mark, place in ((b"PK\x01\x02", 24), (b"PK\x03\x04", 22)):
        start = content.rindex(mark) + place
        content[start : start + 4] = (int.from_bytes(content[start : start + 4], "little") + 2).to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(BadScan, match="is not an intact zip archive"):
        read_scan(path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda file: file.writestr("study/a.raw", b"x"), "holds study/a.raw twice"),
        (lambda file: file.writestr("b.bin", b"x", zipfile.ZIP_LZMA), "is packed by method 14"),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_ambiguous_zip_is_refused(tmp_path: Path, change: Callable[[zipfile.ZipFile], None], words: str) -> None:
    path = write(tmp_path, "b.zip")
    with zipfile.ZipFile(path, "a") as file:
        change(file)
    with pytest.raises(BadScan, match=words):
        read_scan(path)


def test_a_stream_that_states_too_large_a_size_allocates_no_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = metaimage(tmp_path, packing="zlib", DimSize="2000 1000 1000")
    monkeypatch.setattr(np, "empty", lambda *_, **__: pytest.fail("memory was set aside"))
    with pytest.raises(BadScan, match="cannot hold"):
        read_scan(path)
