"""Every supported file gives the same volume in the same place; every broken one its own message."""

import gzip
import os
import stat
import subprocess
import sys
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
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation  # type: ignore[import-untyped]

from src.data import archive, checks
from src.data.geometry import RAS_TO_LPS, map_points
from src.data.loader import find_scans, load_scan, read_scan, scan_name
from src.errors import BadScan
from src.types import Affine, Volume

from .dicom_files import AFFINE, chest, itk_image, write_series

CHEST = chest()
FORMATS = ("a.nii", "a.nii.gz", "a.mhd", "a.mha", "a.nrrd", "dicom", "a.zip", "b.zip")

Voxels = npt.NDArray[Any]
Maker = Callable[[Path], Path]


def write(folder: Path, name: str, array: Voxels = CHEST, affine: Affine = AFFINE) -> Path:
    """The volume in one of `FORMATS`; `a.zip` holds a DICOM series, `b.zip` a MetaImage of two files."""
    path = folder / name
    if name == "dicom":
        return write_series(path, array, affine)
    if name.endswith(".zip"):
        content = write(folder / "content", "dicom" if name == "a.zip" else "a.mhd", array, affine)
        return zipped(path, content if content.is_dir() else content.parent)
    folder.mkdir(exist_ok=True)
    sitk.WriteImage(itk_image(array, affine), str(path))
    return path


def zipped(path: Path, folder: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for member in folder.iterdir():
            file.write(member, f"study/{member.name}")
    return path


def nifti(path: Path, array: Voxels = CHEST, affine: Affine = AFFINE, **header: object) -> Path:
    """A NIfTI file by nibabel, with header fields set to whatever is asked."""
    image = nib.Nifti1Image(array, affine)
    image.set_sform(affine, 1)
    image.set_qform(affine, 1)
    content = bytearray(image.to_bytes())
    raw = nib.Nifti1Header(bytes(content[:348]), check=False)
    for field, value in header.items():
        raw[field] = value
    content[:348] = raw.binaryblock
    path.write_bytes(gzip.compress(bytes(content), 1) if path.suffix == ".gz" else bytes(content))
    return path


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_scan(tmp_path: Path, name: str) -> None:
    scan = read_scan(write(tmp_path, name))
    assert scan.array.dtype == np.int16
    np.testing.assert_array_equal(scan.array, CHEST)
    np.testing.assert_allclose(scan.affine, AFFINE, atol=1e-4)
    assert (scan.scan_id, scan.notes) == (name.partition(".")[0], ())
    assert scan.series_uid == ("1.2.3.1" if name in ("dicom", "a.zip") else None)


def test_compressed_metaimages_are_read(tmp_path: Path) -> None:
    for name in ("a.mhd", "a.mha", "a.nrrd"):
        sitk.WriteImage(itk_image(CHEST), str(tmp_path / name), useCompression=True)
        np.testing.assert_array_equal(read_scan(tmp_path / name).array, CHEST)
    assert (tmp_path / "a.zraw").exists()


angles = st.floats(-180, 180)
lengths = st.floats(1.8, 4.0)


@settings(max_examples=12, deadline=None)
@given(
    turn=st.tuples(angles, angles, angles),
    spacing=st.tuples(lengths, lengths, lengths),
    origin=st.tuples(*[st.floats(-500, 500)] * 3),
)
def test_oblique_scans_lie_at_the_same_world_points_in_every_format(
    turn: tuple[float, ...], spacing: tuple[float, ...], origin: tuple[float, ...]
) -> None:
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", turn, degrees=True).as_matrix() * spacing
    affine[:3, 3] = origin
    corners = np.array([[0, 0, 0], [23, 0, 0], [0, 19, 0], [0, 0, 11], [23, 19, 11]])
    for name in ("a.nii", "a.mhd", "a.nrrd", "dicom"):
        with tempfile.TemporaryDirectory() as folder:
            scan = read_scan(write(Path(folder), name, affine=affine))
        np.testing.assert_array_equal(scan.array, CHEST)
        np.testing.assert_allclose(map_points(scan.affine, corners), map_points(affine, corners), atol=2e-3)


def test_nifti_points_are_those_of_nibabel_and_metaimage_points_those_of_itk(tmp_path: Path) -> None:
    path = write(tmp_path, "a.nii")
    np.testing.assert_allclose(read_scan(path).affine, nib.Nifti1Image.from_filename(path).affine)
    image = sitk.ReadImage(str(write(tmp_path, "a.mha")))
    point = image.TransformIndexToPhysicalPoint((3, 5, 7))
    np.testing.assert_allclose(map_points(RAS_TO_LPS @ read_scan(tmp_path / "a.mha").affine, (3, 5, 7)), point)


def test_load_scan_gives_a_volume_and_its_spacing(tmp_path: Path) -> None:
    volume, spacing = load_scan(str(write(tmp_path, "a.nii.gz")))
    assert isinstance(volume, Volume)
    assert volume.affine is not None
    assert spacing == pytest.approx((1.5, 2, 2.5))
    np.testing.assert_array_equal(np.asarray(volume), CHEST)


@pytest.mark.parametrize(
    ("array", "dtype"),
    [
        (CHEST.astype(np.float32), np.int16),
        (CHEST.astype(">i2"), np.int16),
        (CHEST.astype(np.int32), np.int16),
        (CHEST.astype(np.float64), np.int16),
        (CHEST + np.float32(0.25), np.float32),
        (np.where(CHEST > 90, np.int32(40000), CHEST), np.float32),
    ],
)
def test_values_are_int16_where_that_is_exact(tmp_path: Path, array: Voxels, dtype: type) -> None:
    scan = read_scan(nifti(tmp_path / "a.nii", array))
    assert scan.array.dtype == dtype
    np.testing.assert_array_equal(scan.array, array)


def test_the_scaling_of_the_header_is_applied(tmp_path: Path) -> None:
    stored = (CHEST + 1024).astype(np.uint16)
    scan = read_scan(nifti(tmp_path / "a.nii.gz", stored, scl_slope=1, scl_inter=-1024))
    assert scan.array.dtype == np.int16
    np.testing.assert_array_equal(scan.array, CHEST)


def test_values_below_air_become_air_with_a_note(tmp_path: Path) -> None:
    array = CHEST.copy()
    array[:2, 0], array[2, 0] = -3024, -2000
    scan = read_scan(nifti(tmp_path / "a.nii", array))
    assert (scan.array[:3, 0] == -1024).all()
    assert scan.notes == ("36 voxels of padding or below -1024 HU were set to air (-1024 HU)",)


def sheared(amount: float) -> Affine:
    shear = np.eye(4)
    shear[0, 1] = amount
    return AFFINE @ shear


def test_a_small_shear_is_repaired_with_a_note(tmp_path: Path) -> None:
    scan = read_scan(nifti(tmp_path / "a.nii", affine=sheared(0.01), qform_code=0))
    axes = scan.affine[:3, :3] / scan.spacing
    np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-6)
    assert "nearest rotation" in scan.notes[0]
    corner = (23, 19, 11)
    assert np.linalg.norm(map_points(scan.affine, corner) - map_points(sheared(0.01), corner)) < 0.5


