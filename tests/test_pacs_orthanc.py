"""The PACS service with a real Orthanc: studies are sent, and results return into the same study."""

import io
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import highdicom
import pydicom
import pytest
from highdicom.sr import MeasurementReport
from pydicom.dataset import Dataset

from src.api.client import InferenceClient
from src.errors import BadConfig, BadScan, PivotError
from src.inference.main import main
from src.pacs.audit import Audit
from src.pacs.listener import listening
from src.pacs.outbox import Outbox
from src.pacs.settings import PacsConfig
from src.pacs.web import pull_study
from tests.api_service import served
from tests.pacs import Orthanc, at_once, audit_of, orthanc, series_of, settings, until
from tests.small_scans import block

RESULTS = {"SR", "SEG", "OT", "DOC"}


class Hospital(NamedTuple):
    pacs: Orthanc
    config: PacsConfig
    folder: Path


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Iterator[Hospital]:
    """An Orthanc and a service that sends its results there."""
    folder = tmp_path_factory.mktemp("pacs")
    with orthanc(folder / "orthanc") as pacs:
        peer = {"name": "pacs", "kind": "dicom", "ae_title": "ORTHANC", "host": "127.0.0.1", "port": pacs.dicom_port}
        config = settings(folder, root, destinations=[peer])
        with listening(config) as port:
            pacs.know(port)
            yield Hospital(pacs, config, folder)


def test_the_results_of_a_study_return_to_its_study(hospital: Hospital) -> None:
    slices = series_of(block()[0])
    study = hospital.pacs.push(slices, hospital.folder / "round")
    hospital.pacs.send(study)
    uid = slices[0].StudyInstanceUID
    until(lambda: audit_of(hospital.config, "run finished", study=uid))
    found = until(lambda: hospital.pacs.instances(study).keys() >= RESULTS and hospital.pacs.instances(study))
    made = {modality: _read(hospital.pacs, names[0]) for modality, names in found.items()}

    assert {one.StudyInstanceUID for one in made.values()} == {uid}
    assert {one.PatientID for one in made.values()} == {"SECRET-ID"}  # results belong to the patient's study
    [run] = audit_of(hospital.config, "run finished", study=uid)
    report = highdicom.sr.srread(io.BytesIO(hospital.pacs.file(found["SR"][0])))
    assert isinstance(report.content, MeasurementReport)
    assert len(report.content.get_volumetric_roi_measurement_groups()) == run["nodules"] >= 1
    assert len(made["SEG"].SegmentSequence) <= run["nodules"]
    assert made["DOC"].EncapsulatedDocument.startswith(b"%PDF")
    sources = {one.SOPInstanceUID for one in slices}
    assert _references(made["SEG"]) <= sources
    assert not any("secret" in line.lower() for line in _lines(hospital.config))

    hospital.pacs.send(study)  # including the results
    until(lambda: audit_of(hospital.config, "duplicate", study=uid))
    assert len(audit_of(hospital.config, "run started", study=uid)) == 1


def test_two_simultaneous_studies(hospital: Hospital) -> None:
    pushed = {}
    for name in ("one", "other"):
        slices = series_of()
        pushed[slices[0].StudyInstanceUID] = hospital.pacs.push(slices, hospital.folder / name)
    at_once(*(partial(hospital.pacs.send, study) for study in pushed.values()))
    for uid, study in pushed.items():
        until(partial(audit_of, hospital.config, "run finished", study=uid))
        [report] = until(partial(_reports, hospital.pacs, study))
        assert _read(hospital.pacs, report).StudyInstanceUID == uid


def test_a_study_is_fetched_by_dicomweb(hospital: Hospital, tmp_path: Path) -> None:
    best, thick = series_of(number=2), series_of(number=1)
    for one in thick:
        one.StudyInstanceUID, one.SliceThickness = best[0].StudyInstanceUID, "5"
    hospital.pacs.push([*best, *thick], hospital.folder / "web")
    url, uid = _web(hospital), best[0].StudyInstanceUID

    folder = pull_study(url, uid, tmp_path, rules=hospital.config.series)
    assert folder == tmp_path / uid
    fetched = [pydicom.dcmread(file) for file in folder.iterdir()]
    assert {one.SOPInstanceUID for one in fetched} == {one.SOPInstanceUID for one in best}

    hidden = pull_study(url, uid, tmp_path / "hidden", rules=hospital.config.series, key=b"k" * 32)
    assert uid not in str(hidden)
    assert all("SECRET" not in str(pydicom.dcmread(file)) for file in hidden.iterdir())


