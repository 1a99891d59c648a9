"""Every supported format gives the same volume at the same place."""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from src.data.geometry import RAS_TO_LPS, map_points
from src.data.loader import load_scan, read_scan, scan_name
from src.data.survey import find_scans
from src.errors import BadScan
from src.types import Volume

from .dicom_files import AFFINE, CHEST, FORMATS, empty_folder, itk_image, nifti, sheared, write, write_series, zipped

Voxels = npt.NDArray[Any]


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


def test_points_match_those_of_nibabel_and_itk(tmp_path: Path) -> None:
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
def test_values_are_int16_if_that_is_exact(tmp_path: Path, array: Voxels, dtype: type) -> None:
    scan = read_scan(nifti(tmp_path / "a.nii", array))
    assert scan.array.dtype == dtype
    np.testing.assert_array_equal(scan.array, array)


def test_the_scaling_of_the_header_is_applied(tmp_path: Path) -> None:
    stored = (CHEST + 1024).astype(np.uint16)
    scan = read_scan(nifti(tmp_path / "a.nii.gz", stored, scl_slope=1, scl_inter=-1024))
    assert scan.array.dtype == np.int16
    np.testing.assert_array_equal(scan.array, CHEST)


@pytest.mark.parametrize("kind", ["<u2", ">u2", "<i2", ">i2", "<i4", "<f4"])
@pytest.mark.parametrize(("slope", "intercept"), [(1, -1024), (2, -1024), (-1, -1024), (0.5, -1024), (1, 30000)])
def test_the_scaling_is_exact_for_every_stored_type(tmp_path: Path, kind: str, slope: float, intercept: float) -> None:
    stored = np.round((CHEST.astype(np.float64) - intercept) / slope)
    if not np.array_equal(stored.astype(kind), stored):  # the type cannot hold these values
        kind = "<i4"
    path = nifti(tmp_path / "a.nii.gz", stored.astype(kind), scl_slope=slope, scl_inter=intercept)
    np.testing.assert_array_equal(read_scan(path).array, stored * slope + intercept)


def test_scaled_values_beyond_16_bits_are_kept(tmp_path: Path) -> None:
    array = CHEST.astype(np.int32)
    array[0, 0, :2] = 40000, 60000  # such as metal
    stored = (array + 1024).astype(np.uint16)
    scan = read_scan(nifti(tmp_path / "a.nii.gz", stored, scl_slope=1, scl_inter=-1024))
    assert scan.array.dtype == np.float32
    np.testing.assert_array_equal(scan.array, array)


def test_values_below_air_become_air_with_a_note(tmp_path: Path) -> None:
    array = CHEST.copy()
    array[:2, 0], array[2, 0] = -3024, -2000
    scan = read_scan(nifti(tmp_path / "a.nii", array))
    assert (scan.array[:3, 0] == -1024).all()
    assert scan.notes == ("36 voxels of padding or below -1024 HU were set to air (-1024 HU)",)


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
    assert scan.notes == ("the qform is not usable, so the sform places the scan",)


def test_a_metaimage_header_written_by_hand_is_read(tmp_path: Path) -> None:
    path = write(tmp_path, "a.mhd")
    path.write_text(path.read_text().replace(" = ", "="))
    np.testing.assert_array_equal(read_scan(path).array, CHEST)


@pytest.mark.parametrize("row", [(1.5, 0.6, 0, 0), (np.nan,) * 4, (0, 0, 0, 0)])
def test_the_qform_places_a_scan_whose_sform_is_unusable(tmp_path: Path, row: tuple[float, ...]) -> None:
    scan = read_scan(nifti(tmp_path / "a.nii", srow_x=row))
    np.testing.assert_allclose(scan.affine, AFFINE, atol=1e-4)
    assert scan.notes == ("the sform is not usable, so the qform places the scan",)


def test_voxel_sizes_are_used_with_a_note_if_no_orientation_is_stated(tmp_path: Path) -> None:
    scan = read_scan(nifti(tmp_path / "a.nii", sform_code=0, qform_code=0))
    assert scan.spacing == pytest.approx((1.5, 2, 2.5))
    assert "states no orientation" in scan.notes[0]


def test_metres_are_converted_to_millimetres(tmp_path: Path) -> None:
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
    assert scan.notes[0] == "4D data of 24 x 20 x 12 x 1 read as one volume"


@pytest.mark.parametrize("name", FORMATS)
def test_reading_an_ordinary_file_prints_nothing(tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]) -> None:
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


def test_find_scans_lists_the_scans_of_a_batch(tmp_path: Path) -> None:
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


def test_load_scan_returns_the_notes_of_the_reader(tmp_path: Path) -> None:
    volume, _ = load_scan(nifti(tmp_path / "a.nii", sform_code=0, qform_code=0))
    assert "states no orientation" in volume.notes[0]
    assert getattr(volume[::-1], "notes") == ()  # noqa: B009 - a slice of a Volume is a Volume too


@pytest.mark.parametrize(
    ("name", "fragment"), [("empty", "holds no scans"), ("none", "no such file"), ("file.nii", "Not a directory")]
)
def test_find_scans_refuses_a_folder_without_scans(tmp_path: Path, name: str, fragment: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.nii").write_text("not a folder")
    with pytest.raises(BadScan, match=fragment):
        find_scans(tmp_path / name)


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
