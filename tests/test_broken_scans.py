"""Broken scan files, each refused with its own message."""

import errno
import gzip
import os
import stat
import tempfile
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest
import SimpleITK as sitk

from src.data import archive, checks
from src.data.loader import read_scan
from src.errors import BadScan, PivotError, lacking

from .dicom_files import CHEST, empty_folder, itk_image, nifti, sheared, write, zipped

Voxels = npt.NDArray[Any]
Maker = Callable[[Path], Path]


def edited(name: str, old: bytes, new: bytes) -> Maker:
    """Return a maker of a MetaImage or NRRD file with a changed header."""

    def make(folder: Path) -> Path:
        path = write(folder, name)
        content = path.read_bytes()
        assert old in content
        path.write_bytes(content.replace(old, new, 1))
        return path

    return make


def cut(name: str, keep: float) -> Maker:
    """Return a maker of a truncated file."""

    def make(folder: Path) -> Path:
        write(folder, "a.mhd" if name == "a.raw" else name)
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(keep * len(content))])
        return folder / ("a.mhd" if name == "a.raw" else name)

    return make


def text(name: str) -> Maker:
    """Return a maker of a text file with the name of a scan."""

    def make(folder: Path) -> Path:
        (folder / name).write_text("Dear colleague, please find the scan attached.\n" * 20)
        return folder / name

    return make


def of(array: Voxels, **header: Any) -> Maker:  # noqa: ANN401 - fields of any type
    return lambda folder: nifti(folder / "a.nii", array, **header)


def image(picture: sitk.Image, name: str = "a.mha") -> Maker:
    def make(folder: Path) -> Path:
        sitk.WriteImage(picture, str(folder / name))
        return folder / name

    return make


def without_raw(folder: Path) -> Path:
    path = write(folder, "a.mhd")
    (folder / "a.raw").unlink()
    return path


def longer_raw(folder: Path) -> Path:
    path = write(folder, "a.mhd")
    with (folder / "a.raw").open("ab") as file:
        file.write(b"more")
    return path


def damaged_gzip(folder: Path) -> Path:
    path = write(folder, "a.nii.gz")
    content = bytearray(path.read_bytes())
    content[-8] ^= 0xFF  # the checksum
    path.write_bytes(content)
    return path


def longer_nifti(folder: Path) -> Path:
    path = nifti(folder / "a.nii")
    path.write_bytes(path.read_bytes() + b"more")
    return path


def hollow_gzip(folder: Path) -> Path:
    content = nib.Nifti1Image(np.zeros((8, 8, 8), np.int16), np.eye(4)).header
    content.set_data_shape((1200, 1200, 1200))
    (folder / "a.nii.gz").write_bytes(gzip.compress(content.binaryblock + bytes(1000)))
    return folder / "a.nii.gz"


def misnamed(folder: Path) -> Path:
    sitk.WriteImage(itk_image(CHEST), str(folder / "a.tif"))  # ITK would recognise the content
    return (folder / "a.tif").rename(folder / "a.nrrd")


def with_invalid(count: int, value: float) -> Voxels:
    array = CHEST.astype(np.float32)
    array.reshape(-1, order="F")[:count] = value
    return array


RGB = sitk.Compose([itk_image(CHEST)] * 3)

