"""De-identification removes every patient attribute and keeps related objects related."""

import copy
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicomanonymizer.dicomfields_selector import dicom_anonymization_database_selector
from pydicom.datadict import dictionary_has_tag, dictionary_VR, keyword_for_tag
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.tag import Tag
from pydicom.uid import CTImageStorage, SecondaryCaptureImageStorage, generate_uid

from src.data.loader import read_scan
from src.dicom_io.deidentify import deidentified, deidentify, load_key
from src.errors import BadConfig, BadScan
from src.inference.main import main
from tests.dicom_files import CHEST, FORMATS, change, slice_dataset, write, write_series
from tests.pacs import series_of
from tests.small_scans import tiny_checkpoint

KEY = b"0123456789abcdef"
SECRETS = {
    "PN": "Secret^Name",
    "DA": "19500203",
    "TM": "112233",
    "DT": "19500203112233",
    "UI": "1.2.3.4.5.6.7",
    "AS": "074Y",
    "DS": "77.7",
    "IS": "777",
    "FD": 77.7,
    "FL": 77.5,
    "US": 777,
    "UL": 777,
    "SS": 777,
    "SL": 777,
    "UR": "http://secret.example",
    "OB": b"SECRET..",
    "UN": b"SECRET..",
    "OW": b"SECRET..",
    "OF": b"SECRET..",
    "OD": b"SECRET..",
    "OL": b"SECRET..",
    "OV": b"SECRET..",
    "AT": 0x00100010,
}
TABLE = dicom_anonymization_database_selector("dicomfields_2026c")
LISTED = [tag for tag in (Tag(*pair) for pair in TABLE["ALL_TAGS"] if len(pair) == 2) if dictionary_has_tag(tag)]
LISTED = [tag for tag in LISTED if tag.group > 2]  # group 0002 belongs to the file and is rewritten


def _secret(tag: pydicom.tag.BaseTag) -> object:
    vr = dictionary_VR(tag)
    if vr == "SQ":
        item = Dataset()
        item.PatientName, item.ReferencedSOPInstanceUID = "Secret^Name", SECRETS["UI"]
        return Sequence([item])
    return SECRETS.get(vr.split(" ")[0], "SECRET")


def _everything() -> Dataset:
    """A CT image with every attribute that the profile lists, at the top level and inside a sequence."""
    dataset = slice_dataset(CHEST)
    inner = Dataset()
    for tag in LISTED:
        for place in (dataset, inner):
            place.add_new(tag, dictionary_VR(tag).split(" ")[0], _secret(tag))
    dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, "1.2.3.4.5"
    dataset.CTExposureSequence = Sequence([inner])
    block = dataset.private_block(0x0011, "SECRET MAKER", create=True)
    block.add_new(1, "LO", "SECRET")
    dataset.add_new(0x60003000, "OW", b"SECRET..")
    dataset.add_new(0x60004000, "LT", "SECRET")
    dataset.add_new(0x50003000, "OW", b"SECRET..")
    return dataset


def test_every_attribute_of_the_profile_is_removed(tmp_path: Path) -> None:
    dataset = _everything()
    deidentify(dataset, KEY)
    dataset.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    read = pydicom.dcmread(tmp_path / "a.dcm")
    for place in (read, read.CTExposureSequence[0]):
        for tag in LISTED:
            if tag in place and keyword_for_tag(tag) not in {"PatientID", "PatientName"}:
                assert place[tag].value != _secret(tag), keyword_for_tag(tag)
    content = (tmp_path / "a.dcm").read_bytes()
    for secret in (b"SECRET", b"Secret", b"19500203", b"1.2.3.4.5", b"secret.example"):
        assert secret not in content
    assert not any(element.tag.is_private for element in read)
    assert (read.PatientIdentityRemoved, read.BurnedInAnnotation if "BurnedInAnnotation" in read else "") == ("YES", "")
    assert read.DeidentificationMethodCodeSequence[0].CodeValue == "113100"
    assert np.array_equal(read.pixel_array, slice_dataset(CHEST).pixel_array)