def test_a_good_sform_does_not_need_a_good_qform(tmp_path: Path) -> None:
    scan = read_scan(nifti(tmp_path / "a.nii", quatern_b=3, pixdim=[1, 0, 0, 0, 1, 1, 1, 1]))
    np.testing.assert_allclose(scan.affine, AFFINE, atol=1e-4)
    assert scan.notes == ()


def test_a_metaimage_header_written_by_hand_is_read(tmp_path: Path) -> None:
    path = write(tmp_path, "a.mhd")
    path.write_text(path.read_text().replace(" = ", "="))
    np.testing.assert_array_equal(read_scan(path).array, CHEST)


@pytest.mark.parametrize("row", [(1.5, 0.6, 0, 0), (np.nan,) * 4, (0, 0, 0, 0)])
def test_the_qform_places_a_scan_whose_sform_is_unusable(tmp_path: Path, row: tuple[float, ...]) -> None:
    scan = read_scan(nifti(tmp_path / "a.nii", srow_x=row))
    np.testing.assert_allclose(scan.affine, AFFINE, atol=1e-4)
    assert scan.notes == ("the sform is not usable, so the qform places the scan",)


def test_voxel_sizes_are_used_with_a_note_where_no_orientation_is_stated(tmp_path: Path) -> None:
    scan = read_scan(nifti(tmp_path / "a.nii", sform_code=0, qform_code=0))
    assert scan.spacing == pytest.approx((1.5, 2, 2.5))
    assert "states no orientation" in scan.notes[0]


def test_metres_are_turned_into_millimetres(tmp_path: Path) -> None:
    small = np.diag([0.001, 0.001, 0.001, 1]) @ AFFINE
    assert read_scan(nifti(tmp_path / "a.nii", affine=small, xyzt_units=1)).spacing == pytest.approx((1.5, 2, 2.5))


