"""Reviews: verdicts are saved, signed and exported, and concurrent changes do not overwrite each other."""

import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest

from src.api import review
from src.api.database import reviews
from src.api.security import hashed
from src.data.phantom import PhantomNodule
from src.measurement.at_point import extract_properties
from src.types import Scan

from .api_service import JOBS, Api, api_on
from .small_scans import block, save_nifti

CONFIG = "output: {save_heatmap: false, save_visualization: false, formats: {detections: json}}"
KEYS = {"anna": hashed("of anna"), "ben": hashed("of ben")}
ANNA, BEN = ({"X-API-Key": key} for key in ("of anna", "of ben"))
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    folder = tmp_path_factory.mktemp("review")
    shipped = ROOT / "checkpoints" / "best_model.pth"
    with api_on(folder, api_keys=KEYS, auth="key", checkpoint=shipped, submissions_per_minute=10_000) as api:
        yield api


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, Scan, PhantomNodule]:
    volume, nodule = block()
    return save_nifti(volume, tmp_path_factory.mktemp("scan") / "block.nii.gz").read_bytes(), volume, nodule


@pytest.fixture(scope="module")
def made(api: Api, scan: tuple[bytes, Scan, PhantomNodule]) -> str:
    """Anna's job with a nodule of 20 mm."""
    job = api.submit(scan[0], "block.nii.gz", config=CONFIG, headers=ANNA).json()
    api.work()
    return f"{JOBS}/{job['job_id']}"


@pytest.fixture
def job(api: Api, made: str) -> str:
    """The address of the job's review, which is empty."""
    with api.service.engine.begin() as connection:
        connection.execute(reviews.delete())
    return f"{made}/review"


def put(api: Api, job: str, etag: str | None, findings: list[dict[str, Any]], **more: Any) -> httpx.Response:  # noqa: ANN401
    headers = ANNA | ({"If-Match": etag} if etag else {})
    response: httpx.Response = api.client.put(job, headers=headers, json={"findings": findings, **more})
    return response


ACCEPTED = {"finding": "1", "verdict": "accepted"}


def test_the_job_list_shows_the_progress_of_each_review(
    api: Api, job: str, scan: tuple[bytes, Scan, PhantomNodule]
) -> None:
    number = job.split("/")[-2]
    waiting = api.submit(config=CONFIG, headers=ANNA).json()["job_id"]

    def listed() -> dict[str, Any]:
        found = api.client.get(JOBS, headers=ANNA).json()["jobs"]
        return {one["job_id"]: one["review"] for one in found}

    total = api.client.get(job, headers=ANNA).json()["progress"]["total"]
    assert listed()[number] == {"read": 0, "total": total, "by": [], "at": None}
    assert listed()[waiting] is None
    written = put(api, job, '"0"', [{**ACCEPTED, "verdict": None, "comment": "?"}]).json()
    assert listed()[number] == {"read": 0, "total": total, "by": [], "at": written["at"]}
    put(api, job, '"1"', [ACCEPTED])
    assert (listed()[number]["read"], listed()[number]["by"]) == (1, ["anna"])
    x, y, z = (scan[1].affine @ [*np.divide(scan[2].coordinates, scan[1].spacing), 1])[:3]
    added = api.client.post(f"{job}/nodules", headers=ANNA, json={"coordinates_lps": [-x, -y, z]})
    assert added.status_code == 201
    assert (listed()[number]["read"], listed()[number]["total"]) == (2, total + 1)
    api.client.delete(f"{JOBS}/{waiting}", headers=ANNA)


def test_an_unreadable_report_does_not_break_the_job_list(api: Api, job: str) -> None:
    number = job.split("/")[-2]
    (found,) = (api.service.settings.jobs / number).rglob("*_detections.json")
    content = found.read_bytes()
    review._to_read.cache_clear()  # noqa: SLF001 - as after a restart of the server
    try:
        for broken in (b"", b"{}"):
            found.write_bytes(broken)
            answer = api.client.get(JOBS, headers=ANNA)
            assert answer.status_code == 200
            assert next(one for one in answer.json()["jobs"] if one["job_id"] == number)["review"] is None
    finally:
        found.write_bytes(content)


def test_a_review_is_saved_with_author_and_time(api: Api, job: str) -> None:
    empty = api.client.get(job, headers=ANNA)
    assert empty.headers["etag"] == '"0"'
    total = empty.json()["progress"]["total"]
    assert empty.json()["progress"] == {"read": 0, "total": total}
    assert total >= 1
    said = {"finding": "1", "verdict": "rejected", "reason": "vessel", "comment": "branches"}
    written = put(api, job, '"0"', [said], comment="quick look")
    assert written.status_code == 200
    assert written.headers["etag"] == '"1"'
    read = api.client.get(job, headers=ANNA).json()
    assert read == written.json()
    (verdict,) = read["findings"]
    assert {key: verdict[key] for key in said} == said
    assert (verdict["by"], read["by"], read["comment"]) == ("anna", "anna", "quick look")
    assert verdict["at"].endswith("Z")
    assert read["progress"] == {"read": 1, "total": total}