def test_references_between_objects_are_kept() -> None:
    slices = series_of()
    other = series_of()
    for one in other:
        one.PatientID = "ANOTHER"
    before = [copy.deepcopy(one) for one in slices]
    for one in (*slices, *other):
        one.SourceImageSequence = Sequence([Dataset()])
        one.SourceImageSequence[0].ReferencedSOPInstanceUID = slices[0].SOPInstanceUID
    for one in (*slices, *other):
        deidentify(one, KEY)
    for name in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "PatientID"):
        assert len({one[name].value for one in slices}) == 1
        assert slices[0][name].value != other[0][name].value
        assert slices[0][name].value != before[0][name].value
    assert len({one.SOPInstanceUID for one in slices}) == len(slices)
    assert slices[1].SourceImageSequence[0].ReferencedSOPInstanceUID == slices[0].SOPInstanceUID
    [again] = before[:1]
    deidentify(again, b"another key, of 16 bytes or more")
    assert again.StudyInstanceUID != slices[0].StudyInstanceUID


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (change(BurnedInAnnotation="YES"), "burned into"),
        (change(SOPClassUID=SecondaryCaptureImageStorage), "only CT images"),
        (change(Modality="OT"), "only CT images"),
    ],
)
def test_images_that_may_show_burned_in_text_are_refused(edit: object, reason: str) -> None:
    dataset = slice_dataset(CHEST)
    edit(dataset)  # type: ignore[operator]
    with pytest.raises(BadScan, match=reason):
        deidentify(dataset, KEY)


def test_derived_images_get_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write_series(tmp_path / "a", CHEST, edit=change(ImageType=["DERIVED", "SECONDARY"]))
    with deidentified(folder, KEY):
        assert "may show text" in caplog.text


@pytest.mark.parametrize("name", FORMATS)
def test_every_scan_is_renamed(tmp_path: Path, name: str) -> None:
    (tmp_path / "SECRET").mkdir()
    path = write(tmp_path / "SECRET", name)
    renamed = path.rename(path.with_name(f"SECRET{path.name.removeprefix('a')}")) if name != "a.mhd" else path
    before = read_scan(renamed)
    with deidentified(renamed, KEY) as copied:
        after = read_scan(copied)
        assert "SECRET" not in copied.name
        assert copied.parent != renamed.parent
    assert np.array_equal(before.array, after.array)
    assert np.allclose(before.affine, after.affine)
    assert after.scan_id.startswith("scan-")
    assert before.series_uid is None or before.series_uid != after.series_uid
    assert not copied.exists()


def test_an_error_names_the_given_file(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.nii.gz", tmp_path / "missing.zip"):
        with pytest.raises(BadScan) as caught, deidentified(path, KEY) as copied:
            read_scan(copied)
        assert str(caught.value).startswith(f"{path}: there is no such file")


def test_the_key_is_created_once_and_is_private(tmp_path: Path) -> None:
    path = tmp_path / "new" / "key"
    assert load_key(path) == load_key(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_key(None) != load_key(None)
    path.write_bytes(b"short")
    with pytest.raises(BadConfig, match="shorter than"):
        load_key(path)
    with pytest.raises(BadConfig, match="cannot read"):
        load_key(tmp_path)


def test_the_command_line_stores_no_patient_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uid = generate_uid()
    folder = tmp_path / "SECRET-ID"
    folder.mkdir()
    for number, one in enumerate(series_of(study=uid)):
        one.save_as(folder / f"{number}.dcm", enforce_file_format=True)
    config, output = tmp_path / "config.yaml", tmp_path / "out"
    config.write_text("inference: {patch_size: [32, 32, 32]}\noutput: {save_report: true, save_dicom: true}\n")
    checkpoint = tiny_checkpoint(tmp_path / "tiny.pth")
    monkeypatch.setenv("PIVOT_DEIDENTIFY_KEY", str(tmp_path / "key"))
    command = [
        "--input",
        str(folder),
        "--output",
        str(output),
        "--config",
        str(config),
        "--checkpoint",
        str(checkpoint),
    ]
    assert main([*command, "--deidentify"]) == 6  # it shows no lungs
    written = [path for path in output.rglob("*") if path.is_file()]
    assert {path.suffix for path in written} == {".json", ".png", ".gz", ".pdf", ".dcm"}
    for path in written:
        assert "SECRET" not in str(path.relative_to(tmp_path))
        assert not any(word in path.read_bytes() for word in (b"SECRET", b"Secret", b"19500203", uid.encode())), path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--demo", "--deidentify"], "--deidentify goes with"),
        (["--input", "a", "--resume", "--deidentify"], "--deidentify goes with"),
        (["--input", "a", "--study", "1.2"], "--dicomweb and --study go together"),
        (["--dicomweb", "http://a"], "--dicomweb and --study go together"),
    ],
)
def test_contradicting_options_are_refused(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(arguments) == 2
    assert message in capsys.readouterr().err