@pytest.mark.parametrize("name", ["a.nii", "a.mha", "a.nrrd"])
def test_a_fourth_axis_of_one_is_dropped_with_a_note(tmp_path: Path, name: str) -> None:
    if name == "a.nii":
        path = nifti(tmp_path / name, CHEST[..., None])
    else:
        path = tmp_path / name
        sitk.WriteImage(sitk.JoinSeries(itk_image(CHEST)), str(path))
    scan = read_scan(path)
    np.testing.assert_array_equal(scan.array, CHEST)
    np.testing.assert_allclose(scan.affine, AFFINE, atol=1e-4)
    assert scan.notes == ("4D data of 24 x 20 x 12 x 1 read as one volume",)


def edited(name: str, old: bytes, new: bytes) -> Maker:
    """A MetaImage or NRRD file whose header says something else."""

    def make(folder: Path) -> Path:
        path = write(folder, name)
        content = path.read_bytes()
        assert old in content
        path.write_bytes(content.replace(old, new, 1))
        return path

    return make


def cut(name: str, keep: float) -> Maker:
    """A file of which only the first part was copied."""

    def make(folder: Path) -> Path:
        write(folder, "a.mhd" if name == "a.raw" else name)
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(keep * len(content))])
        return folder / ("a.mhd" if name == "a.raw" else name)

    return make


def text(name: str) -> Maker:
    """A text file under a name that promises something else."""

    def make(folder: Path) -> Path:
        (folder / name).write_text("Dear colleague, please find the scan attached.\n" * 20)
        return folder / name

    return make


def of(array: Voxels, **header: Any) -> Maker:
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
    content[-8] ^= 0xFF  # its checksum
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


def empty_folder(folder: Path) -> Path:
    (folder / "notes").mkdir()
    (folder / "notes" / "readme.txt").write_text("no scans here")
    return folder


def with_invalid(count: int, value: float) -> Voxels:
    array = CHEST.astype(np.float32)
    array.reshape(-1, order="F")[:count] = value
    return array


RGB = sitk.Compose([itk_image(CHEST)] * 3)