BROKEN: dict[str, tuple[Maker, str]] = {
    "no such file": (lambda folder: folder / "none.nii.gz", "there is no such file or folder"),
    "no such DICOM file": (lambda folder: folder / "none.dcm", "there is no such file or folder"),
    "no such folder": (lambda folder: folder / "none", "there is no such file or folder"),
    "unknown suffix": (
        text("a.docx"),
        "unknown suffix: supported are .nii.gz, .nii, .mhd, .mha, .nrrd, .nhdr, .zip and",
    ),
    "raw alone": (lambda folder: write(folder, "a.mhd").with_suffix(".raw"), "unknown suffix"),
    "empty folder": (empty_folder, "holds no DICOM files"),
    "text as nii.gz": (text("a.nii.gz"), "is not gzip data"),
    "text as nii": (text("a.nii"), "not a NIfTI file"),
    "text as mhd": (text("a.mhd"), "not a MetaImage file"),
    "text as mha": (text("a.mha"), "not a MetaImage file"),
    "text as nrrd": (text("a.nrrd"), "of another format than its name says"),
    "tif as nrrd": (misnamed, "of another format than its name says"),
    "text as zip": (text("a.zip"), "is not an intact zip archive"),
    "text as dcm": (text("a.dcm"), "is not a DICOM file"),
    "empty nii": (cut("a.nii", 0), "not a NIfTI file"),
    "short nii": (cut("a.nii", 0.7), "is cut short"),
    "short nii.gz": (cut("a.nii.gz", 0.7), "is cut short"),
    "short nii header": (cut("a.nii", 0.01), "is cut short: its header has no end"),
    "short mha": (cut("a.mha", 0.7), "is cut short: it declares 11520 bytes of voxels, but a.mha has 7"),
    "short nrrd": (cut("a.nrrd", 0.7), "is cut short: it declares 11520 bytes of voxels, but a.nrrd has 7"),
    "short raw": (cut("a.raw", 0.7), "declares 11520 bytes of voxels, but a.raw has 8063"),
    "long raw": (longer_raw, "declares 11520 bytes of voxels, but a.raw has 11524"),
    "long nii": (longer_nifti, "declares 11520 bytes of voxels, but a.nii has 11524"),
    "no raw": (without_raw, "needs its voxels in a.raw, which is not beside it"),
    "raw in another folder": (edited("a.mhd", b"= a.raw", b"= ../a.raw"), "points to ../a.raw"),
    "raw named twice": (
        edited("a.mha", b"ElementDataFile = ", b"ElementDataFile : /etc/passwd\nElementDataFile = "),
        "not a MetaImage",
    ),
    "detached nrrd": (edited("a.nrrd", b"\n\n", b"\ndata file: /etc/passwd\n\n"), "points to /etc/passwd"),
    "damaged gzip": (damaged_gzip, "its gzip data does not match its checksum"),
    "short zip": (cut("a.zip", 0.7), "is not an intact zip archive"),
    "wrong sizes": (of(CHEST, dim=[3, 24, 21, 12, 1, 1, 1, 1]), "is cut short"),
    "huge nifti": (of(CHEST, dim=[3, 5000, 20, 12, 1, 1, 1, 1]), "declares 5000 x 20 x 12 voxels"),
    "too many voxels": (of(CHEST, dim=[3, 2000, 2000, 2000, 1, 1, 1, 1]), "declares 2000 x 2000 x 2000 voxels"),
    "huge mhd": (edited("a.mha", b"DimSize = 24", b"DimSize = 9999"), "declares 9999 x 20 x 12 voxels"),
    "gzip below its size": (hollow_gzip, "declares 3456000352 bytes of voxels, which its"),
    "NRRD below its size": (
        edited("a.nrrd", b"sizes: 24 20", b"sizes: 2000 2000"),
        "declares 96000000 bytes of voxels",
    ),
    "2D NIfTI": (of(CHEST[..., 0]), "holds a 2D image of 24 x 20 pixels"),
    "2D MetaImage": (image(itk_image(CHEST)[:, :, 0]), "holds a 2D image of 24 x 20 pixels"),
    "4D NIfTI": (of(np.stack([CHEST, CHEST], 3)), "holds 4D data of 24 x 20 x 12 x 2"),
    "4D MetaImage": (image(sitk.JoinSeries([itk_image(CHEST)] * 2)), "holds 4D data of 24 x 20 x 12 x 2"),
    "one slice": (of(CHEST[..., :1]), "has only 24 x 20 x 1 voxels"),
    "one voxel": (of(CHEST[:1, :1, :1]), "has only 1 x 1 x 1 voxels"),
    "too small": (of(CHEST, affine=np.diag([0.1, 0.1, 0.1, 1])), "measures 2.4 x 2 x 1.2 mm"),
    "too large": (of(CHEST, affine=np.diag([700.0, 700, 700, 1])), "check the voxel spacing and its unit"),
    "constant": (of(np.full_like(CHEST, -900)), "holds the value -900 in every voxel"),
    "nan": (of(with_invalid(3, np.nan)), "holds 3 NaN or infinite voxels (0.05%)"),
    "infinite": (of(with_invalid(4, np.inf)), "holds 4 NaN or infinite voxels"),
    "beyond float32": (of(np.where(CHEST > 80, 1e300, CHEST)), "NaN or infinite voxels"),
    "complex": (of(CHEST.astype(np.complex64)), "holds complex voxels"),
    "rgb": (of(np.zeros((24, 20, 12), [("R", "u1"), ("G", "u1"), ("B", "u1")])), "holds RGB voxels"),
    "channels MetaImage": (image(RGB), "holds 3 channels in each voxel"),
    "channels NRRD": (image(RGB, "a.nrrd"), "holds 3 channels in each voxel"),
    "0 to 1": (of((CHEST + 1024).astype(np.float32) / 2000), "look normalised"),
    "HU divided by 1000": (of(CHEST.astype(np.float32) / 1000), "look normalised"),
    "0 to 255": (
        of(((CHEST + 1024) // 8).clip(0, 255).astype(np.uint8)),
        "holds values from 14 to 140, which are not Hounsfield units of a chest CT: they look like 8-bit",
    ),
    "offset": (of((CHEST + 1024).astype(np.uint16)), "stored values without the rescale intercept"),
    "offset with padding": (
        of(np.where(CHEST < -900, -2000, CHEST + 1024).astype(np.int16)),
        "they look like stored values without the rescale intercept",
    ),
    "soft tissue window": (of(CHEST.clip(-160, 240)), "only 0.0% of the voxels lie from -980 to -600 HU"),
    "sheared": (lambda folder: nifti(folder / "a.nii", affine=sheared(0.3), qform_code=0), "has a sheared affine"),
    "nan affine": (of(CHEST, srow_x=[np.nan] * 4, qform_code=0), "zero, infinite or NaN entries"),
    "zero affine": (of(CHEST, srow_x=[0] * 4, srow_y=[0] * 4, srow_z=[0] * 4, qform_code=0), "zero, infinite or NaN"),
    "no voxel size": (of(CHEST, sform_code=0, pixdim=[1, 0, 2, 2.5, 1, 1, 1, 1]), "has voxel sizes of 0 x 2 x 2.5"),
    "sheared mha": (edited("a.mha", b"1 0 0 0 1 0 0 0 1", b"1 0 0 .6 .8 0 0 0 1"), "has a sheared affine"),
    "zero spacing": (edited("a.mha", b"ElementSpacing = 1.5", b"ElementSpacing = 0.0"), "direction of zero"),
    "zero direction": (edited("a.mha", b"1 0 0 0 1 0 0 0 1", b"0 0 0 0 1 0 0 0 1"), "direction of zero"),
    "nan spacing": (edited("a.mha", b"ElementSpacing = 1.5", b"ElementSpacing = nan"), "no usable voxel spacing"),
    "nan origin": (
        edited("a.mha", b"Offset = -30", b"Offset = nan"),
        "states its origin (Offset or space origin) as (nan,",
    ),
    "no spacing": (edited("a.mha", b"ElementSpacing", b"Comment"), "no usable voxel spacing"),
    "no spacing nrrd": (edited("a.nrrd", b"(1.5,0,0)", b"none"), "no usable voxel spacing"),
    "zero spacing nrrd": (edited("a.nrrd", b"(1.5,0,0)", b"(0,0,0)"), "direction of zero"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_scan_is_refused_with_its_own_message(tmp_path: Path, name: str) -> None:
    make, fragment = BROKEN[name]
    path = make(tmp_path)
    with pytest.raises(BadScan) as error:
        read_scan(path)
    assert fragment in str(error.value)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


def member(name: str, content: bytes = b"", mode: int = 0) -> Maker:
    """Return a maker of a zip with one hostile member."""

    def make(folder: Path) -> Path:
        info = zipfile.ZipInfo(name)
        info.external_attr = mode << 16
        info.compress_type = zipfile.ZIP_DEFLATED
        with zipfile.ZipFile(folder / "a.zip", "w") as file:
            file.writestr(info, content)
        return folder / "a.zip"

    return make


def encrypted(folder: Path) -> Path:
    path = write(folder, "b.zip")
    content = bytearray(path.read_bytes())
    for signature, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        content[content.index(signature) + flags] |= 1
    path.write_bytes(content)
    return path


def two_volumes(folder: Path) -> Path:
    write(folder / "content", "a.mhd")
    write(folder / "content", "b.nii")
    return zipped(folder / "a.zip", folder / "content")


@pytest.mark.parametrize(
    ("make", "fragment"),
    [
        (member("../a.dcm"), "holds an unsafe path (../a.dcm)"),
        (member("a/../../b.dcm"), "holds an unsafe path"),
        (member("/etc/a.dcm"), "holds an unsafe path (/etc/a.dcm)"),
        (member("C:/a.dcm"), "holds an unsafe path"),
        (member("a.dcm", b"/etc/passwd", stat.S_IFLNK | 0o777), "holds a link (a.dcm)"),
        (member("readme.txt", b"nothing"), "holds no DICOM files"),
        (encrypted, "the archive is encrypted"),
        (two_volumes, "the archive holds 2 scans"),
    ],
)
def test_a_hostile_or_useless_zip_is_refused(tmp_path: Path, make: Maker, fragment: str) -> None:
    path = make(tmp_path)
    with pytest.raises(BadScan) as error:
        read_scan(path)
    assert fragment in str(error.value)


@pytest.mark.parametrize(
    ("limits", "fragment"),
    [
        ({"MAX_BYTES": 1000}, "would unpack to 1 files and 100000 bytes"),
        ({"MAX_FILES": 0}, "would unpack to 1 files"),
        ({"RATIO_FREE_BYTES": 1000}, "times its size: the limit is 200 times"),
    ],
)
def test_a_zip_bomb_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limits: dict[str, int], fragment: str
) -> None:
    for name, value in limits.items():
        monkeypatch.setattr(archive, name, value)
    path = member("a.dcm", bytes(100_000))(tmp_path)
    with pytest.raises(BadScan) as error:
        read_scan(path)
    assert fragment in str(error.value)


@pytest.mark.parametrize("make", [lambda folder: write(folder, "a.zip"), member("a.dcm", b"damaged")])
def test_the_temporary_folder_is_left_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Maker) -> None:
    path = make(tmp_path)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    with suppress(BadScan):
        read_scan(path)
    assert not list((tmp_path / "temporary").iterdir())


def test_an_unreadable_file_is_refused_with_the_reason(tmp_path: Path) -> None:
    path = write(tmp_path, "a.nii")
    path.chmod(0)
    user = os.geteuid()
    if user == 0:  # root can read every file
        os.seteuid(65534)
    try:
        with pytest.raises(BadScan, match="change its permissions"):
            read_scan(path)
    finally:
        os.seteuid(user)
        path.chmod(0o600)


@pytest.mark.parametrize(
    ("name", "place", "lack", "message"),
    [
        ("a.nii", "numpy.empty", MemoryError(), "there is not enough memory to read it"),
        ("dicom", "src.data.headers.read_dicom", MemoryError(), "there is not enough memory to read it"),
        ("dicom", "src.data.pixels.open_dicom", MemoryError(), "there is not enough memory to read it"),
        ("dicom", "src.data.pixels.open_dicom", OSError(errno.EMFILE, "Too many open files"), "Too many open files"),
        ("a.zip", "zipfile.ZipFile.extract", OSError(errno.ENOSPC, "No space left on device"), "No space left"),
    ],
)
def test_a_lack_of_memory_or_disk_is_not_blamed_on_the_scan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, place: str, lack: Exception, message: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise lack

    path = write(tmp_path, name)
    monkeypatch.setattr(place, fail)
    with pytest.raises(PivotError, match=message) as error:
        read_scan(path)
    assert type(error.value) is PivotError
    assert str(error.value).startswith(f"{path}: ")
    assert lacking(error.value) is lack


def test_the_messages_state_the_actual_limits() -> None:
    assert checks.check_shape((4096, 512, 512))[0] == (4096, 512, 512)
    with pytest.raises(BadScan, match="declares 4097 x 512 x 512 voxels"):
        checks.check_shape((4097, 512, 512))
