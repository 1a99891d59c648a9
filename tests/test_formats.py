"""The content decides the format of a file if its name does not."""

from pathlib import Path

import numpy as np
import pytest

from src.data.fingerprint import content_hash
from src.data.formats import format_of
from src.data.loader import read_scan
from src.data.survey import survey
from src.errors import BadScan

from .dicom_files import AFFINE, CHEST, nifti, write, write_series, zipped
from .scan_writers import metaimage, nrrd

NAMES = ("IM0001", "scan", "1.2.840.113619.2", "brain.old", "x.img")
FORMATS = ("a.nii", "a.nii.gz", "a.mha", "a.nrrd", "a.zip", "b.zip")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", FORMATS)
def test_a_file_of_any_name_is_read_by_its_content(tmp_path: Path, kind: str, name: str) -> None:
    path = write(tmp_path, kind).rename(tmp_path / "renamed").rename(tmp_path / name)
    scan = read_scan(path)
    np.testing.assert_array_equal(scan.array, CHEST)
    np.testing.assert_allclose(scan.affine, AFFINE, atol=1e-5)
    assert scan.scan_id == name
    assert path in survey(tmp_path).scans


@pytest.mark.parametrize("make", [metaimage, nrrd])
def test_a_header_without_suffix_finds_its_voxels_beside_it(tmp_path: Path, make: type) -> None:
    header = make(tmp_path, data="one")
    header = header.rename(tmp_path / "header")
    np.testing.assert_array_equal(read_scan(header).array, CHEST)
    before = content_hash(header)
    data = tmp_path / "a.dat"
    data.write_bytes(data.read_bytes()[:-1] + b"\0")
    assert content_hash(header) != before


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK",
        b"NRRD",
        b"\x1f\x8b",
        b"\x1f\x8b\x08\0" + bytes(600),
        (348).to_bytes(4, "little") + bytes(600),
        b"ObjectTypes",
        b"text",
    ],
)
def test_a_file_that_only_begins_like_a_scan_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "scan"
    path.write_bytes(content)
    assert format_of(path) == ""
    with pytest.raises(BadScan, match="is not a DICOM file, and has an unknown suffix"):
        read_scan(path)


def test_a_volume_without_suffix_beside_dicom_is_noted(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "study", CHEST)
    nifti(folder / "a.nii").rename(folder / "other")
    for path in (folder, zipped(tmp_path / "a.zip", folder)):
        scan = read_scan(path)
        np.testing.assert_array_equal(scan.array, CHEST)
        assert [note.startswith("left out: other: the ") for note in scan.notes] == [True]


def test_a_volume_in_another_file_is_refused_with_the_remedy(tmp_path: Path) -> None:
    path = nifti(tmp_path / "a.nii", magic=b"ni1").rename(tmp_path / "a.hdr")
    with pytest.raises(BadScan, match=r"keeps its voxels in another file \(.img\)"):
        read_scan(path)


@pytest.mark.parametrize(
    ("kind", "name", "words"),
    [
        ("a.nii", "a.nrrd", "is called .nrrd, but is a .nii file by its content: rename it"),
        ("a.nii.gz", "a.mha", "is called .mha, but is a .nii.gz file"),
        ("a.nrrd", "a.nii", "is called .nii, but is a .nrrd file"),
        ("a.zip", "a.nii.gz", "is called .nii.gz, but is a .zip file"),
        ("a.mha", "a.dcm", "a.dcm is not a DICOM file, but a .mha file by its content"),
        ("a.nii", "a.ima", "a.ima is not a DICOM file, but a .nii file by its content"),
    ],
)
def test_a_file_whose_content_contradicts_its_name_is_refused_with_both_formats(
    tmp_path: Path, kind: str, name: str, words: str
) -> None:
    path = write(tmp_path, kind).rename(tmp_path / "x").rename(tmp_path / name)
    with pytest.raises(BadScan) as error:
        read_scan(path)
    assert words in str(error.value)


def test_a_slice_named_like_a_volume_is_refused(tmp_path: Path) -> None:
    slice_ = min(write_series(tmp_path / "a", CHEST).iterdir()).rename(tmp_path / "a.nii")
    with pytest.raises(BadScan, match=r"is called .nii, but is a .dcm file by its content"):
        read_scan(slice_)