BROKEN: dict[str, tuple[Maker, str]] = {
    "no such file": (lambda folder: folder / "none.nii.gz", "there is no such file or folder"),
    "no such folder": (lambda folder: folder / "none", "there is no such file or folder"),
    "unknown suffix": (text("a.docx"), "unknown suffix: supported are .nii.gz, .nii, .mhd, .mha, .nrrd, .zip and"),
    "raw alone": (lambda folder: write(folder, "a.mhd").with_suffix(".raw"), "unknown suffix"),
    "empty folder": (empty_folder, "holds no DICOM files"),
    "text as nii.gz": (text("a.nii.gz"), "is not gzip data"),
    "text as nii": (text("a.nii"), "is not a NIfTI file"),
    "text as mhd": (text("a.mhd"), "is not a MetaImage file"),
    "text as mha": (text("a.mha"), "is not a MetaImage file"),
    "text as nrrd": (text("a.nrrd"), "not what its name says"),
    "text as zip": (text("a.zip"), "is not an intact zip archive"),
    "text as dcm": (text("a.dcm"), "is not a DICOM file"),
    "empty nii": (cut("a.nii", 0), "is not a NIfTI file"),
    "short nii": (cut("a.nii", 0.7), "is cut short"),
    "short nii.gz": (cut("a.nii.gz", 0.7), "is cut short"),
    "short nii header": (cut("a.nii", 0.01), "not what its name says"),
    "short mha": (cut("a.mha", 0.7), "damaged, cut short, or not what its name says: copy"),
    "short nrrd": (cut("a.nrrd", 0.7), "damaged, cut short, or not what its name says: copy"),
    "short raw": (cut("a.raw", 0.7), "declares 11520 bytes of voxels, but a.raw has 8063"),
    "long raw": (longer_raw, "declares 11520 bytes of voxels, but a.raw has 11524"),
    "long nii": (longer_nifti, "holds more data than the 24 x 20 x 12 voxels"),
    "no raw": (without_raw, "needs its voxels in a.raw, which is not beside it"),
    "raw elsewhere": (edited("a.mhd", b"= a.raw", b"= ../a.raw"), "points to ../a.raw"),
    "raw named twice": (
        edited("a.mha", b"ElementDataFile = ", b"ElementDataFile : /etc/passwd\nElementDataFile = "),
        "is not a MetaImage",
    ),
    "detached nrrd": (edited("a.nrrd", b"\n\n", b"\ndata file: /etc/passwd\n\n"), "keeps its voxels in another file"),
    "damaged gzip": (damaged_gzip, "not what its name says (CRC"),
    "short zip": (cut("a.zip", 0.7), "is not an intact zip archive"),
    "wrong sizes": (of(CHEST, dim=[3, 24, 21, 12, 1, 1, 1, 1]), "is cut short"),
    "huge nifti": (of(CHEST, dim=[3, 5000, 20, 12, 1, 1, 1, 1]), "declares 5000 x 20 x 12 voxels"),
    "huge in all": (of(CHEST, dim=[3, 2000, 2000, 2000, 1, 1, 1, 1]), "declares 2000 x 2000 x 2000 voxels"),
    "huge mhd": (edited("a.mha", b"DimSize = 24", b"DimSize = 9999"), "declares 9999 x 20 x 12 voxels"),
    "hollow gzip": (hollow_gzip, "declares 3456000000 bytes of voxels, which its"),
    "hollow nrrd": (edited("a.nrrd", b"sizes: 24 20", b"sizes: 2000 2000"), "declares 48000000 bytes of voxels"),
    "flat": (of(CHEST[..., 0]), "holds a 2D image of 24 x 20 pixels"),
    "picture": (image(itk_image(CHEST)[:, :, 0]), "holds a 2D image of 24 x 20 pixels"),
    "series": (of(np.stack([CHEST, CHEST], 3)), "holds 4D data of 24 x 20 x 12 x 2"),
    "series mha": (image(sitk.JoinSeries([itk_image(CHEST)] * 2)), "holds 4D data of 24 x 20 x 12 x 2"),
    "one slice": (of(CHEST[..., :1]), "has only 24 x 20 x 1 voxels"),
    "one voxel": (of(CHEST[:1, :1, :1]), "has only 1 x 1 x 1 voxels"),
    "few millimetres": (of(CHEST, affine=np.diag([0.1, 0.1, 0.1, 1])), "measures 2.4 x 2 x 1.2 mm"),
    "many millimetres": (of(CHEST, affine=np.diag([700.0, 700, 700, 1])), "check the voxel spacing and its unit"),
    "constant": (of(np.full_like(CHEST, -900)), "holds the value -900 in every voxel"),
    "nan": (of(with_invalid(3, np.nan)), "holds 3 NaN or infinite voxels (0.05%)"),
    "infinite": (of(with_invalid(4, np.inf)), "holds 4 NaN or infinite voxels"),
    "overflow": (of(np.where(CHEST > 80, 1e300, CHEST)), "NaN or infinite voxels"),
    "complex": (of(CHEST.astype(np.complex64)), "holds complex voxels"),
    "rgb": (of(np.zeros((24, 20, 12), [("R", "u1"), ("G", "u1"), ("B", "u1")])), "holds RGB voxels"),
    "channels": (image(RGB), "holds 3 channels in each voxel"),
    "channels nrrd": (image(RGB, "a.nrrd"), "holds 3 channels in each voxel"),
    "0 to 1": (of((CHEST + 1024).astype(np.float32) / 2000), "look normalised"),
    "HU in thousands": (of(CHEST.astype(np.float32) / 1000), "look normalised"),
    "0 to 255": (
        of(((CHEST + 1024) // 8).clip(0, 255).astype(np.uint8)),
        "holds values from 14 to 140, which are not Hounsfield units of a chest CT: they look like 8-bit",
    ),
    "offset": (of((CHEST + 1024).astype(np.uint16)), "stored values without the rescale intercept"),
    "offset with padding": (
        of(np.where(CHEST < -900, -2000, CHEST + 1024).astype(np.int16)),
        "give the original scan in HU",
    ),
    "soft tissue window": (of(CHEST.clip(-160, 240)), "hardly any voxel is as dark as lung or air"),
    "sheared": (lambda folder: nifti(folder / "a.nii", affine=sheared(0.3), qform_code=0), "has a sheared affine"),
    "nan affine": (of(CHEST, srow_x=[np.nan] * 4, qform_code=0), "zero, infinite or NaN entries"),
    "zero affine": (of(CHEST, srow_x=[0] * 4, srow_y=[0] * 4, srow_z=[0] * 4, qform_code=0), "zero, infinite or NaN"),
    "no voxel size": (of(CHEST, sform_code=0, pixdim=[1, 0, 2, 2.5, 1, 1, 1, 1]), "has voxel sizes of 0 x 2 x 2.5"),
    "sheared mha": (edited("a.mha", b"1 0 0 0 1 0 0 0 1", b"1 0 0 1 1 0 0 0 1"), "has a sheared affine"),
    "zero spacing": (edited("a.mha", b"ElementSpacing = 1.5", b"ElementSpacing = 0.0"), "direction of zero"),
    "zero direction": (edited("a.mha", b"1 0 0 0 1 0 0 0 1", b"0 0 0 0 1 0 0 0 1"), "direction of zero"),
    "nan spacing": (edited("a.mha", b"ElementSpacing = 1.5", b"ElementSpacing = nan"), "no usable voxel spacing"),
    "nan origin": (edited("a.mha", b"Offset = -30", b"Offset = nan"), "no usable voxel spacing"),
    "no spacing": (edited("a.mha", b"ElementSpacing", b"ElementComment"), "no usable voxel spacing"),
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
    """A zip with one member of a hostile kind."""

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
def test_nothing_stays_behind_in_the_temporary_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Maker
) -> None:
    path = make(tmp_path)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    with suppress(BadScan):
        read_scan(path)
    assert not list((tmp_path / "temporary").iterdir())


def test_a_file_without_permission_is_told(tmp_path: Path) -> None:
    path = write(tmp_path, "a.nii")
    path.chmod(0)
    user = os.geteuid()
    if user == 0:  # root may read everything
        os.seteuid(65534)
    try:
        with pytest.raises(BadScan, match="change its permissions"):
            read_scan(path)
    finally:
        os.seteuid(user)
        path.chmod(0o600)


def test_too_little_memory_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise MemoryError

    path = write(tmp_path, "a.nii")
    monkeypatch.setattr(np, "empty", fail)
    with pytest.raises(BadScan, match="not enough memory"):
        read_scan(path)


@pytest.mark.parametrize("name", FORMATS)
def test_ordinary_reading_is_silent(tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, name)
    capfd.readouterr()
    read_scan(path)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("scans/a.nii.gz", "a"),
        ("a.b.nii", "a.b"),
        ("A.NII.GZ", "A"),
        ("1.3.6.1.mhd", "1.3.6.1"),
        ("056.mha", "056"),
        ("a.nrrd", "a"),
        ("study.zip", "study"),
        ("a.dcm", "a"),
        ("a.tar", "a.tar"),
    ],
)
def test_scan_name_drops_a_known_suffix(path: str, name: str) -> None:
    assert scan_name(path) == name


