"""DICOM series: choice, slice order, position, units, and refusal of broken series."""

import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import gdcm  # type: ignore[import-untyped]
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    ComprehensiveSRStorage,
    HTJ2KLossless,
    JPEGLSLossless,
    MRImageStorage,
    RLELossless,
    SecondaryCaptureImageStorage,
)

from src.data import headers
from src.data.loader import read_scan
from src.errors import BadScan

from .dicom_files import (
    AFFINE,
    CHEST,
    change,
    chest,
    compress,
    file_dataset,
    only,
    shift,
    slice_dataset,
    without,
    write_enhanced,
    write_series,
)


def test_a_series_in_any_file_order_and_depth_is_read_in_patient_order(tmp_path: Path) -> None:
    write_series(tmp_path / "a" / "b", CHEST)
    half = sorted((tmp_path / "a" / "b").iterdir())[:6]
    (tmp_path / "c").mkdir()
    for file in half:
        file.rename(tmp_path / "c" / file.stem)
    (tmp_path / "README.txt").write_text("not DICOM")
    (tmp_path / "DICOMDIR").write_bytes(b"an index")
    scan = read_scan(tmp_path)
    assert scan.array.dtype == np.int16
    np.testing.assert_array_equal(scan.array, CHEST)
    np.testing.assert_allclose(scan.affine, AFFINE, atol=1e-9)
    assert (scan.scan_id, scan.series_uid, scan.notes) == (tmp_path.name, "1.2.3.1", ())


def test_an_enhanced_file_is_read_like_the_series(tmp_path: Path) -> None:
    scan = read_scan(write_enhanced(tmp_path / "all.dcm", CHEST))
    np.testing.assert_array_equal(scan.array, CHEST)
    np.testing.assert_allclose(scan.affine, AFFINE, atol=1e-9)
    assert scan.scan_id == "all"


def test_fractional_rescaling_of_each_slice_gives_float32(tmp_path: Path) -> None:
    def edit(dataset: Dataset) -> None:
        dataset.RescaleSlope, dataset.RescaleIntercept = "0.5", str(-1023.25 - dataset.InstanceNumber)

    scan = read_scan(write_series(tmp_path, 2 * CHEST + 1024, edit=edit))
    assert scan.array.dtype == np.float32
    np.testing.assert_allclose(scan.array, CHEST - 0.25 - np.arange(CHEST.shape[2]), atol=1e-3)


@pytest.mark.parametrize("implicit", [False, True])
@pytest.mark.parametrize(
    ("value", "limit", "stored"),
    [(-2000, None, -2000), (63536, None, -2000), (-2000, 0, -1), (None, None, -2000)],
)
def test_padding_becomes_air_with_a_note(
    tmp_path: Path, value: int | None, limit: int | None, stored: int, implicit: bool
) -> None:
    def edit(dataset: Dataset) -> None:
        pixels = dataset.pixel_array.copy()
        pixels[0, :3] = stored
        dataset.PixelData = pixels.tobytes()
        for tag, padding in ((0x00280120, value), (0x00280121, limit)):
            if padding is not None:
                dataset.add_new(tag, "SS" if padding < 32768 else "US", padding)

    write_series(tmp_path, CHEST, edit=edit)
    if implicit:  # implicit VR: the file does not state the sign of the padding value
        for file in tmp_path.iterdir():
            compress(file, gdcm.TransferSyntax.ImplicitVRLittleEndian)
    scan = read_scan(tmp_path)
    assert (scan.array[:3, 0] == -1024).all()
    np.testing.assert_array_equal(scan.array[3:], CHEST[3:])
    assert scan.notes == (f"{3 * CHEST.shape[2]} voxels of padding or below -1024 HU were set to air (-1024 HU)",)


def test_padding_stored_as_air_needs_no_note(tmp_path: Path) -> None:
    array = CHEST.copy()
    array[:3, 0] = -1024
    edit = change(PixelRepresentation=0, PixelPaddingValue=0)
    assert read_scan(write_series(tmp_path, array, edit=edit)).notes == ()


