"""Grouping DICOM slices into a scan: splitting, joining, choosing, repair with a note, refusal with the attribute."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import SecondaryCaptureImageStorage

from src.data.loader import read_scan
from src.dicom_io.context import check_series
from src.errors import BadScan
from src.types import Scan

from .dicom_files import AFFINE, CHEST, Edit, change, chest, nifti, only, shift, without, write_series, zipped

Voxels = npt.NDArray[Any]
OTHER = np.ascontiguousarray(chest((24, 20, 14))[::-1, :, 1:13])  # another volume of the same size
HALF_STEP = 1.25  # mm


def both(*edits: Edit) -> Edit:
    def edit(dataset: Dataset) -> None:
        for one in edits:
            one(dataset)

    return edit


def later(dataset: Dataset) -> None:
    """Set an InstanceNumber after those of the first twelve slices."""
    dataset.InstanceNumber += 12


def named(folder: Path, name: Callable[[int], str]) -> Path:
    for number, file in enumerate(sorted(folder.iterdir())):
        file.rename(folder / name(number))
    return folder


def refusal(path: Path) -> str:
    with pytest.raises(BadScan) as error:
        read_scan(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "secret" not in str(error.value).lower()
    return str(error.value)


def same(scan: Scan, array: Voxels = CHEST) -> None:
    np.testing.assert_array_equal(scan.array, array)
    np.testing.assert_allclose(scan.affine, AFFINE, atol=1e-6)


WOVEN: dict[str, tuple[Edit, Edit]] = {
    "kernels": (change(ConvolutionKernel="B30f"), both(change(ConvolutionKernel="B70f"), shift(2, lambda _: 1.25))),
    "kernels in one place": (change(ConvolutionKernel="B30f"), change(ConvolutionKernel="B70f")),
    "acquisitions": (change(AcquisitionNumber=1), both(change(AcquisitionNumber=2), shift(2, lambda _: HALF_STEP))),
    "acquisitions in one place": (change(AcquisitionNumber=1), change(AcquisitionNumber=2)),
    "instance numbers": (change(), both(later, shift(2, lambda _: HALF_STEP))),
    "instance numbers in one place": (change(), later),
    "the same instance numbers twice": (change(), shift(2, lambda _: HALF_STEP)),
    "thicknesses": (change(SliceThickness="3"), both(change(SliceThickness="5"), shift(2, lambda _: HALF_STEP))),
    "frames of reference": (change(FrameOfReferenceUID="1.2"), change(FrameOfReferenceUID="1.3")),
    "image types": (change(), change(ImageType=["ORIGINAL", "PRIMARY", "AXIAL", "VMI"])),
    "energies": (change(KVP="80"), both(change(KVP="140"), shift(2, lambda _: 0.9))),
    "contrast media": (change(), both(change(ContrastBolusAgent="Iomeprol"), shift(2, lambda _: 1.1))),
    "heart phases": (change(NominalPercentageOfCardiacPhase=40), change(NominalPercentageOfCardiacPhase=75)),
    "descriptions": (change(SeriesDescription="Lung"), both(change(SeriesDescription="Soft"), shift(2, lambda _: 0.6))),
}


@pytest.mark.parametrize("name", WOVEN)
def test_two_reconstructions_with_one_series_uid_are_not_interleaved(tmp_path: Path, name: str) -> None:
    first, second = WOVEN[name]
    write_series(tmp_path / "a", CHEST, edit=first)
    write_series(tmp_path / "b", OTHER, edit=second)
    scan = read_scan(tmp_path)
    assert scan.shape == CHEST.shape
    assert np.array_equal(scan.array, CHEST) or np.array_equal(scan.array, OTHER)
    assert len(scan.notes) == 1
    assert scan.notes[0].startswith("left out: series 1 (12 slices")


INTERLEAVED: dict[str, Callable[[int], int | None]] = {
    "ascending": lambda place: place + 1,
    "descending": lambda place: 24 - place,
    "without numbers": lambda _: None,
    "shuffled": lambda place: place * 7 % 25 + 1,
}


@pytest.mark.parametrize("step", [HALF_STEP, 1.1])
@pytest.mark.parametrize("name", INTERLEAVED)
def test_interleaved_reconstructions_that_differ_only_in_pixels_are_refused(
    tmp_path: Path, name: str, step: float
) -> None:
    number = INTERLEAVED[name]
    for odd, array in enumerate((CHEST, OTHER)):
        edit = both(
            shift(2, lambda _, odd=odd: odd * step),  # type: ignore[misc]
            lambda one, odd=odd: setattr(one, "InstanceNumber", number(2 * (one.InstanceNumber - 1) + odd)),  # type: ignore[misc]
        )
        write_series(tmp_path / str(odd), array, edit=edit)
    assert "slices alternate between 2 reconstructions or phases (by their pixels)" in refusal(tmp_path)


def test_slices_of_several_acquisition_numbers_stay_one_scan(tmp_path: Path) -> None:
    write_series(tmp_path, CHEST, edit=lambda one: setattr(one, "AcquisitionNumber", (one.InstanceNumber + 3) // 4))
    same(read_scan(tmp_path))


PARTS: dict[str, Callable[[Dataset], str]] = {
    "two series": lambda one: f"1.2.3.{1 + (one.InstanceNumber > 7)}",
    "three series": lambda one: f"1.2.3.{(one.InstanceNumber - 1) // 4}",
    "one for each slice": lambda one: f"1.2.3.{one.InstanceNumber}",
}


@pytest.mark.parametrize("name", PARTS)
def test_series_that_continue_one_another_are_read_as_one(tmp_path: Path, name: str) -> None:
    uid = PARTS[name]
    write_series(tmp_path, CHEST, edit=lambda one: setattr(one, "SeriesInstanceUID", uid(one)))
    scan = read_scan(tmp_path)
    same(scan)
    assert "continue one another, and were read as one" in scan.notes[0]


@pytest.mark.parametrize(
    ("apart", "why"),
    [
        (change(ConvolutionKernel="B70f"), "kernel B70F"),
        (change(FrameOfReferenceUID="1.9"), "covers 10 mm only"),
        (shift(2, lambda _: 30.0), "covers 10 mm only"),
    ],
)
def test_series_that_do_not_belong_together_are_not_joined(tmp_path: Path, apart: Edit, why: str) -> None:
    long = chest((24, 20, 20))
    upper = both(change(SeriesInstanceUID="1.2.3.2", SeriesNumber=2), apart)
    write_series(tmp_path, long, edit=lambda one: upper(one) if one.InstanceNumber > 15 else None)
    scan = read_scan(tmp_path)
    np.testing.assert_array_equal(scan.array, long[..., :15])
    assert len(scan.notes) == 1
    assert why in scan.notes[0] or "fewer than" in scan.notes[0] or "has only" in scan.notes[0]


MIPS = [["ORIGINAL", "SECONDARY", "AXIAL", "MIP"], ["ORIGINAL", "PRIMARY", "MIP"], ["DERIVED", "PRIMARY", "MIN_IP"]]


@pytest.mark.parametrize("kind", MIPS)
def test_a_projection_is_never_chosen(tmp_path: Path, kind: list[str]) -> None:
    write_series(tmp_path / "a", CHEST, edit=change(ImageType=["DERIVED", "SECONDARY", "AXIAL"]))
    fine = AFFINE @ np.diag([1, 1, 0.5, 1])
    write_series(tmp_path / "mip", chest((24, 20, 24)), fine, series=2, edit=change(ImageType=kind))
    same(read_scan(tmp_path))
    assert "only projections through many slices (ImageType" in refusal(tmp_path / "mip")


def test_a_word_that_contains_a_projection_name_is_not_a_projection(tmp_path: Path) -> None:
    same(read_scan(write_series(tmp_path, CHEST, edit=change(SeriesDescription="CHEST SHIMIPA, OVRT, Impax"))))


@pytest.mark.parametrize("name", ["MAX_IP", "MIN_IP", "VOLUME_RENDER"])
def test_a_series_derived_by_projection_is_recognised(tmp_path: Path, name: str) -> None:
    write_series(tmp_path, CHEST, edit=change(VolumeBasedCalculationTechnique=name))
    assert "only projections" in refusal(tmp_path)


TEXTS = [
    "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a",
    "<html>Sign in</html>",
    "<Error>AccessDenied</Error>",
]


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_file_named_like_a_slice_is_refused(tmp_path: Path, text: str) -> None:
    folder = named(write_series(tmp_path, CHEST), NAMES[0])
    (folder / "IM0011").write_text(text)
    assert "IM0011 is not a DICOM file, but text" in refusal(folder)


@pytest.mark.parametrize(
    "name", ["MIP 8 mm", "Thorax_MinIP", "MIPs cor", "ThickMIP10", "Maximum Intensity Projection", "VRT"]
)
def test_a_series_named_as_a_projection_is_recognised(tmp_path: Path, name: str) -> None:
    write_series(tmp_path, CHEST, edit=change(SeriesDescription=name))
    assert "only projections" in refusal(tmp_path)


def test_the_thinnest_series_that_covers_the_lungs_is_read(tmp_path: Path) -> None:
    write_series(tmp_path, CHEST, edit=change(SliceThickness="2.5"))
    thin = AFFINE @ np.diag([1, 1, 0.2, 1])
    write_series(
        tmp_path, chest((24, 20, 20)), thin, series=2, edit=change(SliceThickness="0.5")
    )  # covers a part of the lungs
    write_series(tmp_path, OTHER, series=3, edit=change(SliceThickness="5"))
    scan = read_scan(tmp_path)
    same(scan)
    assert sorted(scan.notes) == [
        "left out: series 2 (20 slices): covers 10 mm only",
        "left out: series 3 (12 slices): thicker slices",
    ]


def phases(folder: Path) -> None:
    for number in range(3):
        edit = both(change(InstanceNumber=1), without("InstanceNumber"))
        write_series(folder / str(number), np.roll(OTHER, number, 1), series=2, edit=edit)


HIDING: dict[str, Callable[[Path], object]] = {
    "bolus tracking": lambda folder: write_series(
        folder, chest((24, 20, 60)), series=2, edit=change(ImagePositionPatient=["0", "0", "0"])
    ),
    "phases": phases,
    "tilt": lambda folder: write_series(folder, chest((24, 20, 30)), series=2, edit=shift(1, lambda z: z * 0.9)),
    "gap": lambda folder: write_series(folder, chest((24, 20, 30)), series=2, edit=shift(2, lambda z: 20.0 * (z > 10))),
    "no position": lambda folder: write_series(
        folder, chest((24, 20, 30)), series=2, edit=only(3, without("ImagePositionPatient"))
    ),
    "negative spacing": lambda folder: write_series(folder, OTHER, series=2, edit=change(PixelSpacing=["-2", "1.5"])),
}


@pytest.mark.parametrize("name", HIDING)
def test_an_unusable_series_does_not_prevent_reading_a_usable_one(tmp_path: Path, name: str) -> None:
    write_series(tmp_path / "good", CHEST)
    HIDING[name](tmp_path / "bad")
    scan = read_scan(tmp_path)
    same(scan)
    assert scan.notes[0].startswith("left out: series 2 (")


UNEVEN: dict[str, tuple[Callable[[int], float], bool]] = {
    "one wider step": (lambda z: 1.2 * (z > 6), True),
    "one slice off": (lambda z: 1.0 * (z == 5), True),
    "increasing steps": (lambda z: 0.05 * z * z, True),
    "a narrow step": (lambda z: -1.7 * (z > 6), True),
    "two spacings": (lambda z: 2.5 * max(0, z - 6), True),
    "below the limit": (lambda z: 0.4 * (z == 5), False),
    "rounded": (lambda z: 0.04 * (-1) ** z, False),
}


@pytest.mark.parametrize("name", UNEVEN)
def test_unevenly_spaced_slices_are_placed_where_they_lie(tmp_path: Path, name: str) -> None:
    move, noted = UNEVEN[name]
    heights = -120 + 2.5 * np.arange(12) + [move(z) for z in range(12)]
    ramp = np.broadcast_to(np.rint(-1000 + 10 * (heights + 120)).astype(np.int16), CHEST.shape).copy(order="F")
    noise = np.random.default_rng(1).integers(-60, 60, ramp[:, :7, :1].shape)
    ramp[:, :7] = 40 + noise  # so that the slices form a scan
    ramp[0, 0] = 40
    scan = read_scan(write_series(tmp_path, ramp, edit=shift(2, move)))
    planes = scan.affine[2, 3] + scan.affine[2, 2] * np.arange(scan.shape[2])
    assert planes[[0, -1]] == pytest.approx(heights[[0, -1]], abs=1e-6)
    expected = -1000 + 10 * (planes + 120)  # to 1 HU, or to 5 HU (0.5 mm) without a note
    assert np.abs(scan.array[0, -1] - expected).max() <= (1.0 if noted else 5.0)
    assert scan.array[0, 0].tolist() == [40] * scan.shape[2]
    assert bool(scan.notes) == noted
    if noted:
        assert "mm apart (by ImagePositionPatient): resampled to" in scan.notes[0]
        with pytest.raises(BadScan, match="unevenly spaced"):
            check_series(tmp_path)


def test_missing_slices_are_not_a_second_spacing(tmp_path: Path) -> None:
    write_series(tmp_path, chest((24, 20, 30)))
    for file in tmp_path.iterdir():
        number = dcmread(file).InstanceNumber
        if number > 15 and number % 2:
            file.unlink()
    assert "slices are missing between instance 14" in refusal(tmp_path) or "instance 16" in refusal(tmp_path)


STATED: dict[str, tuple[Edit, str]] = {
    "negative": (change(PixelSpacing=["2", "-1.5"]), "has PixelSpacing 2\\-1.5, which is not above zero"),
    "not a number": (
        change(ImagePositionPatient=["0", "nan", "0"]),
        "has ImagePositionPatient 0\\nan\\0, not 3 finite",
    ),
    "infinite": (change(RescaleIntercept="inf"), "has RescaleIntercept inf, not 1 finite number"),
    "slope": (change(RescaleSlope="0"), "has RescaleSlope 0, which is not above zero"),
    "unit": (change(RescaleType="MGML"), "has RescaleType MGML, which is not in Hounsfield units"),
    "high bit": (change(BitsStored=12, HighBit=15), "has HighBit 15, which contradicts BitsStored 12: it must be 11"),
    "bits": (change(BitsStored=17, HighBit=16), "has BitsStored 17, which does not fit BitsAllocated 16"),
    "few bits": (change(BitsStored=8, HighBit=7), "beyond BitsStored 8 with PixelRepresentation 1 (-128 to 127)"),
    "rows": (both(change(Rows=19)), "bytes of pixels, but 1 x 24 x 19 pixels (NumberOfFrames, Columns, Rows)"),
    "capture": (
        both(change(SOPClassUID=SecondaryCaptureImageStorage), without("ImageOrientationPatient")),
        "12 files are Secondary Capture Image Storage (SOPClassUID) without ImageOrientationPatient",
    ),
    "intercept of one": (
        only(4, change(RescaleIntercept="0")),
        "instances 4 and 5 match only with the same RescaleSlope and RescaleIntercept, and have 1 and -1024",
    ),
    "intercept of the last": (only(11, change(RescaleIntercept="1000")), "instances 11 and 12 match only"),
    "slope of one": (only(6, change(RescaleSlope="3")), "instances 6 and 7 match only with the same"),
    "intercepts of half": (
        lambda one: setattr(one, "RescaleIntercept", str(-500 * (one.InstanceNumber > 6))),
        "instances 6 and 7 match only with the same",
    ),
    "patients": (
        lambda one: setattr(one, "PatientID", f"SECRET{one.InstanceNumber > 6}"),
        "holds CT of 2 patients (by PatientID)",
    ),
    "studies": (
        lambda one: setattr(one, "StudyInstanceUID", f"1.2.{1 + (one.InstanceNumber > 6)}"),
        "holds CT of 2 studies (by StudyInstanceUID)",
    ),
}


@pytest.mark.filterwarnings("ignore:Invalid value for VR")  # set when the file is written
@pytest.mark.parametrize("name", STATED)
def test_contradicting_attributes_are_refused_with_name_and_value(tmp_path: Path, name: str) -> None:
    edit, fragment = STATED[name]
    assert fragment in refusal(write_series(tmp_path, CHEST, edit=edit))


NOTED: dict[str, tuple[Edit, str]] = {
    "distance": (
        change(SpacingBetweenSlices="2"),
        "SpacingBetweenSlices 2 mm contradicts ImagePositionPatient, 2.5 mm",
    ),
    "diameter": (change(ReconstructionDiameter="90"), "ReconstructionDiameter 90 mm contradicts PixelSpacing, 36 mm"),
    "capture": (change(SOPClassUID=SecondaryCaptureImageStorage), "12 files are Secondary Capture by their SOP class"),
}


@pytest.mark.parametrize("name", NOTED)
def test_an_unambiguous_repair_is_made_with_a_note(tmp_path: Path, name: str) -> None:
    edit, note = NOTED[name]
    scan = read_scan(write_series(tmp_path, CHEST, edit=edit))
    same(scan)
    assert scan.notes[0].startswith(note)


@pytest.mark.parametrize("modality", ["", "CT"])
def test_ct_images_without_a_modality_are_ct(tmp_path: Path, modality: str) -> None:
    same(read_scan(write_series(tmp_path, CHEST, edit=change(Modality=modality))))


def stored(offset: int, kind: str) -> Edit:
    """Return an edit that stores HU plus an offset as signed or unsigned 16-bit numbers."""

    def edit(dataset: Dataset) -> None:
        values = dataset.pixel_array.astype(np.int32) - 1024 + offset
        values[0, :3] = -3000 + offset
        dataset.PixelData = (values & 0xFFFF).astype("<u2").tobytes()
        dataset.RescaleIntercept = str(-offset)
        dataset.PixelRepresentation = int(kind == "signed")

    return edit


@pytest.mark.parametrize("padding", [None, 62536, -3000])
@pytest.mark.parametrize("offset", [0, 1024])
def test_unsigned_pixels_that_wrapped_are_negative(tmp_path: Path, offset: int, padding: int | None) -> None:
    def edit(dataset: Dataset) -> None:
        stored(offset, "unsigned")(dataset)
        if padding is not None:
            dataset.add_new(0x00280120, "US" if padding > 0 else "SS", padding)

    scan = read_scan(write_series(tmp_path, CHEST, edit=edit))
    expected = CHEST.copy()
    expected[:3, 0] = -1024
    same(scan, expected)
    assert scan.notes[0].startswith("PixelRepresentation is unsigned, but")
    assert scan.notes[1] == "36 voxels of padding or below -1024 HU were set to air (-1024 HU)"


@pytest.mark.parametrize(("value", "limit", "hu"), [(1064, None, 40), (0, 1100, 76), (3000, 3005, 1981)])
def test_padding_above_air_is_kept_with_a_note(tmp_path: Path, value: int, limit: int | None, hu: int) -> None:
    array = CHEST.copy()
    array[0, 0] = hu

    def edit(dataset: Dataset) -> None:
        dataset.add_new(0x00280120, "SS", value)
        if limit:
            dataset.add_new(0x00280121, "SS", limit)

    scan = read_scan(write_series(tmp_path, array, edit=edit))
    same(scan, array)
    assert scan.notes[0].startswith(f"PixelPaddingValue is {hu} HU, which may be lung or tissue: its ")


def test_signed_12_bit_values_are_sign_extended(tmp_path: Path) -> None:
    def edit(dataset: Dataset) -> None:
        values = dataset.pixel_array - 1024
        dataset.PixelData = (values & 0x0FFF).astype("<u2").tobytes()
        dataset.BitsStored, dataset.HighBit, dataset.RescaleIntercept = 12, 11, "0"

    same(read_scan(write_series(tmp_path, CHEST, edit=edit)))


def strip(file: Path) -> None:
    """Remove the preamble and the file meta information."""
    content = file.read_bytes()
    length = int.from_bytes(content[140:144], "little")
    file.write_bytes(content[144 + length :])


NAMES: list[Callable[[int], str]] = [
    lambda number: f"IM{number:04d}",
    lambda number: f"{number}.dcm",
    lambda number: f"1.2.3.{number}",
    lambda number: f"{number}.IMA",
    lambda number: f"slice{number}.img",
]
DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (lambda file: file.write_bytes(b""), "is not a DICOM file, but empty"),
    "cut": (lambda file: file.write_bytes(file.read_bytes()[:100]), "damaged or cut short (100 bytes)"),
    "noise": (lambda file: file.write_bytes(b"\x01\x00\x02" * 100), "damaged or cut short (300 bytes)"),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", NAMES)
def test_no_slice_is_skipped_because_of_its_name(tmp_path: Path, name: Callable[[int], str], damage: str) -> None:
    folder = named(write_series(tmp_path, CHEST), name)
    spoil, fragment = DAMAGES[damage]
    for file in sorted(folder.iterdir())[8:]:
        spoil(file)
    assert fragment in refusal(folder)


@pytest.mark.parametrize("name", NAMES)
def test_files_without_a_preamble_are_read(tmp_path: Path, name: Callable[[int], str]) -> None:
    folder = named(write_series(tmp_path, CHEST), name)
    for file in sorted(folder.iterdir())[8:]:
        strip(file)
    scan = read_scan(folder)
    same(scan)
    assert scan.notes == ("4 files have no DICOM preamble and were read without it",)


@pytest.mark.parametrize("ending", [".part", ".tmp", ".gz"])
def test_compressed_or_truncated_slice_files_are_refused(tmp_path: Path, ending: str) -> None:
    for file in sorted(write_series(tmp_path, CHEST).iterdir())[8:]:
        file.write_bytes(file.read_bytes()[:100])
        file.rename(file.with_name(file.name + ending))
    assert "is not a DICOM file" in refusal(tmp_path)


@pytest.mark.parametrize("name", ["13.dcm", "IM13", "13"])
def test_a_broken_symlink_to_a_slice_is_refused(tmp_path: Path, name: str) -> None:
    (write_series(tmp_path, CHEST) / name).symlink_to(tmp_path / "gone" / "13.dcm")
    assert f"{name} is not a DICOM file, but a link to a missing file" in refusal(tmp_path)


def test_text_files_beside_the_slices_are_ignored_and_other_files_are_noted(tmp_path: Path) -> None:
    write_series(tmp_path, CHEST)
    for name in ("README", "report.txt", "checksums.md5"):
        (tmp_path / name).write_text("Grüße, see the report")
    same(read_scan(tmp_path))
    assert read_scan(tmp_path).notes == ()
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    (tmp_path / "more.7z").write_bytes(b"7z\xbc\xaf\x27\x1c" + bytes(100))
    scan = read_scan(tmp_path)
    same(scan)
    assert scan.notes == ("left out: 2 files are no DICOM (more.7z, picture.png)",)


HALVES: dict[str, tuple[Edit, str]] = {
    "spacing": (change(PixelSpacing=["2", "1.6"]), "another PixelSpacing, and higher numbers"),
    "kernel": (change(ConvolutionKernel="B70f"), "another ConvolutionKernel"),
    "frame of reference": (change(FrameOfReferenceUID="1.9"), "another FrameOfReferenceUID"),
    "gap": (both(change(SeriesInstanceUID="1.2.3.9"), shift(2, lambda _: 3.0)), "alike, but with higher numbers"),
}


@pytest.mark.parametrize("name", HALVES)
def test_the_extent_of_slices_left_out_is_noted(tmp_path: Path, name: str) -> None:
    edit, why = HALVES[name]
    write_series(tmp_path, chest((24, 20, 24)), edit=lambda one: edit(one) if one.InstanceNumber > 12 else None)
    scan = read_scan(tmp_path)
    assert scan.shape[2] == 12
    assert why in scan.notes[0]
    assert "mm beyond the series that is read" in scan.notes[0]


def test_gaps_between_thin_slices_are_noted(tmp_path: Path) -> None:
    scan = read_scan(write_series(tmp_path, CHEST, edit=change(SliceThickness="1")))
    assert scan.notes == ("slices of 1 mm (SliceThickness) are 2.5 mm apart: the gaps between them are not shown",)
    for file in tmp_path.iterdir():
        file.unlink()
    assert read_scan(write_series(tmp_path, CHEST, edit=change(SliceThickness="2"))).notes == ()


def test_slices_shifted_in_plane_are_not_a_tilt(tmp_path: Path) -> None:
    message = refusal(write_series(tmp_path, CHEST, edit=shift(0, lambda z: 3.0 * (z == 5))))
    assert "slices are shifted in plane by up to 3.0 mm (by ImagePositionPatient): straighten" in message


def test_bits_above_the_stored_bits_are_not_a_sign(tmp_path: Path) -> None:
    def edit(dataset: Dataset) -> None:
        values = dataset.pixel_array.astype("<u2")
        values[::2] |= 0x8000  # such as an overlay
        dataset.PixelData = values.tobytes()
        dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 12, 11, 0

    message = refusal(write_series(tmp_path, CHEST, edit=edit))
    assert "beyond BitsStored 12 with PixelRepresentation 0 (0 to 4095)" in message


def test_linked_folders_are_read_once(tmp_path: Path) -> None:
    write_series(tmp_path / "elsewhere", CHEST)
    (tmp_path / "scan").mkdir()
    (tmp_path / "scan" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "scan" / "again").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "round").symlink_to(tmp_path / "scan")
    scan = read_scan(tmp_path / "scan")
    same(scan)
    assert scan.notes == ()


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_dicom_is_read_before_a_volume_beside_it(tmp_path: Path, kind: str) -> None:
    folder = write_series(tmp_path / "study", CHEST)
    nifti(folder / "other.nii.gz", OTHER)
    scan = read_scan(folder if kind == "folder" else zipped(tmp_path / "a.zip", folder))
    same(scan)
    what = "folder" if kind == "folder" else "archive"
    assert scan.notes == (f"left out: other.nii.gz: the {what} also holds DICOM files, which take precedence",)


def test_the_error_for_a_folder_without_dicom_names_the_volume_in_it(tmp_path: Path) -> None:
    nifti(tmp_path / "other.nii.gz", OTHER)
    assert "holds no DICOM files, but other.nii.gz: give one of these files" in refusal(tmp_path)


IDENTITY: dict[str, tuple[Edit, str]] = {
    "frame of reference": (without("FrameOfReferenceUID"), "no value of FrameOfReferenceUID"),
    "instances": (change(SOPInstanceUID="1.2.3.4"), "the same value in several slices of SOPInstanceUID"),
    "names": (
        lambda one: setattr(one, "PatientName", f"Secret^{one.InstanceNumber}"),
        "12 different values of PatientName",
    ),
    "series": (
        lambda one: setattr(one, "SeriesInstanceUID", f"1.2.3.{1 + (one.InstanceNumber > 6)}"),
        "2 different values of SeriesInstanceUID",
    ),
}


@pytest.mark.parametrize("name", IDENTITY)
def test_inconsistent_identity_is_refused_before_the_search(tmp_path: Path, name: str) -> None:
    edit, fragment = IDENTITY[name]
    write_series(tmp_path, CHEST, edit=both(change(FrameOfReferenceUID="1.2.9"), edit))
    same(read_scan(tmp_path))
    with pytest.raises(BadScan, match=fragment) as error:
        check_series(tmp_path)
    assert "secret" not in str(error.value).lower()


@pytest.mark.parametrize("name", ["SliceThickness", "SOPInstanceUID", "PatientName", "BodyPartExamined"])
def test_attributes_that_the_standard_makes_optional_are_not_required(tmp_path: Path, name: str) -> None:
    def edit(dataset: Dataset) -> None:
        dataset.FrameOfReferenceUID = "1.2.9"
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
        dataset.pop(name, None)

    write_series(tmp_path, CHEST, edit=edit)
    check_series(tmp_path)


@pytest.mark.parametrize(
    ("rows", "whole"), [("2.0001", True), ("2.0005", True), ("2.008", True), ("1.992", True), ("2.02", False)]
)
def test_a_spacing_that_differs_by_rounding_is_the_same(tmp_path: Path, rows: str, *, whole: bool) -> None:
    """By 0.25 mm at most over the 24 pixels of the image."""
    array = chest((24, 20, 24))
    odd = change(PixelSpacing=[rows, "1.5"])
    write_series(tmp_path, array, edit=lambda one: odd(one) if one.InstanceNumber > 12 else None)
    scan = read_scan(tmp_path)
    if whole:
        same(scan, array)
    assert (scan.shape[2], bool(scan.notes)) == ((24, False) if whole else (12, True))