def test_scan_name_of_a_folder_is_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "patient.nii"
    folder.mkdir()
    assert scan_name(folder) == "patient.nii"
    monkeypatch.chdir(folder)
    assert scan_name(".") == "patient.nii"


def test_find_scans_lists_what_a_batch_runs_on(tmp_path: Path) -> None:
    for name in ("b.nii.gz", "a.mhd", "c.nrrd"):
        write(tmp_path, name)
    write_series(tmp_path / "d" / "deep", CHEST)
    zipped(tmp_path / "e.zip", tmp_path / "d" / "deep")
    (tmp_path / "notes.txt").write_text("not a scan")
    (tmp_path / "._b.nii.gz").write_text("what macOS leaves behind")
    empty_folder(tmp_path)
    assert [path.name for path in find_scans(tmp_path)] == ["a.mhd", "b.nii.gz", "c.nrrd", "d", "e.zip"]
    assert find_scans(str(tmp_path / "d" / "deep")) == [tmp_path / "d" / "deep"]


def test_find_scans_refuses_two_scans_of_one_name(tmp_path: Path) -> None:
    write(tmp_path, "a.mhd")
    write(tmp_path, "a.nii.gz")
    with pytest.raises(BadScan, match=r"a\.mhd and a\.nii\.gz would both be called a"):
        find_scans(tmp_path)


@pytest.mark.parametrize(
    ("name", "fragment"), [("empty", "holds no scans"), ("none", "no such file"), ("file.nii", "Not a directory")]
)
def test_find_scans_refuses_what_holds_none(tmp_path: Path, name: str, fragment: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.nii").write_text("not a folder")
    with pytest.raises(BadScan, match=fragment):
        find_scans(tmp_path / name)


def test_limits_are_those_of_the_messages() -> None:
    assert checks.check_shape((4096, 512, 512))[0] == (4096, 512, 512)
    with pytest.raises(BadScan, match="declares 4097 x 512 x 512 voxels"):
        checks.check_shape((4097, 512, 512))


def test_reading_loads_no_torch(root: Path) -> None:
    code = "import sys, src.data.loader; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0


def test_a_real_background_keeps_its_values_and_place(shared_data: Path) -> None:
    path = shared_data / "backgrounds" / "covid-ct-md-normal002.nii.gz"
    scan = read_scan(path)
    image = nib.Nifti1Image.from_filename(path)
    assert (scan.scan_id, scan.notes) == ("covid-ct-md-normal002", ())
    assert scan.array.dtype == np.int16
    np.testing.assert_allclose(scan.affine, image.affine)
    np.testing.assert_array_equal(scan.array, np.asanyarray(image.dataobj))