SYNTAXES = {
    "1.2.840.10008.1.2": gdcm.TransferSyntax.ImplicitVRLittleEndian,
    "1.2.840.10008.1.2.4.57": gdcm.TransferSyntax.JPEGLosslessProcess14,
    "1.2.840.10008.1.2.4.70": gdcm.TransferSyntax.JPEGLosslessProcess14_1,
    "1.2.840.10008.1.2.4.80": gdcm.TransferSyntax.JPEGLSLossless,
    "1.2.840.10008.1.2.4.90": gdcm.TransferSyntax.JPEG2000Lossless,
    "1.2.840.10008.1.2.5": gdcm.TransferSyntax.RLELossless,
}


@pytest.mark.parametrize("signed", [0, 1])
@pytest.mark.parametrize("uid", SYNTAXES)
def test_every_lossless_syntax_gives_the_same_volume(tmp_path: Path, uid: str, signed: int) -> None:
    write_series(tmp_path, CHEST, edit=change(PixelRepresentation=signed))
    for file in tmp_path.iterdir():
        compress(file, SYNTAXES[uid])
        assert pydicom.dcmread(file).file_meta.TransferSyntaxUID == uid
    np.testing.assert_array_equal(read_scan(tmp_path).array, CHEST)


@pytest.mark.parametrize("uid", [JPEGLSLossless, RLELossless])
def test_slices_compressed_by_pydicom_are_read(tmp_path: Path, uid: str) -> None:
    if uid == JPEGLSLossless:
        pytest.importorskip("jpeg_ls")  # pydicom writes it with this package, which Python 3.14 lacks
    write_series(tmp_path, CHEST, edit=lambda dataset: dataset.compress(uid))
    np.testing.assert_array_equal(read_scan(tmp_path).array, CHEST)


def test_negative_stored_values_survive_compression(tmp_path: Path) -> None:
    def edit(dataset: Dataset) -> None:
        dataset.PixelData = (dataset.pixel_array - 1024).tobytes()
        dataset.RescaleIntercept = "0"

    write_series(tmp_path, CHEST, edit=edit)
    for file in tmp_path.iterdir():
        compress(file, gdcm.TransferSyntax.JPEGLosslessProcess14_1)
    np.testing.assert_array_equal(read_scan(tmp_path).array, CHEST)


def test_a_duplicate_slice_is_dropped_with_a_note(tmp_path: Path) -> None:
    write_series(tmp_path, CHEST)
    slice_dataset(CHEST, z=4).save_as(tmp_path / "again.dcm", enforce_file_format=True)
    scan = read_scan(tmp_path)
    np.testing.assert_array_equal(scan.array, CHEST)
    assert scan.notes == ("duplicate slices dropped: instance 5 (z -110.00 mm)",)


def test_a_series_stored_twice_is_read_once(tmp_path: Path) -> None:
    write_series(tmp_path / "a", CHEST)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    scan = read_scan(tmp_path)
    np.testing.assert_array_equal(scan.array, CHEST)
    assert scan.notes[0].endswith("and 7 more")


def test_rounded_positions_do_not_accumulate_an_error(tmp_path: Path) -> None:
    affine = AFFINE.copy()
    affine[2, 2] = 0.625
    volume = chest((24, 20, 60))

    def edit(dataset: Dataset) -> None:
        dataset.ImagePositionPatient = [round(float(value), 1) for value in dataset.ImagePositionPatient]

    assert read_scan(write_series(tmp_path, volume, affine, edit=edit)).spacing[2] == pytest.approx(0.625, abs=0.002)


@pytest.mark.parametrize(
    ("edit", "others"),
    [
        (
            change(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]),
            "12 files are a localiser (ImageType LOCALIZER)",
        ),
        (
            change(ImageType=["DERIVED", "SECONDARY", "MPR"], BodyPartExamined="CHEST"),
            "series 2 (12 slices): no original images (ImageType DERIVED/SECONDARY/MPR)",
        ),
        (
            change(ImageType=["ORIGINAL", "SECONDARY", "AXIAL"], BodyPartExamined="CHEST"),
            "series 2 (12 slices): no primary images (ImageType ORIGINAL/SECONDARY/AXIAL)",
        ),
        (
            change(BodyPartExamined="ABDOMEN"),
            "series 2 (12 slices): not called a chest (BodyPartExamined ABDOMEN)",
        ),
        (change(Modality="PT"), "12 files are CT Image Storage (SOPClassUID) of Modality PT"),
        (
            change(BodyPartExamined="CHEST", ImagePositionPatient=["0", "0", "0"]),
            "series 2 (12 slices): all 12 slices lie at the same position",
        ),
    ],
)
def test_the_best_series_is_read_and_the_others_are_named(
    tmp_path: Path, edit: Callable[[Dataset], None], others: str
) -> None:
    write_series(tmp_path, CHEST[..., :8], edit=change(BodyPartExamined="CHEST"))
    write_series(tmp_path, CHEST, series=2, edit=edit)
    scan = read_scan(tmp_path)
    assert (scan.series_uid, scan.shape[2]) == ("1.2.3.1", 8)
    assert scan.notes == (f"left out: {others}",)


