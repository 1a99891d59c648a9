"""The files of a review: structured report, segmentation and PDF contain what the reader accepted and added."""

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import highdicom
import httpx
import numpy as np
import pydicom
import pytest
from pydicom import Dataset
from pypdf import PdfReader

from src.api.client import AsyncInferenceClient, InferenceClient, ServiceError
from src.api.database import reviews
from src.api.security import hashed
from src.data.phantom import PhantomNodule
from src.errors import BadConfig, BadScan
from src.types import Scan

from .api_service import Api, api_on
from .dicom_files import write_series
from .small_scans import block

CONFIG = "output: {save_heatmap: false, save_visualization: false, save_dicom: true, formats: {detections: json}}"
ANNA = {"X-API-Key": "of anna"}
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    folder = tmp_path_factory.mktemp("reviewed")
    shipped = ROOT / "checkpoints" / "best_model.pth"
    with api_on(folder, api_keys={"anna": hashed("of anna")}, auth="key", checkpoint=shipped) as api:
        yield api


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, Scan, PhantomNodule]:
    """A DICOM series with a nodule of 20 mm, zipped."""
    volume, nodule = block()
    folder = tmp_path_factory.mktemp("series")

    def named(dataset: Dataset) -> None:
        dataset.FrameOfReferenceUID = "1.2.3.4"
        dataset.PatientName = "Rossi^Anna"
        dataset.SpecificCharacterSet = "ISO_IR 100"

    write_series(folder / "series", np.asarray(volume.array), volume.affine, edit=named)
    with zipfile.ZipFile(folder / "series.zip", "w") as archive:
        for path in (folder / "series").iterdir():
            archive.write(path, path.name)
    return (folder / "series.zip").read_bytes(), volume, nodule


@pytest.fixture(scope="module")
def made(api: Api, series: tuple[bytes, Scan, PhantomNodule]) -> str:
    """The address of a job with DICOM objects."""
    job = api.submit(series[0], "series.zip", config=CONFIG, headers=ANNA).json()
    assert api.work().error is None
    address: str = job["links"]["self"]
    return address


@pytest.fixture
def job(api: Api, made: str) -> str:
    """The address of the job, whose review is empty."""
    with api.service.engine.begin() as connection:
        connection.execute(reviews.delete())
    return made


def change(api: Api, job: str, findings: list[dict[str, Any]], comment: str = "", **more: Any) -> None:  # noqa: ANN401
    """Write the findings of the review."""
    now = api.client.get(f"{job}/review", headers=ANNA).headers["etag"]
    body = {"findings": findings, "comment": comment, **more}
    written = api.client.put(f"{job}/review", headers=ANNA | {"If-Match": now}, json=body)
    assert written.status_code == 200, written.text


def file_of(api: Api, job: str, kind: str) -> bytes:
    """A file of the review."""
    answer = api.client.get(f"{job}/review/reviewed.{kind}", headers=ANNA)
    assert answer.status_code == 200, answer.text
    return bytes(answer.content)


def texts(report: Dataset) -> list[str]:
    """All texts in a structured report."""
    return [str(element.value) for element in report.iterall() if element.keyword == "TextValue"]


def groups(report: Dataset) -> list[Dataset]:
    """The measurement groups of a structured report (TID 1500)."""
    (measured,) = (
        item for item in report.ContentSequence if item.ConceptNameCodeSequence[0].CodeMeaning == "Imaging Measurements"
    )
    return list(measured.ContentSequence)


def test_files_of_a_job_without_a_review_are_refused(api: Api, job: str) -> None:
    assert api.client.get(f"{job}/review", headers=ANNA).json()["version"] == 0
    for kind in ("sr", "seg", "pdf"):
        assert api.client.get(f"{job}/review/reviewed.{kind}", headers=ANNA).status_code == 409
    assert api.client.get(f"{job}/review/reviewed.exe", headers=ANNA).status_code == 400