@pytest.mark.parametrize(
    ("url", "study", "kind", "message"),
    [
        (None, "1.2.3.4.5", BadScan, "no such study"),
        (None, "1.2.x", BadScan, "missing or malformed"),
        ("http://127.0.0.1:9/dicom-web", "1.2.3", PivotError, "does not answer"),
        ("nothing", "1.2.3", BadConfig, "not the URL"),
    ],
)
def test_a_study_that_cannot_be_fetched_is_an_error(
    hospital: Hospital, tmp_path: Path, url: str | None, study: str, kind: type[PivotError], message: str
) -> None:
    with pytest.raises(kind, match=message):
        pull_study(url or _web(hospital), study, tmp_path)


def test_the_command_line_fetches_and_deidentifies(hospital: Hospital, tmp_path: Path, root: Path) -> None:
    slices = series_of(block()[0])
    hospital.pacs.push(slices, hospital.folder / "cli")
    uid, output = slices[0].StudyInstanceUID, tmp_path / "results"
    config = [
        "--config",
        str(hospital.config.inference.config),
        "--checkpoint",
        str(root / "checkpoints/best_model.pth"),
    ]
    source = ["--dicomweb", _web(hospital), "--study", uid, "--output", str(output), "--dicom", *config]
    assert main(source) == 0
    assert (output / f"{uid}_detections.json").is_file()
    assert main([*source, "--deidentify"]) == 0
    hidden = [path for path in output.rglob("*") if uid not in str(path)]
    assert any(path.name == "nodules_sr.dcm" for path in hidden)
    for path in hidden:
        assert path.is_dir() or b"SECRET" not in path.read_bytes(), path


def test_the_service_fetches_a_study_and_makes_its_objects(hospital: Hospital, tmp_path: Path, root: Path) -> None:
    slices = series_of(block()[0])
    hospital.pacs.push(slices, hospital.folder / "api")
    uid = str(slices[0].StudyInstanceUID)
    (tmp_path / "dicom.yaml").write_text("output: {save_dicom: true, save_visualization: false}")
    weights = str(root / "checkpoints/best_model.pth")
    server = served(tmp_path, PIVOT_DICOMWEB_URL=_web(hospital), PIVOT_CHECKPOINT=weights)
    with server as (address, _), InferenceClient(base_url=address) as client:
        number = client.submit_study(uid, tmp_path / "dicom.yaml")
        assert client.wait_for_results(number)["scan_id"] == uid
        paths = {path.name: path for path in client.download_results(number, tmp_path / "out")}
        with pytest.raises(BadScan, match="no such study"):
            client.wait_for_results(client.submit_study("1.2.3"))
        with pytest.raises(BadScan, match="StudyInstanceUID"):
            client.submit_study("1.2.x")
    assert pydicom.dcmread(paths[f"{uid}_dicom.nodules_sr.dcm"]).StudyInstanceUID == uid


def test_results_are_sent_by_stow(hospital: Hospital, root: Path, tmp_path: Path) -> None:
    config = settings(tmp_path, root, destinations=[{"name": "web", "kind": "dicomweb", "url": _web(hospital)}])
    first, *others = series_of()
    study = hospital.pacs.push(others, tmp_path / "stow")
    first.save_as(tmp_path / "one.dcm", enforce_file_format=True)
    outbox = Outbox(tmp_path / "outbox", config, Audit(config.spool / "audit.jsonl"))
    outbox.put(first.StudyInstanceUID, [tmp_path / "one.dcm"], "run")
    outbox.send_due()
    assert audit_of(config, "result sent", destination="web", object="one.dcm")
    assert len(hospital.pacs.instances(study)["CT"]) == len(others) + 1
    assert not list(outbox.folder.iterdir())


def _web(hospital: Hospital) -> str:
    if hospital.pacs.web is None:
        pytest.skip("needs Orthanc's DICOMweb plugin (Debian package orthanc-dicomweb)")
    return hospital.pacs.web


def _reports(pacs: Orthanc, study: str) -> list[str]:
    return pacs.instances(study).get("SR", [])


def _read(pacs: Orthanc, instance: str) -> Dataset:
    return pydicom.dcmread(io.BytesIO(pacs.file(instance)))


def _references(dataset: Dataset) -> set[str]:
    series = dataset.ReferencedSeriesSequence[0]
    return {str(item.ReferencedSOPInstanceUID) for item in series.ReferencedInstanceSequence}


def _lines(config: PacsConfig) -> list[str]:
    return (config.audit or config.spool / "audit.jsonl").read_text().splitlines()