def test_of_two_equal_series_the_one_with_more_slices_is_read(tmp_path: Path) -> None:
    write_series(tmp_path, CHEST[..., :8])
    write_series(tmp_path, CHEST, series=2)
    assert read_scan(tmp_path).series_uid == "1.2.3.2"


def test_reports_and_screenshots_beside_the_series_are_ignored(tmp_path: Path) -> None:
    write_series(tmp_path, CHEST)
    file_dataset(ComprehensiveSRStorage, 3, "SR").save_as(tmp_path / "sr.dcm", enforce_file_format=True)
    file_dataset(SecondaryCaptureImageStorage, 4).save_as(tmp_path / "dose.dcm", enforce_file_format=True)
    np.testing.assert_array_equal(read_scan(tmp_path).array, CHEST)


def tilted(z: int) -> float:
    """The shift of a slice at `z` by a gantry tilt of 20 degrees, for slices 2.5 mm apart."""
    return z * 2.5 * float(np.tan(np.radians(20)))


def wider(dataset: Dataset) -> None:
    dataset.PixelSpacing = ["2", "1.6"]


def taller(dataset: Dataset) -> None:
    dataset.PixelData = dataset.pixel_array[:-1].tobytes()
    dataset.Rows -= 1


BROKEN_SERIES = {
    "gap": (
        shift(2, lambda z: 1.6 * (z > 4)),
        "slices are missing between instance 5 (z -110.00 mm) and instance 6 (z -105.90 mm)",
    ),
    "other pixels at one position": (
        only(5, shift(2, lambda _: -2.5)),
        "instance 5 (z -110.00 mm) and instance 6 (z -110.00 mm) lie at the same position with different pixels",
    ),
    "one position": (shift(2, lambda z: -2.5 * z), "all 12 slices lie at the same position"),
    "tilt": (shift(1, tilted), "gantry tilt of 20.0 degrees"),
    "pixel spacings": (only(3, wider), "mixes pixel spacings in one series, at instance 4 (z -112.50 mm)"),
    "sizes": (only(3, taller), "mixes sizes in one series, at instance 4"),
    "orientations": (
        only(3, change(ImageOrientationPatient=[0, 1, 0, -1, 0, 0])),
        "mixes orientations in one series, at instance 4",
    ),
    "orientation": (change(ImageOrientationPatient=[1, 0, 0, 1, 0, 0]), "not a pair of perpendicular unit vectors"),
    "no position": (only(2, without("ImagePositionPatient")), "has no ImagePositionPatient"),
    "no intercept": (without("RescaleIntercept"), "has no RescaleIntercept"),
    "wrong intercept": (change(RescaleIntercept="0"), "stored values without the rescale intercept"),
    "spacing of nothing": (change(PixelSpacing=["0", "0"]), "has PixelSpacing 0\\0, which is not above zero"),
    "malformed spacing": (change(PixelSpacing=["1"]), "has PixelSpacing 1, not 2 finite numbers"),
    "no pixels": (only(4, without("PixelData")), "(instance 5) has no pixel data"),
    "short pixels": (only(4, change(PixelData=b"\0\0")), "(instance 5) cannot be decoded"),
    "colour": (change(SamplesPerPixel=3), "is a colour image"),
    "frames": (change(NumberOfFrames=4), "holds 4 frames but positions for 0"),
    "localisers": (change(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), "holds only localisers"),
    "magnetic resonance": (
        change(SOPClassUID=MRImageStorage, Modality="MR"),
        "12 files are MR Image Storage (SOPClassUID) of Modality MR",
    ),
    "PET": (change(Modality="PT"), "CT Image Storage (SOPClassUID) of Modality PT"),
}