def test_concurrent_changes_do_not_overwrite_each_other(api: Api, job: str) -> None:
    first = put(api, job, '"0"', [ACCEPTED])
    late = put(api, job, '"0"', [{**ACCEPTED, "comment": "late"}])
    assert (first.status_code, late.status_code) == (200, 412)
    assert api.client.get(job, headers=ANNA).json() == first.json()
    assert put(api, job, None, [ACCEPTED]).status_code == 428
    with ThreadPoolExecutor(8) as pool:
        at_once = [*pool.map(lambda number: put(api, job, '"1"', [{**ACCEPTED, "comment": str(number)}]), range(8))]
    assert sorted(one.status_code for one in at_once) == [200, *[412] * 7]
    (winner,) = (one for one in at_once if one.status_code == 200)
    assert api.client.get(job, headers=ANNA).json() == winner.json()


def test_an_unchanged_verdict_keeps_its_signature(api: Api, job: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("src.api.review.time.time", lambda: 1_000_000.0)
    before = put(api, job, '"0"', [ACCEPTED]).json()["findings"][0]
    monkeypatch.setattr("src.api.review.time.time", lambda: 2_000_000.0)
    same = put(api, job, '"1"', [ACCEPTED], comment="more").json()
    assert same["findings"] == [before]
    assert same["at"] == "1970-01-24T03:33:20Z"
    changed = put(api, job, '"2"', [{**ACCEPTED, "nodule_type": "part-solid"}]).json()["findings"][0]
    assert (before["at"], changed["at"]) == ("1970-01-12T13:46:40Z", "1970-01-24T03:33:20Z")


@pytest.mark.parametrize(
    "body",
    [
        {"findings": [{"finding": "1", "verdict": "rejected"}]},
        {"findings": [{"finding": "1", "verdict": "accepted", "reason": "vessel"}]},
        {"findings": [{"finding": "99", "verdict": "accepted"}]},
        {"findings": [{"finding": "a1", "verdict": "accepted"}]},
        {"findings": [ACCEPTED, ACCEPTED]},
        {"findings": [{**ACCEPTED, "verdict": "maybe"}]},
        {"findings": [{**ACCEPTED, "nodule_type": "cystic"}]},
        {"findings": [{**ACCEPTED, "comment": "x" * 1001}]},
        {"findings": [{**ACCEPTED, "by": "somebody else"}]},
        {"findings": [], "added": [{}]},
        {},
    ],
)
def test_an_invalid_review_is_refused(api: Api, job: str, body: dict[str, Any]) -> None:
    refused = api.client.put(job, headers=ANNA | {"If-Match": '"0"'}, json=body)
    assert refused.status_code == 400, refused.text
    assert api.client.get(job, headers=ANNA).json()["version"] == 0


def test_distances_are_saved_with_their_length_until_they_are_replaced(api: Api, job: str) -> None:
    line = {"from_lps": [10.0, -20.0, 30.0], "to_lps": [13.0, -16.0, 42.0], "plane": "sagittal"}
    written = put(api, job, '"0"', [], distances=[line])
    assert written.json()["distances"] == [{**line, "length_mm": 13.0}]
    kept = put(api, job, '"1"', [ACCEPTED])
    assert kept.json()["distances"] == written.json()["distances"]
    exported = api.client.get(f"{job}/reviewed.json", headers=ANNA).json()
    assert exported["review"]["distances"] == written.json()["distances"]
    assert put(api, job, '"2"', [], distances=[]).json()["distances"] == []
    for wrong in ({**line, "plane": "oblique"}, {**line, "length_mm": 2.0}, {"plane": "axial"}):
        assert put(api, job, '"3"', [], distances=[wrong]).status_code == 400


def test_the_size_of_a_request_body_is_limited(api: Api, job: str) -> None:
    headers = ANNA | {"If-Match": '"0"', "content-type": "application/json"}
    assert api.client.put(job, headers=headers, content=b" " * (2**20 + 1)).status_code == 413


@pytest.mark.parametrize(
    ("method", "part"), [("GET", ""), ("PUT", ""), ("POST", "/nodules"), ("GET", "/reviewed.json")]
)
def test_a_review_is_visible_only_to_its_owner(api: Api, job: str, method: str, part: str) -> None:
    body: dict[str, Any] = {"coordinates_lps": [0, 0, 0]} if part == "/nodules" else {"findings": []}
    asked: dict[str, Any] = {"headers": BEN | {"If-Match": '"0"'}, **({} if method == "GET" else {"json": body})}
    assert api.client.request(method, f"{job}{part}", **asked).status_code == 404


def test_an_added_nodule_is_measured_at_once(api: Api, job: str, scan: tuple[bytes, Scan, PhantomNodule]) -> None:
    _, volume, nodule = scan
    index = np.divide(nodule.coordinates, volume.spacing)
    x, y, z = (volume.affine @ [*index, 1])[:3]
    added = api.client.post(f"{job}/nodules", headers=ANNA, json={"coordinates_lps": [-x, -y, z]})
    assert added.status_code == 201, added.text
    (one,) = added.json()["added"]
    expected = extract_properties(volume, nodule.coordinates)
    assert one["diameter_mm"] == pytest.approx(expected["effective_diameter_mm"], abs=0.01)
    assert one["diameter_mm"] == pytest.approx(nodule.diameter_mm, abs=2)
    assert one["coordinates"] == pytest.approx(nodule.coordinates, abs=0.01)
    assert one["properties"]["nodule_type"] == expected["nodule_type"]
    assert (one["finding"], one["by"]) == ("a1", "anna")
    assert [(v["finding"], v["verdict"]) for v in added.json()["findings"]] == [("a1", "accepted")]
    again = api.client.post(f"{job}/nodules", headers=ANNA, json={"coordinates_lps": [-x, -y, z]}).json()
    assert [one["finding"] for one in again["added"]] == ["a1", "a2"]
    outside = api.client.post(f"{job}/nodules", headers=ANNA, json={"coordinates_lps": [-x, -y, z + 999]})
    assert (outside.status_code, "outside" in outside.json()["detail"]) == (422, True)
    for bad in ([1e9, 0, 0], [0, 0], ["a", 0, 0], None):
        assert api.client.post(f"{job}/nodules", headers=ANNA, json={"coordinates_lps": bad}).status_code == 400


def test_the_reviewed_report_contains_the_accepted_and_the_added_nodules(
    api: Api, job: str, scan: tuple[bytes, Scan, PhantomNodule]
) -> None:
    _, volume, nodule = scan
    report = api.client.get(job.replace("/review", "/results"), headers=ANNA).json()
    labels = [str(one["id"] + 1) for one in report["detections"]]
    x, y, z = (volume.affine @ [*np.divide(nodule.coordinates, volume.spacing), 1])[:3]
    added = api.client.post(f"{job}/nodules", headers=ANNA, json={"coordinates_lps": [-x, -y, z]})
    assert added.status_code == 201, added.text
    said = [{"finding": "1", "verdict": "accepted", "nodule_type": "ground-glass"}]
    said += [{"finding": label, "verdict": "rejected", "reason": "other"} for label in labels[1:]]
    put(api, job, '"1"', [*said, {"finding": "a1", "verdict": "accepted"}])
    answer = api.client.get(f"{job}/reviewed.json", headers=ANNA)
    assert 'filename="block_reviewed.json"' in answer.headers["content-disposition"]
    kept, own = answer.json()["detections"]
    assert (kept["id"], kept["properties"]["nodule_type"], kept["review"]["by"]) == (0, "ground-glass", "anna")
    assert kept["properties"] | {"nodule_type": 0} == report["detections"][0]["properties"] | {"nodule_type": 0}
    assert (own["id"], own["confidence"]) == (len(report["detections"]) + len(report["masses"]), None)
    assert own["triage"]["malignancy_score"] is None
    table = pd.read_csv(io.StringIO(api.client.get(f"{job}/reviewed.csv", headers=ANNA).text))
    assert list(table["id"]) == [0, own["id"]]
    assert table["nodule_type"][0] == "ground-glass"
    put(api, job, '"2"', [{"finding": "a1", "verdict": "rejected", "reason": "artefact"}])
    unread = api.client.get(f"{job}/reviewed.json", headers=ANNA).json()
    assert [one["review"] for one in unread["detections"]] == [None] * len(labels)


def test_a_review_is_deleted_with_its_job(api: Api, scan: tuple[bytes, Scan, PhantomNodule]) -> None:
    job = api.submit(scan[0], "block.nii.gz", config=CONFIG, headers=ANNA).json()
    review = f"{job['links']['self']}/review"
    assert api.client.get(review, headers=ANNA).status_code == 409
    api.work()
    assert put(api, review, '"0"', []).status_code == 200
    assert api.client.delete(job["links"]["self"], headers=ANNA).status_code == 204
    assert api.client.get(review, headers=ANNA).status_code == 404
    assert put(api, review, '"1"', []).status_code == 404