def test_the_files_contain_the_verdicts_of_the_reader(
    api: Api, job: str, series: tuple[bytes, Scan, PhantomNodule], tmp_path: Path
) -> None:
    _, volume, nodule = series
    report = api.client.get(f"{job}/results", headers=ANNA).json()
    labels = [str(one["id"] + 1) for one in (*report["detections"], *report["masses"])]
    x, y, z = (volume.affine @ [*np.divide(nodule.coordinates, volume.spacing), 1])[:3]
    added = api.client.post(f"{job}/review/nodules", headers=ANNA, json={"coordinates_lps": [-x, -y, z]})
    assert added.status_code == 201, added.text
    rejected = [{"finding": label, "verdict": "rejected", "reason": "vessel"} for label in labels]
    rejected[0]["comment"] = "verzweigt sich, 枝分かれ"
    line = {"from_lps": [0, 0, 0], "to_lps": [3, 4, 0], "plane": "axial"}
    change(api, job, [*rejected, {"finding": "a1", "verdict": "accepted"}], "seen on paper", distances=[line])
    sr = pydicom.dcmread(io.BytesIO(file_of(api, job, "sr")))
    (group,) = groups(sr)  # the added nodule alone
    said = texts(sr)
    assert any("added by the reader (anna, " in text for text in said)
    assert any(text.startswith("Rejected by a reader: 1: vessel (anna, ") and "枝分かれ" in text for text in said)
    assert sum(text.startswith("Rejected by a reader") for text in said) == len(labels)
    assert "Distance measured by a reader: 5.0 mm, axial." in said
    assert "anna" in str([element.value for element in sr.iterall() if element.keyword == "PersonName"])
    assert str(sr.PatientName) == "Rossi^Anna"
    assert sr.VerificationFlag == "UNVERIFIED"  # an API key is no signature
    names = [item.ConceptNameCodeSequence[0].CodeMeaning for item in group.ContentSequence]
    assert "Certainty of Finding" not in names  # the network gave no confidence
    seg = highdicom.seg.segread(io.BytesIO(file_of(api, job, "seg")))
    assert seg.number_of_segments == 1
    assert seg.SOPInstanceUID in str(sr)
    across, down = (float(value) for value in volume.spacing[:2])
    volume_mm3 = float(seg.pixel_array.sum()) * across * down * volume.spacing[2]
    (own,) = added.json()["added"]
    assert volume_mm3 == pytest.approx(own["properties"]["volume_mm3"], rel=0.15)
    assert file_of(api, job, "sr") == file_of(api, job, "sr")
    (tmp_path / "report.pdf").write_bytes(file_of(api, job, "pdf"))
    text = " ".join(" ".join(page.extract_text().split()) for page in PdfReader(tmp_path / "report.pdf").pages)
    assert "1 finding after the review" in text
    assert f"Of {len(labels)} found: 0 accepted, {len(labels)} rejected, 0 not read. Added: 1." in text
    assert "added by the reader (anna, " in text
    assert "vessel (anna, " in text
    assert "Distance 1 5.0 mm, axial" in text
    assert "Comment: seen on paper" in text


def test_a_changed_review_gives_new_dicom_objects(api: Api, job: str) -> None:
    report = api.client.get(f"{job}/results", headers=ANNA).json()
    first = {"finding": "1", "verdict": "accepted", "nodule_type": "ground-glass"}
    change(api, job, [first])
    before = pydicom.dcmread(io.BytesIO(file_of(api, job, "sr")))
    assert any("accepted, type corrected to ground-glass (anna, " in text for text in texts(before))
    assert "Type: ground-glass." in texts(before)
    now = api.client.get(f"{job}/review/reviewed.json", headers=ANNA).json()
    assert report["detections"][0]["guidelines"]["lung_rads"]["category"]
    corrected = now["detections"][0]["guidelines"]["lung_rads"]
    assert (corrected["category"], corrected["reason"] is None) == (None, False)
    assert (now["summary"]["lung_rads"]["category"], now["summary"]["lung_rads"]["reason"] is None) == (None, False)
    change(api, job, [{"finding": "1", "verdict": "accepted"}])
    after = pydicom.dcmread(io.BytesIO(file_of(api, job, "sr")))
    assert before.SOPInstanceUID != after.SOPInstanceUID
    now = api.client.get(f"{job}/review/reviewed.json", headers=ANNA).json()
    assert now["detections"][0]["guidelines"] == report["detections"][0]["guidelines"]
    others = [one for one in now["detections"] if one["review"] is None and one["confidence"] is not None]
    assert len(others) == len(report["detections"]) - 1


def test_all_findings_may_be_rejected(api: Api, job: str) -> None:
    report = api.client.get(f"{job}/results", headers=ANNA).json()
    labels = [str(one["id"] + 1) for one in (*report["detections"], *report["masses"])]
    change(api, job, [{"finding": label, "verdict": "rejected", "reason": "scar"} for label in labels])
    sr = pydicom.dcmread(io.BytesIO(file_of(api, job, "sr")))
    (group,) = groups(sr)
    assert "Absent" in str(group)
    assert any("does not mean that there is none" in text for text in texts(sr))
    assert api.client.get(f"{job}/review/reviewed.seg", headers=ANNA).status_code == 404
    assert file_of(api, job, "pdf").startswith(b"%PDF")