@pytest.mark.parametrize("name", BROKEN_SERIES)
def test_a_broken_series_is_refused_with_its_own_message(tmp_path: Path, name: str) -> None:
    edit, fragment = BROKEN_SERIES[name]
    write_series(tmp_path, CHEST, edit=edit)
    with pytest.raises(BadScan) as error:
        read_scan(tmp_path)
    assert fragment in str(error.value)
    assert str(error.value).startswith(f"{tmp_path}: ")
    assert "secret" not in str(error.value).lower()


def text_as_dicom(folder: Path) -> None:
    (folder / "notes.dcm").write_text("not DICOM")


def header_only(folder: Path) -> None:
    file = folder / "1-0003.dcm"
    file.write_bytes(file.read_bytes()[:140])


def cut(folder: Path) -> None:
    file = folder / "1-0003.dcm"
    file.write_bytes(file.read_bytes()[:-300])


def unsupported(folder: Path) -> None:
    for file in folder.iterdir():
        dataset = pydicom.dcmread(file)
        dataset.PixelData = encapsulate([b"high-throughput JPEG 2000"])
        dataset["PixelData"].is_undefined_length = True
        dataset.file_meta.TransferSyntaxUID = HTJ2KLossless
        dataset.save_as(file)


def two_studies(folder: Path) -> None:
    write_series(folder, CHEST, series=2, edit=change(StudyInstanceUID="1.2.4"))


def two_slices(folder: Path) -> None:
    for file in sorted(folder.iterdir())[2:]:
        file.unlink()


def five_slices(folder: Path) -> None:
    for file in folder.iterdir():
        if pydicom.dcmread(file).InstanceNumber > 5:
            file.unlink()


@pytest.mark.parametrize(
    ("damage", "fragment"),
    [
        (text_as_dicom, "notes.dcm is not a DICOM file"),
        (header_only, "1-0003.dcm is a damaged DICOM file"),
        (cut, "1-0003.dcm (instance"),
        (unsupported, "High-Throughput JPEG 2000 Image Compression (Lossless Only) (1.2.840.10008.1.2.4.201)"),
        (two_studies, "holds CT of 2 studies"),
        (two_slices, "fewer than 3 slices"),
        (five_slices, "has only 24 x 20 x 5 voxels"),
    ],
)
def test_a_damaged_folder_is_refused_with_its_own_message(
    tmp_path: Path, damage: Callable[[Path], None], fragment: str
) -> None:
    damage(write_series(tmp_path, CHEST))
    with pytest.raises(BadScan) as error:
        read_scan(tmp_path)
    assert fragment in str(error.value)


def test_the_error_for_a_single_slice_asks_for_its_folder(tmp_path: Path) -> None:
    file = next(write_series(tmp_path, CHEST).iterdir())
    with pytest.raises(BadScan, match="give the folder of all slices"):
        read_scan(file)


def test_patient_attributes_are_never_read(tmp_path: Path) -> None:
    header = headers.read_header(next(write_series(tmp_path, CHEST).iterdir()))
    assert header is not None
    assert "PatientName" not in header.data
    assert "PatientID" not in header.data
    assert "SECRET" not in str(header)


def test_slightly_nonconforming_files_are_read_without_warnings(tmp_path: Path, root: Path) -> None:
    def edit(dataset: Dataset) -> None:
        dataset.add_new(0x00080005, "CS", "ISO_IR 999")
        dataset.PixelData += b"more"

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write_series(tmp_path, CHEST, edit=edit)
    code = f"from src.data.loader import read_scan; read_scan({str(tmp_path)!r})"
    # In a separate process, because pytest replaces the warning filters.
    run = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert (run.stdout, run.stderr) == ("", "")


def test_a_real_series_reads_the_same_from_every_source(tmp_path: Path, shared_data: Path) -> None:
    folder = shared_data / "lidc-idri-0001"
    scan = read_scan(folder)
    assert scan.shape == (512, 512, 133)
    assert scan.spacing == pytest.approx((0.703125, 0.703125, 2.5))
    assert scan.array.dtype == np.int16
    assert scan.array.min() == -1024
    assert scan.notes == ("7417676 voxels of padding or below -1024 HU were set to air (-1024 HU)",)
    image = sitk.ReadImage(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder)))
    for name in ("a.nii", "a.mhd"):
        sitk.WriteImage(image, str(tmp_path / name))
        other = read_scan(tmp_path / name)
        np.testing.assert_array_equal(other.array, scan.array)
        np.testing.assert_allclose(other.affine, scan.affine, atol=1e-3)