def test_a_job_without_dicom_objects_has_no_structured_report(
    api: Api, series: tuple[bytes, Scan, PhantomNodule]
) -> None:
    config = CONFIG.replace("save_dicom: true", "save_dicom: false")
    made = api.submit(series[0], "series.zip", config=config, headers=ANNA).json()["links"]["self"]
    assert api.work().error is None
    change(api, made, [])
    refused = api.client.get(f"{made}/review/reviewed.sr", headers=ANNA)
    assert (refused.status_code, "DICOM objects" in refused.json()["detail"]) == (404, True)
    assert file_of(api, made, "pdf").startswith(b"%PDF")
    assert not [path for path in api.settings.jobs.rglob(".series/*") if path.parents[2].name in made]


def client_of(api: Api, monkeypatch: pytest.MonkeyPatch) -> InferenceClient:
    """The Python client of the service in this process."""
    monkeypatch.setattr("src.api.client.time.sleep", lambda _: None)

    def passed_on(request: httpx.Request) -> httpx.Response:
        answer = api.client.request(
            request.method, request.url.path, headers=dict(request.headers), content=request.read()
        )
        headers = {key: answer.headers[key] for key in ("content-type", "etag") if key in answer.headers}
        return httpx.Response(answer.status_code, headers=headers, content=answer.content)

    return InferenceClient("http://localhost", "of anna", 2, httpx.MockTransport(passed_on))


def test_the_python_client_reads_and_writes_reviews(
    api: Api, job: str, series: tuple[bytes, Scan, PhantomNodule], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, volume, nodule = series
    number = job.rsplit("/", 1)[1]
    client = client_of(api, monkeypatch)
    before = client.review(number)
    said = [{"finding": "1", "verdict": "accepted"}]
    written = client.write_review(number, {**before, "findings": said, "comment": "by the client"})
    assert (written["version"], written["comment"]) == (before["version"] + 1, "by the client")
    line = {"from_lps": [0, 0, 0], "to_lps": [0, 0, 2], "plane": "axial"}
    again = client.write_review(number, {**written, "distances": [line]})
    assert (again["findings"], again["distances"][0]["length_mm"]) == (written["findings"], 2)
    with pytest.raises(ServiceError) as refused:
        client.write_review(number, before)
    assert refused.value.status == 412
    with pytest.raises(BadConfig, match="review must be"):
        client.write_review(number, {"findings": []})
    x, y, z = (volume.affine @ [*np.divide(nodule.coordinates, volume.spacing), 1])[:3]
    added = client.add_nodule(number, [-x, -y, z])["added"]
    assert added[-1]["diameter_mm"] == pytest.approx(nodule.diameter_mm, abs=2)
    with pytest.raises(BadScan, match="outside"):
        client.add_nodule(number, [-x, -y, z + 999])
    with pytest.raises(BadConfig, match="coordinates_lps"):
        client.add_nodule(number, [1, 2])
    with pytest.raises(BadConfig, match="kinds"):
        client.download_reviewed(number, tmp_path, ["exe"])
    files = client.download_reviewed(number, tmp_path, ("json", "csv", "pdf", "sr", "seg"))
    names = ["reviewed.json", "reviewed.csv", "reviewed.pdf", "reviewed_sr.dcm", "reviewed_seg.dcm"]
    assert [path.name for path in files] == [f"series_{name}" for name in names]
    assert pydicom.dcmread(files[3]).Modality == "SR"


def test_adding_a_nodule_is_not_repeated_after_a_lost_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("src.api.client.time.sleep", lambda _: None)
    for error, times in ((httpx.ReadError("cut"), 1), (httpx.ConnectError("away"), 3)):
        asked: list[httpx.Request] = []

        def answer(request: httpx.Request, asked: list[httpx.Request] = asked, error: Exception = error) -> Any:  # noqa: ANN401
            asked.append(request)
            raise error

        client = InferenceClient("http://server", None, 2, httpx.MockTransport(answer))
        with pytest.raises(ServiceError):
            client.add_nodule("one", [0, 0, 0])
        assert len(asked) == times


def test_both_clients_have_the_same_methods() -> None:
    sync, other = ({name for name in vars(kind) if name[0] != "_"} for kind in (InferenceClient, AsyncInferenceClient))
    assert sync == other >= {"review", "write_review", "add_nodule", "download_reviewed"}
